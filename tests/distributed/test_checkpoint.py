"""Checkpoints: they load on any number of workers at any ZeRO stage, and are complete or do not count."""

import json
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distributed import checkpoint
from distributed.config import Recipe
from distributed.loop import Trainer
from models.errors import UserError
from tests.support.small_runs import small_recipe
from tests.support.trainers import Course, new_trainer, run_to, train_and_save
from tests.support.workers import WorkerError, on_workers

STEPS, SAVED_AT = 20, 10  # three batches an epoch: step 10 is in the middle of one
WIDTH = 64  # ZeRO-3 cuts up some of the tensors and keeps others whole


def recipe_in(data: Path, storage: Path, stage: int = 2, **changes: Any) -> Recipe:
    every = {"model.width": WIDTH, "training.epochs": 100, "engine.zero_stage": stage, "checkpoint.keep": 9}
    return small_recipe(data, storage, every | changes)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Course]:
    """The folder of a run of 20 steps on 2 workers at stage 2 with checkpoints after 5 and 10, and its losses."""
    storage = tmp_path_factory.mktemp("undisturbed")
    return storage, on_workers(2, train_and_save, recipe_in(data, storage), [5, SAVED_AT], STEPS)[0]


@pytest.fixture
def run(undisturbed: tuple[Path, Course], tmp_path: Path) -> Path:
    """A copy of that run's folder, below tmp_path."""
    return Path(shutil.copytree(undisturbed[0] / "run", tmp_path / "run"))


def resume(recipe: Recipe, steps: int) -> Course:
    trainer = new_trainer(recipe)
    assert trainer.state.step == SAVED_AT
    assert trainer.state.batch != 0
    return run_to(trainer, steps)


@pytest.mark.parametrize(("workers", "stage"), [(2, 2), (1, 0), (3, 3), (4, 1), (2, 3), (1, 2)])
def test_goes_on_as_if_nothing_had_been(data: Path, undisturbed: tuple[Path, Course], workers: int, stage: int) -> None:
    storage, course = undisturbed
    for resumed in on_workers(workers, resume, recipe_in(data, storage, stage), STEPS):
        assert resumed.losses == pytest.approx(course.losses[SAVED_AT:], rel=1e-5)


def there_and_back(recipes: list[Recipe]) -> list[dict[str, list[float]]]:
    """Saves what each recipe's trainer holds after it has begun -> all numbers of its checkpoint, whole."""
    numbers = []
    for recipe in recipes:
        trainer = new_trainer(recipe)
        folder = trainer.save()
        assert folder is not None
        whole = checkpoint.whole_weights(checkpoint.read(folder))
        moments = [
            trainer.engine.shards.whole(lambda s, kind=kind, trainer=trainer: trainer.engine.moments(s)[kind])  # type: ignore[misc]
            for kind in (0, 1)
        ]
        tensors = [*whole.items(), *moments[0].items(), *moments[1].items()]
        numbers.append({f"{place}/{name}": tensor.flatten().tolist() for place, (name, tensor) in enumerate(tensors)})
    return numbers


def test_no_number_changes_on_the_way(data: Path, run: Path, tmp_path: Path) -> None:
    """Loaded and saved again at other sizes, every weight, moment and statistic is bit for bit the same."""
    shutil.rmtree(run / "checkpoints" / "step-00000005")
    (one,) = on_workers(1, there_and_back, [recipe_in(data, tmp_path, stage) for stage in (0, 1, 2, 3)])
    three = on_workers(3, there_and_back, [recipe_in(data, tmp_path, stage) for stage in (3, 1, 0)])
    for numbers in [*one, *three[0], *three[2]]:
        assert numbers == one[0]


def averages(recipe: Recipe, steps: int) -> dict[str, list[float]]:
    """Trains so far and saves -> all averages, from the engine; the checkpoint's whole weights must be the same."""
    trainer = new_trainer(recipe)
    run_to(trainer, steps)
    folder = trainer.save()
    assert folder is not None
    found = trainer.engine.weights()
    for name, tensor in checkpoint.whole_weights(checkpoint.read(folder)).items():
        assert tensor.tolist() == found[name].tolist(), name
    return {name: tensor.flatten().tolist() for name, tensor in found.items()}


