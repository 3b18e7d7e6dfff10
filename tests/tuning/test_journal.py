"""The journal of a sweep: what it keeps, what a kill at any byte leaves of it, and what is drawn for each trial."""

import json
import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from models.errors import UserError
from tuning.config import RandomSearchConfig, SearcherConfig, TPEConfig
from tuning.journal import Journal
from tuning.records import Mode, Record, State, best_of
from tuning.space import ParameterConfig, sample

SPACE = {
    "eta": ParameterConfig(loguniform=(1e-4, 1e-1)),
    "name": ParameterConfig(choice=("lars", "adam", ["a", 1])),
    "warmup": ParameterConfig(randint=(1, 99), when={"name": ["lars", "adam", ["a", 1]]}),
}


def propose(number: int, trial: optuna.Trial) -> dict[str, Any]:
    return sample(SPACE, trial, {})


@contextmanager
def opened(
    folder: Path, mode: Mode = "max", searcher: SearcherConfig | None = None, seed: int = 7
) -> Iterator[Journal]:
    journal = Journal(folder, mode, searcher or RandomSearchConfig(), seed)
    try:
        yield journal
    finally:
        journal.close()


def records_in(folder: Path, mode: Mode = "max") -> list[Record]:
    with opened(folder, mode) as journal:
        return journal.records(str)


def begin(journal: Journal, trials: int = 99) -> tuple[int, dict[str, Any]]:
    asked = journal.ask(trials, propose)
    assert asked is not None
    return asked


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "journal.log").read_bytes().splitlines(keepends=True)


