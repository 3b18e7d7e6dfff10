"""A Violet from what a recipe says: what fits, what is refused in one line, and what of it is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from models.backbones.catalog import backbone
from models.backbones.violet.config import VioletConfig
from models.backbones.violet.network import Violet
from models.errors import UserError
from models.freezing import frozen_weights
from models.lora import merged
from tests.models.backbones.violet import small


def test_it_is_among_the_backbones() -> None:
    assert backbone("violet") is VioletConfig
    assert VioletConfig().cell == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 24}, r"model\.vocabulary=23: the tokenizer has 24 ids; .* set model\.vocabulary to at least"),
        ({"words": 9}, r"model\.text_positions=8: texts have up to 9 tokens; .* or raise model\.text_positions"),
        ({"codes": 8}, r"model\.codes=7: the visual tokenizer has 8 tokens; set model\.codes to at least that"),
        ({"classes": ()}, r"the data names no answers or classes for open_ended"),
    ],
)
def test_what_does_not_fit_the_task(changes: dict[str, Any], message: str) -> None:
    setting = small.setting("open_ended", **changes)
    with pytest.raises(UserError, match=message):
        small.config(checkpoint="missing").network(setting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 80}, "image_size=80 must be a multiple of 32"),
        ({"image_size": 96}, "image_size=96 makes 9 cells; cell_positions=6"),
        ({"frames": 5}, "frames=5 must be at most frame_positions=4"),
        ({"heads": 3}, r"8 \* embed_dim = 16 must be a multiple of heads=3"),
        ({"swin_heads": (1, 2, 3, 2)}, r"swin_heads=\(1, 2, 3, 2\): stage 2 has 8 channels"),
        ({"window": (2, 0, 3)}, "must be at least 1 everywhere"),
        ({"frozen": ("video", "text", "cross", "heads")}, "frozen names every part"),
        ({"frozen": ("video",), "lora": {}}, "leave frozen empty"),
        ({"frozen": ("decoder",)}, "frozen"),
        ({"depth": 3}, "depth"),
    ],
)
def test_configurations_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small.config(**changes)


def test_a_checkpoint_is_where_it_starts(tmp_path: Path) -> None:
    state = {name: tensor.float() for name, tensor in small.network("multiple_choice").state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    config = small.config(checkpoint=str(tmp_path))  # a folder, as exports are
    made = config.network(small.setting("multiple_choice"))
    assert all(torch.equal(made.state_dict()[name], tensor) for name, tensor in state.items())
    with pytest.raises(UserError, match="no such file; expected a Violet checkpoint"):
        small.config(checkpoint=str(tmp_path / "none.pt")).network(small.setting("retrieval"))
    del state["trsfr.layer.0.output.dense.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"has no 'trsfr.layer.0.output.dense.bias' .* model.allow_missing"):
        config.network(small.setting("multiple_choice"))
    lenient = config.model_copy(update={"allow_missing_weights": True})
    filled = lenient.network(small.setting("multiple_choice")).state_dict()
    assert not bool(filled["trsfr.layer.0.output.dense.bias"].any())


def test_frozen_parts_are_not_trained() -> None:
    made = small.config(frozen=("video", "text")).network(small.setting("retrieval")).double()
    trained = {name for name, _ in made.named_parameters()}
    assert {Violet.component_of(name) for name in trained} == {"cross", "heads"}
    assert {Violet.component_of(name) for name in frozen_weights(made)} == {"video", "text"}
    torch.stack(list(made(small.batch(), small.names("retrieval")).values())).sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_low_rank_matrices_beside_all_attention() -> None:
    config = small.config(lora={"rank": 2})
    made = config.network(small.setting("retrieval")).double()
    trained = {name for name, _ in made.named_parameters()}
    assert {name.split(".")[0] for name in trained if "lora_" not in name} == {"fc", "fc_mtm", "fc_mvm"}
    adapted = {name.rsplit(".lora_", 1)[0] for name in trained if "lora_" in name}
    assert len(adapted) == sum(config.depths) + 2 * config.layers
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    plain = Violet(small.config(), small.setting("retrieval")).double()
    plain.load_state_dict(merged(made))
    found, expected = (x(small.batch(), small.names("retrieval")) for x in (plain, made))
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss)
