"""Checkpoints in the official layout: every name and shape of the published model; loaded whole, or refused."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from models.backbones.alpro.config import ALPROConfig
from models.backbones.alpro.network import ALPRO
from models.backbones.alpro.official import load_official, load_prompter, official_state
from models.backbones.video_language import Kind, Setting
from models.errors import UserError
from tests.models.backbones.alpro import small

# What the public code builds (ViT-B/16 with temporal attention, BERT-base, heads), without its unused classes.
H, MLP, VOCABULARY, ENTITIES = 768, 3072, 30522, 1000
NORM = {"weight": (H,), "bias": (H,)}
QKV = {"qkv.weight": (3 * H, H), "qkv.bias": (3 * H,), "proj.weight": (H, H), "proj.bias": (H,)}


def linear(inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {"weight": (outputs, inputs), "bias": (outputs,)}


def below(prefix: str, names: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.{name}": shape for name, shape in names.items()}


def video() -> dict[str, tuple[int, ...]]:
    block = below("temporal_fc", linear(H, H)) | below("mlp.fc1", linear(H, MLP)) | below("mlp.fc2", linear(MLP, H))
    for name in ("norm1", "norm2", "temporal_norm1"):
        block |= below(name, NORM)
    for name in ("attn", "temporal_attn"):
        block |= below(name, QKV)
    found: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, H),
        "pos_embed": (1, 197, H),
        "time_embed": (1, 8, H),
    } | below("norm", NORM)
    found |= {"patch_embed.proj.weight": (H, 3, 16, 16), "patch_embed.proj.bias": (H,)}
    for number in range(12):
        found |= below(f"blocks.{number}", block)
    return below("visual_encoder.model", found)


def text(layers: int) -> dict[str, tuple[int, ...]]:
    layer = below("intermediate.dense", linear(H, MLP)) | below("output.dense", linear(MLP, H))
    for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
        layer |= below(name, linear(H, H))
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        layer |= below(name, NORM)
    sizes = {"word": VOCABULARY, "position": 512, "token_type": 2}
    found: dict[str, tuple[int, ...]] = {
        f"embeddings.{name}_embeddings.weight": (size, H) for name, size in sizes.items()
    }
    found |= below("embeddings.LayerNorm", NORM)
    for number in range(layers):
        found |= below(f"encoder.layer.{number}", layer)
    return below("text_encoder.bert", found)


def words() -> dict[str, tuple[int, ...]]:
    found = below("transform.dense", linear(H, H)) | below("transform.LayerNorm", NORM) | {"bias": (VOCABULARY,)}
    return below("text_encoder.cls.predictions", found | below("decoder", linear(H, VOCABULARY)))


def joint() -> dict[str, tuple[int, ...]]:
    return {"temp": ()} | below("vision_proj", linear(H, 256)) | below("text_proj", linear(H, 256))


def mlp(name: str, outputs: int) -> dict[str, tuple[int, ...]]:
    return below(f"{name}.0", linear(H, 2 * H)) | below(f"{name}.2", linear(2 * H, outputs))


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def full_size(kind: Kind, entities: int = 0) -> ALPRO:
    classes = tuple(map(str, range(1500))) if kind in {"open_ended", "recognition"} else ()
    with torch.device("meta"):
        return ALPRO(ALPROConfig(), Setting(kind, VOCABULARY, 40, (101, 102, 103), classes), entities)


def test_names_and_shapes_of_the_full_size() -> None:
    prompter = video() | text(6) | joint() | {"video_prompt_feat": (ENTITIES, 256)}
    expected = video() | text(12) | words() | joint() | below("itm_head", linear(H, 2))
    assert shapes(official_state(full_size("retrieval"))) == expected
    expected |= mlp("mpm_head", ENTITIES) | below("prompter", prompter)
    assert shapes(official_state(full_size("retrieval", ENTITIES))) == expected
    answering = video() | text(12) | words() | mlp("classifier", 1500)
    assert shapes(official_state(full_size("open_ended"))) == answering
    one = video() | text(12) | words() | mlp("classifier", 1)
    assert shapes(official_state(full_size("multiple_choice"))) == one
    assert shapes(official_state(full_size("recognition"))) == video() | below("recognition_head", linear(H, 1500))


def test_parameters_of_the_full_size_by_part() -> None:
    counts: dict[str, int] = {}
    network = full_size("retrieval")
    for name, parameter in network.named_parameters():
        part = network.component_of(name)
        counts[part] = counts.get(part, 0) + math.prod(parameter.shape)
    # 12 blocks of 10,042,368; BERT layers of 7,087,872; embeddings of 23,837,184 beside their norm's.
    assert counts == {"video": 121_258_752, "text": 66_364_416, "cross": 42_527_232, "heads": 1_017_917}
    assert sum(counts.values()) == 231_168_317


def official(kind: Kind = "retrieval", entities: int = small.ENTITIES, **changes: object) -> dict[str, Tensor]:
    """What the public code would save: with the parts of the prompter and the TimeSformer that feed nothing."""
    state = dict(official_state(small.network(kind, entities, **changes)))
    state["visual_encoder.model.head.weight"] = torch.zeros(400, 16)
    state["text_encoder.bert.embeddings.position_ids"] = torch.arange(8)[None]
    if entities and kind == "retrieval":
        layer = {name.replace("layer.0.", "layer.6."): t for name, t in state.items() if "prompter" in name}
        state |= {name: t for name, t in layer.items() if "layer.6." in name}
        state |= {"prompter.itm_head.bias": torch.zeros(2), "prompter.image_prompt_feat": torch.zeros(9, 6)}
    return state


def fresh(kind: Kind = "retrieval", entities: int = 0, **changes: object) -> ALPRO:
    return ALPRO(small.config(**changes), small.setting(kind), entities).double()


def test_round_trip() -> None:
    state = {f"module.{name}": tensor for name, tensor in official().items()}
    network, theirs = fresh(entities=small.ENTITIES), small.network()
    load_official(network, state, "file")
    load_prompter(network, state, "file")
    for name, tensor in theirs.state_dict().items():
        if name != "prompter.video_prompt_feat":  # they follow from the entities
            assert torch.equal(network.state_dict()[name], tensor), name
    assert tuple(network.temp.shape) == (1,)


def test_a_prompter_alone() -> None:
    state = {name.removeprefix("prompter."): t for name, t in official().items() if name.startswith("prompter.")}
    network = fresh(entities=small.ENTITIES)
    load_prompter(network, state, "file")
    for name, tensor in small.network().prompter.state_dict().items():
        assert torch.equal(network.prompter.state_dict()[name], tensor) or name == "video_prompt_feat", name
    del state["vision_proj.bias"]
    with pytest.raises(UserError, match=r"file: has no 'vision_proj.bias'"):
        load_prompter(network, state, "file")


@pytest.mark.parametrize("kind", small.KINDS[1:])
def test_the_pretrained_model_starts_every_kind(kind: Kind) -> None:
    network, theirs = fresh(kind), small.network()
    load_official(network, official(), "file")
    started = {name for name, tensor in network.state_dict().items() if name in theirs.state_dict()}
    assert all(torch.equal(network.state_dict()[name], theirs.state_dict()[name]) for name in started - {"mvm_head"})
    own = {"recognition": "recognition_head"}.get(kind, "classifier")
    assert {name.split(".")[0] for name in set(network.state_dict()) - started} == {own}


def test_models_that_answer_have_their_own_names_for_bert() -> None:
    state = {
        name.replace("text_encoder.bert.", "text_encoder."): tensor
        for name, tensor in official("open_ended").items()
        if not name.startswith("text_encoder.cls.")
    }
    network = fresh("open_ended")
    load_official(network, state, "file")
    theirs = small.network("open_ended").state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, theirs[name]) or name.startswith("text_encoder.cls."), name


def test_a_head_for_other_answers_begins_anew_where_allowed() -> None:
    state = official("open_ended")
    state["classifier.2.weight"], state["classifier.2.bias"] = torch.zeros(9, 32), torch.zeros(9)
    network = fresh("open_ended")
    before = network.get_parameter("classifier.2.weight").clone()
    with pytest.raises(UserError, match=r"'classifier.2.weight' is for 9 answers, .*data has 5; set .*weights=true"):
        load_official(network, state, "file")
    load_official(network, state, "file", allow_missing=True)
    assert torch.equal(network.get_parameter("classifier.2.weight"), before)
    assert torch.equal(network.get_parameter("classifier.0.weight"), state["classifier.0.weight"])


def test_positions_are_resized() -> None:
    state = official()
    grid = torch.arange(9.0).view(3, 3).double()
    state["visual_encoder.model.pos_embed"] = torch.cat([torch.tensor([7.0]).double(), grid.flatten()])[None, :, None]
    state["visual_encoder.model.pos_embed"] = state["visual_encoder.model.pos_embed"].repeat(1, 1, 16)
    network = fresh(frames=5, image_size=48)
    load_official(network, state, "file")
    time, theirs = network.visual_encoder.model.time_embed, state["visual_encoder.model.time_embed"]
    assert torch.equal(time, theirs[:, [0, 0, 0, 1, 1]])  # the nearest of two frames
    table = network.visual_encoder.model.pos_embed[0, :, 0]
    assert table[0] == 7
    larger = table[1:].view(6, 6)
    assert bool((larger.diff(dim=1) > 0).all())
    assert bool((larger.diff(dim=0) > 0).all())
    torch.testing.assert_close(larger.mean(), grid.mean())
    torch.testing.assert_close(larger + larger.flip(0, 1), torch.full((6, 6), 8.0).double())


def test_what_is_refused() -> None:
    network, good = fresh(), official()
    with pytest.raises(UserError, match=r"file: 'vision_proj.weight' is \(6, 16\), the model's is \(7, 16\)"):
        load_official(fresh(joint=7), good, "file")
    missing = {name: tensor for name, tensor in good.items() if "temporal_attn" not in name}
    with pytest.raises(UserError, match=r"file: has no 'visual_encoder.model.blocks.0.temporal_attn.qkv.weight' \(8 "):
        load_official(network, missing, "file")
    load_official(network, missing, "file", allow_missing=True)
    with pytest.raises(UserError, match=r"file: has an unknown 'extra' \(1 such names\)"):
        load_official(network, good | {"extra": torch.zeros(1)}, "file")
    with pytest.raises(UserError, match=r"file: has no 'itm_head.weight' \(2 such names\)"):
        load_official(network, {name: t for name, t in good.items() if not name.startswith("itm_head")}, "file")
    with pytest.raises(UserError, match=r"pos_embed' has 8 places; expected 1 and those of a square"):
        load_official(network, good | {"visual_encoder.model.pos_embed": torch.zeros(1, 8, 16)}, "file")
    untied = good | {"text_encoder.cls.predictions.decoder.weight": torch.zeros(small.VOCABULARY, 16).double()}
    with pytest.raises(UserError, match="to which it is tied"):
        load_official(network, untied, "file")
