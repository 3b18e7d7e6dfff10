"""The figures of a learned loss, after those of CVPR 2023 (MELTR): what it makes of its losses, and how a run used it.

Shape legend: T losses (tasks), n values of a grid.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from torch import Tensor, nn

from distributed.pages.pictures import COLOURS, STYLE, Picture
from models.meltr.config import MELTRConfig
from models.meltr.introspection import EpochFigures, marginal, surface, without

PAPER_HIGHEST = 3.0
"""The paper's figures have losses from 0 to 3."""
CURVE_POINTS, SURFACE_POINTS = 121, 41
LEGEND_COLUMNS = 2

# Dashes tell lines apart where colours do not.
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


@dataclass(frozen=True)
class Learned:
    """A trained loss network and what its run recorded. T losses."""

    run: str
    step: int
    names: tuple[str, ...]
    primary: int
    config: MELTRConfig
    network: nn.Module
    losses: EpochFigures
    coefficients: EpochFigures

    @property
    def means(self) -> Tensor:
        """(T,) over all that the run recorded."""
        return self.losses.overall()[0]

    def values(self, points: int) -> Tensor:
        """The axis of loss values: the paper's, or as far as is needed to show every mean."""
        low, high = math.floor(float(self.means.min())), math.ceil(float(self.means.max()))
        return torch.linspace(min(0, low), max(PAPER_HIGHEST, high), points)

    def label(self, task: int) -> str:
        """A loss's name as figures show it."""
        name = self.names[task]
        short = name if len(name) <= 28 else f"{name[:27]}…"
        return f"{short} (primary)" if task == self.primary else short

    def line(self, task: int) -> dict[str, Any]:
        """How a loss is drawn: the primary one in black or white, thick."""
        if task == self.primary:
            return {"color": matplotlib.rcParams["text.color"], "linestyle": "-", "linewidth": 2.6, "zorder": 3}
        rank = task - (task > self.primary)
        return {"color": COLOURS[rank % len(COLOURS)], "linestyle": DASHES[rank % len(DASHES)], "linewidth": 1.8}


def marginals(learned: Learned) -> Picture:
    """M and dM/dl_t as each loss moves alone."""
    values = learned.values(CURVE_POINTS)
    curves = [marginal(learned.network, learned.means, t, values) for t in range(len(learned.names))]

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        _curves(upper, learned, values, [unified for unified, _ in curves])
        _curves(lower, learned, values, [slope for _, slope in curves])
        _mark_zero(lower)
        upper.set_ylabel("unified loss M")
        lower.set_ylabel("∂M/∂loss")
        lower.set_xlabel("value of one loss, the others at their means")
        _legend(figure, learned)

    unified, slope = curves[learned.primary]
    return Picture(
        "marginals",
        "The unified loss along each loss",
        "Above, the unified loss M as one loss moves and all others stay at their means over the run; below, how much "
        "M rises for a small rise of that loss, which is the coefficient that the loss has in training. Lines are "
        "strong where the run has seen the loss and faint where it has not; the dot is its mean. Below zero, training "
        "would raise that loss.",
        f"Two line charts over loss values from {values[0]:g} to {values[-1]:g}, a line a loss. Along the primary loss "
        f"{learned.names[learned.primary]} the unified loss goes from {unified[0]:.3g} to {unified[-1]:.3g} and its "
        f"derivative from {slope[0]:.3g} to {slope[-1]:.3g}.",
        6.6 + _legend_height(learned),
        draw,
        "Figures 3 and 7",
    )


