"""Pixels and texts as the losses want them, scores over any workers, and what is refused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from distributed.tasks import load_task
from models.backbones.video_language import VideoLanguageBatch
from models.data.asked import Asked, AskedSplit, Item
from models.data.chance import seed_of
from models.data.film import Image
from models.data.pixel_sets import load_asked
from models.data.pixels.reader import PixelReader
from models.data.pixels.sources import FrameSource, open_frames
from models.data.tokens import Tokenizer
from models.errors import UserError
from models.tasks.task import ReadingTask
from models.tasks.video_language import PixelInputConfig, VideoLanguageTask
from tests.support.small_pixels import COLOURS, pixel_recipe, small_pixels
from tests.support.small_videos import TESTED

CPU = torch.device("cpu")
TRAINED = 16  # of 20 videos, with a fifth held out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_pixels(tmp_path_factory.mktemp("pixels"))


def made(
    data: Path,
    storage: Path,
    task: str = "retrieval",
    model: str = "allinone",
    changes: Mapping[str, Any] | None = None,
) -> VideoLanguageTask:
    recipe = pixel_recipe(data, storage, task, model, changes)
    recipe.folder.mkdir(parents=True, exist_ok=True)
    found = load_task(recipe)
    assert isinstance(found, VideoLanguageTask)
    return found


def test_a_sample_is_an_item_or_a_video(data: Path, tmp_path: Path) -> None:
    assert len(made(data, tmp_path)) == TRAINED * 3
    task = made(data, tmp_path, changes={"inputs.sample": "video"})
    assert len(task) == TRAINED
    own = {tuple(task.read.ids[item, 0].tolist()) for item in task.read.items_of[5]}
    drawn = {tuple(task.batch([5], CPU, draw).ids[0, 0].tolist()) for draw in range(12)}
    assert len(own) == 3
    assert drawn == own


def test_inputs(data: Path, tmp_path: Path) -> None:
    task = made(data, tmp_path, model="violet")
    batch = task.batch([0, 7, 30], CPU, 4)
    assert batch.frames.shape == (3, 2, 3, 64, 64)
    assert batch.hidden.shape == batch.cell_tokens.shape == (3, 2, 2, 2)
    assert batch.frames.dtype == torch.float32
    for row, item in enumerate((0, 7, 30)):
        video = task.asked.splits["train"].videos[task.asked.splits["train"].items[item].video]
        brightest = batch.frames[row].flatten(2).amax(2).mean(0) * 255  # the colour of its subject, undimmed
        assert (brightest - torch.tensor(COLOURS[int(video[5:]) % 4])).abs().max() < 40
        text = task.asked.splits["train"].items[item].texts[0]
        assert text.split()[-1] in text_of(task, batch.ids[row, 0])
    labelled = batch.token_labels != -1
    assert labelled.any(2).all()  # every text has a masked word
    assert torch.equal(batch.token_labels[labelled], batch.ids[labelled])
    assert torch.equal(batch.masked_ids[~labelled], batch.ids[~labelled])
    assert batch.hidden.flatten(1).any(1).all()
    assert torch.equal(batch.cell_labels != -1, batch.hidden)
    assert int(batch.cell_tokens.min()) >= 0
    assert int(batch.cell_tokens.max()) < 16
    seen = batch.masked_frames[
        batch.hidden[:, :, None].repeat_interleave(32, -1).repeat_interleave(32, -2).expand(-1, -1, 3, -1, -1)
    ]
    assert not seen.any()


def text_of(task: VideoLanguageTask, ids: Tensor) -> str:
    return Tokenizer(task.inputs.words.tokenizer).text(ids.tolist()[1:])


@pytest.mark.parametrize("task", ["retrieval", "question_answering", "recognition"])
def test_what_is_random_about_a_sample_is_its_own(data: Path, tmp_path: Path, task: str) -> None:
    made_task = made(data, tmp_path, task)
    together, apart = made_task.read([3, 9, 1], 5), [made_task.read([number], 5) for number in (3, 9, 1)]
    for name, array in together.items():
        assert (array == [part[name][0] for part in apart]).all(), name
    assert (together["frames"] != made_task.read([3, 9, 1], 6)["frames"]).any()
    assert len(set(together["seeds"].tolist())) == 3
    nothing = made_task.batch([], CPU, 5)
    assert nothing.frames.shape[0] == nothing.ids.shape[0] == 0
    assert all(weight == 0 for weight in made_task.weights(nothing).values())


def test_reads_apart_from_the_network(data: Path, tmp_path: Path) -> None:
    task = made(data, tmp_path)
    assert isinstance(cast(object, task), ReadingTask)
    same_batch(task.loaded(task.read([4, 2], 8), CPU), task.batch([4, 2], CPU, 8))


def same_batch(found: VideoLanguageBatch, expected: VideoLanguageBatch) -> None:
    for name in VideoLanguageBatch.__dataclass_fields__:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_training_frames_vary_and_scored_ones_do_not(data: Path, tmp_path: Path) -> None:
    task = made(data, tmp_path, changes={"inputs.augmentation": {"vary": False}})
    assert (task.read([3], 5)["frames"] == task.read([3], 6)["frames"]).all()
    scored = made(data, tmp_path).scored["train"]
    assert (scored([3], 5)["frames"] == scored([3], 6)["frames"]).all()


def test_the_codebook_is_fitted_once(data: Path, tmp_path: Path) -> None:
    first = made(data, tmp_path, "recognition")
    assert not list((tmp_path / "pixels").iterdir())  # not before it is asked for
    first.fit()
    (file,) = (tmp_path / "pixels").iterdir()
    written = file.read_bytes()
    second = made(data, tmp_path, "recognition")
    second.fit()
    assert file.read_bytes() == written
    same_batch(first.batch([1], CPU, 2), second.batch([1], CPU, 2))
    without = made(data, tmp_path / "other", "recognition", changes={"inputs.visual_tokens": {"name": "none"}})
    assert without.names == ("recognition",)
    assert (without.batch([1], CPU, 2).cell_tokens == -1).all()


@pytest.mark.parametrize(("task", "model"), [("retrieval", "violet"), ("question_answering", "allinone")])
def test_scores_are_those_of_one_worker(data: Path, tmp_path: Path, task: str, model: str) -> None:
    made_task = made(data, tmp_path, task, model)
    torch.manual_seed(0)
    network = made_task.network()
    alone = made_task.score_sums(network, "test", 0, 1)
    shared = torch.stack([made_task.score_sums(network, "test", rank, 9) for rank in range(9)]).sum(0)
    assert torch.allclose(shared, alone, atol=1e-5)
    assert network.training
    items = made_task.asked.splits["test"].items
    assert len(alone) == (len(items) * TESTED if task == "retrieval" else len(items))  # all of it
    scores = made_task.scores(alone, "test")
    assert made_task.selected(scores) >= 0
    assert made_task.plain("test")


class Answers(torch.nn.Module):
    """Says the same whatever it is shown."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.said = torch.nn.Parameter(torch.tensor(scores))

    def answer(self, batch: VideoLanguageBatch) -> Tensor:
        assert not torch.is_grad_enabled()
        return self.said.expand(len(batch.frames), -1)


