"""Dual encoders against the library's own forward passes, on the same weights, pixels and tokens."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, CLIPImageProcessorPil, VideoMAEForPreTraining, VideoMAEForVideoClassification

from models.backbones.hf.passes import standardised
from models.backbones.hf.source import CLIP
from models.backbones.video_language import VideoLanguageBatch
from models.data.hub import quiet
from tests.models.backbones.hf import tiny


def own_ids(ids: Tensor, padding: int = 1) -> tuple[Tensor, Tensor]:
    """What a tokenizer of the model's own gives for the batch's texts, with its mask."""
    return (ids - 1).masked_fill(ids == 0, padding), (ids != 0).long()


@pytest.mark.parametrize("family", tiny.DUALS)
def test_logits_are_the_librarys(family: str, tmp_path: Path) -> None:
    reference = tiny.saved(family, AutoModel, tmp_path)
    config = tiny.config(family, source=str(tmp_path), architecture={})
    network = config.network(tiny.setting("retrieval", shift=1, padding=1)).eval()
    batch = tiny.batch("retrieval")
    pixels = standardised(batch.frames, config.published, torch.float32)
    ids, mask = own_ids(batch.ids[:, 0])
    with torch.no_grad():
        texts = network.encode_texts(batch.ids[:, 0])
        videos = network.encode_videos(batch.frames, batch.seeds)
        found = network.similarity(texts, videos)
        if family == "xclip":
            expected = reference(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits_per_video.T
        else:
            expected = of_frames(reference, family, ids, mask, pixels).mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def of_frames(reference: Any, family: str, ids: Tensor, mask: Tensor, pixels: Tensor) -> Tensor:
    """(k, T, n): the library's logits of every text with every frame, in which that of a video is linear but for the
    length of its mean vector; made here such that the mean over frames is the video's."""
    images = {"pixel_values": pixels.flatten(0, 1)}
    if family == "siglip2":
        images = patches(images["pixel_values"])
    if family.startswith("siglip"):
        texts = {"input_ids": F.pad(ids[:, 1:], (0, 9 - ids.shape[1] + 1), value=1)}
    else:
        texts = {"input_ids": ids, "attention_mask": mask}
    made = reference(**images, **texts)
    videos = made.image_embeds.unflatten(0, pixels.shape[:2])
    lengths = videos.mean(1).norm(dim=-1)
    logits = made.logits_per_text.unflatten(1, pixels.shape[:2]).transpose(1, 2)
    bias = reference.logit_bias if family.startswith("siglip") else 0
    found: Tensor = (logits - bias) / lengths + bias
    return found


def patches(pixels: Tensor, side: int = 8) -> dict[str, Tensor]:
    """As SigLIP 2's processor has them, one image and patch at a time."""
    rows = tiny.SIDE // side
    cut = [
        image[:, side * row : side * row + side, side * column : side * column + side].permute(1, 2, 0).flatten()
        for image in pixels
        for row in range(rows)
        for column in range(rows)
    ]
    values = torch.stack(cut).view(len(pixels), rows * rows, -1)
    shapes = torch.tensor([[rows, rows]]).expand(len(pixels), -1)
    return {
        "pixel_values": values,
        "pixel_attention_mask": torch.ones(values.shape[:2], dtype=torch.long),
        "spatial_shapes": shapes,
    }


@pytest.mark.parametrize("family", ["clip", "siglip", "xclip"])
def test_losses_are_the_librarys(family: str, tmp_path: Path) -> None:
    """One frame a video, so that no mean comes in between; X-CLIP sees all of its frames."""
    reference = tiny.saved(family, AutoModel, tmp_path)
    frames = tiny.FRAMES if family == "xclip" else 1
    config = tiny.config(family, source=str(tmp_path), architecture={}, frames=frames)
    network = config.network(tiny.setting("retrieval", shift=1, padding=1)).eval()
    batch = tiny.batch("retrieval")
    batch = VideoLanguageBatch(**{**vars(batch), "frames": batch.frames[:, :frames]})
    pixels = standardised(batch.frames, config.published, torch.float32)
    ids, mask = own_ids(batch.ids[:, 0])
    texts = {"input_ids": ids, "attention_mask": mask}
    if family == "siglip":
        texts = {"input_ids": F.pad(ids[:, 1:], (0, 9 - ids.shape[1] + 1), value=1)}
    with torch.no_grad():
        images = pixels if family == "xclip" else pixels[:, 0]
        expected = reference(**texts, pixel_values=images, return_loss=True).loss
        (name, of_frame) = config.losses("retrieval", 0)
        losses = network(batch, (name, of_frame))
    assert losses[name].item() / 5 == pytest.approx(expected.item(), rel=1e-4)
    if family != "xclip":  # a single frame is the video
        assert losses[of_frame].item() == pytest.approx(losses[name].item(), rel=1e-5)


def test_options_are_compared_with_their_own_video() -> None:
    network, batch = tiny.network("clip", "multiple_choice"), tiny.batch("multiple_choice")
    with torch.no_grad():
        scores, losses = network.answer(batch), network(batch, ("mc",))
        videos = network.encode_videos(batch.frames, batch.seeds)
        for option in range(tiny.OPTIONS):
            every = network.similarity(network.encode_texts(batch.ids[:, option]), videos)
            torch.testing.assert_close(scores[:, option], every.diagonal())
    expected = -sum(float(scores[i].log_softmax(0)[batch.answers[i]]) for i in range(4))  # the last has no answer
    assert losses["mc"].item() == pytest.approx(expected)


