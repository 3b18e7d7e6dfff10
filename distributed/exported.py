"""What an export is: `model.safetensors` and `config.json`, read and written without DeepSpeed or Ray."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distributed import checkpoint
from distributed.storage import PREPROCESSING
from models.data.files import atomic_path
from models.errors import UserError
from models.neumatch.network import NeuMATCH, NeuMATCHConfig
from models.neumatch.samples import Preprocessors

PREFIX = "preprocessing."


@dataclass(frozen=True)
class Export:
    """A trained network ready for use."""

    config: NeuMATCHConfig
    weights: dict[str, Tensor]
    preprocessors: Preprocessors
    about: dict[str, Any]

    def network(self) -> NeuMATCH:
        """The network with its weights, in evaluation mode."""
        widths = (len(self.preprocessors.video.mean), len(self.preprocessors.text.mean))
        network = NeuMATCH(self.config, *widths)
        network.load_state_dict(self.weights)
        return network.eval()


def write_export(folder: Path, export: Export) -> None:
    """Writes an export of an alignment run."""
    tensors = {**export.weights, **{PREFIX + name: t for name, t in export.preprocessors.state().items()}}
    write_tensors(folder, tensors, {"model": export.config.model_dump(mode="json"), **export.about})


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Writes `model.safetensors` and `config.json`; each file appears whole or not at all."""
    with atomic_path(folder / "model.safetensors") as temporary:
        # A file has no tied tensors: each name has its own.
        save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, temporary)
    with atomic_path(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read_export(folder: Path, expected: object = None) -> Export:
    """Reads an export.

    Raises:
        UserError: it is missing, damaged, or (with `expected`) of another network.
    """
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = NeuMATCHConfig.model_validate_json(json.dumps(about.pop("model")))
        tensors = load_file(folder / "model.safetensors")
        weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
        preprocessing = {name[len(PREFIX) :]: t for name, t in tensors.items() if name.startswith(PREFIX)}
        export = Export(config, weights, Preprocessors.from_state(preprocessing), about)
        export.network()  # fails unless all weights are there in the right shapes
    except FileNotFoundError as error:
        missing = error.filename or folder / "model.safetensors"
        raise UserError(f"{missing}: no such file; make an export with `python -m distributed.export`") from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{folder}: damaged export ({problem}); make it again") from error
    if isinstance(expected, NeuMATCHConfig) and config != expected:
        theirs, ours = config.model_dump(mode="json"), expected.model_dump(mode="json")
        key = next(key for key in ours if theirs[key] != ours[key])
        raise UserError(f"{folder}: has model.{key}={theirs[key]!r}, but the recipe has {ours[key]!r}; make them equal")
    return export


def checkpoint_of(run: Path, which: str) -> checkpoint.Checkpoint:
    """A run's best or last checkpoint.

    Raises:
        UserError: the run has no such checkpoint, or it is damaged.
    """
    newest = checkpoint.newest(run)
    if newest is None:
        raise UserError(f"{run}: no complete checkpoint there; expected the folder of a run")
    best_step = newest.manifest["progress"]["best_step"]
    chosen = newest
    if which == "best" and best_step is not None and best_step != newest.step:
        folder = checkpoint.folder_of(run, best_step)
        if not folder.is_dir():
            raise UserError(f"{folder}: the best checkpoint could not be saved; export the last with --checkpoint last")
        chosen = checkpoint.read(folder)
    return chosen


def export_of(run: Path, which: str = "best") -> Export:
    """The export of a run's best or last checkpoint.

    Raises:
        UserError: the run has no such checkpoint, it is damaged, or the run is not one of alignment.
    """
    chosen = checkpoint_of(run, which)
    if (task := chosen.manifest["recipe"]["task"]) != "alignment":
        raise UserError(f"{run}: an alignment run is expected; this one's task is {task}")
    config = NeuMATCHConfig.model_validate_json(json.dumps(chosen.manifest["recipe"]["model"]))
    preprocessors = Preprocessors.from_file(run / PREPROCESSING)
    return Export(config, checkpoint.whole_weights(chosen), preprocessors, about_run(run, chosen))


def about_run(run: Path, chosen: checkpoint.Checkpoint) -> dict[str, Any]:
    """Where weights come from, for an export's `config.json`."""
    progress, recipe = chosen.manifest["progress"], chosen.manifest["recipe"]
    figures = {"epoch": progress["epoch"], "figures": progress["figures"]}
    return {"run": run.name, "step": chosen.step, **figures, "data": recipe["data"]}
