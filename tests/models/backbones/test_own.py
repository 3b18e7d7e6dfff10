"""A backbone of one's own, which only builds itself: checkpoint, frozen parts and scoring are seen to all the same."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.backbones.video_language import Kind, Setting, VideoLanguageBatch, VideoLanguageConfig, VideoLanguageNetwork
from models.errors import UserError
from models.freezing import frozen_weights

SETTING = Setting("recognition", 10, 3, (1, 2, 3), ("a", "b"))


class OwnConfig(VideoLanguageConfig):
    name: str = "tests.models.backbones.test_own:OwnConfig"
    width: int = 4
    COMPONENTS: ClassVar[tuple[str, ...]] = ("eyes", "head")

    def losses(self, kind: Kind, codes: int) -> tuple[str, ...]:
        return ("recognition",)

    def build(self, setting: Setting) -> VideoLanguageNetwork:
        return Own(self.width, len(setting.classes))


class Own(VideoLanguageNetwork):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.eyes, self.head = nn.Linear(3, width), nn.Linear(width, classes)

    def forward(self, batch: VideoLanguageBatch, names: Any) -> dict[str, Tensor]:
        return {"recognition": self.head(self.eyes(batch.frames.mean((1, 3, 4)))).sum()}

    @staticmethod
    def component_of(parameter: str) -> str:
        return parameter.split(".", maxsplit=1)[0]


def config(**changes: Any) -> OwnConfig:
    return OwnConfig(**{"image_size": 32, **changes})


def test_it_starts_from_a_checkpoint_of_its_own_names(tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights = {name: tensor.clone() for name, tensor in config().build(SETTING).state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    started = config(checkpoint=str(tmp_path)).network(SETTING).state_dict()
    assert all(torch.equal(started[name], tensor) for name, tensor in weights.items())
    with pytest.raises(UserError, match=r"'eyes.bias' is \(4,\), the model's is \(5,\)"):
        config(checkpoint=str(tmp_path), width=5).network(SETTING)
    save_file({"eyes.weight": weights["eyes.weight"]}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"has no 'eyes.bias' \(3 such names\)"):
        config(checkpoint=str(tmp_path)).network(SETTING)
    some = config(checkpoint=str(tmp_path), allow_missing_weights=True).network(SETTING)
    assert torch.equal(some.state_dict()["eyes.weight"], weights["eyes.weight"])


def test_frozen_parts_are_not_trained() -> None:
    network = config(frozen=("eyes",)).network(SETTING)
    assert {name for name, _ in network.named_parameters()} == {"head.weight", "head.bias"}
    assert frozen_weights(network) == {"eyes.weight", "eyes.bias"}


def test_low_rank_matrices_are_refused() -> None:
    with pytest.raises(UserError, match=r"^model.lora: .*test_own:OwnConfig has no low-rank matrices"):
        config(lora={}).network(SETTING)
