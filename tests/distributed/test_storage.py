"""Runs in places that no node has on its disk: they go on on other nodes, and what fails leaves what is good.

The places are another folder by its URI, and an S3 server of this machine.
"""

import io
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from distributed import alone, checkpoint, fetch
from distributed.alone import FarBoard, SignOfLife, board_of, check_alone
from distributed.config import Recipe
from distributed.evaluate import evaluate
from distributed.export import export
from distributed.exported import read_export
from distributed.inspect import inspect
from distributed.metrics_file import read_metrics
from distributed.recipe_file import dump_recipe
from distributed.signals import STOP, Signals, ask
from distributed.storage import Mirror, StorageError, mirror_of, place, without_secrets
from distributed.train import prepare, train
from models.errors import UserError
from tests.support.beats import trained_elsewhere
from tests.support.learned_runs import digits_recipe
from tests.support.s3 import S3, cut_after, mend, names_in
from tests.support.small_runs import small_recipe
from tests.support.trainers import Course, new_trainer, run_to, train_and_save
from tests.support.workers import WorkerError, on_workers, refusal

STEPS, SAVED_AT = 20, 10
SETTINGS: dict[str, Any] = {
    "model.width": 64,
    "training.epochs": 100,
    "engine.zero_stage": 2,
    "checkpoint.keep": 9,
}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with S3(tmp_path_factory.mktemp("s3")) as server:
        yield server