def surfaces(learned: Learned) -> Picture | str:
    """M over the primary loss and each other one; or why there is none."""
    values, primary = learned.values(SURFACE_POINTS), learned.primary
    others = [t for t in range(len(learned.names)) if t != primary]
    if not others:
        return "There is no figure of the unified loss over two losses: this run has one loss only."
    found = [surface(learned.network, learned.means, t, primary, values) for t in others]
    low, high = min(float(m.min()) for m in found), max(float(m.max()) for m in found)
    levels = MaxNLocator(14).tick_values(low, high)
    columns = min(2, len(others))
    rows = math.ceil(len(others) / columns)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for panel in panels.flat[len(others) :]:
            panel.set_axis_off()
        for t, heights, panel in zip(others, found, panels.flat, strict=False):
            filled = panel.contourf(values, values, heights, levels=levels, cmap="cividis")
            panel.contour(values, values, heights, levels=levels, colors="white", linewidths=0.4)
            panel.plot(*learned.means[[primary, t]].tolist(), "o", color="white", markeredgecolor="black")
            panel.set_ylabel(learned.label(t))
            panel.grid(visible=False)
        for panel in panels.flat[max(0, len(others) - columns) : len(others)]:
            panel.tick_params(labelbottom=True)
        figure.supxlabel(learned.label(primary), fontsize=STYLE["font.size"])
        figure.colorbar(filled, ax=list(panels.flat), location="top", label="unified loss M", aspect=40)

    return Picture(
        "surfaces",
        "The unified loss over two losses",
        "The unified loss M as the primary loss (across) and one other (upwards) move and the rest stay at their "
        "means; brighter is higher. Straight, even contours mean that M adds the two with fixed weights; where they "
        "bend, the weight of one depends on the other. The dot is the means of both.",
        f"{len(others)} contour charts of the unified loss over the primary loss, {learned.names[primary]}, and each "
        f"other loss, from {values[0]:g} to {values[-1]:g}. It goes from {low:.3g} to {high:.3g}.",
        1.2 + rows * (2.5 if columns == 2 else 4.6),
        draw,
        "Figure 3",
    )


def coefficients(learned: Learned) -> Picture:
    """Mean dM/dl_t of each epoch."""
    figures = learned.coefficients

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        for t in range(len(learned.names)):
            mark = "o" if len(figures.epochs) <= 30 else ""
            panel.plot(figures.epochs, figures.mean[:, t], marker=mark, markersize=3.5, **learned.line(t))
        _mark_zero(panel)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlabel("epoch")
        panel.set_ylabel("mean ∂M/∂loss")
        _legend(figure, learned)

    first, last = figures.mean[0, learned.primary], figures.mean[-1, learned.primary]
    return Picture(
        "coefficients",
        "The weight of each loss in training",
        "The mean of ∂M/∂loss over the steps of each epoch: the coefficients with which the losses were added up for "
        f"the backbone's training. The plain sum of all losses would be 1 everywhere.{_left_out(figures)}",
        f"Line chart of the mean coefficient of each loss by epoch. That of the primary loss, "
        f"{learned.names[learned.primary]}, goes from {first:.3g} in epoch {figures.epochs[0]} to {last:.3g} in epoch "
        f"{figures.epochs[-1]}.",
        4.0 + _legend_height(learned),
        draw,
        "Figure 4",
    )


def embeddings(learned: Learned) -> Picture | str:
    """M and dM/dl_t with one of the two embeddings left out; or why there is none."""
    if learned.config.network.form != "transformer":
        return (
            "There is no figure of what the two embeddings contribute: it needs a loss network of form transformer, "
            f"and this one is of form {learned.config.network.form}."
        )
    values = learned.values(CURVE_POINTS)
    networks = {
        "value embedding only": without(learned.network, "task"),
        "task embedding only": without(learned.network, "value"),
        "both": learned.network,
    }
    tasks = range(len(learned.names))
    curves = {part: [marginal(network, learned.means, t, values) for t in tasks] for part, network in networks.items()}
    constant = float(curves["task embedding only"][0][0][0])

    def draw(figure: Figure) -> None:
        panels = figure.subplots(3, 2, sharex=True)
        for (part, found), (left, right) in zip(curves.items(), panels, strict=True):
            left.set_title(part, loc="left", fontweight="bold")
            _curves(left, learned, values, [unified for unified, _ in found])
            _curves(right, learned, values, [slope for _, slope in found])
            _mark_zero(right)
            left.set_ylabel("unified loss M")
            right.set_ylabel("∂M/∂loss")
            if part == "task embedding only":
                text = f"M = {constant:.3g}: a constant, for\nthe tokens hold no losses"
                left.set_ylim(constant - 1, constant + 1)  # and not to the rounding
                right.set_ylim(-1, 1)
                left.annotate(text, (0.04, 0.94), xycoords="axes fraction", va="top", fontsize=9)
        for panel in panels[-1]:
            panel.set_xlabel("value of one loss")
        _legend(figure, learned)

    return Picture(
        "embeddings",
        "What the two embeddings contribute",
        "As in the first figure, with tokens made of the embedding of loss values alone, of the task embedding alone, "
        "and of both. The missing part is set to zero in the trained network; nothing is trained again. With values "
        "alone no loss is told from another, and the lines differ only because the others stay at other means. With "
        "tasks alone M does not depend on the losses: it is a constant, and every derivative is zero. Each chart has a "
        "scale of its own.",
        "Six line charts: the unified loss and its derivative along each loss, with the value embedding only, the task "
        f"embedding only, and both. With the task embedding only, the unified loss is {constant:.3g} everywhere.",
        7.4 + _legend_height(learned),
        draw,
        "Figure 5",
    )


