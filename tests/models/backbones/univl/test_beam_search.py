"""Beam search over samples at once, beside one that takes a sample, a beam and a word at a time."""

import pytest
import torch
from torch import Tensor

from models.backbones.univl.beam_search import BeamSearchConfig, Hypothesis, beam_search
from models.backbones.univl.network import UniVL
from tests.models.backbones.univl import small

CLS, SEP = 2, 3


def encoded(network: UniVL) -> tuple[Tensor, Tensor]:
    batch = small.batch()
    mask = torch.cat([batch.mask, batch.video_mask], 1)
    with torch.no_grad():
        text = network.encode_text(batch.ids, batch.types, batch.mask)
        return network.cross(text, network.encode_video(batch.video, batch.video_mask), mask), mask


def next_word(network: UniVL, ids: list[int], crossed: Tensor, mask: Tensor) -> list[float]:
    words = torch.tensor([[CLS, *ids]])
    with torch.no_grad():
        states = network.caption_states(words, torch.ones_like(words), crossed[None], mask[None])
        found: list[float] = network.caption_logits(states[:, -1]).log_softmax(-1)[0].tolist()
    return found


def one_by_one(network: UniVL, crossed: Tensor, mask: Tensor, config: BeamSearchConfig) -> list[Hypothesis]:
    beams = [Hypothesis([], 0.0)]
    for _ in range(config.max_words):
        longer = []
        for beam in beams:
            if config.stop == "all" and beam.ids[-1:] == [SEP]:
                longer.append(beam)
                continue
            gains = next_word(network, beam.ids, crossed, mask)
            longer += [Hypothesis([*beam.ids, word], beam.score + gain) for word, gain in enumerate(gains)]
        beams = sorted(longer, key=lambda h: -h.score)[: config.beams]
        ended = [beam.ids[-1] == SEP for beam in beams]
        if ended[0] if config.stop == "best" else all(ended):
            break
    if config.length_penalty:
        beams.sort(key=lambda h: -h.score / len(h.ids) ** config.length_penalty)
    return beams


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("stop", ["best", "all"])
def test_as_one_by_one(stop: str, penalty: float) -> None:
    network = small.network()
    with torch.no_grad():
        network.decoder.classifier.cls.predictions.bias[SEP] += 2.0  # so that captions end before the limit
    crossed, mask = encoded(network)
    config = BeamSearchConfig.model_validate({"beams": 3, "max_words": 5, "stop": stop, "length_penalty": penalty})
    found = beam_search(network, crossed, mask, CLS, SEP, config)
    for sample, ours in enumerate(found):
        theirs = one_by_one(network, crossed[sample], mask[sample], config)
        assert [h.ids for h in ours] == [h.ids for h in theirs], sample
        assert [h.score for h in ours] == pytest.approx([h.score for h in theirs], rel=1e-5)
    assert any(len(ours[0].ids) < 5 for ours in found)


def test_no_samples() -> None:
    network = small.network()
    crossed, mask = encoded(network)
    assert beam_search(network, crossed[:0], mask[:0], CLS, SEP, BeamSearchConfig()) == []