def test_unknown_answers_and_equal_scores_are_no_success(data: Path, tmp_path: Path) -> None:
    task = made(data, tmp_path, "question_answering", changes={"data.top": 2})
    answers = [item.answer for item in task.asked.splits["test"].items]
    assert set(answers) == {-1, 0, 1}
    for said, right in (([1.0, 0.0], answers.count(0)), ([0.0, 0.0], 0)):
        scores = task.scores(task.score_sums(Answers(said), "test", 0, 1), "test")  # type: ignore[arg-type]
        assert scores["accuracy"] == pytest.approx(100 * right / len(answers))
    most = task.plain("test")["most frequent answer"]["accuracy"]
    assert most == pytest.approx(100 * answers.count(0) / len(answers))


class Seeded(torch.nn.Module):
    """Scores that are every sample's own."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.classes, self.tokens = classes, 0

    def answer(self, batch: VideoLanguageBatch) -> Tensor:
        self.tokens += int((batch.cell_tokens >= 0).sum())
        sources = [torch.Generator().manual_seed(seed) for seed in batch.seeds.tolist()]
        return torch.stack([torch.rand(self.classes, generator=source) for source in sources])


class Counted:
    """A source of frames that knows how often each video was asked for."""

    def __init__(self, source: FrameSource) -> None:
        self.source, self.asked = source, Counter[str]()

    def names(self) -> Sequence[str]:
        return self.source.names()

    def __contains__(self, video: object) -> bool:
        return video in self.source

    def frames(self, video: str, places: Sequence[float]) -> list[Image]:
        self.asked[video] += 1
        return self.source.frames(video, places)


def test_every_video_is_read_once_to_be_scored(data: Path, tmp_path: Path) -> None:
    task = made(data, tmp_path, "question_answering", changes={"inputs.scored_at_once": 3})
    split = task.asked.splits["test"]
    mixed = AskedSplit(split.videos, split.items[::2] + split.items[1::2])  # two questions a video, far apart
    own = task.scored["test"]
    source = Counted(own.source)
    reader = PixelReader(mixed, source, own.shape, Tokenizer("minilm"), own.words, own.augmentation)
    task.scored["test"] = reader
    network = Seeded(len(task.setting.classes))
    places = []
    for number, item in enumerate(mixed.items):
        scores = torch.rand(network.classes, generator=torch.Generator().manual_seed(seed_of(0, number)))
        places.append(network.classes + 1 if item.answer < 0 else 1 + int((scores > scores[item.answer]).sum()))
    found = task.score_sums(network, "test", 0, 1)  # type: ignore[arg-type]
    assert found.tolist() == places
    assert source.asked == Counter(mixed.videos)
    parts = [task.score_sums(network, "test", rank, 3) for rank in range(3)]  # type: ignore[arg-type]
    assert torch.stack(parts).sum(0).tolist() == places
    assert sum(source.asked.values()) <= 2 * len(mixed.videos) + 2


def test_no_visual_tokens_are_made_to_be_scored(data: Path, tmp_path: Path) -> None:
    task = made(data, tmp_path, "recognition")
    assert task.visual_tokens is not None
    network = Seeded(len(task.setting.classes))
    network.answer(task.batch([0], CPU, 0))
    assert network.tokens
    network.tokens = 0
    task.score_sums(network, "test", 0, 1)  # type: ignore[arg-type]
    assert network.tokens == 0


def test_scores_that_are_not_a_number(data: Path, tmp_path: Path) -> None:
    task = made(data, tmp_path, "question_answering")
    network = Answers([0.0] * len(task.setting.classes))
    network.said.data[1] = float("nan")
    said = r"^test: the network's scores of video 'video\d+' are NaN \(\d+ of \d+ scored with it.*at a lower rate$"
    with pytest.raises(UserError, match=said):
        task.score_sums(network, "test", 0, 1)  # type: ignore[arg-type]
    task = made(data, tmp_path, "retrieval")
    trained = task.network()
    for parameter in trained.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(UserError, match=said):
        task.score_sums(trained, "test", 0, 1)


def test_unequal_options_and_an_empty_training_split_are_refused(data: Path, tmp_path: Path) -> None:
    recipe = pixel_recipe(data, tmp_path, "retrieval", "allinone")
    source = load_asked(cast(Any, recipe.data))[1]
    unequal = AskedSplit(["video0"], [Item(0, ("a", "b"), 0), Item(0, ("a",), 0)])
    nothing = AskedSplit([], [])
    for train, words in ((unequal, "1 and with 2 texts"), (nothing, "nothing to train on")):
        wrong = Asked("multiple_choice", {"train": train, "validation": nothing, "test": nothing})
        with pytest.raises(UserError, match=words):
            VideoLanguageTask(recipe.model, PixelInputConfig(), wrong, source, tmp_path / "none", 1)


def test_a_damaged_frame_is_named(data: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames" / "video0"
    frames.mkdir(parents=True)
    (frames / "00001.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(UserError, match="video0"):
        open_frames(tmp_path / "frames").frames("video0", [0.5])
