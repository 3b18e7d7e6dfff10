"""The entity prompter: what it says of a crop, that it stays as it is, and its names."""

from pathlib import Path

import pytest
import torch

from models.backbones.alpro.losses import crops
from models.backbones.alpro.prompter import read_entities
from models.errors import UserError
from models.freezing import frozen_weights
from tests.models.backbones.alpro import small


@torch.no_grad()
def test_soft_labels_and_the_guess_one_sample_at_a_time() -> None:
    batch = small.batch(4)
    crop, mask = crops(batch.seeds, small.SIDE), batch.mask[:, 0]
    likely = small.network().prompter(batch.frames, crop).amax(1)
    network = small.network(entity_threshold=float(likely.sort().values[:2].mean()))  # of four crops three count
    prompter = network.prompter
    text, video = network.text_encoder.bert(batch.ids[:, 0], mask), network.visual_encoder(batch.frames)
    expected, counted = 0.0, 0
    for i in range(4):
        shown = torch.zeros_like(batch.frames[i])
        for row, column in crop[i].nonzero().tolist():
            area = (..., slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            shown[area] = batch.frames[i][area]
        vector = prompter.vision_proj(prompter.visual_encoder(shown[None])[0, 0])
        scores = prompter.video_prompt_feat @ (vector / vector.norm()) / prompter.temp
        labels = scores.exp() / scores.exp().sum()
        torch.testing.assert_close(prompter(batch.frames[i : i + 1], crop[i : i + 1])[0], labels)
        if float(labels.max()) < network.config.entity_threshold:
            continue
        counted += 1
        states = network.text_encoder.bert.fuse(text[i : i + 1], mask[i : i + 1], video[i : i + 1])[0]
        inside = [states[small.WORDS + 1 + place] for place, is_in in enumerate(crop[i].flatten().tolist()) if is_in]
        logits = network.mpm_head(torch.stack(inside).mean(0))
        expected -= float(labels @ logits.log_softmax(0))
    assert counted == 3
    assert float(network(batch, ("pem",))["pem"]) == pytest.approx(expected, rel=1e-6)


def test_a_frozen_prompter_is_no_parameter_and_takes_no_gradient() -> None:
    network = small.network(dropout=0.5, drop_path=0.5)
    assert not any(name.startswith("prompter.") for name, _ in network.named_parameters())
    assert "prompter.vision_proj.weight" in frozen_weights(network)
    before = {name: tensor.clone() for name, tensor in network.prompter.state_dict().items()}
    batch = small.batch()
    network(batch, ("pem",))["pem"].backward()
    assert all(tensor.grad is None for tensor in network.prompter.buffers())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.prompter.state_dict().items())


def test_the_prompter_never_trains() -> None:
    network, batch = small.network(drop_path=0.5).train(), small.batch(3)
    crop = crops(batch.seeds, small.SIDE)
    assert not any(module.training for module in network.prompter.modules())
    assert torch.equal(network.prompter(batch.frames, crop), network.prompter(batch.frames, crop))


def test_the_guess_teaches_all_that_it_goes_through() -> None:
    network = small.network()
    network(small.batch(), ("pem",))["pem"].backward()
    taught = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    untaught = {name for name, _ in network.named_parameters()} - taught
    assert {name.split(".")[0] for name in untaught} == {"vision_proj", "text_proj", "temp", "itm_head", "mvm_head"} | {
        name.split(".")[0] for name in untaught if name.startswith("text_encoder.cls")
    }


def test_entities_are_read_without_their_numbers(tmp_path: Path) -> None:
    assert read_entities(small.entity_file(tmp_path)) == ("dog", "polar bear", "car")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog 1\ncat\ndog 3\n", r"entities.txt:3: 'dog' is there already, on line 1"),
        ("dog\n", r"entities.txt: 1 entities; expected names of at least two"),
        ("", r"entities.txt: 0 entities"),
    ],
)
def test_what_is_no_list_of_entities(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_entities(small.entity_file(tmp_path, text))
    with pytest.raises(UserError, match="no such file"):
        read_entities(tmp_path / "missing.txt")
