"""Schedulers: changed values stay within the space, and a resumed sweep decides as if it had never been interrupted."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from distributed.config import Recipe
from distributed.recipe_file import load_recipe
from tuning.config import ASHAConfig, MedianConfig, NoSchedulerConfig, SchedulerConfig, SweepConfig
from tuning.records import Mode, Record, State
from tuning.schedulers import explore, scheduler_of
from tuning.space import ParameterConfig

EPOCHS = 9


# Population-based training.


@given(
    st.floats(1e-6, 1e3), st.floats(1.01, 1e4), st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 99)
)
def test_changed_numbers_stay_in_bounds(low: float, ratio: float, at: float, resample: float, seed: int) -> None:
    high = low * ratio
    value = min(max(low + at * (high - low), low), high)
    space = {"log": ParameterConfig(loguniform=(low, high)), "even": ParameterConfig(uniform=(low, high))}
    changed = explore({"log": value, "even": value}, space, resample, random.Random(seed))
    assert set(changed) == {"log", "even"}
    for key in changed:
        assert low <= changed[key] <= high
        if resample == 0:
            assert any(changed[key] == pytest.approx(min(max(value * f, low), high)) for f in (0.8, 1.2))


@given(st.integers(-20, 20), st.integers(2, 30), st.floats(0, 1), st.integers(0, 99))
def test_changed_whole_numbers(low: int, width: int, at: float, seed: int) -> None:
    value = low + round(at * width)
    space = {"k": ParameterConfig(randint=(low, low + width))}
    (changed,) = explore({"k": value}, space, 0.0, random.Random(seed)).values()
    assert type(changed) is int
    assert low <= changed <= low + width
    assert abs(changed - value) <= max(1, round(0.2 * abs(value)))
    if low < value < low + width:
        assert changed != value


def explored(parameter: ParameterConfig, value: Any, resample: float) -> list[Any]:
    return [explore({"k": value}, {"k": parameter}, resample, random.Random(seed))["k"] for seed in range(60)]


def test_changed_choices_are_neighbours() -> None:
    parameter = ParameterConfig(choice=("a", None, [1, 2], 4, 5))
    for place, neighbours in ((0, ["a", None]), (1, ["a", [1, 2]]), (2, [None, 4]), (4, [4, 5])):
        found = explored(parameter, (parameter.choice or ())[place], 0.0)
        assert all(value in neighbours for value in found)
        assert all(neighbour in found for neighbour in neighbours)


def test_both_factors_and_new_draws_occur() -> None:
    parameter = ParameterConfig(loguniform=(1e-4, 1.0))
    multiplied = explored(parameter, 0.01, 0.0)
    assert {round(value, 9) for value in multiplied} == {0.008, 0.012}
    drawn = explored(parameter, 0.01, 1.0)
    assert len(set(drawn)) == len(drawn)
    assert all(value in ("a", "b") for value in explored(ParameterConfig(choice=("a", "b")), "gone", 0.0))


# Stopping early.


@dataclass(eq=False)
class Stand:
    """As much of a Tune trial as schedulers look at."""

    number: int
    session: int = 0
    status: str = "RUNNING"
    trial_id: str = field(init=False)
    config: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.trial_id, self.config = f"session-{self.session}-{self.number}", {"number": self.number}


CONTROLLER = SimpleNamespace(get_live_trials=list)


class Play:
    """Tells a scheduler the results of trials as Tune does, and keeps what comes of it."""

    def __init__(self, scheduler: Any, session: int = 0, numbers: Sequence[int] = range(12)) -> None:
        self.scheduler = scheduler
        self.trials = {number: Stand(number, session) for number in numbers}
        self.courses: dict[int, list[tuple[int, float]]] = {number: [] for number in numbers}
        self.states: dict[int, State] = dict.fromkeys(numbers, "running")
        self.decisions: list[tuple[int, int, str]] = []
        for trial in self.trials.values():
            scheduler.on_trial_add(CONTROLLER, trial)

    def tell(self, number: int, epoch: int, value: float) -> None:
        if self.states[number] != "running":
            return
        trial, result = self.trials[number], {"epoch": epoch, "value": value}
        self.courses[number].append((epoch, value))
        if epoch < EPOCHS:
            decision = self.scheduler.on_trial_result(CONTROLLER, trial, result)
            self.decisions.append((number, epoch, decision))
            if decision != TrialScheduler.STOP:
                return
        self.states[number] = "finished" if epoch == EPOCHS else "stopped"
        self.scheduler.on_trial_complete(CONTROLLER, trial, result)


def events(seed: int) -> list[tuple[int, int, float]]:
    """Results of 12 trials, each better with time, as they come in beside each other."""
    source = random.Random(seed)
    left, found = dict.fromkeys(range(12), 0), []
    talents = [source.random() for _ in left]
    while left:
        number = source.choice(sorted(left)[:5])  # a few at a time
        left[number] += 1
        found.append((number, left[number], round(talents[number] + 0.1 * left[number] + source.random() / 4, 3)))
        if left[number] == EPOCHS:
            del left[number]
    return found


def config_of(scheduler: SchedulerConfig, mode: Mode = "max", base: bool = False) -> SweepConfig:
    space = {"optimiser.eta": ParameterConfig(uniform=(0.1, 1.0))}
    return SweepConfig(name="s", recipe=Path("digits_meltr"), space=space, scheduler=scheduler, mode=mode, base=base)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(Path("digits_meltr"), [f"training.epochs={EPOCHS}"], Recipe)


def made(config: SweepConfig, recipe: Recipe, records: Sequence[Record] = ()) -> Any:
    return scheduler_of(config, recipe, records, lambda number, values, since: values)


def records_of(play: Play, sign: int, earlier: Sequence[Record] = ()) -> list[Record]:
    known = {record.number: record for record in earlier}
    for number, course in play.courses.items():
        before = known[number].course if number in known else ()
        course_so_far = (*before, *((epoch, sign * value) for epoch, value in course))
        known[number] = Record(number, f"s-{number}", {}, play.states[number], course=course_so_far)
    return [known[number] for number in sorted(known)]


ASHA = ASHAConfig(grace_epochs=1, reduction=2)
MEDIAN = MedianConfig(grace_epochs=2, min_trials=2)


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("scheduler", [ASHA, MEDIAN], ids=["asha", "median"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_resumed_sweeps_decide_as_if_never_interrupted(
    recipe: Recipe, scheduler: SchedulerConfig, mode: Mode, seed: int
) -> None:
    config, sign = config_of(scheduler, mode), 1 if mode == "max" else -1
    told = events(seed)
    whole = Play(made(config, recipe))
    for event in told:
        whole.tell(*event)
    stops = [decision for _, _, decision in whole.decisions].count(TrialScheduler.STOP)
    assert 3 <= stops < 12
    pieces, records = [], list[Record]()
    for session in range(4):  # interrupted three times
        running = [n for n in range(12) if all(r.number != n or r.state == "running" for r in records)]
        play = Play(made(config, recipe, records), session, running)
        for number, epoch, value in told[session * 27 : (session + 1) * 27]:
            if number in running:
                play.tell(number, epoch, value)
        pieces += play.decisions
        records = records_of(play, sign, records)
    assert pieces == whole.decisions
    assert {record.number: record.state for record in records} == whole.states


def plain_asha() -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="value",
        mode="max",
        grace_period=1,
        max_t=EPOCHS,
        reduction_factor=2,
        stop_last_trials=False,
    )


def test_asha_decides_as_tunes_own(recipe: Recipe) -> None:
    ours, plain = Play(made(config_of(ASHA), recipe)), Play(plain_asha())
    for event in events(4)[:50]:
        ours.tell(*event)
        plain.tell(*event)
    running = [number for number, state in ours.states.items() if state == "running"]
    resumed = Play(made(config_of(ASHA), recipe, records_of(ours, 1)), 1, running)
    first = len(plain.decisions)
    assert ours.decisions == plain.decisions
    for number, epoch, value in events(4)[50:]:
        plain.tell(number, epoch, value)
        if number in running:
            resumed.tell(number, epoch, value)
    assert resumed.decisions == plain.decisions[first:]
    assert TrialScheduler.STOP in [decision for _, _, decision in resumed.decisions]


def test_median_decides_as_tunes_own(recipe: Recipe) -> None:
    plain = MedianStoppingRule(
        time_attr="epoch", metric="value", mode="max", grace_period=2, min_samples_required=2, hard_stop=True
    )
    ours, theirs = Play(made(config_of(MEDIAN), recipe)), Play(plain)
    # Tune tells a last result that was stopped at twice, which ours counts once: without it they are the same.
    theirs.scheduler = SimpleNamespace(
        on_trial_result=plain.on_trial_result,
        on_trial_complete=lambda controller, trial, result: (
            plain.on_trial_complete(controller, trial, result) if result["epoch"] == EPOCHS else None
        ),
    )
    for event in events(5):
        ours.tell(*event)
        theirs.tell(*event)
    assert ours.decisions == theirs.decisions
    assert TrialScheduler.STOP in [decision for _, _, decision in ours.decisions]


def test_failed_trials_count_as_before(recipe: Recipe) -> None:
    """What a trial had reached when it failed was compared with others, and still is after a resumption."""
    records = [Record(n, f"s-{n}", {}, "failed", course=((1, 5.0 + n),)) for n in range(4)]
    for scheduler in (ASHA, MedianConfig(grace_epochs=1, min_trials=2)):
        resumed = Play(made(config_of(scheduler), recipe, records), 1, [4, 5])
        resumed.tell(4, 1, 1.0)
        resumed.tell(5, 1, 9.0)
        assert [decision for _, _, decision in resumed.decisions] == [TrialScheduler.STOP, TrialScheduler.CONTINUE]


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("scheduler", [ASHA, MEDIAN], ids=["asha", "median"])
def test_the_base_recipe_is_never_stopped(recipe: Recipe, scheduler: SchedulerConfig, interrupted: bool) -> None:
    config = config_of(scheduler, base=True)
    play = Play(made(config, recipe), numbers=range(6))
    for epoch in range(1, 7):
        for number in range(5, -1, -1):
            play.tell(number, epoch, 10.0 * number + epoch if number else -50.0)
    if interrupted:
        records = records_of(play, 1)
        running = [record.number for record in records if record.state == "running"]
        play = Play(made(config, recipe, records), 1, running)
    for epoch in range(7, EPOCHS + 1):
        play.tell(0, epoch, -50.0)
    assert play.states[0] == "finished"
    alike = Play(made(config_of(scheduler), recipe), numbers=range(6))  # of which the same results stop any other
    for epoch in range(1, 7):
        for number in range(5, -1, -1):
            alike.tell(number, epoch, 10.0 * number + epoch if number else -50.0)
    assert alike.states[0] == "stopped"


def test_results_without_a_value(recipe: Recipe) -> None:
    """A trial that failed, or that a resumed session found at its end, ends on such a result."""
    for scheduler in (ASHA, MEDIAN):
        made_of = made(config_of(scheduler), recipe)
        play = Play(made_of, numbers=range(5))
        for number, end in ((0, {"done": True, "failed": "why"}), (1, {"done": True, "ended": True, "epoch": 0})):
            made_of.on_trial_complete(CONTROLLER, play.trials[number], end)
        for epoch in (1, 2, 3):
            for number in (4, 3, 2):
                play.tell(number, epoch, float(number))
        assert play.states[2] == "stopped"
        assert play.states[4] == "running"


def test_a_result_that_is_told_again_counts_once(recipe: Recipe) -> None:
    config = config_of(MedianConfig(grace_epochs=1, min_trials=1))
    play = Play(made(config, recipe), numbers=range(2))
    for epoch, value in ((1, 1.0), (2, 9.0), (1, 1.0), (1, 1.0), (2, 9.0)):
        play.tell(0, epoch, value)
    play.tell(1, 1, 1.0)
    play.tell(1, 2, 4.5)  # below the mean of 1 and 9, and above that of 1, 9, 1, 1 and 9
    assert play.states == {0: "running", 1: "stopped"}


def test_runs_of_one_epoch_and_no_scheduler() -> None:
    short = load_recipe(Path("digits_meltr"), ["training.epochs=1"], Recipe)
    made(config_of(ASHAConfig(grace_epochs=10)), short)  # Tune's own wants its bounds in order
    assert type(made(config_of(NoSchedulerConfig()), short)) is FIFOScheduler
