"""The page of a sweep, one file that needs no other: its trials as a table, and its pictures."""

import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from distributed.pages.pictures import render, section, write_filled
from models.data.files import atomic_path
from tuning.drawing import STATES, base_value, listed
from tuning.plots import PICTURES
from tuning.records import Record, Sweep
from tuning.scales import text_of

HeldOut = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Figures by what was measured, split and metric: {"best (trial 7)": {"test": {"video_accuracy": 0.8}}}."""
_TEMPLATE = Path(__file__).parent / "page.html"
_LONGEST = 300
"""Characters of a cell; a failed trial's reason can be a whole trace."""


def write_page(path: Path, sweep: Sweep, held_out: HeldOut | None = None) -> None:
    """Writes the page to `path`, whole or not at all; the same bytes for the same sweep.

    Raises:
        UserError: the file cannot be written.
    """
    sections = []
    for draw in PICTURES:
        picture = draw(sweep)
        if isinstance(picture, str):
            sections.append(f"<p>{html.escape(picture)}</p>")
        else:
            sections.append(section(picture, render(picture, "png", "light"), render(picture, "png", "dark")))
    slots = {
        "title": html.escape(f"The sweep {sweep.name}"),
        "summary": html.escape(summary(sweep)),
        "note": html.escape(sweep.note),
        "held_out": _held_out(held_out) if held_out else "",
        "trials": _trials(sweep),
        "sections": "\n".join(sections),
    }
    write_filled(path, _TEMPLATE, slots)


def write_pictures(folder: Path, sweep: Sweep) -> list[Path]:
    """Writes the page's pictures as NAME.svg, for light paper; those that the sweep has.

    Raises:
        UserError: a file cannot be written.
    """
    written = []
    for draw in PICTURES:
        picture = draw(sweep)
        if not isinstance(picture, str):
            path = folder / f"{picture.name}.svg"
            image = render(picture, "svg", "light")
            with atomic_path(path) as temporary:
                temporary.write_bytes(image)
            written.append(path)
    return written


def summary(sweep: Sweep) -> str:
    """What came of the sweep, in plain text."""
    records, best = sweep.records, sweep.best
    counts = Counter(STATES[r.state] for r in records)
    states = listed([f"{counts[state]} {state}" for state in STATES.values() if counts[state]])
    told = [f"{_counted(len(records), 'trial')}: {states}." if records else "No trial was begun yet."]
    if best is not None:
        value = _figure(best.best(sweep.mode))
        told.append(f"The best is trial {best.number} with {sweep.metric} {value}{_gain(sweep)}.")
    elif records:
        told.append("None has a value yet.")
    return " ".join([*told, *_times(records)])


def _gain(sweep: Sweep) -> str:
    best, base = sweep.best, base_value(sweep)
    value = best.best(sweep.mode) if best is not None else None
    if base is None or value is None:
        return ""
    if best is sweep.base:
        return ", which is the base recipe itself"
    difference = abs(value - base)  # no trial is worse than the base recipe, which is one of them
    share = f" ({100 * difference / abs(base):.1f} %)" if base else ""
    better = "above" if sweep.mode == "max" else "below"
    return f", {difference:.3g}{share} {better} the base recipe's {_figure(base)}"


def _times(records: Sequence[Record]) -> list[str]:
    """All that the trials took, and how many a wall-clock hour ended."""
    took = sum(r.seconds for r in records)
    if not took:
        return []
    spans = [(r.begun, r.begun + r.seconds) for r in records if r.begun is not None]
    ended = sum(r.state != "running" for r in records)
    if len(spans) < len(records):
        return [f"The trials took {_duration(took)} in all."]
    wall = max(end for _, end in spans) - min(begin for begin, _ in spans)
    hourly = f", {ended / (wall / 3600):.3g} trials an hour" if wall > 0 and ended else ""
    return [f"The trials took {_duration(took)} in all, within {_duration(wall)}{hourly}."]


def _trials(sweep: Sweep) -> str:
    if not sweep.records:
        return "<p>None yet.</p>"
    sign = -1 if sweep.mode == "max" else 1

    def rank(record: Record) -> tuple[bool, bool, float, int]:
        value = record.best(sweep.mode)
        return record.state == "failed", value is None, 0.0 if value is None else sign * value, record.number

    reasons = any(r.reason for r in sweep.records)
    head = ["trial", "state", sweep.metric, *sweep.keys, "epochs", "minutes", *(["reason"] if reasons else [])]
    rows = [_trial(sweep, record, reasons) for record in sorted(sweep.records, key=rank)]
    return _table(head, rows, "Trials", {1, len(head) - 1 if reasons else 1})


def _trial(sweep: Sweep, record: Record, reasons: bool) -> str:
    number = f"{record.number} (base recipe)" if record.number == sweep.baseline else str(record.number)
    cells = [_cell(STATES[record.state], "text"), _cell(_figure(record.best(sweep.mode)))]
    # The base recipe has its own value of every key, which a sweep does not know.
    missing = "base" if record.number == sweep.baseline else "—"
    cells += [_cell(text_of(record.values[key]) if key in record.values else missing) for key in sweep.keys]
    cells += [_cell(str(record.course[-1][0]) if record.course else "0"), _cell(f"{record.seconds / 60:.1f}")]
    if reasons:
        cells.append(_cell(record.reason, "text reason"))
    best = ' class="best"' if record is sweep.best else ""
    return f'<tr{best}><th scope="row">{number}</th>{"".join(cells)}</tr>'


def _held_out(held_out: HeldOut) -> str:
    metrics = list(dict.fromkeys(m for splits in held_out.values() for figures in splits.values() for m in figures))
    rows = []
    for name, splits in held_out.items():
        for split, figures in splits.items():
            cells = [_cell(split, "text"), *(_cell(_figure(figures.get(metric))) for metric in metrics)]
            rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{"".join(cells)}</tr>')
    return "<h2>Held-out figures</h2>\n" + _table(["recipe", "split", *metrics], rows, "Held-out figures", {1})


def _table(head: Sequence[str], rows: Sequence[str], label: str, texts: set[int]) -> str:
    """A table that scrolls, also with the keyboard, where it is too wide or too long; `texts` are columns of words."""
    kinds = [' class="text"' if i in texts else "" for i, _ in enumerate(head)]
    # A long key may break after its dots.
    names = [html.escape(name).replace(".", ".<wbr>") for name in head]
    cells = [f'<th scope="col"{kind}>{name}</th>' for kind, name in zip(kinds, names, strict=True)]
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0"><table>\n<thead><tr>{"".join(cells)}</tr>'
        f"</thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table></div>"
    )


def _cell(text: str, kind: str = "") -> str:
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    attribute = f' class="{kind}"' if kind else ""
    return f"<td{attribute}>{html.escape(short)}</td>"


def _figure(value: float | None) -> str:
    return f"{value:.4g}" if value is not None and math.isfinite(value) else "—"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
