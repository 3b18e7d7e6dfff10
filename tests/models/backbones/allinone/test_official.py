"""Checkpoints in the official layout: loaded whole, or refused in one line."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones.allinone.build import build
from models.backbones.allinone.config import AllInOneConfig
from models.backbones.allinone.network import AllInOne
from models.backbones.allinone.official import load_official
from models.backbones.video_language import Kind, Setting
from models.errors import UserError
from models.lora import merged
from tests.models.backbones.allinone import small, vectors

LAYOUTS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "pretrain_itm_mlm": ("retrieval", ("mlm", "vtm")),
    "pretrain_plus_itm_mlm_ind_itc": ("retrieval", ("mlm", "irtr")),
    "retrieval_MELTR_mlm_ind_itc": ("retrieval", ("mlm",)),
    "retrieval_ind_itc_irtr_itm": ("retrieval", ("vtm", "irtr")),
    "qamc_tgif-action": ("multiple_choice", ("mlm",)),
    "qaoe_tgif-frame": ("recognition", ()),
}
"""What is built from a layout: each has heads that the network lacks, or lacks some that it has."""


def official(layout: str) -> dict[str, Tensor]:
    """Random weights under all names of a layout, in the sizes of the small network."""
    shapes = vectors.read(f"full_size_shapes_{layout}.json")["state_dict"]
    ours: dict[str, Tensor] = {}
    for kind in small.KINDS:
        ours |= small.network(kind).state_dict()
    found = {}
    for name in shapes:
        if "blocks." in name and int(name.split(".")[2]) >= small.SIZES["layers"]:
            continue
        like = ours.get(name, torch.zeros(3))
        found[name] = torch.randn_like(like.float())
    found["text_embeddings.position_ids"] = torch.arange(small.WORDS + 1)[None]
    return found


@vectors.needs_vectors
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_out_of_a_training_checkpoint(layout: str, tmp_path: Path) -> None:
    kind, auxiliary = LAYOUTS[layout]
    state, path = official(layout), tmp_path / "allinone.ckpt"
    torch.save({"state_dict": state, "epoch": 3, "global_step": 9, "hyper_parameters": {"lr": 1e-4}}, path)
    config = small.config(auxiliary=auxiliary, checkpoint=str(path))
    check(config, small.setting(kind))
    found = config.build(small.setting(kind)).state_dict()
    assert sum(name.startswith("transformer.blocks") for name in found) == 12 * small.SIZES["layers"]
    for name, tensor in found.items():
        if name in state:
            assert torch.equal(tensor, state[name]), name
        elif name.startswith("rank_output") and "itm_score.fc.bias" in state:
            assert torch.equal(tensor, state[name.replace("rank_output", "itm_score.fc")][1:]), name
        else:
            assert name.startswith(("mlm_score.", "txt_proj.", "vid_proj.", "recognition_classifier.")), name


@vectors.needs_vectors
def test_a_full_size_checkpoint_fits() -> None:
    """Only names and shapes are compared, so no weights are made."""
    shapes = vectors.read("full_size_shapes_pretrain_plus_itm_mlm_ind_itc.json")["state_dict"]
    setting = small.setting("retrieval")
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
        network = AllInOne(AllInOneConfig(frames=8, text_positions=50), setting, ("itc", "mlm", "vtm", "irtr"))
        load_official(network, state, "file")


def saved(tmp_path: Path, kind: Kind = "retrieval", **changes: Any) -> tuple[dict[str, Tensor], Path]:
    state = {name: tensor.float() for name, tensor in small.network(kind, **changes).state_dict().items()}
    return state, tmp_path / "file.bin"


@pytest.mark.parametrize(("frames", "places"), [(5, 12), (2, 7)])
def test_other_numbers_of_frames_and_places(frames: int, places: int, tmp_path: Path) -> None:
    state, path = saved(tmp_path)
    torch.save(state, path)
    changes = {"frames": frames, "text_positions": places, "auxiliary": small.AUXILIARY["retrieval"]}
    made = small.config(checkpoint=str(path), **changes).build(small.setting("retrieval"))
    times, table = made.transformer.temporal_embed, made.text_embeddings.position_embeddings.weight
    theirs = state["transformer.temporal_embed"], state["text_embeddings.position_embeddings.weight"]
    kept = min(frames, small.FRAMES)
    assert torch.equal(times[:, :kept], theirs[0][:, :kept])
    assert not times[:, kept:].any()
    kept = min(places, small.WORDS + 1)
    assert torch.equal(table[:kept], theirs[1][:kept])
    assert table[kept:].any(1).all()  # places of its own, as they were initialised


def test_a_network_without_texts_takes_a_checkpoint_with_them(tmp_path: Path) -> None:
    state, path = saved(tmp_path)
    torch.save(state, path)
    made = small.config(checkpoint=str(path)).build(small.setting("recognition"))
    assert torch.equal(made.transformer.pos_embed, state["transformer.pos_embed"])
    back, path = saved(tmp_path, "recognition")
    torch.save(back, path)
    with pytest.raises(UserError, match=r"has no 'text_embeddings.word_embeddings.weight' \(5 such names\)"):
        small.config(checkpoint=str(path)).build(small.setting("retrieval"))


def check(config: AllInOneConfig, setting: Setting) -> None:
    """What can be said of a start without making a network."""
    with torch.device("meta"), warnings.catch_warnings(action="ignore", category=UserWarning):  # nothing is copied
        build(config, setting)


def test_what_is_refused(tmp_path: Path) -> None:
    state, path = saved(tmp_path, "open_ended")
    setting = small.setting("open_ended")

    def start(**changes: Any) -> AllInOne:
        torch.save(state | broken, path)
        config = small.config(checkpoint=str(path), **changes)
        check(config, setting)
        return build(config, setting)

    broken: dict[str, Tensor] = {}
    assert torch.equal(start().state_dict()["vqa_classifier.4.weight"], state["vqa_classifier.4.weight"])
    with pytest.raises(UserError, match=r"file.bin: 'text_.*' is \(23, 16\), the model's is \(23, 32\)"):
        start(hidden=32)
    broken = {"transformer.extra": torch.zeros(1)}
    with pytest.raises(UserError, match=r"has an unknown 'transformer.extra' \(1 such names\)"):
        start()
    broken = {"vqa_classifier.4.weight": torch.zeros(9, 8), "vqa_classifier.4.bias": torch.zeros(9)}
    with pytest.raises(UserError, match=r"'vqa_classifier.4.weight' is for 9 answers.* the data has 5; .*=true"):
        start()
    made = start(allow_missing_weights=True).state_dict()
    assert made["vqa_classifier.4.weight"].any()
    assert torch.equal(made["vqa_classifier.1.weight"], state["vqa_classifier.1.weight"])
    broken = {}
    for name in ("transformer.norm.bias", "vqa_classifier.2.bias"):  # a head is there as a whole or not at all
        kept = state.pop(name)
        with pytest.raises(UserError, match=rf"has no '{name}' \(1 such names\).*allow_missing_weights=true"):
            start()
        start(allow_missing_weights=True)
        state[name] = kept


@pytest.mark.parametrize("changes", [{}, {"lora": {"rank": 2}}, {"frozen": ("embeddings", "heads")}])
@pytest.mark.parametrize("kind", small.KINDS)
def test_plain_weights_compute_what_the_trained_network_does(kind: Kind, changes: dict[str, object]) -> None:
    config = small.config(auxiliary=small.AUXILIARY[kind], **changes)
    trained = config.network(small.setting(kind)).double()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    parts = {AllInOne.component_of(name) for name, _ in trained.named_parameters()}
    if "lora" in changes:
        assert parts == {"transformer", "heads"}
        assert all("lora_" in n for n, _ in trained.named_parameters() if AllInOne.component_of(n) == "transformer")
    else:
        assert parts == ({"transformer"} if changes else set(AllInOneConfig.COMPONENTS))
    network = build(small.config(auxiliary=small.AUXILIARY[kind]), small.setting(kind))
    network.load_state_dict(merged(trained))
    assert {n for n, _ in network.named_parameters()} == {n for n, _ in small.network(kind).named_parameters()}
    names = small.names(kind)
    found, expected = network.double()(small.batch(kind), names), trained(small.batch(kind), names)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