def test_averages_of_weights_survive_any_number_of_workers(data: Path, tmp_path: Path) -> None:
    changes = {"optimiser.average": 0.9, "optimiser.eta": 0.0002}
    recipe = recipe_in(data, tmp_path / "broken", 2, **changes)
    whole = on_workers(1, averages, recipe_in(data, tmp_path / "whole", 0, **changes), 8)[0]
    on_workers(2, averages, recipe, 4)
    resumed = on_workers(3, averages, recipe_in(data, tmp_path / "broken", 3, **changes), 8)
    plain = on_workers(1, averages, recipe_in(data, tmp_path / "plain", 0, **{"optimiser.eta": 0.0002}), 8)[0]
    for found in resumed:
        assert found.keys() == whole.keys()
        for name, values in found.items():
            assert values == pytest.approx(whole[name], rel=1e-4, abs=1e-5), name
    assert any(plain[name] != pytest.approx(whole[name], rel=1e-4, abs=1e-5) for name in whole)


# Damage.


def newest_file(run: Path, name: str) -> Path:
    return run / "checkpoints" / f"step-{SAVED_AT:08d}" / name


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(key: str, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        manifest = json.loads(path.read_text())
        if value is None:
            del manifest[key]
        else:
            manifest[key] = value
        path.write_text(json.dumps(manifest))

    return change


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated": ("shard-00001.safetensors", truncate, r"shard-00001.safetensors: truncated or changed: \d+ bytes"),
    "flipped": ("shard-00000.safetensors", flip, "shard-00000.safetensors: contents differ from the manifest"),
    "missing": ("buffers.safetensors", Path.unlink, "buffers.safetensors: missing; delete"),
    "cut JSON": ("manifest.json", lambda p: p.write_text(p.read_text()[:-9]), "damaged"),
    "no text": ("manifest.json", lambda p: p.write_bytes(b"\xff\xfe\x00"), "damaged .UnicodeDecodeError"),
    "a list": ("manifest.json", lambda p: p.write_text("[]"), "damaged .TypeError"),
    "no files": ("manifest.json", edit("files", None), "damaged .KeyError: 'files'"),
    "no facts": ("manifest.json", edit("files", {"a": 3}), "damaged .TypeError"),
    "no sizes": ("manifest.json", edit("parameters", None), "damaged .KeyError: 'parameters'"),
    "format": ("manifest.json", edit("format", 2), "checkpoint format 2, this version reads 1"),
    "escape": (
        "manifest.json",
        edit("files", {"../../secret": {"bytes": 1, "sha256": ""}}),
        "file name '../../secret' leaves the checkpoint's folder",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_one_is_passed_over_with_a_warning(run: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, harm, message = DAMAGE[damage]
    harm(newest_file(run, name))
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.read(newest_file(run, name).parent)
    assert "\n" not in str(caught.value)
    found = checkpoint.newest(run)
    assert found is not None
    assert found.step == 5
    assert capsys.readouterr().out == f"warning: {caught.value}\n"


def test_only_damaged_ones_are_an_error(run: Path) -> None:
    for folder in checkpoint.candidates(run):
        flip(folder / "shard-00000.safetensors")
    with pytest.raises(UserError, match=r"step-00000010/shard-00000.safetensors: contents differ"):
        checkpoint.newest(run)


def test_interrupted_one_never_counted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest_file(run, "manifest.json").unlink()
    found = checkpoint.newest(run)
    assert found is not None
    assert found.step == 5
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoint.read(newest_file(run, ""))
    (run / "checkpoints" / "step-00000005" / "manifest.json").unlink()
    assert checkpoint.newest(run) is None
    assert checkpoint.newest(run / "nowhere") is None


def test_other_recipe_is_refused_by_key(data: Path, run: Path, tmp_path: Path) -> None:
    found = checkpoint.newest(run)
    assert found is not None
    # What does not decide the numbers may change.
    same = recipe_in(data, tmp_path, stage=0, **{"training.epochs": 7, "scaling.workers": 3, "decoding.method": "beam"})
    checkpoint.check_recipe(found, same.trajectory())
    others: list[tuple[dict[str, Any], str]] = [
        ({"optimiser.eta": 0.5}, r"made by another recipe: optimiser\.eta was 0\.001, now 0\.5; give this run another"),
        ({"seed": 1, "training.batch_size": 4}, r"seed was 101, now 1 \(and 1 more\)"),
        ({"engine.precision": "bf16"}, r"engine\.precision was 'fp32', now 'bf16'"),
    ]
    for changes, message in others:
        with pytest.raises(UserError, match=message):
            checkpoint.check_recipe(found, recipe_in(data, tmp_path, **changes).trajectory())


def test_other_parameters_are_refused_by_name(data: Path, run: Path, tmp_path: Path) -> None:
    manifest = newest_file(run, "manifest.json")
    parameters = json.loads(manifest.read_text())["parameters"]
    edit("parameters", parameters | {"fc2.bias": [7]})(manifest)
    with pytest.raises(WorkerError, match=r"UserError: .*: parameter fc2.bias is \[7\] there, \[\d\] here"):
        on_workers(1, resume, recipe_in(data, tmp_path), STEPS)


def test_missing_elements_are_refused(data: Path, run: Path, tmp_path: Path) -> None:
    manifest = newest_file(run, "manifest.json")
    files = json.loads(manifest.read_text())["files"]
    edit("files", {name: facts for name, facts in files.items() if name != "shard-00001.safetensors"})(manifest)
    with pytest.raises(WorkerError, match=r"UserError: .*: its files hold \d+ of \d+ elements of weight"):
        on_workers(1, resume, recipe_in(data, tmp_path), STEPS)


# Saving.


def names(run: Path) -> list[str]:
    return sorted(folder.name for folder in checkpoint.candidates(run))


def fake(run: Path, step: int, complete: bool = True) -> None:
    folder = checkpoint.folder_of(run, step)
    folder.mkdir(parents=True)
    (folder / "shard-00000.safetensors").touch()
    if complete:
        (folder / checkpoint.MANIFEST).touch()


def test_prune_keeps_the_best_and_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        fake(tmp_path, step)
    fake(tmp_path, 6, complete=False)
    checkpoint.prune(tmp_path, 2, best_step=2, step=5)
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    checkpoint.prune(tmp_path, 1, best_step=None, step=5)
    assert names(tmp_path) == ["step-00000005"]


def test_prune_does_not_take_damaged_ones_for_the_newest(tmp_path: Path) -> None:
    for step in (3, 4, 9):  # 9 was damaged: the run went on from 3
        fake(tmp_path, step)
    checkpoint.prune(tmp_path, 1, best_step=None, step=4)
    assert names(tmp_path) == ["step-00000004", "step-00000009"]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 5):
        fake(tmp_path, step)
    assert [folder.name for folder in checkpoint.candidates(tmp_path)] == [
        "step-100000000",
        "step-99999999",
        "step-00000005",
    ]


def limit_file_size(size: int) -> None:
    """From now on this process can write no file beyond `size` bytes, as on a full disk; -1: no limit."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def save_in_vain(recipe: Recipe, unlucky: int) -> list[float]:
    trainer: Trainer = new_trainer(recipe)
    losses = run_to(trainer, 1).losses
    assert trainer.save() is not None
    losses += run_to(trainer, 2).losses
    if trainer.rank == unlucky:
        limit_file_size(1000)
    assert trainer.save() is None
    if trainer.rank == 0:  # which has removed what was written
        assert names(recipe.folder) == ["step-00000001"]
    if trainer.rank == unlucky:
        limit_file_size(-1)
    losses += run_to(trainer, 3).losses
    folder = trainer.save()
    assert folder is not None
    checkpoint.read(folder)
    return losses


@pytest.mark.parametrize("unlucky", [0, 1])
def test_failure_on_one_worker_leaves_nothing_and_training_goes_on(
    data: Path, tmp_path: Path, undisturbed: tuple[Path, Course], unlucky: int
) -> None:
    for losses in on_workers(2, save_in_vain, recipe_in(data, tmp_path), unlucky):
        assert losses == pytest.approx(undisturbed[1].losses[:3], rel=1e-6)
    assert names(tmp_path / "run") == ["step-00000001", "step-00000003"]
    assert not list((tmp_path / "run").rglob("*.tmp"))
