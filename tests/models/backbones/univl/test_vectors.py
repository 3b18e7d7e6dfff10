"""UniVL beside the recorded numbers of the public implementation: losses, gradients, scores, captions, names."""

from typing import Any

import pytest
import torch

from models.backbones.univl.beam_search import BeamSearchConfig, beam_search
from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.network import LOSSES, UniVL, loss_weights
from models.backbones.univl.official import TIED, official_state
from tests.models.backbones.univl import vectors as v

pytestmark = v.needs_vectors


@pytest.mark.parametrize("chunk", [4, 1024])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients(name: str, chunk: int) -> None:
    network, batch = v.network(align_chunk=chunk), v.batch()
    weights = loss_weights(batch, network.config)
    loss = network(batch, (name,))[name] / weights[name]
    expected = v.read("losses.json")[name]
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    loss.backward()
    recorded = v.read("grad_norms.json")[name]
    total = recorded["total"]
    found = {n: p.grad for n, p in network.named_parameters()}
    norms = {n: 0.0 if g is None else float(g.norm()) for n, g in found.items()}
    assert torch.tensor(list(norms.values())).norm().item() == pytest.approx(total, rel=1e-4)
    for parameter, norm in recorded["per_param"].items():
        if norm is None:
            assert norms[parameter] == 0, parameter
        else:
            assert abs(norms[parameter] - norm) <= 5e-4 * (norm + 1e-4 * total), parameter


def test_all_losses_in_one_pass() -> None:
    network, batch = v.network(), v.batch()
    weights = loss_weights(batch, network.config)
    for name, loss in network(batch, LOSSES).items():
        assert (loss / weights[name]).item() == pytest.approx(v.read("losses.json")[name], rel=1e-5, abs=1e-5), name


def test_scores_and_encodings() -> None:
    network, batch, expected = v.network(), v.batch(), v.read("intermediates.safetensors")
    close: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-4}
    with torch.no_grad():
        text = network.encode_text(batch.ids, batch.types, batch.mask)
        video = network.encode_video(batch.video, batch.video_mask)
        torch.testing.assert_close(text, expected["clean.sequence_output"], **close)
        torch.testing.assert_close(video, expected["clean.visual_output"], **close)
        vectors = network.joint_vectors(text, batch.mask, video, batch.video_mask)
        torch.testing.assert_close(vectors[0] @ vectors[1].T, expected["joint.sim_matrix"], **close)
        scores = network.similarity(text, batch.mask, video, batch.video_mask)
        torch.testing.assert_close(scores, expected["align.sim_matrix"], **close)
        crossed = network.cross(text, video, torch.cat([batch.mask, batch.video_mask], 1))
        torch.testing.assert_close(crossed, expected["clean.cross_output"], **close)
        torch.testing.assert_close(network.cross.pool(crossed), expected["clean.cross_pooled"], **close)


def test_beam_search() -> None:
    network, batch, expected = v.network(), v.batch(), v.read("beam_search.json")
    mask = torch.cat([batch.mask, batch.video_mask], 1)
    ids = v.read("config.json")["special_ids"]
    with torch.no_grad():
        text = network.encode_text(batch.ids, batch.types, batch.mask)
        crossed = network.cross(text, network.encode_video(batch.video, batch.video_mask), mask)
    config = BeamSearchConfig(beams=expected["beam_size"], max_words=expected["max_words"])
    found = beam_search(network, crossed, mask, ids["CLS"], ids["SEP"], config)
    for ours, theirs in zip(found, expected["hypotheses_per_sample_best_first"], strict=True):
        assert [h.ids for h in ours] == [h["ids"] for h in theirs]
        assert [h.score for h in ours] == pytest.approx([h["score"] for h in theirs], rel=1e-4)


def test_the_published_model_has_the_official_names_and_shapes() -> None:
    expected = v.read("full_size_shapes.json")
    with torch.device("meta"):
        network = UniVL(UniVLConfig())
    assert sum(p.numel() for p in network.parameters()) == expected["n_params"]
    found = {name: list(tensor.shape) for name, tensor in official_state(network).items()}
    assert found == {name: list(shape) for name, shape in expected["state_dict"].items()}
    assert expected["tied"] == TIED
