"""Brings a run from its place to this node: what its workers go on from, and what its readers look at.

The place is the truth: checkpoints and small files that it does not have leave the mirror, and its newest good
checkpoint is brought here file by file, the manifest last, so that half of one never counts. The rules are those on
top of `checkpoint.py`. Where a run's storage is a plain folder there is nothing to bring.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from distributed import checkpoint
from distributed.checkpoint import MANIFEST, Checkpoint
from distributed.say import say
from distributed.say import warn as warn_of
from distributed.storage import LOG, PREPROCESSING, Mirror, StorageError, mirror_of, place
from models.data.files import atomic_path
from models.errors import UserError

T = TypeVar("T")
WAITS_S = (5, 10, 20, 40)
"""How long a worker waits for a place that does not answer: a run that starts again is not to end for that."""

Share = Callable[[Any], list[Any]]
"""What each of those that fetch together says, by rank: `alone`, or all workers (`collectives.everyone`)."""


def alone(value: Any) -> list[Any]:
    """Nobody else fetches."""
    return [value]


def newest(
    run: Path, mirror: Mirror | None, share: Share = alone, warn: bool = True, look: bool = False
) -> Checkpoint | None:
    """The newest good checkpoint of a run, brought to this node; None where there never was one.

    `look`: manifests and sizes alone are read, and no other file is brought here.

    Raises:
        UserError: there are only damaged ones, or the place cannot be read.
    """
    if mirror is None:
        return checkpoint.newest(run, warn)
    sizes: dict[str, int] = {}
    problem, waits = "", () if share is alone else WAITS_S
    try:
        sizes = _patiently(lambda: mirror.files("checkpoints"), waits)
    except UserError as error:
        problem = str(error)
    said = share((problem, [step for step, whole in checkpoint.steps_there(sizes).items() if whole]))
    _raise_any([text for text, _ in said])
    steps: list[int] = said[0][1]
    if not look:
        _drop_others(mirror, steps)
    damage: list[str] = []
    for step in steps:
        found, damaged, lost = None, "", ""
        try:
            bring = _looked_at if look else fetched
            found = _patiently(partial(bring, mirror, step, sizes), waits)
        except StorageError as error:
            lost = str(error)
        except UserError as error:
            damaged = mirror.told(str(error))
        said = share((damaged, lost))
        _raise_any([text for _, text in said])
        harm = [text for text, _ in said if text]
        if not harm:
            return found
        damage.append(harm[0])
        if warn:
            say(f"warning: {harm[0]}")
    if damage:
        raise UserError(damage[0])
    return None


def _patiently(call: Callable[[], T], waits: Sequence[float]) -> T:
    """What `call` gives, tried again after each of `waits` while the place cannot be read."""
    for wait in waits:
        try:
            return call()
        except StorageError:
            time.sleep(wait)
    return call()


def _raise_any(problems: list[str]) -> None:
    for rank, problem in enumerate(problems):
        if problem:
            raise StorageError(f"worker {rank}: {problem}" if len(problems) > 1 else problem)


def _drop_others(mirror: Mirror, steps: list[int]) -> None:
    """Deletes the checkpoints here that the place does not have."""
    with mirror.lock():
        for folder in checkpoint.candidates(mirror.folder):
            if checkpoint.step_of(folder.name) not in steps:
                (folder / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)


def _looked_at(mirror: Mirror, step: int, sizes: Mapping[str, int]) -> Checkpoint:
    """A checkpoint of the place whose manifest can be read and whose files have their sizes."""
    folder, name = checkpoint.folder_of(mirror.folder, step), checkpoint.name_of(step)
    manifest, files = checkpoint.parse(mirror.read(f"{name}/{MANIFEST}"), folder)
    for file, (length, _) in files.items():
        checkpoint.check_size(folder / file, sizes.get(f"{folder.name}/{file}"), length)
    return Checkpoint(folder, manifest)


def fetched(mirror: Mirror, step: int, sizes: Mapping[str, int]) -> Checkpoint:
    """A checkpoint of the place, brought here and verified. `sizes`: of all files below its `checkpoints`.

    Raises:
        StorageError: the place cannot be read.
        UserError: the checkpoint is damaged there.
    """
    folder = checkpoint.folder_of(mirror.folder, step)
    with mirror.lock():
        text = mirror.read(f"{checkpoint.name_of(step)}/{MANIFEST}")
        if text is None or not _is(folder / MANIFEST, text):
            _bring(mirror, step, text, sizes)
    try:
        return checkpoint.read(folder)  # outside of the lock: hashing takes long, and each worker of a node does it
    except UserError:
        pass
    with mirror.lock():
        try:
            return checkpoint.read(folder)  # another worker has put it right since
        except UserError:
            _bring(mirror, step, text, sizes)
        return checkpoint.read(folder)


def _is(path: Path, text: bytes) -> bool:
    return path.is_file() and path.read_bytes() == text


def _bring(mirror: Mirror, step: int, text: bytes | None, sizes: Mapping[str, int]) -> None:
    """Brings the files that are not here as the manifest `text` has them, and then the manifest."""
    folder, name = checkpoint.folder_of(mirror.folder, step), checkpoint.name_of(step)
    (folder / MANIFEST).unlink(missing_ok=True)
    _, files = checkpoint.parse(text, folder)
    for file, (length, digest) in files.items():
        path = folder / file
        if path.is_file() and path.stat().st_size == length and checkpoint.digest_of(path) == digest:
            continue
        checkpoint.check_size(path, sizes.get(f"{folder.name}/{file}"), length)
        mirror.download(f"{name}/{file}")
        if checkpoint.digest_of(path) != digest:
            raise UserError(f"{path}: contents differ from the manifest; delete {folder} to fall back to an older one")
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_bytes(text or b"")


def begin(mirror: Mirror | None, first: bool) -> None:
    """Before a worker loads: brings the small files that it reads; the `first` worker's log goes on from the place's.

    Raises:
        UserError: the place cannot be read, or the mirror not be written.
    """
    if mirror is None:
        return
    _patiently(partial(mirror.pull, PREPROCESSING, *(LOG if first else ())), WAITS_S)
    if first and not (mirror.folder / "wandb_id.txt").exists():
        shutil.rmtree(mirror.folder / "wandb", ignore_errors=True)  # of a run that the place does not know


def end(mirror: Mirror | None) -> None:
    """After the last step, on the first worker: what W&B keeps here for a later upload goes to the place."""
    if mirror is None:
        return
    try:
        mirror.push(*(mirror.folder / name for name in LOG if (mirror.folder / name).exists()))
        mirror.push_tree("wandb")
    except UserError as error:
        warn_of(str(error))


def view(where: str | Path, which: str = "best") -> Path:
    """A run's folder as readers see it: a folder itself; for a URI a copy on this node, with its newest and its best
    checkpoint (`which`: best), apart from the mirror in which the run itself may be at work.

    Raises:
        UserError: for a URI that is none, a place that cannot be read, or a run that is damaged.
    """
    mirror = _view_of(where)
    if mirror is None:
        return Path(where)
    mirror.pull("recipe.yaml", PREPROCESSING, "metrics.jsonl", "config.json", "model.safetensors")
    if not any((mirror.folder / name).exists() for name in ("recipe.yaml", "config.json")):
        raise UserError(f"{where}: neither a run (recipe.yaml) nor an export (config.json) is there")
    found = newest(mirror.folder, mirror)
    best = found.manifest["progress"]["best_step"] if found is not None and which == "best" else None
    sizes = mirror.files("checkpoints")
    if best is not None and checkpoint.steps_there(sizes).get(best):
        try:
            fetched(mirror, best, sizes)
        except UserError as error:
            raise UserError(mirror.told(str(error))) from None
    return mirror.folder


def publish(where: str | Path, *files: Path) -> None:
    """Puts files of a view into the run's place; nothing for a folder, which is its own place. Raises UserError."""
    mirror = _view_of(where)
    if mirror is not None:
        mirror.push(*files)


def _view_of(where: str | Path) -> Mirror | None:
    try:
        found = place(str(where))
    except ValueError as error:
        raise UserError(f"{error}") from None
    if isinstance(found, Path):
        return None
    base, _, query = found.partition("?")
    parent, _, name = base.rstrip("/").rpartition("/")
    if parent.endswith(":/") or name in ("", ".", ".."):
        raise UserError(f"{found}: expected a run below a bucket or a folder: scheme://bucket/runs/NAME")
    return Mirror(mirror_of(f"{parent}?{query}", "views") / name, found)
