"""Exports: what a run learned, readable without Ray or DeepSpeed, and a start for other runs."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distributed import checkpoint
from distributed.config import Recipe
from distributed.export import export
from distributed.exported import PREFIX, Export, export_of, read_export, write_export
from distributed.shards import Slice
from distributed.train import prepare, train
from models.data.alignment_set import load_examples
from models.errors import UserError
from models.neumatch.decoding import DecodingConfig, align
from models.neumatch.samples import Preprocessors
from tests.support.small_runs import small_data, small_recipe
from tests.support.trainers import new_trainer, train_and_save
from tests.support.workers import on_workers, refusal, run_command

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with checkpoints after steps 2 (the best) and 4."""
    storage = tmp_path_factory.mktemp("trained")
    on_workers(1, train_and_save, small_recipe(data, storage, {"checkpoint.keep": 9}), [2, 4], 4)
    return storage / "run"


@pytest.fixture
def exported(run: Path, tmp_path: Path) -> Path:
    write_export(tmp_path / "export", export_of(run))
    return tmp_path / "export"


@pytest.mark.parametrize(("which", "step"), [("best", 2), ("last", 4)])
def test_round_trip(run: Path, tmp_path: Path, which: str, step: int) -> None:
    made = export_of(run, which)
    whole = checkpoint.whole_weights(checkpoint.read(checkpoint.folder_of(run, step)))
    assert made.about["step"] == step
    assert made.weights.keys() == whole.keys()
    write_export(tmp_path, made)
    back = read_export(tmp_path)
    assert back.config == made.config
    assert json.dumps(back.about) == json.dumps(made.about)
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in whole.items())
    fitted = Preprocessors.from_file(run / "preprocessing.safetensors").state()
    assert all(torch.equal(back.preprocessors.state()[name], tensor) for name, tensor in fitted.items())


def test_best_differs_from_last(run: Path) -> None:
    best, last = export_of(run, "best").weights, export_of(run, "last").weights
    assert all(not torch.equal(best[name], last[name]) for name in best)


READER = """
import sys
from pathlib import Path
from distributed.exported import read_export
from models.data.alignment_set import AlignmentDataConfig, load_examples
from models.neumatch.decoding import DecodingConfig, align
export = read_export(Path(sys.argv[1]))
example = load_examples(AlignmentDataConfig(**export.about["data"], root=sys.argv[2]))["test"][0]
(alignment,) = align(export.network(), [export.preprocessors.apply(example)], DecodingConfig())
print(alignment)
assert not {"ray", "deepspeed", "wandb"} & sys.modules.keys()
"""


def test_aligns_without_ray_or_deepspeed(data: Path, run: Path, exported: Path) -> None:
    command = [sys.executable, "-c", READER, str(exported), str(data)]
    reader = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert reader.returncode == 0, reader.stderr
    made = export_of(run)
    example = made.preprocessors.apply(load_examples(small_recipe(data, run.parent).data)["test"][0])
    assert reader.stdout == f"{align(made.network(), [example], DecodingConfig())[0]}\n"


def test_command(run: Path, tmp_path: Path) -> None:
    outcome = run_command(export, run, "--checkpoint", "last", "--to", tmp_path / "mine")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"exported step 4 of {run} to {tmp_path / 'mine'}\n"
    assert read_export(tmp_path / "mine").about["step"] == 4


# Starting from one.


def initial_weights(recipe: Recipe) -> dict[str, list[float]]:
    shards = new_trainer(recipe).engine.shards
    return {name: tensor.flatten().tolist() for name, tensor in shards.whole(Slice.weight).items()}


def test_run_starts_from_its_weights_and_preprocessing(data: Path, exported: Path, tmp_path: Path) -> None:
    changes = {"init_from": str(exported), "seed": 7, "engine.zero_stage": 2}
    recipe = small_recipe(data, tmp_path / "runs", changes)
    prepare(recipe)
    theirs = read_export(exported)
    fitted = Preprocessors.from_file(recipe.folder / "preprocessing.safetensors").state()
    assert all(torch.equal(theirs.preprocessors.state()[name], tensor) for name, tensor in fitted.items())
    for weights in on_workers(2, initial_weights, recipe):
        assert weights == {name: theirs.weights[name].flatten().tolist() for name in weights}


def error_of(*arguments: object) -> str:
    """The one line of a `train` that is refused."""
    return refusal(train, *arguments)


def test_run_of_another_network_is_refused(data: Path, exported: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(small_recipe(data, tmp_path, {"init_from": str(exported)}).model_dump(mode="json")))
    assert f"{exported}: has model.width=16, but the recipe has 8; make them equal" in error_of(recipe, "model.width=8")
    assert "has model.normalisation='sbn', but the recipe has 'none'" in error_of(recipe, "model.normalisation=none")


def test_data_of_another_width_is_refused(exported: Path, tmp_path: Path) -> None:
    other = small_data(tmp_path / "wide", movies=3, width=40)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(small_recipe(other, tmp_path, {"init_from": str(exported)}).model_dump(mode="json")))
    message = f"{exported}: features of width 40, but this model was fitted on width 32"
    assert message in error_of(recipe)


# Damage.


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def without(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        save_file({key: tensor for key, tensor in load_file(path).items() if key != name}, path)

    return change


def about(**changes: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("model.safetensors", cut, r"damaged export \(SafetensorError"),
        ("model.safetensors", Path.unlink, r"model.safetensors: no such file; make an export with"),
        ("model.safetensors", without("fc1.weight"), r"Missing key\(s\) in state_dict: \"fc1.weight\""),
        ("model.safetensors", without(f"{PREFIX}text.mean"), r"damaged export \(KeyError: 'text.mean'\)"),
        ("config.json", cut, r"damaged export \(JSONDecodeError"),
        ("config.json", Path.unlink, "config.json: no such file; make an export with"),
        ("config.json", lambda path: path.write_text("[]"), r"damaged export \(TypeError"),
        ("config.json", about(model={"name": "neumatch", "widht": 3}), r"damaged export \(ValidationError"),
        ("config.json", about(model={"name": "neumatch", "width": 3}), r"damaged export \((RuntimeError|ValueError)"),
    ],
)
def test_damaged_export_is_refused(exported: Path, file: str, harm: Callable[[Path], object], message: str) -> None:
    harm(exported / file)
    with pytest.raises(UserError, match=message) as caught:
        read_export(exported)
    assert str(exported) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_run_without_the_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete checkpoint there; expected the folder of a run"):
        export_of(tmp_path)
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    shutil.rmtree(checkpoint.folder_of(copy, 2))
    with pytest.raises(UserError, match="the best checkpoint could not be saved; export the last with"):
        export_of(copy)
    assert isinstance(export_of(copy, "last"), Export)
