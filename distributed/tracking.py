"""Figures of a run: always a local metrics.jsonl, and Weights & Biases where that is possible. For rank 0 only."""

import contextlib
import netrc
import os
import re
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from distributed.metrics_file import MetricsFile, plain_figure, read_metrics
from distributed.say import warn
from models.config import StrictConfig

if TYPE_CHECKING:
    import wandb

__all__ = ["Figures", "Tracker", "TrackingConfig", "read_metrics"]

Figures = Mapping[str, float | list[float] | str]
Mode = Literal["online", "offline", "disabled"]

# Seconds that W&B may cost at the start (reach it, open the run) and at the end (upload what is left).
_REACH, _INIT, _FINISH = 4.0, 8.0, 5.0
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class TrackingConfig(StrictConfig):
    """How a run is tracked. `wandb: auto` is online with an API key, offline without one or without a connection."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "meltmatch"
    entity: str | None = None
    group: str | None = None
    """Runs of one group stand together in W&B; a sweep's trials have its name."""
    tags: tuple[str, ...] = ()


class Tracker:
    """Writes every figure to metrics.jsonl and, while that works, to W&B. Nothing that W&B does stops a run."""

    def __init__(self, metrics: MetricsFile, run: "wandb.Run | None") -> None:
        self._metrics = metrics
        self._run = run

    @classmethod
    def open(
        cls,
        directory: Path,
        config: TrackingConfig,
        *,
        run_name: str,
        recipe: Mapping[str, Any],
        resume_step: int,
    ) -> Self:
        """Opens or continues the log in `directory`.

        `resume_step` is the last step that counts (-1 for none): figures of later steps leave metrics.jsonl, so that
        a resumed run has every step once. In W&B the repeated steps show twice, for its history cannot be shortened.
        """
        metrics = MetricsFile(directory / "metrics.jsonl", resume_step)
        try:
            run = open_run(directory, config, run_name, recipe)
        except Exception as error:  # whatever W&B raises, the run goes on
            warn(f"W&B is off: {_one_line(error)}; figures go to {directory / 'metrics.jsonl'}")
            run = None
        return cls(metrics, run)

    def log(self, figures: Figures, step: int) -> None:
        """Records figures of a step. Several calls may share a step. ValueError for figures named step or time."""
        if reserved := {"step", "time"} & figures.keys():
            raise ValueError(f"{reserved.pop()!r} is not a name for a figure: every record has one already")
        plain = {name: _without_secrets(plain_figure(value)) for name, value in figures.items()}
        self._metrics.append({"step": step, "time": round(time.time(), 3), **plain})
        if self._run is not None:
            try:
                self._run.log({**plain, "step": step})
            except Exception as error:
                self._lose_run(error)

    def close(self) -> None:
        """Writes and uploads what is left. Further figures cannot be logged."""
        self._metrics.close()
        if self._run is not None:
            try:
                _within(2 * _FINISH, self._run.finish)
            except Exception as error:
                self._lose_run(error)
        self._run = None

    def _lose_run(self, error: Exception) -> None:
        import wandb

        self._run, why = None, _one_line(error)
        try:
            _within(_FINISH, wandb.teardown)  # else its exit handler prints a traceback at the end
        except Exception as left_over:
            why += f"; it did not shut down either: {_one_line(left_over)}"
        warn(f"W&B stopped: {why}; figures go on in metrics.jsonl")


def open_run(
    directory: Path, config: TrackingConfig, run_name: str, recipe: Mapping[str, Any], job_type: str | None = None
) -> "wandb.Run | None":
    """The W&B run of a directory, new or continued; None where it is switched off. Raises whatever W&B raises."""
    wanted = os.environ.get("WANDB_MODE", "auto") if config.wandb == "auto" else config.wandb
    if wanted == "disabled":
        return None
    # Its telemetry otherwise calls its server in offline mode too, and holds up the exit for 10 s when none answers.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # slow to import, and only rank 0 needs it

    base_url = str(wandb.setup(wandb.Settings(silent=True)).settings.base_url)

    def start(mode: Literal["online", "offline"]) -> "wandb.Run":
        run = wandb.init(
            mode=mode,
            project=config.project,
            entity=config.entity,
            tags=config.tags,
            dir=directory,
            id=_run_id(directory, run_name),
            name=run_name,
            group=config.group,
            job_type=job_type,
            config=_without_secrets(recipe),
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off", init_timeout=_INIT, finish_timeout=_FINISH),
        )
        # W&B's own step may only grow; with ours as the axis a resumed run can repeat steps.
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    if wanted != "offline":
        if not _has_key(base_url):
            if wanted == "online":
                warn("W&B is offline: no API key (set WANDB_API_KEY or run `wandb login`)")
        else:
            try:
                _within(_REACH, lambda: _reach(base_url))
                return start("online")
            except Exception as error:
                warn(f"W&B is offline: {_one_line(error)}; upload later with: wandb sync {directory}/wandb/offline-*")
    return start("offline")


def _has_key(base_url: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    files = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for file in (Path(name).expanduser() for name in files):
        try:
            if netrc.netrc(file).authenticators(urlsplit(base_url).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _reach(base_url: str) -> None:
    """Raises OSError unless a server answers, with whatever status: W&B itself would wait far longer to say so."""
    try:
        urllib.request.urlopen(base_url, timeout=_REACH).close()  # noqa: S310 - W&B has checked that it is http(s)
    except urllib.error.HTTPError:
        return


def _run_id(directory: Path, run_name: str) -> str:
    """The id that this directory's run has in W&B, kept beside its figures so that a resumed run continues it."""
    file = directory / "wandb_id.txt"
    if file.exists() and _RUN_ID.fullmatch(known := file.read_text(encoding="utf-8").strip()):
        return known
    # Two runs of one name, in two directories, are two runs; and W&B never lets the id of a deleted run be used again.
    new = re.sub(r"[^A-Za-z0-9_-]+", "-", run_name)[:48] + "-" + uuid.uuid4().hex[:8]
    with contextlib.suppress(OSError):  # a full disk, of which MetricsFile has warned
        file.write_text(new + "\n", encoding="utf-8")
    return new


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Runs `call` for at most so long; raises what it raises, or TimeoutError and leaves it to a daemon thread."""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    if outcome[0] is not None:
        raise outcome[0]


def _without_secrets(value: Any) -> Any:
    """`value` with keys and passwords of this process's environment starred out of every text."""
    if isinstance(value, Mapping):
        return {key: _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    if isinstance(value, str):
        for name, secret in os.environ.items():
            if _SECRET_NAME.search(name) and len(secret) >= 8:
                value = value.replace(secret, "***")
    return value


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return str(_without_secrets(text))[:200]
