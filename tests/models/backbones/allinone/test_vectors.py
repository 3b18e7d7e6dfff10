"""All-in-one beside the recorded numbers of the public implementation: losses, gradients, activations, names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.backbones.allinone.config import AllInOneConfig
from models.backbones.allinone.layers import rolled
from models.backbones.allinone.losses import ranking_loss, retrieval_loss
from models.backbones.allinone.network import AllInOne, Pairs
from models.backbones.video_language import Setting
from models.collectives import Alone
from tests.models.backbones.allinone import vectors as v

pytestmark = v.needs_vectors
CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-4}


def itc(network: AllInOne) -> Tensor:
    x = v.inputs()
    (texts,), (videos,) = (
        network.encode_texts(x["text_ids"]),
        network.encode_videos(v.frames(x["image"]), x["answer"]),
    )
    return retrieval_loss(texts, videos, network.config.temperature, Alone()) / len(texts)


def mlm(network: AllInOne) -> Tensor:
    x = v.inputs()
    labels = x["text_labels_mlm"].masked_fill(x["text_labels_mlm"] == -100, -1)[:, None]
    loss = network.word_loss(
        x["text_ids_mlm"][:, None], x["text_masks"][:, None], labels, v.tokens(network, x["image"], "mlm")
    )
    return loss / (labels != -1).sum()


def pair_losses(network: AllInOne) -> dict[str, Tensor]:
    x = v.inputs()
    match = v.read("intermediates.safetensors")["itm.itm_labels"] == 1
    images = torch.where(match[:, None, None, None, None], x["image"], x["false_image_0"])
    found = network.pair_losses(("vtm", "wpa"), Pairs(x["text_ids"], match), v.tokens(network, images, "itm"))
    return {name: loss / len(match) for name, loss in found.items()}


def irtr(network: AllInOne) -> Tensor:
    false = v.read("config.json")["draw_false_text"]
    ids = v.texts("text", *(f"false_text_{k}" for k in range(false)))
    tokens = v.tokens(network, v.inputs()["image"], "irtr", 1 + false)
    scores = network.candidate_scores(network.rank_output, ids, tokens)
    return ranking_loss(scores, torch.ones_like(scores[:, 1:], dtype=torch.bool)) / len(ids)


def oe(network: AllInOne) -> Tensor:
    x = v.inputs()
    logits = network.answer_scores(x["text_ids"], v.tokens(network, x["image"], "openend_vqa"))
    torch.testing.assert_close(logits, v.read("intermediates.safetensors")["openend_vqa.vqa_logits"], **CLOSE)
    return F.cross_entropy(logits, x["vqa_labels"])


def mc(network: AllInOne) -> Tensor:
    options = v.read("config.json")["draw_options_text"]
    ids = v.texts("text", *(f"options_text_{k}" for k in range(options - 1)))
    tokens = v.tokens(network, v.inputs()["image"], "mc_vqa", options)
    return F.cross_entropy(network.candidate_scores(network.mc_vqa_classifier, ids, tokens), v.inputs()["answer"])


LOSSES: dict[str, Callable[[AllInOne], Tensor]] = {
    "ind_itc.ind_itc_loss": itc,
    "mlm.mlm_loss": mlm,
    "itm.itm_loss": lambda network: pair_losses(network)["vtm"],
    "itm.itm_wpa_loss": lambda network: pair_losses(network)["wpa"],
    "irtr.irtr_loss": irtr,
    "openend_vqa.vqa_loss": oe,
    "mc_vqa.mc_vqa_loss": mc,
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients(name: str) -> None:
    network = v.network()
    loss = LOSSES[name](network)
    assert loss.item() == pytest.approx(v.read("losses.json")[name], rel=1e-5, abs=1e-6)
    loss.backward()
    recorded = v.read("grad_norms.json")[name]
    total = recorded["total"]
    norms = {n: 0.0 if p.grad is None else float(p.grad.norm()) for n, p in network.named_parameters()}
    assert torch.tensor(list(norms.values())).norm().item() == pytest.approx(total, rel=1e-4)
    assert set(recorded["per_param"]) == set(norms)
    for parameter, norm in recorded["per_param"].items():
        if norm is None:
            assert norms[parameter] == 0, parameter
        else:
            assert abs(norms[parameter] - norm) <= 5e-4 * (norm + 1e-4 * total), parameter


def test_every_recorded_loss_is_compared() -> None:
    assert set(LOSSES) == set(v.read("losses.json"))


@torch.no_grad()
def test_activations_of_the_joint_pass() -> None:
    network, x, expected = v.network(), v.inputs(), v.read("intermediates.safetensors")
    tokens = v.tokens(network, x["image"], "mlm")
    seen: list[Tensor] = []
    for block in network.blocks():
        block.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output)))
    embedded = network.text_tokens(x["text_ids_mlm"])
    joined = network.joint(x["text_ids_mlm"], x["text_masks"], tokens)
    torch.testing.assert_close(
        embedded, expected["mlm.text_embeddings"] + network.token_type_embeddings.weight[0], **CLOSE
    )
    torch.testing.assert_close(
        tokens.flatten(0, 1), expected["mlm.visual_embed"] + network.token_type_embeddings.weight[1], **CLOSE
    )
    for number in range(len(network.blocks())):
        torch.testing.assert_close(seen[2 * number], expected[f"mlm.block{number}.in"], **CLOSE)
        torch.testing.assert_close(seen[2 * number + 1], expected[f"mlm.block{number}.out"], **CLOSE)
    torch.testing.assert_close(joined.words, expected["mlm.infer0.text_feats"], **CLOSE)
    torch.testing.assert_close(joined.image, expected["mlm.infer0.image_feats"], **CLOSE)
    torch.testing.assert_close(network.pooler(joined.words[:, 0]), expected["mlm.infer0.cls_feats"], **CLOSE)
    torch.testing.assert_close(network.mlm_score(joined.words), expected["mlm.mlm_logits"], **CLOSE)


@torch.no_grad()
def test_similarities() -> None:
    network, x, expected = v.network(), v.inputs(), v.read("intermediates.safetensors")
    texts, videos = (
        network.encode_texts(x["text_ids"]),
        network.encode_videos(v.frames(x["image"]), x["answer"]),
    )
    torch.testing.assert_close(texts[0], expected["ind_itc.infer0.text_feats"][:, 0], **CLOSE)
    torch.testing.assert_close(videos[0], expected["ind_itc.infer1.image_feats"][:, 0], **CLOSE)
    torch.testing.assert_close(network.similarity(texts, videos), expected["ind_itc.sim_matrix"], **CLOSE)


@torch.no_grad()
def test_the_scores_of_pairs() -> None:
    network, x, expected = v.network(), v.inputs(), v.read("intermediates.safetensors")
    match = expected["itm.itm_labels"] == 1
    images = torch.where(match[:, None, None, None, None], x["image"], x["false_image_0"])
    joined = network.joint(x["text_ids"], x["text_masks"], v.tokens(network, images, "itm"))
    torch.testing.assert_close(joined.image, expected["itm.infer0.image_feats"], **CLOSE)
    torch.testing.assert_close(
        network.itm_score(network.pooler(joined.words[:, 0])), expected["itm.itm_logits"], **CLOSE
    )


def test_the_roll() -> None:
    expected = v.read("intermediates.safetensors")
    frames = v.read("config.json")["num_frames"]
    before, after = (expected[f"unit.temporal_roll.{end}"].unflatten(0, (-1, frames)) for end in ("in", "out"))
    assert torch.equal(rolled(before, 0), after)


LAYOUTS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "pretrain_itm_mlm": (("mlm", "vtm"), set()),
    "pretrain_plus_itm_mlm_ind_itc": (("itc", "mlm", "vtm"), set()),
    "retrieval_MELTR_mlm_ind_itc": (("itc", "mlm"), {"pooler"}),
    "retrieval_ind_itc_irtr_itm": (("itc", "irtr", "vtm"), set()),
    "qamc_tgif-action": (("mc",), {"itm_score"}),
    "qaoe_tgif-frame": (("oe",), set()),
}
"""Losses that a layout's heads are for, and what it has beside them that no loss of these uses."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_published_model_has_the_official_names_and_shapes(layout: str) -> None:
    losses, unused = LAYOUTS[layout]
    expected = v.read(f"full_size_shapes_{layout}.json")["state_dict"]
    answers = expected.get("vqa_classifier.4.bias", [1])[0]
    setting = Setting("open_ended", 30522, 40, (101, 102, 103), classes=tuple(map(str, range(answers))))
    with torch.device("meta"):
        network = AllInOne(AllInOneConfig(), setting, losses)
    wanted = {
        name: shape
        for name, shape in expected.items()
        if name.partition(".")[0] not in {"aux_model"} | unused and not name.endswith("position_ids")
    }
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == wanted
