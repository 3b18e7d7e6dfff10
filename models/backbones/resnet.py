"""Residual networks for small images (He et al., CVPR 2016, section 4.2), with a second head for rotations.

Shape legend: B images, C channels, H and W pixels.
"""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.normalisation import GlobalBatchNorm2d
from models.config import StrictConfig

ROTATIONS = 4


class ResNetConfig(StrictConfig):
    """Which residual network to build. The default, ResNet32, has 0.46M parameters."""

    name: Literal["resnet"] = "resnet"
    depth: int = Field(default=32, ge=8)
    """Layers with weights: 6n+2 for n blocks in each of the three stages."""
    widths: tuple[int, int, int] = Field(default=(16, 32, 64), strict=False)
    """Channels of the stages; each stage but the first halves height and width."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.depth % 6 != 2:
            lower = (self.depth - 2) // 6 * 6 + 2
            raise ValueError(f"depth={self.depth} is not 6n+2; use {lower} or {lower + 6}")
        if min(self.widths) < 1 or list(self.widths) != sorted(self.widths):
            raise ValueError(f"widths={self.widths} must be positive and never shrink: shortcuts only add channels")
        return self


class Block(nn.Module):
    """Two 3x3 convolutions beside a parameter-free shortcut (option A: subsampled, padded with zero channels)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, outputs - inputs
        self.conv1, self.norm1 = _conv(inputs, outputs, stride), GlobalBatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs), GlobalBatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/stride, W/stride), rounded up."""
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(residual + shortcut)


class ResNet(nn.Module):
    """Images -> class logits and rotation logits, both from the same pooled features."""

    def __init__(self, config: ResNetConfig, classes: int) -> None:
        super().__init__()
        first, _, last = config.widths
        self.conv, self.norm = _conv(3, first), GlobalBatchNorm2d(first)
        stages, inputs = [], first
        for stage, outputs in enumerate(config.widths):
            blocks = [Block(inputs, outputs, stride=2 if stage else 1)]
            blocks += [Block(outputs, outputs, stride=1) for _ in range((config.depth - 2) // 6 - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.classes = nn.Linear(last, classes)
        self.rotation = nn.Linear(last, ROTATIONS)
        for head in (self.classes, self.rotation):
            nn.init.kaiming_normal_(head.weight, nonlinearity="linear")
            nn.init.zeros_(head.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) standardised images, B possibly 0 -> class logits (B, classes), rotation logits (B, 4)."""
        x = images.to(self.conv.weight.dtype)
        features = self.stages(F.relu(self.norm(self.conv(x)))).mean((2, 3))
        return self.classes(features), self.rotation(features)

    def blocks(self) -> list[nn.Module]:
        """The modules that activation checkpointing may wrap."""
        return [module for module in self.modules() if isinstance(module, Block)]

    COMPONENTS = ("stem", "stage_1", "stage_2", "stage_3", "classes", "rotation")

    @staticmethod
    def component_of(parameter: str) -> str:
        """The part that a parameter's name belongs to."""
        part, number, *_ = parameter.split(".")
        if part == "stages":
            return f"stage_{int(number) + 1}"
        return part if part in ("classes", "rotation") else "stem"


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    # The normalisation that follows takes the mean away, so a bias would do nothing.
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
