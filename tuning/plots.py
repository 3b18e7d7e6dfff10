"""The pictures of a sweep: what its trials reached, and which keys made the difference."""

import math
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from distributed.pages.pictures import Picture
from tuning.drawing import (
    BLUE,
    GREEN,
    GREY,
    MARKS,
    NOTHING,
    ORANGE,
    SMALL,
    STATES,
    UNSET,
    base_value,
    best_mark,
    colours_of,
    draw_base,
    draw_best,
    draw_legend,
    listed,
    metric_label,
    metric_scale,
    nothing_to_compare,
    scales_of,
    set_metric_axis,
    set_ticks,
    set_whole_numbers,
    told_left_out,
    told_unset,
    value_of,
)
from tuning.importance import FEWEST_TRIALS, importances
from tuning.records import Sweep, best_of
from tuning.scales import fitted, label_of, shortened


def history(sweep: Sweep) -> Picture | str:
    """The value of every trial in order, and the best so far; or why there is none."""
    records = sorted(sweep.records, key=lambda r: r.number)
    valued = [(r, value) for r in records if r.state != "failed" and (value := r.best(sweep.mode)) is not None]
    best, base = sweep.best, base_value(sweep)
    if best is None:
        return f"There is no figure of the trials' values: {NOTHING}."
    better = max if sweep.mode == "max" else min
    running_best = [better(value for _, value in valued[: i + 1]) for i in range(len(valued))]
    failed = [r.number for r in records if r.state == "failed"]

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        set_metric_axis(panel, sweep, [value for _, value in valued])
        steps = [*(r.number for r, _ in valued), records[-1].number]
        panel.plot(steps, [*running_best, running_best[-1]], color=ORANGE, linewidth=2, drawstyle="steps-post")
        legend = [Line2D([], [], color=ORANGE, linewidth=2, label="best so far")]
        if base is not None:
            legend.append(draw_base(panel, base))
        for state, mark in MARKS.items():
            points = [(r.number, value) for r, value in valued if r.state == state]
            if points:
                panel.plot(*zip(*points, strict=True), linestyle="", **mark)
            if points or (state == "failed" and failed):
                legend.append(Line2D([], [], linestyle="", label=STATES[state], **mark))
        panel.margins(y=0.12 if failed else None)
        bottom = [0.03] * len(failed)
        panel.plot(failed, bottom, linestyle="", transform=panel.get_xaxis_transform(), **MARKS["failed"])
        draw_best(panel, best.number, running_best[-1])
        set_whole_numbers(panel, "trial", [r.number for r in records])
        draw_legend(figure, [*legend, best_mark()])

    silent = len(records) - len(valued) - len(failed)
    return Picture(
        "history",
        "The trials in order",
        f"The best {sweep.metric} of each trial, in the order in which they were begun. The line is the best so far. "
        "A stopped trial is shown with the best that it reached until then; a failed one is a mark at the bottom."
        + (f" Trials without a finite value are left out: {silent}." if silent else ""),
        f"Scatter chart of {sweep.metric} by trial, {len(valued)} trials. The best so far goes from "
        f"{running_best[0]:.3g} to {running_best[-1]:.3g}, which trial {best.number} reached."
        + (f" The base recipe has {base:.3g}." if base is not None else ""),
        4.2,
        draw,
    )


