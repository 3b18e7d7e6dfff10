"""Everything a user can get wrong before a launch: one clear line on stderr, exit code 2, nothing launched."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed.train import train
from tests.support.small_runs import recipe_values, small_recipe
from tests.support.trainers import train_and_save
from tests.support.workers import on_workers, refusal

ROOT = Path(__file__).parents[2]
ANNOTATIONS, SEGMENTATION, CLIPS = "annotations_phrases.txt", "clip_segmentation.txt", "clip_features.npz"


@pytest.fixture
def movies(data: Path, tmp_path: Path) -> Path:
    """A copy of the data for the test to spoil."""
    return Path(shutil.copytree(data, tmp_path / "movies"))


@pytest.fixture
def recipe(movies: Path, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml", movies, {})


def write_recipe(path: Path, movies: Path, changes: dict[str, Any]) -> Path:
    path.write_text(json.dumps(recipe_values(movies, path.parent / "runs", changes), indent=1))
    return path


def error_of(*arguments: object) -> str:
    """The one line that a refused `train` leaves."""
    return refusal(train, *arguments)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.eta=1", "unknown key 'optimizer'; did you mean 'optimiser'? allowed: "),
        ("training.batchsize=4", "unknown key 'training.batchsize'; did you mean 'training.batch_size'? allowed: "),
        ("training.epochs=ten", "'training.epochs' should be a whole number; found 'ten'"),
        ("model.normalisation=bn", "'model.normalisation' should be one of 'none', 'sbn', '2xln', '4xln'; found 'bn'"),
        ("model.name=ridge", "unknown key 'model.width'"),
        ("engine.zero_stage=4", "'engine.zero_stage' should be less than or equal to 3; found 4"),
        ("scaling.workers=9", "training.batch_size=8 cannot be shared by scaling.workers=9 x engine.accumulation=1"),
        ("engine.accumulation=2", "model.normalisation='sbn' needs the statistics of the whole batch at once"),
        ("model.lookahead={hidden: 0}", "'model.lookahead.hidden' should be greater than or equal to 1; found 0"),
        ("data.captions={features: f.npz}", "data.captions is for contrastive pre-training: set training.contrastive"),
        (
            "name=../elsewhere",
            "'name': String should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$'; found '../elsewhere'",
        ),
        ("data.root=/no/where", "/no/where/annotations_phrases.txt: no such file"),
        ("data.root=null", "'.' is a relative path; set MELTMATCH_DATA to the data folder, or give data.root="),
        ("data.clip_features=gone.npz", "gone.npz: no such file"),
        ("data.text_features=clip_features.npz", "clip_features.npz: no feature for snippet '"),
        ("optimiser.rates={words: 0.1}", "optimiser.rates names 'words'; the parts of this network are video_stack, "),
        ("optimiser.rates={fc: 0}", "'optimiser.rates.fc' should be greater than 0; found 0"),
        ("init_from=/no/export", "/no/export/config.json: no such file; make an export with"),
        ("epochs", "expected dotted.key=value, found 'epochs'"),
    ],
)
def test_recipe(recipe: Path, override: str, message: str) -> None:
    assert message in error_of(recipe, override)


def test_recipe_that_is_not_there(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none.yaml") == f"{tmp_path}/none.yaml: no such file; there is nothing beside it"
    assert "did you mean 'demo'?" in error_of("dem")


def test_baseline_needs_no_training(recipe: Path) -> None:
    assert error_of(recipe, "model={name: ridge}") == (
        "model.name=ridge needs no training run: use `python -m distributed.evaluate`"
    )


def edit(path: Path, line: int, change: Callable[[str], str]) -> None:
    lines = path.read_text().split("\n")
    lines[line - 1] = change(lines[line - 1])
    path.write_text("\n".join(lines))


def ends_at_zero(line: str) -> str:
    return re.sub(r"-[\d.]+", "-00.00.00.000", line, count=1)


def starts_at_zero(line: str) -> str:
    return re.sub(r"_[\d.]+-", "_00.00.00.000-", line, count=1)


@pytest.mark.parametrize(
    ("file", "line", "change", "message"),
    [
        (
            ANNOTATIONS,
            3,
            lambda line: line.replace("\t", " "),
            "malformed line; expected MOVIE_START-END, one tab, text",
        ),
        (ANNOTATIONS, 3, ends_at_zero, "ends at or before its start; expected START < END"),
        (ANNOTATIONS, 3, starts_at_zero, "starts before line 2 of the same movie; expected lines in time order"),
        (SEGMENTATION, 2, starts_at_zero, "overlaps line 1 by "),
        (SEGMENTATION, 2, lambda line: line.replace("/", " "), "malformed line; expected MOVIE/MOVIE_START-END"),
        (SEGMENTATION, 2, lambda line: "../" + line, "bad movie name '"),
        ("val_split.txt", 1, lambda _: "0099", "unknown movie '0099'; expected one of the 8 movies read"),
        ("test_split.txt", 1, lambda _: "0000", "movie 0000 is already at "),
    ],
)
def test_annotation_files(
    movies: Path, recipe: Path, file: str, line: int, change: Callable[[str], str], message: str
) -> None:
    edit(movies / file, line, change)
    error = error_of(recipe)
    assert error.startswith(f"{movies / file}:{line}: "), error
    assert message in error


def test_overlapping_phrases(movies: Path, recipe: Path) -> None:
    path = movies / ANNOTATIONS
    start, end = "0000_00.00.03.451", "0000_00.00.03.400"
    assert f"\n{start}-" in path.read_text()
    edit(path, 2, lambda line: line.replace(start, end))
    error = error_of(recipe)
    assert error.startswith(f"{path}:2: {end}-")
    assert "overlaps line 1 by 0.051 s; expected intervals that do not overlap" in error


def test_training_split_without_movies(movies: Path, recipe: Path) -> None:
    (movies / "training_split.txt").write_text("# nobody\n")
    assert error_of(recipe) == "the training split is empty: there is nothing to train on"


# Features.


def features(path: Path) -> tuple[list[str], np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as file:
        return file["ids"].tolist(), file["features"]


def test_clip_without_feature(movies: Path, recipe: Path) -> None:
    path = movies / CLIPS
    ids, rows = features(path)
    np.savez(path, ids=np.array(ids[1:]), features=rows[1:])
    assert error_of(recipe).startswith(f"{path}: no feature for clip '{ids[0]}' (1 of {len(ids)} missing)")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_feature_that_is_no_number(movies: Path, recipe: Path, value: float) -> None:
    path = movies / CLIPS
    ids, rows = features(path)
    rows[7, 3] = value
    np.savez(path, ids=np.array(ids), features=rows)
    assert error_of(recipe).startswith(f"{path}: the feature of clip '{ids[7]}' holds NaN or infinity (1 of ")


def test_features_of_two_widths(movies: Path, recipe: Path) -> None:
    path = movies / "ragged.npz"
    ids, rows = features(movies / CLIPS)
    np.savez(path, **{id: row[: 32 - (place == 5)] for place, (id, row) in enumerate(zip(ids, rows, strict=True))})
    error = error_of(recipe, "data.clip_features=ragged.npz")
    assert error.startswith(f"{path}: '{ids[5]}' has 31 dimensions and '{ids[0]}' has 32; expected one width")


def test_file_that_is_no_feature_file(movies: Path, recipe: Path) -> None:
    (movies / CLIPS).write_bytes(b"PK\x03\x04 but no more")
    assert error_of(recipe).startswith(f"{movies / CLIPS}: ")


# The run's own folder.


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a run that has a checkpoint after its third step."""
    storage = tmp_path_factory.mktemp("begun")
    on_workers(1, train_and_save, small_recipe(data, storage), [3], 3)
    return storage


