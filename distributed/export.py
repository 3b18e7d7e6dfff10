"""Exports a run as plain safetensors + config that load without DeepSpeed or Ray.

    python -m distributed.export RUN [--checkpoint best|last] [--to FOLDER]

An export holds `model.safetensors` (the weights, and with alignment the preprocessing) and `config.json`. Alignment:
`read_export` loads it, and a recipe starts from it with `init_from: FOLDER`. UniVL: the official layout; video-language
models: the network's own names, tied weights once. Low-rank matrices are added in, and a recipe starts from it with
`model.checkpoint: FOLDER`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from distributed import checkpoint, fetch
from distributed.command import main_of
from distributed.config import Recipe, VideoLanguageRecipe, VideoTextRecipe
from distributed.exported import about_run, checkpoint_of, export_of, write_export, write_tensors
from distributed.recipe_file import load_recipe
from distributed.tasks import task_of_run
from models.backbones.univl.build import plain
from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.official import official_state
from models.lora import merged
from models.tasks.video_language import VideoLanguageTask


def write_univl(folder: Path, run: Path, chosen: checkpoint.Checkpoint) -> None:
    """Writes a checkpoint of UniVL in the official layout."""
    recipe = chosen.manifest["recipe"]
    config = UniVLConfig.model_validate_json(json.dumps(recipe["model"]))
    network = plain(config, checkpoint.whole_weights(chosen))
    about = {"model": network.config.model_dump(mode="json"), "inputs": recipe["inputs"], "task": recipe["task"]}
    write_tensors(folder, official_state(network), {**about, **about_run(run, chosen)})


def write_video_language(folder: Path, run: Path, chosen: checkpoint.Checkpoint) -> None:
    """Writes a checkpoint of a video-language model under the network's own names, which are the official ones of
    Violet, All-in-one and ALPRO, with the heads of its task."""
    recipe = load_recipe(run / "recipe.yaml", [], Recipe)
    task = cast(VideoLanguageTask, task_of_run(recipe.model_copy(update={"storage": run.parent, "name": run.name})))
    network = task.network()
    network.load_state_dict(checkpoint.whole_weights(chosen))
    setting = {"kind": task.setting.kind, "classes": task.setting.classes, "codes": task.setting.codes}
    model = task.model.model_copy(update={"lora": None})  # as its matrices are added in
    about = {"model": model.model_dump(mode="json"), "inputs": task.inputs.model_dump(mode="json"), "setting": setting}
    write_tensors(folder, merged(network), {**about, **about_run(run, chosen)})


def export(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m distributed.export", description="Export a run's weights.")
    parser.add_argument("run", help="the run's folder, e.g. runs/NAME, or its URI")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--to", type=Path, help="where to write (default: RUN/export)")
    options = parser.parse_args(arguments)
    run = fetch.view(options.run, options.checkpoint)
    target, chosen = options.to or run / "export", checkpoint_of(run, options.checkpoint)
    kind = Recipe.variant(chosen.manifest["recipe"])
    if kind is VideoTextRecipe:
        write_univl(target, run, chosen)
    elif issubclass(kind, VideoLanguageRecipe):
        write_video_language(target, run, chosen)
    else:
        write_export(target, export_of(run, options.checkpoint))
    if options.to is None:
        fetch.publish(options.run, *(target / name for name in ("model.safetensors", "config.json")))
    print(f"exported step {chosen.step} of {options.run} to {target}")


if __name__ == "__main__":
    main_of(export)