def ranges(learned: Learned) -> Picture:
    """Lowest, highest and mean value of each loss."""
    figures = learned.losses
    means, low, high = figures.overall()
    # Losses of very different sizes share an axis only by their magnitudes.
    logarithmic = bool(low.min() > 0) and float(means.max() / means.min()) > 30

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        for t in range(len(learned.names)):
            colour, last = learned.line(t)["color"], -1
            panel.plot([low[t], high[t]], [t, t], color=colour, linewidth=1.5)
            panel.plot(
                [figures.low[last, t], figures.high[last, t]],
                [t, t],
                color=colour,
                linewidth=8,
                alpha=0.45,
                solid_capstyle="butt",
            )
            panel.plot(means[t], t, "o", color=colour, markersize=8)
            panel.plot(figures.mean[last, t], t, "D", color=colour, markersize=8, markerfacecolor="none")
        panel.set_yticks(range(len(learned.names)), [learned.label(t) for t in range(len(learned.names))])
        panel.set_ylim(len(learned.names) - 0.5, -0.5)
        panel.grid(visible=False, axis="y")
        if logarithmic:
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel("loss (logarithmic)" if logarithmic else "loss")

    name, t = learned.names[learned.primary], learned.primary
    return Picture(
        "ranges",
        "The range of each loss",
        "The thin line goes from the lowest to the highest value of a loss in the run, with a dot at the mean; the "
        f"thick line and the diamond are those of the last epoch.{_left_out(figures)}",
        f"Range chart, a line a loss. The primary loss, {name}, goes from {low[t]:.3g} to {high[t]:.3g}, mean "
        f"{means[t]:.3g}.",
        1.0 + 0.42 * len(learned.names),
        draw,
        "Figure 6",
    )


FIGURES: tuple[Callable[[Learned], Picture | str], ...] = (marginals, surfaces, coefficients, embeddings, ranges)
"""All figures, in the order of the page. One that a run has not gives a sentence that says why."""


# What several figures have.


def _curves(panel: Axes, learned: Learned, values: Tensor, curves: Sequence[Tensor]) -> None:
    """A curve (n,) for each loss, strong where the run has seen the loss, with a dot at its mean."""
    means, low, high = learned.losses.overall()
    for t, curve in enumerate(curves):
        line = learned.line(t)
        panel.plot(values, curve, **{**line, "linewidth": 0.9}, alpha=0.6)
        seen = (values >= low[t]) & (values <= high[t])
        panel.plot(values[seen], curve[seen], **line)
        nearest = int((values - means[t]).abs().argmin())
        panel.plot(values[nearest], curve[nearest], "o", color=line["color"], markersize=6, zorder=4)


def _mark_zero(panel: Axes) -> None:
    panel.axhline(0, color=matplotlib.rcParams["text.color"], linewidth=0.9, zorder=1)


def _legend(figure: Figure, learned: Learned) -> None:
    tasks = range(len(learned.names))
    lines = [Line2D([], [], **learned.line(t)) for t in tasks]
    labels = [learned.label(t) for t in tasks]
    figure.legend(lines, labels, loc="outside lower center", ncols=LEGEND_COLUMNS, handlelength=3)


def _legend_height(learned: Learned) -> float:
    """In inches."""
    return 0.2 + 0.22 * math.ceil(len(learned.names) / LEGEND_COLUMNS)


def _left_out(figures: EpochFigures) -> str:
    return f" Figures that are not finite are left out: {figures.left_out}." if figures.left_out else ""
