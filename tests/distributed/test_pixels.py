"""Video-language models with a learned loss: one trajectory however the batch is cut up, and from the command."""

import json
import re
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distributed import checkpoint
from distributed.config import Recipe
from distributed.evaluate import evaluate
from distributed.export import export
from distributed.loop import Trainer
from distributed.recipe_file import dump_recipe
from distributed.recipe_yaml import dump_yaml
from distributed.tasks import load_task
from distributed.train import prepare, train
from models.backbones.hf.config import DualEncoderConfig
from models.errors import UserError
from tests.support.small_pixels import pixel_recipe, pixel_values, small_pixels
from tests.support.trainers import new_trainer, train_and_save
from tests.support.workers import on_workers, refusal

STEPS = 6
ROOT = Path(__file__).parents[2]
OWN = "tests.models.backbones.test_own:OwnConfig"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_pixels(tmp_path_factory.mktemp("pixels"))


def learn(recipes: Sequence[Recipe]) -> list[list[dict[str, float]]]:
    """The losses of the first steps of each run."""
    courses = []
    for recipe in recipes:
        trainer: Trainer = new_trainer(recipe)
        course = []
        for _ in range(STEPS):
            trainer.train_step()
            course.append({name: value for name, value in trainer.figures.items() if name.startswith("loss/")})
        trainer.sampler.close()
        courses.append(course)
    return courses


SETTINGS = (
    ("retrieval", "violet"),
    ("question_answering", "violet"),
    ("retrieval", "allinone"),
    ("recognition", "allinone"),
)


def recipes_in(data: Path, storage: Path, stages: Sequence[int]) -> list[Recipe]:
    made = []
    for number, (task, model) in enumerate(SETTINGS):
        changes = {"training.epochs": 4, "name": f"pixels{number}", "engine.zero_stage": stages[number % len(stages)]}
        made.append(pixel_recipe(data, storage, task, model, changes))
    for recipe in made:
        prepare(recipe)
    return made


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, float]]]:
    return on_workers(1, learn, recipes_in(data, tmp_path_factory.mktemp("alone"), [0]))[0]


def test_the_losses_fall(alone: list[list[dict[str, float]]]) -> None:
    for (task, model), course in zip(SETTINGS, alone, strict=True):
        assert len(course[0]) >= 2, (task, model)
        assert sum(course[-1].values()) < sum(course[0].values()), (task, model)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "stages"), [(2, (3, 2, 2, 3)), (3, (0, 1, 3, 2))])
def test_the_trajectory_is_that_of_one_process(
    data: Path, alone: list[list[dict[str, float]]], tmp_path: Path, workers: int, stages: tuple[int, ...]
) -> None:
    for by_setting in on_workers(workers, learn, recipes_in(data, tmp_path, stages)):
        for setting, found, expected in zip(SETTINGS, by_setting, alone, strict=True):
            for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
                assert ours == pytest.approx(theirs, rel=1e-5), (setting, step)


def spoilt(recipe: Recipe) -> str:
    """Trains on with damaged frames on one worker alone -> what that worker is told."""
    trainer = new_trainer(recipe)
    if trainer.rank == 1:
        trainer.task.read.source = Broken()  # type: ignore[attr-defined]
    try:
        trainer.train_step()
    except UserError as error:
        return str(error)
    return ""


class Broken:
    def frames(self, video: str, places: Sequence[float]) -> None:
        raise UserError(f"frames.tar: {video} cannot be read")


def test_what_one_worker_cannot_read_ends_all(data: Path, tmp_path: Path) -> None:
    recipe = pixel_recipe(data, tmp_path, "recognition", "allinone", {"inputs.visual_tokens": {"name": "none"}})
    told = on_workers(2, spoilt, recipe)
    assert told[0] == told[1]
    assert re.fullmatch(r"frames\.tar: video\d+ cannot be read", told[0])