_numbers = itertools.count()


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place."""
    if request.param == "file":
        return f"file://{tmp_path}/place/runs"
    server: S3 = request.getfixturevalue("s3")
    return server.bucket(f"bucket-{next(_numbers)}")


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Course:
    """What the run does in a folder."""
    recipe = small_recipe(data, tmp_path_factory.mktemp("undisturbed"), SETTINGS)
    return on_workers(2, train_and_save, recipe, [5, SAVED_AT], STEPS)[0]


def on_node(node: Path) -> None:
    """This process is on a node of its own."""
    os.environ["MELTMATCH_CACHE"] = str(node)


def begun(recipe: Recipe, nodes: Path, steps: int = STEPS) -> tuple[list[float], list[str]]:
    """A worker on a node of its own -> its losses, and the checkpoints that are left on the node."""
    on_node(nodes / f"{dist.get_rank()}")
    course = train_and_save(recipe, [5, SAVED_AT], steps)
    return course.losses, [folder.name for folder in checkpoint.candidates(recipe.folder)]


def resumed(recipe: Recipe, nodes: Path, each: int, wanted: int, steps: int = STEPS) -> list[float]:
    """A worker on a node that it shares with as many others -> its losses after the step that it goes on from."""
    on_node(nodes / f"{dist.get_rank() // each}")
    trainer = new_trainer(recipe)
    assert trainer.state.step == wanted
    return run_to(trainer, steps).losses


def test_goes_on_on_other_nodes(data: Path, tmp_path: Path, storage: str, undisturbed: Course) -> None:
    recipe = small_recipe(data, storage, SETTINGS)
    first, second = on_workers(2, begun, recipe, tmp_path / "nodes")
    assert first[0] == pytest.approx(undisturbed.losses, rel=1e-6)
    # Rank 0's node keeps what the place has; another node would keep parts alone, and keeps none.
    assert (first[1], second[1]) == (["step-00000010", "step-00000005"], [])
    expected = undisturbed.losses[SAVED_AT:]
    for workers, each in ((3, 1), (4, 4), (2, 1)):  # new nodes; one new node for all; nodes that have it already
        nodes = tmp_path / ("nodes" if workers == 2 else f"nodes-{workers}")
        for losses in on_workers(workers, resumed, recipe, nodes, each, SAVED_AT):
            assert losses == pytest.approx(expected, rel=1e-5)
    assert not list(tmp_path.rglob("*.tmp"))


# Damage.


@pytest.fixture
def run(data: Path, tmp_path: Path, storage: str) -> Recipe:
    """A run in its place, with checkpoints after steps 5 and 10; all that its nodes had is gone."""
    recipe = small_recipe(data, storage, SETTINGS)
    on_workers(2, begun, recipe, tmp_path / "gone", SAVED_AT)
    shutil.rmtree(tmp_path / "gone")
    return recipe


def place_of(recipe: Recipe) -> Mirror:
    assert recipe.mirror is not None
    return recipe.mirror


def rewrite(mirror: Mirror, name: str, change: Callable[[bytes], bytes]) -> None:
    content = mirror.read(name)
    assert content is not None
    (mirror.folder / name).parent.mkdir(parents=True, exist_ok=True)
    (mirror.folder / name).write_bytes(change(content))
    mirror.push(mirror.folder / name)
    shutil.rmtree(mirror.folder)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def escaping(content: bytes) -> bytes:
    manifest = json.loads(content)
    return json.dumps({**manifest, "files": {"../../escaped": {"bytes": 1, "sha256": ""}}}).encode()


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "flipped": ("shard-00001.safetensors", flipped, "shard-00001.safetensors: contents differ from the manifest"),
    "truncated": ("shard-00000.safetensors", lambda c: c[:-1], "shard-00000.safetensors: truncated or changed: "),
    "manifest": ("manifest.json", lambda c: c[:-9], "manifest.json: damaged (JSONDecodeError"),
    "escape": ("manifest.json", escaping, "file name '../../escaped' leaves the checkpoint's folder"),
}


def fallen_back(recipe: Recipe, nodes: Path) -> str:
    """What a worker on a new node says when it falls back to step 5."""
    with redirect_stdout(io.StringIO()) as out:
        resumed(recipe, nodes, 1, 5, 6)
    return out.getvalue()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_one_is_passed_over_with_a_warning(run: Recipe, tmp_path: Path, damage: str) -> None:
    name, harm, message = DAMAGE[damage]
    rewrite(place_of(run), f"checkpoints/step-00000010/{name}", harm)
    first, second = on_workers(2, fallen_back, run, tmp_path / "nodes")
    said = [line for line in first.splitlines() if line.startswith("warning: ")]
    where = str(run.place).partition("?")[0]
    assert len(said) == 1
    assert said[0].startswith(f"warning: {where}/checkpoints/step-00000010")
    assert message in said[0]
    assert "warning" not in second  # rank 0 says it for all
    assert not list(tmp_path.rglob("escaped"))


def test_only_damaged_ones_are_an_error(run: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (5, 10):
        rewrite(place_of(run), f"checkpoints/step-{step:08d}/buffers.safetensors", lambda content: content[1:])
    monkeypatch.setenv("MELTMATCH_CACHE", str(tmp_path / "driver"))
    with pytest.raises(UserError, match=r"step-00000010/buffers.safetensors: truncated or changed"):
        prepare(run)  # before anything is launched
    with pytest.raises(WorkerError, match=r"UserError: .*step-00000010/buffers.safetensors: truncated or changed"):
        on_workers(2, resumed, run, tmp_path / "nodes", 1, 5)


def test_place_is_the_truth(run: Recipe, tmp_path: Path) -> None:
    """What it lacks leaves a node; what it has in another version is brought again."""
    on_workers(1, resumed, run, tmp_path / "nodes", 1, 10, 10)
    node = next((tmp_path / "nodes").rglob("step-00000010"))
    shutil.copytree(node, node.with_name("step-00000099"))
    (node / "shard-00000.safetensors").write_bytes(b"")
    (node / "manifest.json").write_text("{}")
    on_workers(1, resumed, run, tmp_path / "nodes", 1, 10, 10)
    assert [folder.name for folder in node.parent.iterdir()] == ["step-00000010"]
    mirror = place_of(run)
    mirror.drop("checkpoints/step-00000010")
    on_workers(1, resumed, run, tmp_path / "nodes", 1, 5, 5)
    assert [folder.name for folder in node.parent.iterdir()] == ["step-00000005"]


def test_another_recipe_is_refused_before_a_download(run: Recipe, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MELTMATCH_CACHE", str(tmp_path / "driver"))
    other = run.model_copy(update={"seed": 1})
    with pytest.raises(UserError) as caught:
        prepare(other)
    assert str(caught.value).startswith(f"{run.place}: made by another recipe: seed was 101, now 1; ")
    prepare(run)
    assert not list((tmp_path / "driver").rglob("shard-*"))


# Saving.


def pruned(recipe: Recipe, nodes: Path) -> None:
    on_node(nodes / f"{dist.get_rank()}")
    trainer = new_trainer(recipe)
    for step in (1, 2, 3, 4):
        run_to(trainer, step)
        trainer.state.best_step = min(step, 2)
        if step == 4:  # a new node, which has none of the older ones
            shutil.rmtree(recipe.folder)
        assert trainer.save() is not None
        dist.barrier()


def test_prune_keeps_the_best_and_the_newest(data: Path, tmp_path: Path, storage: str) -> None:
    recipe = small_recipe(data, storage, {**SETTINGS, "checkpoint.keep": 1})
    on_workers(2, pruned, recipe, tmp_path / "nodes")
    names = {name.split("/")[1] for name in names_in(place_of(recipe)) if name.startswith("checkpoints/")}
    assert names == {"step-00000002", "step-00000004"}
    assert [folder.name for folder in (tmp_path / "nodes").rglob("step-*")] == ["step-00000004"]


def save_in_vain(recipe: Recipe, nodes: Path, s3_folder: Path) -> list[float]:
    on_node(nodes / f"{dist.get_rank()}")
    trainer = new_trainer(recipe)
    losses = run_to(trainer, 1).losses
    assert trainer.save() is not None
    losses += run_to(trainer, 2).losses
    dist.barrier()
    if trainer.rank == 0:
        cut_after(s3_folder, 200_000)
    dist.barrier()
    assert trainer.save() is None
    assert [folder.name for folder in checkpoint.candidates(recipe.folder)] == ["step-00000001"][trainer.rank :]
    dist.barrier()
    if trainer.rank == 0:
        mend(s3_folder)
    dist.barrier()
    losses += run_to(trainer, 3).losses
    assert trainer.save() is not None
    return losses


@pytest.mark.slow
def test_broken_network_costs_a_checkpoint_and_no_run(data: Path, tmp_path: Path, s3: S3, undisturbed: Course) -> None:
    """It breaks in the middle of an upload; a checkpoint has about a megabyte."""
    recipe = small_recipe(data, s3.bucket("broken"), SETTINGS)
    for losses in on_workers(2, save_in_vain, recipe, tmp_path / "nodes", s3.folder):
        assert losses == pytest.approx(undisturbed.losses[:3], rel=1e-6)
    there = checkpoint.steps_there(place_of(recipe).files("checkpoints"))
    assert there == {3: True, 1: True}
    for losses in on_workers(2, resumed, recipe, tmp_path / "others", 1, 3):
        assert losses == pytest.approx(undisturbed.losses[3:], rel=1e-5)


@pytest.mark.slow
def test_workers_wait_for_a_place_that_does_not_answer(data: Path, tmp_path: Path, s3: S3) -> None:
    recipe = small_recipe(data, s3.bucket("away"), SETTINGS)
    on_workers(1, begun, recipe, tmp_path / "gone", SAVED_AT)
    cut_after(s3.folder, 0)
    before = s3.refused
    with pytest.raises(StorageError, match="NETWORK_CONNECTION"):
        place_of(recipe).files("checkpoints")
    tries = s3.refused - before  # of S3's own client, until it gives up

    def mend_when_it_has_given_up() -> None:
        while s3.refused < before + 2 * tries + 1:
            time.sleep(0.01)
        mend(s3.folder)

    threading.Thread(target=mend_when_it_has_given_up, daemon=True).start()
    on_workers(1, resumed, recipe, tmp_path / "nodes", 1, SAVED_AT, SAVED_AT)


def asked_to_stop(recipe: Recipe, nodes: Path) -> list[str]:
    on_node(nodes / f"{dist.get_rank()}")
    mirror = place_of(recipe)
    FarBoard.beat_s = 0.5
    signals = Signals(recipe.folder, mirror, torch.device("cpu"))
    heard = [signals.asked().name]
    dist.barrier()
    if dist.get_rank() == 1:  # on another node than the one that looks
        ask(recipe.folder, mirror, STOP)
        time.sleep(7)  # it is looked for every 5 s
    dist.barrier()
    heard.append(signals.asked().name)
    dist.barrier()
    signals.close()
    return heard


def test_stop_file_in_the_place(data: Path, tmp_path: Path, storage: str) -> None:
    recipe = small_recipe(data, storage, SETTINGS)
    assert on_workers(2, asked_to_stop, recipe, tmp_path / "nodes") == [["NOTHING", "STOP"]] * 2


def test_two_machines_do_not_train_one_run(
    data: Path, tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FarBoard, "beat_s", 0.2)
    monkeypatch.setattr(alone, "PATIENCE_S", 2)
    recipe = small_recipe(data, storage, SETTINGS)
    monkeypatch.setenv("MELTMATCH_CACHE", str(tmp_path / "first"))
    with trained_elsewhere(SignOfLife(board_of(recipe.folder, place_of(recipe)))):
        monkeypatch.setenv("MELTMATCH_CACHE", str(tmp_path / "second"))
        with pytest.raises(UserError, match=f"{recipe.name}.*: is being trained already"):
            check_alone(board_of(recipe.folder, place_of(recipe)), str(recipe.place))
    check_alone(board_of(recipe.folder, place_of(recipe)), str(recipe.place))  # the other is dead


# The commands.


def write_recipe(folder: Path, recipe: Recipe) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return path


@pytest.mark.rehearsal
@pytest.mark.usefixtures("cluster")
def test_a_run_on_s3_from_its_recipe_to_its_scores(
    data: Path, tmp_path: Path, s3: S3, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"scaling.workers": 2, "engine.zero_stage": 2, "checkpoint.keep": 1, "tracking.wandb": "offline"}
    recipe = small_recipe(data, s3.bucket("whole"), settings)
    path, uri, mirror = write_recipe(tmp_path, recipe), str(recipe.place), place_of(recipe)
    train([str(path)])
    assert f"run folder: {uri}\n" in capfd.readouterr().out
    names = names_in(mirror)
    assert {"recipe.yaml", "preprocessing.safetensors", "metrics.jsonl", "wandb_id.txt"} < names
    assert any(name.startswith("wandb/offline-run-") for name in names)
    first = read_metrics(recipe.folder / "metrics.jsonl")

    shutil.rmtree(mirror_of(str(recipe.storage)))  # as on other machines
    train([str(path), "training.epochs=4", "scaling.workers=1"])
    assert "resumed from step 6 (epoch 3) on 1 workers" in capfd.readouterr().out
    records = read_metrics(recipe.folder / "metrics.jsonl")
    assert records[: len(first)] == first
    assert [record["step"] for record in records] == list(range(1, 13))
    assert mirror.read("metrics.jsonl") == (recipe.folder / "metrics.jsonl").read_bytes()

    def put_stop() -> None:
        while max(checkpoint.steps_there(mirror.files("checkpoints"))) < 15:
            pass
        (tmp_path / "stop").touch()
        Mirror(tmp_path, uri).push(tmp_path / "stop")

    stopper = threading.Thread(target=put_stop, daemon=True)
    stopper.start()
    with pytest.raises(SystemExit, match="143"):  # as after SIGTERM: what comes after a run is not to be begun
        train([str(path), "training.epochs=100000", "training.evaluate_every=100000", "scaling.workers=1"])
    stopper.join()
    assert mirror.read("stop") is not None
    stopped_at = max(checkpoint.steps_there(mirror.files("checkpoints")))
    assert f"stopped run at step {stopped_at}, with a checkpoint" in capfd.readouterr().out

    monkeypatch.setenv("MELTMATCH_CACHE", str(tmp_path / "reader"))
    evaluate([uri, "--checkpoint", "last"])
    assert "| NeuMATCH, greedy |" in capfd.readouterr().out
    export([uri, "--checkpoint", "last"])
    rows = json.loads(mirror.read("evaluation-test.json") or b"")
    assert rows["about"]["step"] == stopped_at
    exported = tmp_path / "export"
    exported.mkdir()
    for name in ("model.safetensors", "config.json"):
        (exported / name).write_bytes(mirror.read(f"export/{name}") or b"")
    assert read_export(exported).about["step"] == stopped_at
    assert not list((tmp_path / "reader" / "runs").glob("*"))  # readers leave the run's own mirror alone
    prepare(recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": 100000})}))
    assert mirror.read("stop") is None


def learned(recipe: Recipe) -> None:
    """A run of three steps with the figures of each."""
    trainer = new_trainer(recipe)
    recipe.folder.mkdir(parents=True, exist_ok=True)
    with (recipe.folder / "metrics.jsonl").open("w") as log:
        while trainer.state.step < 3:
            trainer.train_step()
            log.write(json.dumps({"step": trainer.state.step, "time": 0, "epoch": 1, **trainer.figures}) + "\n")
    trainer.save()
    prepare(recipe)


def test_inspect_and_evaluate_read_a_learned_run(storage: str, tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    recipe = digits_recipe(storage)
    on_workers(1, learned, recipe)
    shutil.rmtree(recipe.folder)
    monkeypatch.setenv("MELTMATCH_CACHE", str(tmp_path / "reader"))
    inspect([str(recipe.place)])
    evaluate([str(recipe.place)])
    names = names_in(place_of(recipe))
    assert {"inspect/index.html", "evaluation-test.json"} < names
    assert not recipe.folder.exists()


# A user's mistakes.


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("foo://x/y", "storage: foo://x/y/run: cannot be written: Protocol not known: foo"),
        ("sftp://host/x", "storage: sftp://host/x/run: cannot be written: "),
        ("s3://", "'storage': a URI needs a bucket or a folder after scheme://; found 's3://'"),
        ("s3:/bucket/runs", "'storage': a URI begins with scheme://, and a folder with no scheme"),
        ("file://runs", "storage: file://runs/run: cannot be written: Unsupported hostname"),
        ("file:///proc/nothing", "storage: file:///proc/nothing/run: cannot be written: "),
        ("s3://bucket/x?colour=red", "cannot be written: Unexpected query parameter in S3 URI: 'colour'"),
        ("s3://bucket/x?endpoint_override=127.0.0.1%3A9&scheme=http", "cannot be written: When initiating"),
        ("[1]", "'storage' should be text; found [1]"),
    ],
)
def test_storage(data: Path, tmp_path: Path, storage: str, message: str) -> None:
    line = refusal(train, write_recipe(tmp_path, small_recipe(data, tmp_path)), f"storage={storage}")
    assert message in line


def test_no_such_bucket(data: Path, tmp_path: Path, s3: S3) -> None:
    line = refusal(train, write_recipe(tmp_path, small_recipe(data, tmp_path)), f"storage={s3.uri('missing')}")
    assert line.startswith("storage: s3://missing/runs/run?endpoint_override=")
    assert "NO_SUCH_BUCKET" in line
    assert "credentials in the provider's environment variables or files" in line


@pytest.mark.parametrize(
    "storage",
    ["s3://AKIA:topsecret@bucket/runs", "s3://topsecret@bucket", "abfs://c:topsecret@host/x", "s3://b/x?sig=topsecret"],
)
def test_secrets_are_refused_and_not_repeated(data: Path, tmp_path: Path, storage: str) -> None:
    recipe = write_recipe(tmp_path, small_recipe(data, tmp_path))
    for line in (
        refusal(train, recipe, f"storage={storage}"),
        refusal(train, recipe, f"storage={storage}", "storage.x=1"),
        refusal(train, recipe, f"init_from={storage}"),
        refusal(evaluate, storage),
    ):
        assert "topsecret" not in line
    assert "a key or a password in it would be written into recipes and logs" in refusal(export, storage)


def test_names_before_an_at_that_are_no_secrets() -> None:
    for uri in ("abfs://container@account.dfs.core.windows.net/runs", "hdfs://user@host:8020/runs", "gs://anonymous@b"):
        assert place(uri) == uri
        assert "user" not in without_secrets(uri)


def test_only_the_storage_may_be_a_uri(data: Path, tmp_path: Path) -> None:
    line = refusal(train, write_recipe(tmp_path, small_recipe(data, tmp_path)), "init_from=s3://bucket/export")
    assert "'init_from': expected a folder or a file; of all keys only a run's storage may be a URI" in line


def test_no_run_there(s3: S3) -> None:
    uri = s3.bucket("empty").replace("/runs?", "/runs/none?")
    for command in (evaluate, export, inspect):
        assert refusal(command, uri) == f"{uri}: neither a run (recipe.yaml) nor an export (config.json) is there"
    assert refusal(inspect, "s3://bucket").startswith("s3://bucket: expected a run below a bucket or a folder")


def test_a_file_system_of_fsspec(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, "memory://runs/run")
    mirror.check()
    (tmp_path / "a").mkdir()
    for name in ("a/one", "two"):
        (tmp_path / name).write_text(name)
    mirror.push_tree("")
    mirror.push(tmp_path / "two")  # takes its own place
    assert mirror.files("") == {"a/one": 5, "two": 3}
    assert mirror.files("a") == {"one": 5}
    (tmp_path / "two").unlink()
    (tmp_path / "three").touch()
    mirror.pull("two", "three")
    assert (tmp_path / "two").read_text() == "two"
    assert not (tmp_path / "three").exists()
    mirror.drop("a")
    mirror.drop("a")
    mirror.delete("none")
    assert mirror.files("") == {"two": 3}
    assert fetch.newest(tmp_path, mirror) is None
