"""What the pictures of a sweep share: its marks and colours, its axes, and what captions say of them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from distributed.pages.pictures import COLOURS
from tuning.records import Mode, Record, Sweep
from tuning.scales import Scale, fitted, measured, scale_of, shortened

BLUE, ORANGE, GREEN, RED, GREY = COLOURS[5], COLOURS[0], COLOURS[2], COLOURS[3], COLOURS[6]
WORSE_TO_BETTER = LinearSegmentedColormap.from_list("worse to better", ["#3d8fd1", "#a39aa0", "#e67e00"])
"""Neither end is lost on white or on a dark screen, and no kind of colour blindness takes one for the other."""
SMALL = 9
"""Points, of ticks and legends."""
UNSET = -0.3
"""Where an axis from 0 to 1 has the trials without its key."""
MARKS: dict[str, dict[str, Any]] = {
    "finished": {"marker": "o", "color": BLUE, "markersize": 6},
    "stopped": {"marker": "o", "color": BLUE, "markersize": 6, "markerfacecolor": "none", "markeredgewidth": 1.4},
    "running": {"marker": "^", "color": BLUE, "markersize": 6.5, "markerfacecolor": "none"},
    "failed": {"marker": "|", "color": RED, "markersize": 11, "markeredgewidth": 2},
}
STATES = {"finished": "finished", "stopped": "stopped early", "running": "running", "failed": "failed"}
NOTHING = "no trial has a value yet"


def scales_of(sweep: Sweep) -> list[Scale]:
    """An axis for each key that a scored trial has."""
    trials = [r.number for r in sweep.scored]
    by_key = {key: {r.number: r.values[key] for r in sweep.scored if key in r.values} for key in sweep.keys}
    return [scale_of(key, values, trials, key in sweep.logarithmic) for key, values in by_key.items() if values]


def metric_scale(sweep: Sweep) -> Scale:
    """The axis of the scored trials' best values."""
    values = {r.number: value_of(r, sweep) for r in sweep.scored}
    return measured(sweep.metric, values, _is_logarithmic(sweep.mode, values.values()))


def value_of(record: Record, sweep: Sweep) -> float:
    """The best of a scored trial."""
    value = record.best(sweep.mode)
    return math.nan if value is None else value


def nothing_to_compare(sweep: Sweep, scales: Sequence[Scale]) -> str:
    """Why keys cannot be held against results; empty where they can."""
    if not sweep.scored:
        return NOTHING
    return "" if scales else "the trials vary no key"


def _is_logarithmic(mode: Mode, values: Iterable[float]) -> bool:
    """Losses of very different sizes, as when one trial diverges, share an axis only by their magnitudes."""
    found = list(values)
    return mode == "min" and bool(found) and min(found) > 0 and max(found) > 30 * min(found)


def set_metric_axis(panel: Axes, sweep: Sweep, values: Sequence[float]) -> None:
    """Makes the vertical axis one of the metric."""
    if _is_logarithmic(sweep.mode, values):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(numticks=6))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_ylabel(metric_label(sweep))


def set_whole_numbers(panel: Axes, label: str, numbers: Sequence[int]) -> None:
    """Makes the horizontal axis one of trials or epochs, of which there are no halves."""
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if min(numbers) == max(numbers):
        panel.set_xlim(numbers[0] - 1, numbers[0] + 1)
    panel.set_xlabel(label)


def metric_label(sweep: Sweep, breaks: bool = False) -> str:
    better = "higher" if sweep.mode == "max" else "lower"
    return f"{shortened(sweep.metric, 22 if breaks else 30)}{chr(10) if breaks else ' '}({better} is better)"


def colours_of(mode: Mode) -> Colormap:
    """From the lowest value to the highest."""
    return WORSE_TO_BETTER if mode == "max" else WORSE_TO_BETTER.reversed()


def base_value(sweep: Sweep) -> float | None:
    """What the base recipe reached."""
    return sweep.base.best(sweep.mode) if sweep.base is not None and sweep.base.state != "failed" else None


def draw_base(panel: Axes, value: float) -> Line2D:
    """Draws the base recipe's value; gives its entry in the legend."""
    style: dict[str, Any] = {"color": GREEN, "linewidth": 1.6, "linestyle": (0, (5, 2))}
    panel.axhline(value, zorder=1.5, **style)
    return Line2D([], [], label="base recipe", **style)


def best_mark() -> Line2D:
    """The best trial's entry in the legend."""
    ink = matplotlib.rcParams["text.color"]
    star: dict[str, Any] = {"marker": "*", "markersize": 14, "color": ORANGE, "markeredgecolor": ink}
    return Line2D([], [], linestyle="", label="best", **star)


def draw_best(panel: Axes, x: float, y: float) -> None:
    """Marks the best trial's point."""
    mark = best_mark()
    mark.set_data([x], [y])
    mark.set(label="", zorder=5)
    panel.add_line(mark)


def set_ticks(panel: Axes, scale: Scale, room: int) -> None:
    """Makes the horizontal axis that of a key; its texts have `room` characters."""
    ticks = fitted(scale, room if not scale.unset else room - 10)
    if scale.unset:
        ticks = [(UNSET, "not\nset"), *ticks]
    panel.set_xticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=SMALL)
    panel.set_xlim(UNSET - 0.1 if scale.unset else -0.1, 1.1)


def draw_legend(figure: Figure, lines: list[Line2D]) -> None:
    figure.legend(handles=lines, loc="outside lower center", ncols=min(3, len(lines)), fontsize=SMALL + 1)


def listed(keys: Sequence[str]) -> str:
    return ", ".join(keys[:-1]) + " and " + keys[-1] if len(keys) > 1 else "".join(keys)


def told_unset(scales: Sequence[Scale]) -> str:
    return " A trial that does not have a key is at “not set”." if any(scale.unset for scale in scales) else ""


def told_left_out(numbers: Iterable[int]) -> str:
    found = [str(n) for n in sorted(numbers)]
    return f" Left out, as a value of theirs is not finite: trial {listed(found)}." if found else ""