def test_how_many_are_scored_at_once_decides_no_number(data: Path, tmp_path: Path) -> None:
    one, other = (pixel_recipe(data, tmp_path, "recognition", "allinone", {"inputs.scored_at_once": n}) for n in (2, 3))
    assert one.trajectory() == other.trajectory()


def folder_of(recipe: Recipe, folder: Path) -> Path:
    path = folder / f"{recipe.name}.yaml"
    path.write_text(dump_recipe(recipe))
    return path


@pytest.mark.slow
def test_from_recipe_to_scores_and_export(
    data: Path, tmp_path: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = pixel_recipe(data, tmp_path, "question_answering", "violet", {"scaling.readers_per_worker": 1})
    train([str(folder_of(recipe, tmp_path))])
    run = tmp_path / "pixels"
    evaluate([str(run)])
    printed = capsys.readouterr().out
    assert "most frequent answer" in printed
    scores = json.loads((run / "evaluation-test.json").read_text())["rows"]
    assert scores["pixels"].keys() >= {"accuracy", "top-5", "accuracy (what)", "accuracy (who)"}
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/oe", "loss/vtm", "loss/mtm", "loss/mvm", "coefficient/oe"} <= logged[0].keys()
    # A copy is scored where it is, and has the only file that is written.
    before = (run / "evaluation-test.json").stat().st_mtime_ns
    shutil.copytree(run, tmp_path / "copies" / "moved", ignore=shutil.ignore_patterns("evaluation-*"))
    evaluate([str(tmp_path / "copies" / "moved"), "--checkpoint", "last", "inputs.scored_at_once=3"])
    about = json.loads((tmp_path / "copies" / "moved" / "evaluation-test.json").read_text())["about"]
    assert about["overrides"] == ["inputs.scored_at_once=3"]
    assert (run / "evaluation-test.json").stat().st_mtime_ns == before
    told = refusal(evaluate, run, "--page", tmp_path / "page.html")
    assert told == "--page is of alignment; this run's task is question_answering: leave it out"
    # Without readers beside it, the same figures; and an export starts another task.
    again = recipe.model_copy(
        update={"name": "again", "scaling": recipe.scaling.model_copy(update={"readers_per_worker": 0})}
    )
    train([str(folder_of(again, tmp_path))])
    others = [json.loads(line) for line in (tmp_path / "again" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss/oe"] for line in others] == [line["loss/oe"] for line in logged]
    export([str(run)])
    told = refusal(evaluate, run / "export", "--recipe", tmp_path / "pixels.yaml")
    assert told.endswith("exports of question_answering are not scored; score the run that it was made from")
    about = json.loads((run / "export" / "config.json").read_text())
    assert about["setting"]["kind"] == "open_ended"
    changes = {"name": "next", "model.checkpoint": str(run / "export")}
    started = pixel_recipe(data, tmp_path, "retrieval", "violet", changes)
    prepare(started)
    torch.manual_seed(1)
    weights = load_task(started).network().state_dict()
    exported = load_file(run / "export" / "model.safetensors")
    assert torch.equal(weights["enc_img.emb_cls"], exported["enc_img.emb_cls"])


_TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL_CLIP = {
    "model.image_size": 16,
    "model.frames": 2,
    "model.architecture": {
        "model_type": "clip",
        "projection_dim": 12,
        "text_config": _TOWER | {"max_position_embeddings": 12},
        "vision_config": _TOWER | {"patch_size": 8},
    },
}


def test_an_export_of_a_model_of_transformers(data: Path, tmp_path: Path) -> None:
    """With low-rank matrices, which are trained from the second step on."""
    changes = SMALL_CLIP | {"model.lora": {"rank": 2}, "optimiser.eta": 0.1}
    recipe = pixel_recipe(data, tmp_path, "question_answering", "hf", changes)
    prepare(recipe)
    on_workers(1, train_and_save, recipe, [3], 3)
    run, folder = recipe.folder, recipe.folder / "export"
    export([str(run), "--checkpoint", "last"])
    about = json.loads((folder / "config.json").read_text())
    assert about["model"]["lora"] is None
    assert about["inputs"] == json.loads(recipe.model_dump_json())["inputs"]
    # The network that was trained, and the one that the export alone describes, say the same.
    task = load_task(recipe)
    trained = task.network()
    trained.load_state_dict(checkpoint.whole_weights(checkpoint.newest(run)))  # type: ignore[arg-type]
    model = DualEncoderConfig.model_validate_json(json.dumps(about["model"] | {"checkpoint": str(folder)}))
    setting = task.setting  # type: ignore[attr-defined]
    batch = task.batch([0, 5, 9], torch.device("cpu"), 1)
    with torch.no_grad():
        expected, found = trained.eval().answer(batch), model.network(setting).eval().answer(batch)
    torch.testing.assert_close(found, expected)
    # A run of another task starts from it.
    changes = SMALL_CLIP | {"name": "next", "model.checkpoint": str(folder)}
    started = pixel_recipe(data, tmp_path, "retrieval", "hf", changes)
    prepare(started)
    exported = load_file(folder / "model.safetensors")
    weights = load_task(started).network().state_dict()
    assert weights.keys() == {name for name in exported if not name.startswith("head.")}
    for name, tensor in weights.items():
        assert torch.equal(tensor, exported[name]), name


@pytest.mark.parametrize(
    ("task", "model", "changes", "told"),
    [
        ("retrieval", "viollet", {}, "no such backbone; there are violet"),
        ("recognition", "univl", {}, "no such backbone; there are violet"),
        ("retrieval", "nowhere.at_all:Config", {}, "cannot be imported"),
        ("retrieval", "violet", {"model": {"frames": 2}}, "model.name: expected a backbone: violet, "),
        ("recognition", "violet", {"model": {"name": {"towers": None}}}, "model.name: expected a backbone: violet, "),
        (
            "retrieval",
            "models.backbones.resnet:ResNetConfig",
            {},
            "no ResNetConfig that is a whole Video",
        ),
        ("retrieval", "violet", {"model.depth": 3}, "unknown key 'model.depth'"),
        ("recognition", "violet", {"data.ask": "retrieval"}, "asks for task='retrieval'"),
        ("retrieval", "violet", {"data.frames": "nothing_*.tar"}, "nothing fits this pattern"),
        ("retrieval", "violet", {"optimiser.rates": {"decoder": 0.1}}, "video, text, cross, heads"),
        ("retrieval", "violet", {"inputs.words.most": 99}, "text_positions=16"),
        ("retrieval", "violet", {"combiner": {"name": "weighted", "weights": {"nope": 1}}}, "no such loss"),
        ("retrieval", "violet", {"storage": "/dev/null"}, "/dev/null is no folder that can; name another place by "),
        ("recognition", OWN, {}, "Own has no answer(), by which recognition is scored"),
    ],
)
def test_mistakes_are_one_line(
    data: Path, tmp_path: Path, task: str, model: str, changes: dict[str, object], told: str
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(dump_yaml(pixel_values(data, tmp_path, task, model, changes)))
    assert told in refusal(train, path)
    assert not list(tmp_path.glob("*/preprocessing.safetensors"))  # before a codebook is fitted


def test_a_video_without_frames_is_refused_or_left_out(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "frames_test.tar").unlink()
    with (
        tarfile.open(tmp_path / "data" / "frames_test.tar", "w") as archive,
        tarfile.open(data / "frames_test.tar") as whole,
    ):
        for member in [member for member in whole.getmembers() if not member.name.startswith("video20/")]:
            archive.addfile(member, whole.extractfile(member))
    recipe = pixel_recipe(tmp_path / "data", tmp_path, "retrieval", "allinone")
    assert "video20" in refusal(train, folder_of(recipe, tmp_path))
    again = pixel_recipe(tmp_path / "data", tmp_path, "retrieval", "allinone", {"data.allow_missing_videos": True})
    again.folder.mkdir(exist_ok=True)
    assert len(load_task(again).asked.splits["test"].videos) == 5  # type: ignore[attr-defined]
