"""Generative models against the library's own forward passes, on the same weights, pixels and tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, Qwen2VLImageProcessorPil

from models.backbones.hf.answers import tree_of
from models.backbones.hf.passes import standardised
from models.backbones.hf.prompts import packed
from models.backbones.hf.seeing import QwenSeeing
from models.backbones.hf.source import CLIP
from models.backbones.video_language import VideoLanguageBatch
from tests.models.backbones.hf import tiny

PROMPT = ((2, 7), (9,), (4, 11, 6))
IMAGE, VIDEO = 27, 28


def expected_loss(reference: Any, family: str, frames: Tensor, question: list[int], answer: list[int]) -> float:
    """The library's mean loss of the tokens of one answer, by its own tokens, pixels and labels."""
    config, pixels = reference.config, standardised(frames, CLIP, torch.float32)
    config.image_token_id, config.video_token_id = IMAGE, VIDEO
    if family.startswith("llava"):
        visual = tiny.FRAMES * (tiny.SIDE // 8) ** 2
        seen: dict[str, Any] = {"pixel_values": pixels}
    else:
        pairs, side = (tiny.FRAMES + 1) // 2, tiny.SIDE // 4
        visual = pairs * (side // 2) ** 2
        seen = {"pixel_values_videos": patches(pixels), "video_grid_thw": torch.tensor([[pairs, side, side]])}
    token = IMAGE if family.startswith("llava") else VIDEO
    read = [*PROMPT[0], *[token] * visual, *PROMPT[1], *question, *PROMPT[2]]
    ids = torch.tensor([[*read, *answer]])
    if not family.startswith("llava"):
        seen["mm_token_type_ids"] = (ids == VIDEO).int() * 2
    labels = torch.tensor([[*[-100] * len(read), *answer]])
    with torch.no_grad():
        return float(reference(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, **seen).loss)


def patches(pixels: Tensor) -> Tensor:
    """(T, 3, h, w) -> the patches of each square of 2 x 2, one after the other, each of a pair of frames."""
    rows, found = tiny.SIDE // 4, []
    for pair in pixels.split(2):
        for top, left in ((2 * i, 2 * j) for i in range(rows // 2) for j in range(rows // 2)):
            for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                patch = pair[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                found.append(patch.transpose(0, 1).flatten())
    return torch.stack(found)


def text(ids: Tensor) -> list[int]:
    """The model's own tokens between the first and the last."""
    return [id - 1 for id in ids.tolist() if id][1:-1]


@pytest.mark.parametrize("family", tiny.GENERATIVE)
def test_losses_are_the_librarys(family: str, tmp_path: Path) -> None:
    reference = tiny.saved(family, AutoModelForImageTextToText, tmp_path)
    config = tiny.config(family, source=str(tmp_path), architecture={}, prompt_ids=PROMPT)
    network = config.network(tiny.setting("open_ended", shift=1, padding=1)).eval()
    batch, end = tiny.batch("open_ended"), tiny.LAST - 1
    with torch.no_grad():
        losses = {name: loss.item() for name, loss in network(batch, config.losses("open_ended", 0)).items()}
        scores = network.answer(batch)
    answering = captioning = 0.0
    for i in range(5):
        question = text(batch.ids[i, 0])
        captioning += expected_loss(reference, family, batch.frames[i], [], [*question, end])
        answers = [[*(id - 1 for id in ids), end] for ids in tiny.CLASS_IDS]
        each = [expected_loss(reference, family, batch.frames[i], question, answer) for answer in answers]
        if batch.answers[i] >= 0:
            answering += each[batch.answers[i]]
        sums = torch.tensor([-loss * len(answer) for loss, answer in zip(each, answers, strict=True)])
        torch.testing.assert_close(scores[i], sums, rtol=1e-4, atol=1e-4)
    assert losses["captioning"] == pytest.approx(captioning, rel=1e-4)
    assert losses["answering"] == pytest.approx(answering, rel=1e-4)


@pytest.mark.parametrize("family", tiny.GENERATIVE)
def test_options_are_ranked_by_how_likely_they_are(family: str, tmp_path: Path) -> None:
    reference = tiny.saved(family, AutoModelForImageTextToText, tmp_path)
    config = tiny.config(family, source=str(tmp_path), architecture={}, prompt_ids=PROMPT)
    network = config.network(tiny.setting("multiple_choice", shift=1, padding=1)).eval()
    batch = tiny.batch("multiple_choice")
    with torch.no_grad():
        scores = network.answer(batch)
        found = network(batch, ("answering",))["answering"].item()
    for i in range(5):
        for option in range(tiny.OPTIONS):
            said = [*text(batch.ids[i, option]), tiny.LAST - 1]
            expected = -expected_loss(reference, family, batch.frames[i], [], said)
            assert scores[i, option].item() == pytest.approx(expected, rel=1e-4)
    rows = torch.arange(4)  # the last has no answer
    assert found == pytest.approx(-scores.log_softmax(1)[rows, batch.answers[:4]].sum().item(), rel=1e-5)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_positions_of_qwen_are_the_librarys(family: str, frames: int) -> None:
    made = tiny.network(family, "retrieval", frames=frames, prompt_ids=PROMPT)
    reference: Any = tiny.reference(family).model
    pairs, side = -(-frames // 2), tiny.SIDE // 4
    visual = pairs * (side // 2) ** 2
    kinds = torch.tensor([[*[0] * 2, *[2] * visual, *[0] * 5]])
    expected, _ = reference.get_rope_index(
        torch.ones_like(kinds), kinds.int(), video_grid_thw=torch.tensor([[pairs, side, side]])
    )
    later = made._later(4).expand(3, -1)
    assert torch.equal(torch.cat([made.positions, later], 1), expected[:, 0])


def test_patches_of_qwen_are_the_processors() -> None:
    """Of a still image, which stands for a pair of frames."""
    image = torch.randint(0, 256, (3, tiny.SIDE, tiny.SIDE), generator=torch.Generator().manual_seed(0))
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, do_resize=False)
    expected = processor([image.permute(1, 2, 0).byte().numpy()], return_tensors="pt")
    seeing = QwenSeeing(tiny.reference("qwen2_5_vl").model)
    pixels = standardised(image / 255, CLIP, torch.float32)
    for frames in (1, 2):
        found = seeing.patches(pixels.expand(1, frames, -1, -1, -1))
        torch.testing.assert_close(found, expected["pixel_values"], rtol=1e-5, atol=1e-5)
    assert expected["image_grid_thw"].tolist() == [[1, *[seeing.grid(1, tiny.SIDE)[1]] * 2]]


def test_patches_of_other_frames() -> None:
    pixels = torch.rand(2, 4, 3, tiny.SIDE, tiny.SIDE)
    found = QwenSeeing(tiny.reference("qwen2_5_vl").model).patches(pixels)
    assert torch.equal(found, torch.cat([patches(video) for video in pixels]))


@pytest.mark.parametrize("family", tiny.GENERATIVE)
def test_videos_and_texts_are_seen_apart(family: str) -> None:
    """The similarity of a text with a video is the mean states', whatever else is asked of the video."""
    network, batch = tiny.network(family, "retrieval"), tiny.batch("retrieval")
    with torch.no_grad():
        texts = network.encode_texts(batch.ids[:, 0])
        videos = network.encode_videos(batch.frames, batch.seeds)
        scores = network.similarity(texts, videos)
        losses = [network(batch, names)["contrastive"] for names in (("contrastive",), ("captioning", "contrastive"))]
        alone = network.encode_texts(batch.ids[:1, 0])
    expected = -sum(side.log_softmax(1).diagonal().sum() / 2 for side in (scores, scores.T))
    for loss in losses:
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone[0], texts[0][:1], rtol=1e-5, atol=1e-6)


def test_a_tree_of_answers() -> None:
    tree = tree_of([(3,), (3, 4), (), (3, 4, 8), (5, 4)])
    assert tree.tokens.tolist() == [3, 4, 8, 5, 4]
    assert tree.parents.tolist() == [0, 1, 2, 0, 4]
    assert tree.depths.tolist() == [0, 1, 2, 0, 1]
    assert tree.ends.tolist() == [1, 2, 0, 3, 5]
    seen = tree.mask(2, torch.float64) == 0
    assert seen[:2].long().tolist() == [[1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]]
    assert seen[4].long().tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert seen[6].long().tolist() == [1, 1, 0, 0, 0, 1, 1]
    steps, stops = torch.tensor([1.0, 2, 4, 8, 16]), torch.tensor([0.5, 0.25, 0.0, 0.0, 0.0, 0.0])
    assert tree.scores(steps, stops).tolist() == [1.25, 3, 0.5, 7, 24]


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_answers_are_scored_in_any_chunks(rows: int) -> None:
    batch = tiny.batch("open_ended")
    with torch.no_grad():
        found, expected = (
            tiny.network("llava", "open_ended", rows_at_once=count).answer(batch) for count in (rows, 256)
        )
        torch.testing.assert_close(found, expected)
        assert bool((expected.exp().sum(1) < 1).all())  # they are parts of one distribution


def test_texts_without_gaps() -> None:
    first = torch.tensor([[1, 2, 0], [3, 0, 0]])
    second = torch.tensor([[4], [5]])
    third = torch.tensor([[0, 0], [6, 0]])
    ids, there, of = packed([(part, part != 0) for part in (first, second, third)])
    assert ids.tolist() == [[1, 2, 4], [3, 5, 6]]
    assert bool(there.all())
    assert of.tolist() == [[0, 0, 1], [0, 1, 2]]


def test_one_table_for_words_and_logits(tmp_path: Path) -> None:
    """Models that tie both have one weight, and the same losses."""
    sizes = tiny.ARCHITECTURES["llava"] | {"model_type": "llava", "tie_word_embeddings": True}
    config = tiny.config("llava", architecture=sizes)
    torch.manual_seed(0)
    network = config.network(tiny.setting("retrieval")).eval()
    assert network.head is None
    assert network.blocks()
    state = network.state_dict()
    assert "language.embed_tokens.weight" in state
    assert not any("head" in name for name in state)
    batch = tiny.batch("retrieval")
    states = torch.randn(2, 16)
    torch.testing.assert_close(
        network._logits(states),
        states @ state["language.embed_tokens.weight"].T,
    )
    assert bool(network(batch, ("captioning",))["captioning"].isfinite())


def test_questions_are_read(tmp_path: Path) -> None:
    """Another question, or another video, gives other scores."""
    network, batch = tiny.network("llava", "open_ended"), tiny.batch("open_ended")
    other = VideoLanguageBatch(**{**vars(batch), "ids": batch.ids.roll(1, 0)})
    with torch.no_grad():
        scores = network.answer(batch)
        assert not torch.allclose(network.answer(other), scores)
        moved = VideoLanguageBatch(**{**vars(batch), "frames": batch.frames.flip(1)})
        assert not torch.allclose(network.answer(moved), scores)
