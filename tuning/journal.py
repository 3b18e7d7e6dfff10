"""The record of a sweep on disk: every trial, its values and results, in Optuna's journal; complete after any kill.

`journal.log` has one JSON object a line, each flushed to the disk before the next thing happens. It alone says what a
resumed sweep has done, and holds nothing that would have to be unpickled.
"""

import fcntl
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Self, cast

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState

from models.errors import UserError
from tuning.config import SearcherConfig
from tuning.records import Mode, Record, State

STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}
Propose = Callable[[int, optuna.Trial], dict[str, Any]]
"""From a trial's number to its values."""


class _Unlocked:
    """Optuna's lock for every line, which a kill would leave behind; the whole folder is locked already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return


class Journal:
    """A sweep's trials. One process at a time has it open for writing."""

    def __init__(self, folder: Path, mode: Mode, searcher: SearcherConfig, seed: int) -> None:
        """Opens or begins the journal in `folder`.

        Raises:
            UserError: another process has it open, or it cannot be read or written.
        """
        self.folder, self.mode = folder, mode
        self._searcher, self._seed = searcher, seed
        self._session = f"{time.time():.3f}"
        file = folder / "journal.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder / "lock")
        except OSError as error:
            raise UserError(f"{file}: {error.strerror or error}") from error
        try:
            drop_half_begun(file)
            self._storage = storage = JournalStorage(JournalFileBackend(str(file), lock_obj=cast(Any, _Unlocked())))
            direction: Literal["maximize", "minimize"] = "maximize" if mode == "max" else "minimize"
            self._study = optuna.create_study(
                storage=storage,
                study_name="sweep",
                direction=direction,
                load_if_exists=True,
            )
        except OSError as error:
            self.close()
            raise UserError(f"{file}: {error.strerror or error}") from error
        except (ValueError, KeyError) as error:
            self.close()
            raise UserError(f"{file}: damaged: {' '.join(str(error).split())[:200]}") from error
        self._open: dict[int, optuna.Trial] = {}
        self._waiting = [trial.number for trial in self._frozen() if trial.state == TrialState.RUNNING]

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def __len__(self) -> int:
        """Trials begun."""
        return len(self._frozen())

    @property
    def waiting(self) -> int:
        """Trials that an earlier session began and did not end."""
        return len(self._waiting)

    def ask(self, trials: int, propose: Propose) -> tuple[int, dict[str, Any]] | None:
        """The next trial to run, one that was interrupted first: its number and values; None beyond `trials` of them.

        What is drawn depends on the seed, the number and (where the searcher learns) the results so far alone.
        """
        if self._waiting:
            number = self._waiting.pop(0)
            self._study.sampler = self._sampler(number)
            trial = optuna.Trial(self._study, self._frozen()[number]._trial_id)
        elif len(self) < trials:
            self._study.sampler = self._sampler(len(self))
            trial = self._study.ask()
        else:
            return None
        if "values" not in trial.user_attrs:
            values = propose(trial.number, trial)
            trial.set_user_attr("begun", time.time())
            trial.set_user_attr("values", values)  # last: with them the trial has begun
        self._open[trial.number] = trial
        return trial.number, dict(trial.user_attrs["values"])

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = (self._seed * 1_000_003 + number) % 2**32
        if self._searcher.name == "tpe":
            startup = self._searcher.startup_trials
            return optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def result(self, number: int, epoch: int, value: float, figures: Mapping[str, Any], seconds: float) -> None:
        """Keeps the metric of one more evaluation; `seconds` of this session.

        An epoch that is known is told again by a trial that died, whose first telling counts, and by one that took over
        another's weights, whose newest does.
        """
        trial = self._open[number]
        if not math.isfinite(value):
            raise ValueError(f"metric {value}")
        if "since" not in trial.user_attrs and epoch in self._frozen()[number].intermediate_values:
            return
        before = trial.user_attrs.get("best")
        if before is None or (value > before if self.mode == "max" else value < before):
            trial.set_user_attr("best", value)
            trial.set_user_attr("figures", {**figures, "epoch": epoch})
        self._spend(number, "seconds", seconds)
        self._spend(number, "training_seconds", float(figures.get("training_seconds", 0.0)))
        # Not `report`, which always keeps the first.
        self._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)

    def _spend(self, number: int, what: str, seconds: float) -> None:
        """Sessions add up."""
        trial = self._open[number]
        trial.set_user_attr(what, {**trial.user_attrs.get(what, {}), self._session: round(seconds, 3)})

    def change(self, number: int, values: Mapping[str, Any], generation: int, since: int) -> None:
        """The trial goes on under other values from another's weights of epoch `since`; what it was is over."""
        trial = self._open[number]
        for name, value in (("values", dict(values)), ("generation", generation), ("since", since), ("best", None)):
            trial.set_user_attr(name, value)

    @property
    def machine(self) -> str:
        """On what the newest trials were run."""
        return str(self._study.user_attrs.get("machine", "an unknown machine"))

    @machine.setter
    def machine(self, words: str) -> None:
        self._study.set_user_attr("machine", words)

    def generation(self, number: int) -> int:
        """How often a trial's values have been changed."""
        return int(self._frozen()[number].user_attrs.get("generation", 0))

    def end(self, number: int, state: State, reason: str = "", seconds: float = 0.0) -> None:
        """The trial is over, once and for all."""
        self._spend(number, "seconds", seconds)
        trial = self._open.pop(number)
        if reason:
            trial.set_user_attr("reason", reason)
        best = trial.user_attrs.get("best")
        if state == "finished" and best is not None:
            self._study.tell(trial, best)
        elif state == "stopped":
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def records(self, name: Callable[[int], str]) -> list[Record]:
        """All trials by number. `name`: of a trial's run."""
        return [_record(trial, self.folder, name(trial.number)) for trial in self._frozen()]

    def close(self) -> None:
        """Others may open it now."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _record(trial: FrozenTrial, folder: Path, name: str) -> Record:
    known = trial.user_attrs
    return Record(
        number=trial.number,
        name=name,
        values=dict(known.get("values", trial.params)),
        state=STATES[trial.state],
        reason=str(known.get("reason", "")),
        course=tuple(pair for pair in sorted(trial.intermediate_values.items()) if pair[0] > known.get("since", -1)),
        figures={k: float(v) for k, v in known.get("figures", {}).items() if isinstance(v, int | float)},
        seconds=sum(known.get("seconds", {}).values()),
        training_seconds=sum(known.get("training_seconds", {}).values()),
        begun=known.get("begun"),
        run=folder / name,
    )


def _locked(path: Path) -> IO[str]:
    file = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(f"{path.parent}: another process is running this sweep; wait for it, or stop it") from None
    return file


def drop_half_begun(path: Path) -> None:
    """Removes what a kill has left at the end of a journal: half a line, and a trial that has no values yet; the same
    will be drawn for it again."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            del lines[-1]
        file.truncate(sum(map(len, lines[: _half_begun(lines)])))


def _half_begun(lines: Sequence[bytes]) -> int:
    """Where the lines of a trial without values begin. There is at most one, at the end, as nothing else is written
    before it has them."""
    for index in range(len(lines) - 1, -1, -1):
        line = json.loads(lines[index])
        if "values" in line.get("user_attr", {}):
            break
        if line.get("op_code") == JournalOperation.CREATE_TRIAL:
            return index
    return len(lines)
