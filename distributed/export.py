"""Exports a run as plain safetensors + config that load without DeepSpeed or Ray.

    python -m distributed.export RUN [--checkpoint best|last] [--to FOLDER]

An export holds `model.safetensors` (the weights, and with alignment the preprocessing) and `config.json`. Alignment:
`read_export` loads it, and a recipe starts from it with `init_from: FOLDER`. UniVL: the official layout, with low-rank
matrices added in; a recipe starts from it with `model.checkpoint: FOLDER`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distributed import checkpoint, fetch
from distributed.command import main_of
from distributed.config import RECIPES, VideoTextRecipe
from distributed.storage import PREPROCESSING
from models.backbones.univl.build import plain
from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.official import official_state
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
    """Writes an export; each file appears whole or not at all."""
    tensors = {**export.weights, **{PREFIX + name: t for name, t in export.preprocessors.state().items()}}
    _write(folder, tensors, {"model": export.config.model_dump(mode="json"), **export.about})


def _write(folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
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
    return Export(config, checkpoint.whole_weights(chosen), preprocessors, _about(run, chosen))


def _about(run: Path, chosen: checkpoint.Checkpoint) -> dict[str, Any]:
    progress, recipe = chosen.manifest["progress"], chosen.manifest["recipe"]
    figures = {"epoch": progress["epoch"], "figures": progress["figures"]}
    return {"run": run.name, "step": chosen.step, **figures, "data": recipe["data"]}


def write_univl(folder: Path, run: Path, chosen: checkpoint.Checkpoint) -> None:
    """Writes a checkpoint of UniVL in the official layout."""
    recipe = chosen.manifest["recipe"]
    config = UniVLConfig.model_validate_json(json.dumps(recipe["model"]))
    network = plain(config, checkpoint.whole_weights(chosen))
    about = {"model": network.config.model_dump(mode="json"), "inputs": recipe["inputs"], "task": recipe["task"]}
    _write(folder, official_state(network), {**about, **_about(run, chosen)})


def export(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m distributed.export", description="Export a run's weights.")
    parser.add_argument("run", help="the run's folder, e.g. runs/NAME, or its URI")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--to", type=Path, help="where to write (default: RUN/export)")
    options = parser.parse_args(arguments)
    run = fetch.view(options.run, options.checkpoint)
    target, chosen = options.to or run / "export", checkpoint_of(run, options.checkpoint)
    if RECIPES[chosen.manifest["recipe"]["task"]] is VideoTextRecipe:
        write_univl(target, run, chosen)
    else:
        write_export(target, export_of(run, options.checkpoint))
    if options.to is None:
        fetch.publish(options.run, *(target / name for name in ("model.safetensors", "config.json")))
    print(f"exported step {chosen.step} of {options.run} to {target}")


if __name__ == "__main__":
    main_of(export)