def test_class_names_are_texts() -> None:
    network, batch = tiny.network("clip", "recognition"), tiny.batch("recognition")
    texts = torch.zeros(len(tiny.CLASS_IDS), tiny.WORDS, dtype=torch.long)
    for row, ids in zip(texts, tiny.CLASS_IDS, strict=True):
        row[: len(ids) + 2] = torch.tensor([tiny.FIRST, *ids, tiny.LAST])
    with torch.no_grad():
        scores = network.similarity(network.encode_texts(texts), network.encode_videos(batch.frames, batch.seeds)).T
        found = network(batch, ("names",))["names"]
    torch.testing.assert_close(found, F.cross_entropy(scores, batch.answers, reduction="sum"))


def test_losses_of_answers_are_means_over_the_known_ones() -> None:
    batch = tiny.batch("open_ended")  # the last of five has no answer
    assert tiny.config("clip").weights(batch, ("oe", "contrastive")) == {"oe": 4, "contrastive": 5}
    assert tiny.config("llava").weights(batch, ("answering", "captioning")) == {"answering": 4, "captioning": 5}
    assert tiny.config("clip").weights(batch, ("names",)) == {"names": 4}
    for family, name in (("clip", "oe"), ("llava", "answering")):
        network = tiny.network(family, "open_ended")
        with torch.no_grad():
            whole, known = (network(part, (name,))[name] for part in (batch, batch.rows(slice(0, 4))))
        torch.testing.assert_close(whole, known)


def test_unknown_answers_are_negatives_alone() -> None:
    network, batch = tiny.network("clip", "multiple_choice"), tiny.batch("multiple_choice")
    with torch.no_grad():
        found = network(batch, ("contrastive",))["contrastive"]
        own = batch.ids[torch.arange(5), batch.answers.clamp(min=0)]
        videos = network.encode_videos(batch.frames, batch.seeds)
        scores = network.similarity(network.encode_texts(own), videos)
    known = torch.arange(4)
    expected = sum(-side.log_softmax(1)[known, known].sum() / 2 for side in (scores, scores.T))
    torch.testing.assert_close(found, expected)


def test_pixels_are_as_the_processor_makes_them() -> None:
    frames = torch.randint(0, 256, (2, 3, tiny.SIDE, tiny.SIDE), generator=torch.Generator().manual_seed(0))
    size = {"height": tiny.SIDE, "width": tiny.SIDE}
    processor = CLIPImageProcessorPil(size=size, crop_size=size)
    images = [frame.permute(1, 2, 0).byte().numpy() for frame in frames]
    expected = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(standardised(frames / 255, CLIP, torch.float32), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mean_pooling", [True, False])
def test_videomae_recognises_as_the_librarys(mean_pooling: bool, tmp_path: Path) -> None:
    tiny.saved("videomae", VideoMAEForPreTraining, tmp_path)
    with quiet():
        reference = VideoMAEForVideoClassification.from_pretrained(
            tmp_path, num_labels=len(tiny.CLASS_IDS), use_mean_pooling=mean_pooling
        ).eval()
    sizes = tiny.ARCHITECTURES["videomae"] | {"model_type": "videomae", "use_mean_pooling": mean_pooling}
    config = tiny.config("videomae", architecture=sizes)
    network = config.network(tiny.setting("recognition")).eval()
    network.encoder.load_state_dict(reference.videomae.state_dict())
    network.head.load_state_dict(reference.classifier.state_dict())
    batch = tiny.batch("recognition")
    pixels = standardised(batch.frames, config.published, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(network.answer(batch), reference(pixels).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalised", [True, False])
def test_videomae_reconstructs_as_the_librarys(normalised: bool, tmp_path: Path) -> None:
    reference = tiny.saved("videomae", VideoMAEForPreTraining, tmp_path)
    reference.config.norm_pix_loss = normalised
    reference.save_pretrained(tmp_path)
    config = tiny.config("videomae", source=str(tmp_path), architecture={}, hidden_share=0.5)
    network = config.network(tiny.setting("recognition")).eval()
    batch = tiny.batch("recognition")
    pixels = standardised(batch.frames, config.published, torch.float32)
    tubes = network._tubes(batch.seeds)
    places = (tiny.SIDE // 8) ** 2
    assert tubes.shape == (5, places)  # two frames are one pair
    assert tubes.sum(1).tolist() == [places // 2] * 5
    assert not bool((tubes == tubes[0]).all())
    with torch.no_grad():
        found = network(batch, ("reconstruction",))["reconstruction"]
        expected = [reference(pixels[i : i + 1], tubes[i : i + 1]).loss for i in range(5)]
    torch.testing.assert_close(found, torch.stack(expected).sum(), rtol=1e-4, atol=1e-5)


def test_visual_tokens_are_those_of_hidden_cells() -> None:
    network, batch = tiny.network("videomae", "recognition", tiny.CODES), tiny.batch("recognition", codes=tiny.CODES)
    with torch.no_grad():
        found = network(batch, ("mvm",))["mvm"].item()
        states = network._states(batch.masked_frames)
        guesses = network.codes(states).double()
    expected, side = 0.0, tiny.SIDE // 8
    for sample, frame, row, column in batch.hidden.nonzero().tolist():
        of_frame = guesses[sample, row * side + column].view(tiny.FRAMES, tiny.CODES)[frame]
        expected -= float(of_frame.log_softmax(0)[batch.cell_tokens[sample, frame, row, column]])
    assert found == pytest.approx(expected)
    assert not math.isclose(found, 0)
