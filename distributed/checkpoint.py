"""Checkpoints: everything a run needs to go on, on any number of workers at any ZeRO stage, complete or absent.

A checkpoint is a folder `checkpoints/step-NNNNNNNN`. Every worker writes the slices of weights and moments that it
holds to a safetensors file of its own; rank 0 adds the buffers, and last of all `manifest.json`, which a person can
read: progress, recipe, figures, and name, size and SHA-256 of every file. A folder without a manifest never counted.

Resuming, in this order:
1. Folders are looked at newest first; one without a manifest was interrupted and is passed over.
2. One whose files do not match its manifest is damaged: passed over with a warning.
3. The first good one counts, if its recipe is the run's own (see Recipe.trajectory); else that is the user's mistake.
4. If there are only damaged ones, that is an error too: starting afresh would bury what can perhaps be saved.

Where a run's place is a URI, the same holds there: every worker puts its files there, and rank 0 the manifest when all
of them have arrived. What is on a node's disk is a copy (see `fetch.py`).
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from distributed.collectives import everyone
from distributed.engine import Engine
from distributed.pieces import Pieces
from distributed.say import say
from distributed.shards import Slice
from distributed.storage import LOG, Mirror
from models.data.files import atomic_path
from models.errors import UserError

MANIFEST = "manifest.json"
LEARNED = "learned_loss.safetensors"
FORMAT = 1
_FOLDER = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["progress"]["step"])


def name_of(step: int) -> str:
    """The name of the checkpoint after `step` steps, in a run's folder."""
    return f"checkpoints/step-{step:08d}"


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps is."""
    return run / name_of(step)


Learned = tuple[Mapping[str, Tensor], dict[str, object]]
"""The tensors of a learned loss, and what makes sense of them."""


def save(
    run: Path,
    engine: Engine,
    progress: Mapping[str, Any],
    recipe: Mapping[str, Any],
    learned: Learned | None = None,
    mirror: Mirror | None = None,
) -> Path | None:
    """Writes a checkpoint; collective. Returns its folder, or None when it could not be written on some worker.

    With a `mirror` it is in the run's place too when this returns. A failure to write (a full disk, a place that
    cannot be reached) removes what was written and leaves older checkpoints as they are.
    """
    folder, name = folder_of(run, int(progress["step"])), name_of(int(progress["step"]))
    rank, workers = dist.get_rank(), dist.get_world_size()
    problem = ""
    entry: dict[str, Any] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            (folder / MANIFEST).unlink(missing_ok=True)  # it will speak of other files
            if mirror is not None:
                mirror.delete(f"{name}/{MANIFEST}")
        if engine.shards.sharded or rank == 0:
            entry |= _write(folder / f"shard-{rank:05d}.safetensors", _slices(engine))
        if rank == 0:
            entry |= _write(folder / "buffers.safetensors", engine.buffers())
            if learned is not None:
                entry |= _write(folder / LEARNED, learned[0])
    except (OSError, SafetensorError, UserError) as error:
        problem = f"{error}"
    files = everyone((problem, entry))
    problems = [text for text, _ in files if text]
    if mirror is not None and not problems:
        problems = _pushed(mirror, [folder / file for file in entry])
    if not problems and rank == 0:
        manifest = {
            "format": FORMAT,
            "progress": dict(progress),
            "workers": workers,
            "files": {name: facts for _, part in files for name, facts in part.items()},
            "parameters": {name: list(shape) for name, shape in engine.shards.shapes.items()},
            "recipe": dict(recipe),
        }
        if learned is not None:
            manifest["learned_loss"] = learned[1]
        try:
            with atomic_path(folder / MANIFEST) as temporary:
                temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            if mirror is not None:  # the figures first, so that no checkpoint is there without its own
                mirror.push(*(run / log for log in LOG if (run / log).exists()), folder / MANIFEST)
        except (OSError, UserError) as error:
            problems = [f"{error}"]
    outcome = [problems]
    dist.broadcast_object_list(outcome)
    if outcome[0]:
        if rank == 0:
            say(f"warning: no checkpoint at step {progress['step']}: {outcome[0][0]}; training goes on")
        if rank == 0 or mirror is not None:
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        if rank == 0 and mirror is not None:
            _dropped(mirror, name)
        return None
    if mirror is not None and not (folder / MANIFEST).exists():
        # Rank 0 is on another node: what is here is a part, and the whole is in the run's place.
        shutil.rmtree(folder.parent, ignore_errors=True)
    return folder


def _pushed(mirror: Mirror, files: Sequence[Path]) -> list[str]:
    """Puts this worker's files into the run's place -> what went wrong on any worker. Collective."""
    problem = ""
    try:
        mirror.push(*files)
    except (OSError, UserError) as error:
        problem = f"{error}"
    return [text for text in everyone(problem) if text]


def _dropped(mirror: Mirror, name: str) -> None:
    """Deletes a checkpoint in the run's place, as far as that is possible."""
    try:
        # Without its manifest it is not a checkpoint any more, even if the deletion stops half-way.
        mirror.delete(f"{name}/{MANIFEST}")
        mirror.drop(name)
    except UserError as error:
        say(f"warning: {name} is not deleted: {error}")