@pytest.fixture
def runs(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "runs"))


def test_run_of_another_recipe(runs: Path, recipe: Path) -> None:
    error = error_of(recipe, "optimiser.eta=0.5")
    folder = runs / "run" / "checkpoints" / "step-00000003"
    assert error == (
        f"{folder}: made by another recipe: optimiser.eta was 0.001, now 0.5; "
        "give this run another name=..., or the recipe it began with"
    )


def test_truncated_checkpoint(runs: Path, recipe: Path) -> None:
    shard = runs / "run" / "checkpoints" / "step-00000003" / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:100])
    assert error_of(recipe).startswith(f"{shard}: truncated or changed: 100 bytes, expected ")


def test_data_of_another_width_than_the_run_began_with(runs: Path, movies: Path, recipe: Path) -> None:
    ids, rows = features(movies / CLIPS)
    np.savez(movies / CLIPS, ids=np.array(ids), features=rows[:, :30])
    error = error_of(recipe)
    assert error.startswith(f"{runs / 'run'}: features of width 30, but this model was fitted on width 32")


def test_storage_that_cannot_be_written(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "file").touch()
    error = error_of(recipe, f"storage={tmp_path / 'file'}")
    assert error == (
        f"{tmp_path}/file/run: cannot be written, for {tmp_path}/file is no folder that can; name another place by "
        "storage=FOLDER"
    )


def test_nothing_is_left_behind(tmp_path: Path, recipe: Path) -> None:
    error_of(recipe, "data.clip_features=gone.npz")
    assert not (tmp_path / "runs").exists()


def test_the_command_itself(recipe: Path) -> None:
    """As a user runs it; the other tests skip the interpreter's start."""
    command = [sys.executable, "-m", "distributed.train", str(recipe), "training.epoch=3"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"error: {recipe}, on the command line: unknown key 'training.epoch'; did you mean 'training.epochs'? "
        "allowed: epochs, batch_size, evaluate_every, log_every, label_smoothing, contrastive, own_decisions, "
        "recompose, feature_dropout\n"
    )