def test_round_trip(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        number, values = begin(journal)
        assert number == 0
        assert set(values) == set(SPACE)
        journal.result(0, 2, 0.25, {"selected": 0.25, "loss": 3, "training_seconds": 1.5, "note": "text"}, 2.0)
        journal.result(0, 4, 0.75, {"selected": 0.75, "loss": 2, "training_seconds": 3.0}, 4.0)
        journal.result(0, 6, 0.5, {"selected": 0.5, "loss": 1, "training_seconds": 4.5}, 6.0)
        journal.end(0, "finished", seconds=6.5)
        (record,) = journal.records(lambda number: f"run-{number}")
    assert record.values == values
    assert (record.number, record.name, record.run, record.state) == (0, "run-0", tmp_path / "run-0", "finished")
    assert record.course == ((2, 0.25), (4, 0.75), (6, 0.5))
    assert record.figures == {"selected": 0.75, "loss": 2, "training_seconds": 3.0, "epoch": 4}  # of the best
    assert (record.seconds, record.training_seconds, record.reason) == (6.5, 4.5, "")
    assert record.begun is not None
    with opened(tmp_path) as journal:
        assert journal.records(lambda number: f"run-{number}") == [record]
        assert journal.waiting == 0
        assert len(journal) == 1


def test_every_line_is_json(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        begin(journal)
    assert all(isinstance(json.loads(line), dict) for line in lines_of(tmp_path))


@pytest.mark.parametrize(
    ("state", "reason"), [("finished", ""), ("stopped", "stopped after epoch 2"), ("failed", "no\nmemory")]
)
def test_states_and_reasons(tmp_path: Path, state: State, reason: str) -> None:
    with opened(tmp_path) as journal:
        begin(journal)
        journal.result(0, 2, 0.5, {}, 1.0)
        assert journal.records(str)[0].state == "running"
        journal.end(0, state, reason, 2.0)
    (record,) = records_in(tmp_path)
    assert (record.state, record.reason, record.course, record.seconds) == (state, reason, ((2, 0.5),), 2.0)
    with opened(tmp_path) as journal:
        assert journal.waiting == 0  # over once and for all
        assert begin(journal)[0] == 1


def test_finished_without_a_result_is_failed(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        begin(journal)
        journal.end(0, "finished")
        assert journal.records(str)[0].state == "failed"


@pytest.mark.parametrize(("mode", "best", "epoch"), [("max", 0.75, 2), ("min", 0.25, 1)])
def test_best_by_mode(tmp_path: Path, mode: Mode, best: float, epoch: int) -> None:
    with opened(tmp_path, mode) as journal:
        begin(journal)
        for at, value in enumerate([0.25, 0.75, 0.5, best], start=1):  # the earliest of equals
            journal.result(0, at, value, {"selected": value}, 1.0)
        journal.end(0, "finished")
    (record,) = records_in(tmp_path, mode)
    assert record.best(mode) == best
    assert record.figures == {"selected": best, "epoch": epoch}


def test_best_of_trials() -> None:
    def record(number: int, state: State, *values: float) -> Record:
        return Record(number, f"run-{number}", {}, state, course=tuple(enumerate(values, start=1)))

    records = [record(0, "failed", 9.0, -9.0), record(1, "finished", 2.0, 1.0), record(2, "running", 1.0, 2.0)]
    records += [record(3, "stopped", 0.5), record(4, "running")]
    assert best_of(records, "max") == records[1]
    assert best_of(records, "min") == records[3]
    assert best_of([records[0], records[4]], "max") is None
    assert best_of([], "min") is None


def test_not_a_number(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        begin(journal)
        with pytest.raises(ValueError, match="metric nan"):
            journal.result(0, 1, math.nan, {}, 1.0)
        assert journal.records(str)[0].course == ()


def test_no_more_than_the_budget(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        assert [begin(journal, 2)[0] for _ in range(2)] == [0, 1]
        assert journal.ask(2, propose) is None
    with opened(tmp_path) as journal:  # those that were interrupted belong to the budget
        assert [begin(journal, 3)[0] for _ in range(3)] == [0, 1, 2]
        assert journal.ask(3, propose) is None


def test_interrupted_trials_come_first_and_as_they_were(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        asked = [begin(journal) for _ in range(4)]
        journal.result(1, 2, 0.5, {}, 1.0)
        journal.end(0, "failed", "for a test")
        journal.result(2, 2, 0.25, {}, 1.0)
        journal.end(2, "finished")
    before = records_in(tmp_path)

    def never(number: int, trial: optuna.Trial) -> dict[str, Any]:
        raise AssertionError(number)

    with opened(tmp_path) as journal:
        assert journal.waiting == 2
        assert [journal.ask(99, never) for _ in range(2)] == [asked[1], asked[3]]
        assert journal.waiting == 0
        assert journal.records(str) == before
        journal.result(1, 4, 0.75, {}, 1.0)
        assert journal.records(str)[1].course == ((2, 0.5), (4, 0.75))
        assert begin(journal)[0] == 4


def test_seconds_of_sessions_add_up(tmp_path: Path) -> None:
    for session in range(3):
        with opened(tmp_path) as journal:
            assert begin(journal)[0] == 0
            for epoch in (1, 2):  # within a session they are counted from its beginning
                journal.result(0, 2 * session + epoch, 0.5, {"training_seconds": epoch * 10.0}, epoch * 100.0)
    (record,) = records_in(tmp_path)
    assert (record.seconds, record.training_seconds) == (600.0, 60.0)


def test_an_epoch_that_is_told_again(tmp_path: Path) -> None:
    """As by a trial that died and goes on from an older checkpoint, or by one that copies another's."""
    with opened(tmp_path) as journal:
        begin(journal)
        for epoch, value in ((1, 0.25), (2, 0.5), (2, 0.9), (3, 0.75)):
            journal.result(0, epoch, value, {"selected": value}, float(epoch))
        (record,) = journal.records(str)
    assert record.course == ((1, 0.25), (2, 0.5), (3, 0.75))
    assert record.figures == {"selected": 0.75, "epoch": 3}


def test_changed_values_and_generations(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        begin(journal)
        assert journal.generation(0) == 0
        for epoch in (1, 2, 3):
            journal.result(0, epoch, 9.0, {}, float(epoch))
        journal.change(0, {"eta": 0.5}, 1, since=1)
        for epoch in (2, 3):  # again, with other weights
            journal.result(0, epoch, epoch / 10, {}, 4.0)
        (record,) = journal.records(str)
        assert record.course == ((2, 0.2), (3, 0.3))  # what it was before is over
        assert record.figures == {"epoch": 3}
    with opened(tmp_path) as journal:
        assert journal.generation(0) == 1
        assert begin(journal) == (0, {"eta": 0.5})


@pytest.mark.parametrize("searcher", [RandomSearchConfig(), TPEConfig(startup_trials=4)], ids=["random", "tpe"])
def test_values_do_not_depend_on_interruptions(tmp_path: Path, searcher: SearcherConfig) -> None:
    def run(journal: Journal) -> dict[str, Any]:
        number, values = begin(journal)
        journal.result(number, 1, -abs(math.log(values["eta"]) + 5), {}, 1.0)
        journal.end(number, "finished")
        return values

    with opened(tmp_path / "at once", searcher=searcher) as journal:
        at_once = [run(journal) for _ in range(8)]
    in_pieces = []
    for _ in range(8):
        with opened(tmp_path / "in pieces", searcher=searcher) as journal:
            in_pieces.append(run(journal))
    assert in_pieces == at_once
    assert len({values["eta"] for values in at_once}) == 8


def test_random_values_depend_on_seed_and_number_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as journal:
        alone = [begin(journal)[1] for _ in range(5)]
    with opened(tmp_path / "b") as journal:
        for number in range(5):
            assert begin(journal) == (number, alone[number])
            journal.result(number, 1, float(number), {}, 1.0)
            journal.end(number, "failed" if number % 2 else "stopped")
    with opened(tmp_path / "c", seed=8) as journal:
        assert all(begin(journal)[1] != values for values in alone)


# A kill at any moment.


def test_a_torn_line(tmp_path: Path) -> None:
    """Cut at every byte of the last three lines, the journal opens without what was torn, and can be gone on with."""
    with opened(tmp_path / "whole") as journal:
        begin(journal)
        journal.result(0, 1, 0.25, {"selected": 0.25}, 1.0)
        begin(journal)
        journal.result(0, 2, 0.5, {"selected": 0.5}, 2.0)
        journal.end(0, "finished", seconds=3.0)
    lines = lines_of(tmp_path / "whole")
    expected = {}
    for whole in range(len(lines) - 3, len(lines) + 1):
        folder = tmp_path / f"lines-{whole}"
        folder.mkdir()
        (folder / "journal.log").write_bytes(b"".join(lines[:whole]))
        expected[whole] = records_of(folder)
    assert len({repr(records) for records in expected.values()}) > 2
    folder = tmp_path / "torn"
    folder.mkdir()
    for whole in range(len(lines) - 3, len(lines)):
        for cut in range(len(lines[whole])):
            (folder / "journal.log").write_bytes(b"".join(lines[:whole]) + lines[whole][:cut])
            with opened(folder) as journal:
                assert [shown(record) for record in journal.records(str)] == expected[whole]
                number = begin(journal)[0]
                journal.result(number, 7, 0.125, {}, 1.0)
            assert records_in(folder)[number].course[-1] == (7, 0.125)


def shown(record: Record) -> tuple[Any, ...]:
    """A record without the folder that it is in."""
    return (record.number, record.values, record.state, record.course, record.figures, record.seconds)


def records_of(folder: Path) -> list[tuple[Any, ...]]:
    return [shown(record) for record in records_in(folder)]


@pytest.mark.parametrize("searcher", [RandomSearchConfig(), TPEConfig(startup_trials=1)], ids=["random", "tpe"])
def test_a_kill_before_a_trial_has_its_values(tmp_path: Path, searcher: SearcherConfig) -> None:
    """Wherever it was cut short, the same trial is begun again with the same values."""
    with opened(tmp_path / "whole", searcher=searcher) as journal:
        for _ in range(2):
            number, _values = begin(journal)
            journal.result(number, 1, float(number), {}, 1.0)
            journal.end(number, "finished")
        before = len(lines_of(tmp_path / "whole"))
        asked = begin(journal)
    lines = lines_of(tmp_path / "whole")
    assert len(lines) - before >= len(SPACE) + 2
    for whole in range(before, len(lines) + 1):
        folder = tmp_path / f"lines-{whole}"
        folder.mkdir()
        (folder / "journal.log").write_bytes(b"".join(lines[:whole]))
        with opened(folder, searcher=searcher) as journal:
            assert (len(journal), journal.waiting) == ((3, 1) if whole == len(lines) else (2, 0))
            assert begin(journal) == asked
            assert begin(journal)[0] == 3
        assert [record.number for record in records_in(folder)] == [0, 1, 2, 3]


def test_a_kill_while_the_journal_begins(tmp_path: Path) -> None:
    with opened(tmp_path / "whole"):
        pass
    (line,) = lines_of(tmp_path / "whole")
    for cut in range(len(line)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "journal.log").write_bytes(line[:cut])
        with opened(folder) as journal:
            assert journal.records(str) == []


def test_damage(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        begin(journal)
    file = tmp_path / "journal.log"
    whole = lines_of(tmp_path)
    for damaged in (1, len(whole) - 1):
        file.write_bytes(b"".join([*whole[:damaged], b"[{\n", *whole[damaged + 1 :]]))
        with pytest.raises(UserError, match=rf"^{file}: damaged: "):
            Journal(tmp_path, "max", RandomSearchConfig(), 0)
    file.write_bytes(b"".join(whole))
    assert len(records_in(tmp_path)) == 1  # the lock was given back


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"journal\.log: Not a directory|File exists"):
        Journal(tmp_path / "file", "max", RandomSearchConfig(), 0)


def test_only_one_has_it_open(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        begin(journal)
        before = lines_of(tmp_path)
        with pytest.raises(UserError) as error:
            Journal(tmp_path, "max", RandomSearchConfig(), 0)
        assert str(error.value) == f"{tmp_path}: another process is running this sweep; wait for it, or stop it"
        assert lines_of(tmp_path) == before
    with opened(tmp_path) as journal:
        assert journal.waiting == 1


# Learning.


def test_tpe_comes_nearer_to_the_optimum_than_chance(tmp_path: Path) -> None:
    space = {"x": ParameterConfig(uniform=(-10.0, 10.0))}

    def distances(searcher: SearcherConfig, mode: Mode) -> list[float]:
        found = []
        with opened(tmp_path / f"{searcher.name}-{mode}", mode, searcher, seed=3) as journal:
            for number in range(40):
                asked = journal.ask(99, lambda _, trial: sample(space, trial, {}))
                assert asked is not None
                distance = abs(asked[1]["x"] - 3)
                journal.result(number, 1, distance**2 * (1 if mode == "min" else -1), {}, 1.0)
                journal.end(number, "finished")
                found.append(distance)
        return found

    for mode in ("max", "min"):
        learnt = distances(TPEConfig(startup_trials=8), mode)
        chance = distances(RandomSearchConfig(), mode)
        assert learnt[:8] == chance[:8]  # before it begins to learn
        assert statistics.fmean(learnt[30:]) < statistics.fmean(chance[30:]) / 2