def _slices(engine: Engine) -> dict[str, Tensor]:
    named = {}
    for s in engine.shards.slices:
        for kind, tensor in {"weight": s.weight(), **engine.beside(s)}.items():
            named[f"{kind}/{s.name}@{s.start}"] = tensor.detach().float().cpu().contiguous()
    return named


def _write(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Writes and flushes one file -> its entry in the manifest."""
    with atomic_path(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    return {path.name: {"bytes": path.stat().st_size, "sha256": digest_of(path)}}


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def candidates(run: Path) -> list[Path]:
    """All checkpoint folders of a run, newest first, complete or not."""
    found = [(step, p) for p in (run / "checkpoints").glob("step-*") if (step := step_of(p.name)) is not None]
    return [path for _, path in sorted(found, reverse=True)]


def step_of(name: str) -> int | None:
    """The step of a checkpoint's folder; None for another name."""
    found = _FOLDER.fullmatch(name)
    return int(found[1]) if found else None


def steps_there(files: Iterable[str]) -> dict[int, bool]:
    """The checkpoints that a listing of `checkpoints/` shows, newest first, and whether they are complete."""
    found: dict[int, bool] = {}
    for name in files:
        top, _, rest = name.partition("/")
        if (step := step_of(top)) is not None:
            found[step] = found.get(step, False) or rest == MANIFEST
    return dict(sorted(found.items(), reverse=True))


def read(folder: Path) -> Checkpoint:
    """Reads and verifies one checkpoint.

    Raises:
        UserError: it is incomplete or damaged; says which file and how.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        text = None
    except OSError as error:
        raise _damaged(folder, error) from error
    manifest, files = parse(text, folder)
    for name, (length, digest) in files.items():
        file = folder / name
        check_size(file, file.stat().st_size if file.is_file() else None, length)
        if digest_of(file) != digest:
            raise UserError(f"{file}: contents differ from the manifest; delete {folder} to fall back to an older one")
    return Checkpoint(folder, manifest)


def parse(text: bytes | None, folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
    """What a manifest says, and size and SHA-256 of each file; `folder` is the checkpoint's.

    Raises:
        UserError: there is none, it is damaged, or of another format.
    """
    path = folder / MANIFEST
    if text is None:
        raise UserError(f"{folder}: no complete checkpoint (no {MANIFEST}): it was interrupted while saving")
    try:
        manifest = json.loads(text.decode("utf-8"))
        files = {name: (int(facts["bytes"]), str(facts["sha256"])) for name, facts in manifest["files"].items()}
        _ = int(manifest["progress"]["step"]), dict(manifest["parameters"]), dict(manifest["recipe"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from error
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path}: checkpoint format {manifest.get('format')}, this version reads {FORMAT}")
    for name in files:
        if Path(name).name != name or name == "..":
            raise UserError(f"{path}: file name {name!r} leaves the checkpoint's folder")
    return manifest, files


def check_size(file: Path, size: int | None, expected: int) -> None:
    """Raises UserError when a checkpoint's file has not the size that its manifest says; None: it is not there."""
    if size != expected:
        found = "missing" if size is None else f"truncated or changed: {size} bytes, expected {expected}"
        raise UserError(f"{file}: {found}; delete {file.parent} to fall back to an older checkpoint")


def _damaged(folder: Path, error: Exception) -> UserError:
    problem = f"{type(error).__name__}: {error}"
    return UserError(f"{folder / MANIFEST}: damaged ({problem}); delete {folder} to fall back to an older checkpoint")


def newest(run: Path, warn: bool = True) -> Checkpoint | None:
    """The newest good checkpoint of a run; None where there never was one. See the rules on top of this file."""
    damage: list[str] = []
    for folder in candidates(run):
        if not (folder / MANIFEST).exists():
            continue
        try:
            return read(folder)
        except UserError as error:
            damage.append(str(error))
            if warn:
                say(f"warning: {error}")
    if damage:
        raise UserError(damage[0])
    return None


def check_recipe(checkpoint: Checkpoint, trajectory: Mapping[str, Any], place: str = "") -> None:
    """Raises UserError when a checkpoint was made by a recipe with another trajectory; names the keys.

    `place`: where the checkpoint is, if not in its folder alone.
    """

    def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, part in value.items():
                yield from leaves(part, f"{at}.{key}" if at else key)
        else:
            yield at, value

    theirs, ours = dict(leaves(checkpoint.manifest["recipe"])), dict(leaves(json.loads(json.dumps(trajectory))))
    differ = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    if differ:
        first = differ[0]
        raise UserError(
            f"{place or checkpoint.folder}: made by another recipe: "
            f"{first} was {theirs.get(first)!r}, now {ours.get(first)!r}"
            + (f" (and {len(differ) - 1} more)" if len(differ) > 1 else "")
            + "; give this run another name=..., or the recipe it began with"
            + (", for a rate falls towards its end (linear_decay)" if first == "training.epochs" else "")
        )


def adopt(source: Path, run: Path, trajectory: Mapping[str, Any]) -> None:
    """Puts a copy of a checkpoint, of any run of the same network, in place of all that `run` has: it goes on from
    there under `trajectory`, its own recipe's, with a best of its own still to come.

    Raises:
        UserError: the checkpoint is damaged, or cannot be copied.
    """
    found = read(source)
    target, draft = folder_of(run, found.step), run / "checkpoints" / "adopted.tmp"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(source, draft)
        progress = {**found.manifest["progress"], "best": None, "best_step": None}
        manifest = {**found.manifest, "recipe": dict(trajectory), "progress": progress}
        with atomic_path(draft / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for folder in candidates(run):
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        draft.replace(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror or error}") from error


def load(checkpoint: Checkpoint, engine: Engine) -> None:
    """Restores weights, moments and buffers on any number of workers at any ZeRO stage; collective.

    Raises:
        UserError: the checkpoint is of a network with other parameters.
    """
    theirs, ours = checkpoint.manifest["parameters"], {n: list(s) for n, s in engine.shards.shapes.items()}
    if theirs != ours:
        name = next(n for n in [*theirs, *ours] if theirs.get(n) != ours.get(n))
        raise UserError(f"{checkpoint.folder}: parameter {name} is {theirs.get(name)} there, {ours.get(name)} here")
    with Pieces(checkpoint.folder, checkpoint.manifest["files"]) as pieces:
        engine.shards.load(lambda s: pieces.gather("weight", s))
        for s in engine.shards.slices:
            for kind, tensor in engine.beside(s).items():
                tensor.copy_(pieces.gather(kind, s))
    with safe_open(checkpoint.folder / "buffers.safetensors", framework="pt") as file:
        engine.load_buffers({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    engine.lars.steps = int(checkpoint.manifest["progress"]["step"])


def load_learned(checkpoint: Checkpoint, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The tensors of the checkpoint's learned loss (see `LearnedLoss.state`).

    Raises:
        UserError: the checkpoint has none, or (with `names`) one of other losses.
    """
    if (theirs := checkpoint.manifest.get("learned_loss")) is None:
        raise UserError(f"{checkpoint.folder}: has no learned loss; train with combiner.name=meltr")
    if names is not None and theirs["names"] != list(names):
        raise UserError(f"{checkpoint.folder}: its losses are {theirs['names']}, the task's are {list(names)}")
    with safe_open(checkpoint.folder / LEARNED, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def whole_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All fp32 weights and buffers of a checkpoint, without an engine; their averages where it has them."""
    state = {}
    with Pieces(checkpoint.folder, checkpoint.manifest["files"]) as pieces:
        kind = "average" if pieces.has("average") else "weight"
        for name, shape in checkpoint.manifest["parameters"].items():
            size = torch.Size(shape)
            state[name] = pieces.gather(kind, Slice(name, 0, size.numel(), torch.empty(0), 0)).view(size)
    with safe_open(checkpoint.folder / "buffers.safetensors", framework="pt") as file:
        return state | {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def prune(run: Path, keep: int, best_step: int | None, step: int, mirror: Mirror | None = None) -> None:
    """Deletes all but the best and the newest `keep` complete checkpoints up to `step`, where the run is; rank 0 only.

    Those of later steps were damaged, so that the run began before them. They must not count as the newest, and are
    left until the run writes them again. With a `mirror`, what counts is what the run's place has.
    """
    local = {int(folder.name.removeprefix("step-")): folder for folder in candidates(run)}
    there = {number: (folder / MANIFEST).exists() for number, folder in local.items()}
    if mirror is not None:
        try:
            there = steps_there(mirror.files("checkpoints"))
        except UserError as error:
            say(f"warning: older checkpoints are not deleted: {error}")
            return
    complete = [number for number, whole in there.items() if whole]
    later = {number for number in complete if number > step}
    kept = later | {best_step} | set([number for number in complete if number not in later][:keep])
    if mirror is not None:
        for number in there.keys() - kept:
            _dropped(mirror, name_of(number))
    for number in local.keys() - kept:
        # Without its manifest it is not a checkpoint any more, even if the deletion stops half-way.
        (local[number] / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(local[number], ignore_errors=True)