def parallel(sweep: Sweep) -> Picture | str:
    """Each trial as a line through its values of all keys and its result; or why there is none."""
    scales, metric = scales_of(sweep), metric_scale(sweep)
    why = nothing_to_compare(sweep, scales)
    if why:
        return f"There is no figure of parallel coordinates: {why}."
    left_out = {n for scale in scales for n in scale.left_out}
    records = [r for r in sweep.scored if r.number not in left_out]
    best = best_of(records, sweep.mode)
    if best is None:
        return "There is no figure of parallel coordinates: every trial has a value that is not finite."
    # Worse ones first, so that better ones lie on top.
    ranked = sorted(records, key=lambda r: metric.places[r.number], reverse=sweep.mode == "min")
    rows = [*scales, metric]
    unset = any(scale.unset for scale in rows)
    colours = colours_of(sweep.mode)

    def draw(figure: Figure) -> None:
        ink, paper = matplotlib.rcParams["text.color"], matplotlib.rcParams["figure.facecolor"]
        halo: dict[str, Any] = {"facecolor": paper, "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
        panel = figure.subplots()
        for record in ranked:
            where = [scale.places.get(record.number, UNSET) for scale in rows]
            emphasis = {"color": ink, "linewidth": 2.8, "zorder": 3, "marker": "o", "markersize": 5}
            plain = {"color": colours(where[-1]), "linewidth": 1.3, "alpha": 0.85}
            panel.plot(where, range(len(rows)), **(emphasis if record is best else plain))
        for row, scale in enumerate(rows):
            panel.plot([0, 1], [row, row], color=GREY, linewidth=1, zorder=2.5)
            ticks = [*fitted(scale, 56), *([(UNSET, "not set")] if scale.unset else [])]
            panel.plot([p for p, _ in ticks], [row] * len(ticks), "|", color=GREY, markersize=8, zorder=2.5)
            for place, text in ticks:
                spot: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": SMALL, "bbox": halo, "zorder": 4}
                panel.annotate(text, (place, row), (0, -7), textcoords="offset points", **spot)
        last = len(rows) - 1
        span = (0, 1, last + 0.04, last - 0.04)
        panel.imshow([[i / 255 for i in range(256)]], cmap=colours, extent=span, aspect="auto", zorder=2.6)
        panel.set_yticks(range(len(rows)), [*(label_of(s.key) for s in scales), metric_label(sweep, breaks=True)])
        panel.set_ylim(last + 0.45, -0.2)
        panel.set_xlim(UNSET - 0.08 if unset else -0.06, 1.06)
        panel.set_xticks([])
        panel.tick_params(length=0)
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
        draw_legend(figure, [Line2D([], [], color=ink, linewidth=2.8, marker="o", label=f"best: trial {best.number}")])

    return Picture(
        "parallel",
        "All keys together",
        "Parallel coordinates: each trial is a line from its value of the first key, on top, to its "
        f"{sweep.metric}, at the bottom, and has the colour of that result; orange is better. Numbers from a short "
        f"list have even places.{told_unset(scales)}{told_left_out(left_out)}",
        f"Parallel coordinates of {len(records)} trials over {listed([s.key for s in rows])}. "
        f"The best, trial {best.number}, reaches {best.best(sweep.mode):.3g}.",
        1.1 + 0.78 * len(rows),
        draw,
    )


def importance(sweep: Sweep) -> Picture | str:
    """How much of the differences between trials each key explains; or why there is none."""
    scales, metric = scales_of(sweep), metric_scale(sweep)
    lead = "There is no figure of the importance of keys: "
    why = nothing_to_compare(sweep, scales)
    if why:
        return f"{lead}{why}."
    left_out = {n for scale in scales for n in scale.left_out}
    trials = [r.number for r in sweep.scored if r.number not in left_out]
    everywhere = [scale for scale in scales if not scale.unset]
    conditional = [scale.key for scale in scales if scale.unset]
    if len(trials) < FEWEST_TRIALS:
        return f"{lead}it needs {FEWEST_TRIALS} trials with a value or more, and there are {len(trials)}."
    if len({metric.places[n] for n in trials}) < 2:
        return f"{lead}all trials have the same value."
    if sum(len({scale.places[n] for n in trials}) > 1 for scale in everywhere) < 2:
        return f"{lead}it compares keys that all trials have and that differ between trials, and there is one at most."
    shares = importances(everywhere, {n: metric.places[n] for n in trials})
    ranked = sorted(shares.items(), key=lambda pair: pair[1])

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        bars = panel.barh(range(len(ranked)), [100 * s for _, s in ranked], color=BLUE, height=0.6)
        panel.set_yticks(range(len(ranked)), [label_of(key) for key, _ in ranked])
        panel.bar_label(bars, [_percent(share) for _, share in ranked], padding=4)
        panel.set_xlim(0, 100 * 1.12 * ranked[-1][1])
        panel.set_xlabel(f"share of the variance of {shortened(sweep.metric, 30)}, in %")
        panel.grid(visible=False, axis="y")

    kept = f" Left out, as not all trials have them: {listed(conditional)}." if conditional else ""
    logarithm = "the logarithm of " if metric.kind == "logarithmic" else ""
    return Picture(
        "importance",
        "Which keys matter",
        f"How much of the variance of {logarithm}{sweep.metric} each key explains alone, in proportion to the others "
        f"(fANOVA: a random forest fitted to {len(trials)} trials). It tells where to look, not which value is best, "
        f"and with few trials only roughly.{kept}{told_left_out(left_out)}",
        "Bar chart of the importance of keys: "
        + ", ".join(f"{key} {_percent(share)}" for key, share in reversed(ranked))
        + ".",
        1.0 + 0.5 * len(ranked),
        draw,
    )


def slices(sweep: Sweep) -> Picture | str:
    """The result over each key alone; or why there is none."""
    scales = scales_of(sweep)
    why = nothing_to_compare(sweep, scales)
    best = best_of(sweep.scored, sweep.mode)
    if why or best is None:
        return f"There is no figure of the result over each key: {why or NOTHING}."
    values = {r.number: value_of(r, sweep) for r in sweep.scored}
    columns = min(2, len(scales))
    rows = math.ceil(len(scales) / columns)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for panel in panels.flat[len(scales) :]:
            panel.set_axis_off()
        set_metric_axis(panels.flat[0], sweep, list(values.values()))
        panels.flat[0].set_ylabel("")
        for panel, scale in zip(panels.flat, scales, strict=False):
            where = {**scale.places, **dict.fromkeys(scale.unset, UNSET)}
            for state, mark in MARKS.items():
                here = [r.number for r in sweep.scored if r.state == state and r.number in where]
                panel.plot([where[n] for n in here], [values[n] for n in here], linestyle="", alpha=0.9, **mark)
            if best.number in where:
                draw_best(panel, where[best.number], values[best.number])
            set_ticks(panel, scale, room=28 if columns == 2 else 72)
            panel.set_xlabel(label_of(scale.key) + (" (log)" if scale.kind == "logarithmic" else ""))
        figure.supylabel(metric_label(sweep), fontsize=matplotlib.rcParams["font.size"])
        states = [state for state in MARKS if any(r.state == state for r in sweep.scored)]
        marks = [Line2D([], [], linestyle="", label=STATES[state], **MARKS[state]) for state in states]
        draw_legend(figure, [*marks, best_mark()])

    left_out = {n for scale in scales for n in scale.left_out}
    return Picture(
        "slices",
        "The result over each key",
        f"The best {sweep.metric} of each trial over its value of one key, whatever the others are. Trials that were "
        f"stopped early are hollow: more epochs might have brought them further.{told_unset(scales)}"
        f"{told_left_out(left_out)}",
        f"{len(scales)} scatter charts of {sweep.metric} over {listed([s.key for s in scales])}. The best, trial "
        f"{best.number}, reaches {values[best.number]:.3g}.",
        0.7 + 2.5 * rows,
        draw,
    )


def courses(sweep: Sweep) -> Picture | str:
    """The metric by epoch of each trial; or why there is none."""
    best, base = sweep.best, sweep.base
    drawn = [r for r in sweep.records if any(math.isfinite(value) for _, value in r.course)]
    if not drawn:
        return f"There is no figure of the trials' courses: {NOTHING}."
    finite = [value for r in drawn for _, value in r.course if math.isfinite(value)]
    left_out = sum(not math.isfinite(value) for r in sweep.records for _, value in r.course)

    def draw(figure: Figure) -> None:
        thick: dict[str, Any] = {"color": matplotlib.rcParams["text.color"], "linewidth": 2.6, "zorder": 4}
        dashed: dict[str, Any] = {"color": GREEN, "linewidth": 2, "linestyle": (0, (5, 2)), "zorder": 3}
        faint: dict[str, Any] = {"color": BLUE, "linewidth": 1.1, "alpha": 0.5, "zorder": 2}
        panel = figure.subplots()
        set_metric_axis(panel, sweep, finite)
        for r in drawn:
            epochs = [epoch for epoch, _ in r.course]
            numbers = [value if math.isfinite(value) else math.nan for _, value in r.course]
            line = {**(thick if r is best else faint), **(dashed if r is base else {})}
            # One epoch makes no line; a point keeps it visible.
            panel.plot(epochs, numbers, **line, marker="." if len(numbers) == 1 else "", markersize=8)
            if r.state in {"stopped", "failed"}:
                end = max(i for i, value in enumerate(numbers) if not math.isnan(value))
                mark = {"marker": "o", "markersize": 4.5, "color": line["color"]}
                panel.plot(epochs[end], numbers[end], zorder=4, **(mark if r.state == "stopped" else MARKS["failed"]))
        set_whole_numbers(panel, "epoch", [epoch for r in drawn for epoch, _ in r.course])
        legend = [Line2D([], [], label="trial", **faint)]
        if best is not None and best is not base:
            legend.append(Line2D([], [], label=f"best: trial {best.number}", **thick))
        if base in drawn:
            legend.append(Line2D([], [], label="base recipe", **dashed))
        if any(r.state == "stopped" for r in drawn):
            legend.append(Line2D([], [], linestyle="", marker="o", color=BLUE, markersize=4.5, label=STATES["stopped"]))
        if any(r.state == "failed" for r in drawn):
            legend.append(Line2D([], [], linestyle="", label=STATES["failed"], **MARKS["failed"]))
        draw_legend(figure, legend)

    last = max(epoch for r in drawn for epoch, _ in r.course)
    return Picture(
        "courses",
        "The trials by epoch",
        f"{sweep.metric} after each epoch of each trial."
        + (f" Values that are not finite are left out: {left_out}." if left_out else ""),
        f"Line chart of {sweep.metric} by epoch, {len(drawn)} trials, until epoch {last}. The values go from "
        f"{min(finite):.3g} to {max(finite):.3g}." + (f" The best is trial {best.number}." if best is not None else ""),
        4.2,
        draw,
    )


PICTURES: tuple[Callable[[Sweep], Picture | str], ...] = (history, courses, importance, slices, parallel)
"""All pictures, in the order of the page. One that a sweep has not gives a sentence that says why."""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "<1 %"
