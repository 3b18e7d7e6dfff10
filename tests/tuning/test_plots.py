"""The pictures of a sweep: what is drawn where, and that no sweep is too small or too odd to be shown."""

import math
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import optuna
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from distributed.pages.pictures import STYLE, THEMES, WIDTH, Picture, render
from tests.support.sweeps import BASE, realistic, record, sweep_of
from tuning.drawing import GREEN, ORANGE, RED, UNSET
from tuning.plots import PICTURES, courses, history, importance, parallel, slices
from tuning.records import Sweep, best_of
from tuning.scales import fitted, label_of, measured, scale_of, shortened, text_of

INK = THEMES["light"]["text.color"]


def _drawn(picture: Picture | str) -> Figure:
    assert isinstance(picture, Picture)
    with matplotlib.rc_context({**STYLE, **THEMES["light"]}):
        figure = Figure(figsize=(WIDTH, picture.height), layout="constrained")
        picture.draw(figure)
        FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    return figure


def _xs(line: Line2D) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata())]


def _ys(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


def _widths(panel: Axes) -> list[float]:
    """Of bars, from the bottom to the top."""
    return [bar.get_width() for bar in panel.patches if isinstance(bar, Rectangle)]


def _points(panel: Axes, keep: Callable[[Line2D], bool]) -> set[tuple[float, float]]:
    lines = [line for line in panel.lines if keep(line)]
    return {point for line in lines for point in zip(_xs(line), _ys(line), strict=True)}


def _legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def _hollow(line: Line2D) -> bool:
    return line.get_marker() == "o" and line.get_markerfacecolor() == "none"


def _full(line: Line2D) -> bool:
    return line.get_marker() == "o" and line.get_markerfacecolor() != "none"


def _star(line: Line2D) -> bool:
    return line.get_marker() == "*"


STATES = sweep_of(
    record(0, {}, 0.3, 0.5),
    record(1, {"a": 1.0}, 0.4, 0.6),
    record(2, {"a": 2.0}, 0.2, state="stopped"),
    record(3, {"a": 3.0}, 0.9, state="failed"),
    record(4, {"a": 4.0}, 0.5, 0.7, 0.65),
    record(5, {"a": 5.0}, 0.55, state="running"),
    record(6, {"a": 6.0}),
    baseline=0,
)


def test_the_history_tells_states_apart_and_runs_with_the_best() -> None:
    picture = history(STATES)
    figure = _drawn(picture)
    panel = figure.axes[0]
    assert _points(panel, _full) == {(0, 0.5), (1, 0.6), (4, 0.7)}
    assert _points(panel, _hollow) == {(2, 0.2)}
    assert _points(panel, lambda line: line.get_marker() == "^") == {(5, 0.55)}
    assert {x for x, _ in _points(panel, lambda line: line.get_color() == RED)} == {3}
    assert _points(panel, _star) == {(4, 0.7)}
    best = next(line for line in panel.lines if line.get_drawstyle() == "steps-post")
    assert _ys(best)[:5] == [0.5, 0.6, 0.6, 0.7, 0.7]
    base = next(line for line in panel.lines if line.get_color() == GREEN)
    assert set(_ys(base)) == {0.5}
    assert _legend(figure) == [
        "best so far", "base recipe", "finished", "stopped early", "running", "failed", "best",
    ]  # fmt: skip
    assert isinstance(picture, Picture)
    assert "without a finite value are left out: 1." in picture.caption


def test_the_best_so_far_goes_down_where_lower_is_better() -> None:
    figure = _drawn(history(sweep_of(*(record(n, {}, v) for n, v in enumerate([3.0, 4.0, 2.0])), mode="min")))
    line = next(line for line in figure.axes[0].lines if line.get_color() == ORANGE and not _star(line))
    assert _ys(line) == [3, 3, 2, 2]
    assert figure.axes[0].get_ylabel() == "accuracy (lower is better)"


def test_courses_have_every_epoch_and_end_stopped_trials_with_a_dot() -> None:
    figure = _drawn(courses(STATES))
    panel = figure.axes[0]
    assert _points(panel, lambda line: line.get_color() == INK) == {(1, 0.5), (2, 0.7), (3, 0.65)}
    assert _points(panel, lambda line: line.get_color() == GREEN) == {(1, 0.3), (2, 0.5)}
    assert _points(panel, lambda line: line.get_marker() == "o") == {(1, 0.2)}
    assert _points(panel, lambda line: line.get_color() == RED) == {(1, 0.9)}
    assert "best: trial 4" in _legend(figure)


@pytest.mark.parametrize("epochs", [1, 2, 3, 40])
@pytest.mark.parametrize("draw", [history, courses])
def test_there_are_no_half_trials_and_epochs(draw: Callable[[Sweep], Picture | str], epochs: int) -> None:
    trials = [record(n, {}, *[0.5] * epochs) for n in range(epochs)]
    panel = _drawn(draw(sweep_of(*trials))).axes[0]
    ticks = panel.get_xticks()
    assert all(float(tick).is_integer() for tick in ticks)
    assert any(float(tick) in range(epochs + 1) for tick in ticks)


def test_values_that_are_not_finite_are_counted_and_never_the_best() -> None:
    courses_of = [(math.nan, 0.4), (0.5, math.inf), (math.nan,)]
    sweep = sweep_of(*(record(n, {"a": float(n)}, *course) for n, course in enumerate(courses_of)))
    assert sweep.best is sweep.records[1]
    picture = courses(sweep)
    assert isinstance(picture, Picture)
    assert "not finite are left out: 3." in picture.caption
    found = history(sweep)
    assert isinstance(found, Picture)
    assert "0.4 to 0.5" in found.alt
    for each in (picture, found):
        assert render(each, "png", "dark").startswith(b"\x89PNG")


def test_a_key_that_is_not_finite_leaves_its_trial_out_and_says_so() -> None:
    values = [1.0, 2.0, math.inf, 4.0, 5.0]
    sweep = sweep_of(*(record(n, {"a": a, "b": float(n)}, 0.1 * n) for n, a in enumerate(values)))
    for draw in (parallel, slices, importance):
        picture = draw(sweep)
        assert isinstance(picture, Picture)
        assert "not finite: trial 2." in picture.caption
    assert isinstance(lines := parallel(sweep), Picture)
    assert "of 4 trials" in lines.alt
    upper, lower = _drawn(slices(sweep)).axes[:2]
    assert len(_points(upper, _full)) == 4
    assert len(_points(lower, _full)) == 5


def test_parallel_lines_go_through_every_key_and_the_result() -> None:
    sweep = sweep_of(
        record(0, {}, 0.9),
        record(1, {"eta": 1e-4, "kind": "b"}, 0.2),
        record(2, {"eta": 1e-2, "kind": "a", "extra": 5}, 0.6),
        record(3, {"eta": 1e-3, "kind": "b", "extra": 7}, 0.4),
        logarithmic=frozenset({"eta"}),
        baseline=0,
    )
    picture = parallel(sweep)
    panel = _drawn(picture).axes[0]
    lines = {tuple(_xs(line)): line for line in panel.lines if _ys(line) == [0, 1, 2, 3]}
    places = {tuple(round(float(x), 9) for x in where): line.get_color() for where, line in lines.items()}
    assert set(places) == {(0, 1, UNSET, 0), (1, 0, 0, 1), (0.5, 1, 1, 0.5)}
    assert places[1, 0, 0, 1] == INK  # the best of those that vary something, though the base recipe is better
    assert [text.get_text() for text in panel.texts].count("not set") == 1
    assert isinstance(picture, Picture)
    assert "at “not set”" in picture.caption


@pytest.mark.parametrize("mode", ["max", "min"])
def test_better_results_are_orange(mode: Any) -> None:
    sweep = sweep_of(*(record(n, {"a": float(n)}, value) for n, value in enumerate([0.1, 0.5, 0.9])), mode=mode)
    panel = _drawn(parallel(sweep)).axes[0]
    lines = [line for line in panel.lines if _ys(line) == [0, 1]]
    by_result = {_xs(line)[1]: line.get_color() for line in lines}
    best, worst = (1, 0) if mode == "max" else (0, 1)
    red, _, blue = to_rgb(by_result[worst])
    assert blue > red
    assert by_result[best] == INK


def test_slices_have_a_panel_a_key_with_its_scale() -> None:
    sweep = realistic()
    panels = _drawn(slices(sweep)).axes
    assert [panel.get_xlabel() for panel in panels[:3]] == [
        "optimiser.eta (log)", "training.batch_size", "model.normalisation",
    ]  # fmt: skip
    assert [label.get_text() for label in panels[1].get_xticklabels()] == ["16", "32", "64"]
    assert [label.get_text() for label in panels[2].get_xticklabels()] == ["batch", "layer"]
    best = best_of(sweep.scored, "max")
    assert best is not None
    for panel in panels[:3]:
        assert len(_xs(panel.lines[0])) == 20
        assert len(_xs(next(line for line in panel.lines if _hollow(line)))) == 3
        assert {y for _, y in _points(panel, _star)} == {best.best("max")}
    ends = [scale_of("k", {0: 1e-4, 1: 1e-2, 2: 1e-3}, [0, 1, 2], True).places[n] for n in range(3)]
    assert ends == pytest.approx([0, 1, 0.5])


def test_importance_ranks_the_key_that_decides_first() -> None:
    picture = importance(realistic())
    widths = _widths(_drawn(picture).axes[0])
    assert sum(widths) == pytest.approx(100)
    assert widths == sorted(widths)
    assert widths[-1] > 80
    assert isinstance(picture, Picture)
    assert picture.alt.startswith("Bar chart of the importance of keys: optimiser.eta")
    assert isinstance(again := importance(realistic()), Picture)
    assert again.alt == picture.alt


def test_importance_of_words_is_found() -> None:
    kinds = ["a", "b", "c"] * 8
    records = [record(n, {"noise": (n * 7 % 24) / 24, "kind": k}, 0.5 + 0.2 * (k == "b")) for n, k in enumerate(kinds)]
    assert isinstance(picture := importance(sweep_of(*records)), Picture)
    assert "keys: kind " in picture.alt
    assert _widths(_drawn(picture).axes[0])[-1] > 80


def test_importance_leaves_conditional_keys_out_and_optuna_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    conditional: list[dict[str, Any]] = [{"c": n} if n > 2 else {} for n in range(8)]
    records = [record(n, {"a": n, "b": n % 3 + n / 50, **c}, 0.1 * n) for n, c in enumerate(conditional)]
    assert isinstance(picture := importance(sweep_of(*records)), Picture)
    assert "not all trials have them: c." in picture.caption
    assert len(_widths(_drawn(picture).axes[0])) == 2
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr().err == ""


WHY: dict[str, tuple[Sweep, str]] = {
    "few trials": (sweep_of(*(record(n, {"a": n, "b": -n}, 0.1 * n) for n in range(3))), "there are 3"),
    "equal results": (sweep_of(*(record(n, {"a": n, "b": -n}, 0.5) for n in range(6))), "the same value"),
    "one key": (sweep_of(*(record(n, {"a": n}, 0.1 * n) for n in range(6))), "one at most"),
    "one key differs": (sweep_of(*(record(n, {"a": n, "b": 1}, 0.1 * n) for n in range(6))), "one at most"),
    "no key": (sweep_of(*(record(n, {}, 0.1 * n) for n in range(6))), "vary no key"),
    "all failed": (sweep_of(*(record(n, {"a": n}, 0.1, state="failed") for n in range(6))), "no trial has a value"),
}


@pytest.mark.parametrize("case", WHY)
def test_where_importance_means_nothing_a_sentence_says_why(case: str) -> None:
    sweep, why = WHY[case]
    found = importance(sweep)
    assert isinstance(found, str)
    assert why in found


LONG = "part.of.a." + "very_" * 12 + "long_name"
MARKUP = {"$\\frac{a$": 1.0, "<b>&_x": "$y^{", "_hidden": None, LONG: "value " * 30}
ODD: dict[str, Sweep] = {
    "none": sweep_of(),
    "one": sweep_of(record(0, {"a": 1.0}, 0.5)),
    "base only": sweep_of(record(0, {}, 0.5), baseline=0),
    "failed base": sweep_of(record(0, {}, state="failed"), record(1, {"a": 1}, 0.5), baseline=0),
    "no such base": sweep_of(record(1, {"a": 1}, 0.5), baseline=0),
    "running, no value": sweep_of(record(0, {"a": 1.0}, state="running")),
    "all failed": sweep_of(*(record(n, {"a": n}, 0.1, state="failed") for n in range(3))),
    "one key": sweep_of(*(record(n, {"a": n}, 0.1 * n) for n in range(5))),
    "names": sweep_of(*(record(n, {**MARKUP, "n": n}, 0.1 * n) for n in range(5))),
    "equal": sweep_of(*(record(n, {"a": 1.0, "b": "x"}, 0.5, 0.5) for n in range(5)), logarithmic=frozenset({"a"})),
    "mixed": sweep_of(*(record(n, {"a": a}, 0.1 * n) for n, a in enumerate([1, 2.5, True, None, "1", [1, "x"], []]))),
    "not finite": sweep_of(*(record(n, {"a": math.inf, "b": math.nan}, math.nan) for n in range(5))),
    "keys not finite": sweep_of(*(record(n, {"a": math.inf, "b": math.nan}, 0.1 * n) for n in range(5))),
    "logarithm of zero": sweep_of(*(record(n, {"a": n - 1}, 0.1) for n in range(5)), logarithmic=frozenset({"a"})),
    "sizes": sweep_of(*(record(n, {"a": 10.0**n, "b": f"word {n}"}, 10.0**n) for n in range(30)), mode="min"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_no_sweep_is_too_small_or_too_odd(case: str) -> None:
    scored = [r for r in ODD[case].records if r.state != "failed" and r.best("max") is not None]
    for draw in PICTURES:
        found = draw(ODD[case])
        if isinstance(found, str):
            assert found.startswith("There is no figure of ")
            assert found.endswith(".")
        else:
            assert render(found, "png", "dark").startswith(b"\x89PNG")
    assert isinstance(history(ODD[case]), Picture) == bool(scored)


@pytest.mark.parametrize("draw", PICTURES)
@pytest.mark.parametrize("sweep", [realistic(), ODD["names"], ODD["sizes"]], ids=["realistic", "names", "sizes"])
def test_no_text_lies_on_another_or_outside(draw: Callable[[Sweep], Picture | str], sweep: Sweep) -> None:
    picture = draw(sweep)
    if isinstance(picture, str):
        return
    figure = _drawn(picture)
    texts = [text for legend in figure.legends for text in legend.get_texts()] + list(figure.texts)
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [axis.label, *ticks] if panel.axison else []
        texts += panel.texts
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    boxes = {text: matplotlib.text.Text.get_window_extent(text) for text in shown}
    assert len(boxes) >= 4
    for text, box in boxes.items():
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert not [other for other in shown if other is not text and box.padded(-1).overlaps(boxes[other].padded(-1))]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_sweep_gives_the_same_file(kind: Any) -> None:
    for draw in PICTURES:
        first, second = draw(realistic()), draw(realistic())
        assert isinstance(first, Picture)
        assert isinstance(second, Picture)
        assert render(first, kind, "light") == render(second, kind, "light")
        assert render(first, kind, "light") != render(first, kind, "dark")


def test_the_base_recipe_is_in_no_picture_of_keys() -> None:
    sweep = realistic()
    assert BASE not in [r.number for r in sweep.scored]
    assert isinstance(picture := parallel(sweep), Picture)
    assert f"of {len(sweep.scored)} trials" in picture.alt


def test_scales() -> None:
    listed = scale_of("size", dict(enumerate([16, 64, 16, 32, 64, 32])), range(6), False)
    assert (listed.kind, listed.ticks) == ("choice", ((0, "16"), (0.5, "32"), (1, "64")))
    # Results that happen to be the same are no list to choose from.
    assert measured("m", dict(enumerate([0.0, 0.0, 0.1, 0.1, 1.0, 1.0])), False).places[2] == pytest.approx(0.1)
    words = scale_of("w", {0: None, 1: "b", 2: 2, 3: 10}, range(5), False)
    assert [text for _, text in words.ticks] == ["2", "10", "b", "null"]
    assert words.unset == (4,)
    assert [text for _, text in scale_of("e", {0: 1e-5, 1: 1e-1}, [0, 1], True).ticks][::2] == ["1e-05", "0.001", "0.1"]
    assert all(0 <= place <= 1 for place, _ in scale_of("e", {0: 0.0123, 1: 0.0131}, [0, 1], False).ticks)


def test_texts() -> None:
    values = [True, None, 3, 0.00012345678, ["a", 1.0], "x\ny"]
    assert [text_of(value) for value in values] == ["true", "null", "3", "0.0001235", "[a, 1]", "x\ny"]
    assert shortened("x\ny", 10) == "x y"
    assert shortened("beginning_and_end", 9) == "begi…_end"
    assert label_of("training.label_smoothing") == "training.\nlabel_smoothing"
    assert max(len(line) for line in label_of(LONG).split("\n")) <= 22
    numbers = scale_of("e", {0: 1e-8, 1: 1e-3}, [0, 1], True)
    assert set(fitted(numbers, 10)) < set(numbers.ticks)  # fewer of them, each whole
