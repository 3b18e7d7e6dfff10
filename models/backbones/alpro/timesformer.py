"""TimeSformer with divided space-time attention (Bertasius et al., ICML 2021), under ALPRO's names.

Shape legend: n samples, T frames, P patches a frame, L positions, H hidden, a heads of d = H/a.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.alpro.config import ALPROConfig

EPS = 1e-6
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the official pixels' channels."""


def drop_path(x: Tensor, probability: float, training: bool) -> Tensor:
    """Stochastic depth: each row of (n, ...) is left out, or else scaled up."""
    if not training or probability == 0:
        return x
    kept = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(1 - probability)
    return x * kept / (1 - probability)


class Attention(nn.Module):
    def __init__(self, config: ALPROConfig) -> None:
        super().__init__()
        self.heads, self.width = config.heads, config.hidden // config.heads
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.proj = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(n, L, H) -> (n, L, H)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, self.width)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2))
        return mixed


class Mlp(nn.Module):
    def __init__(self, config: ALPROConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden, config.intermediate)
        self.fc2 = nn.Linear(config.intermediate, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return mixed


class Block(nn.Module):
    """Attention over the frames at each place, then over the places of each frame, then an MLP."""

    def __init__(self, config: ALPROConfig, probability: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.hidden, EPS), nn.LayerNorm(config.hidden, EPS)
        self.attn = Attention(config)
        self.temporal_norm1 = nn.LayerNorm(config.hidden, EPS)
        self.temporal_attn = Attention(config)
        self.temporal_fc = nn.Linear(config.hidden, config.hidden)
        self.mlp = Mlp(config)
        self.drop_path = probability

    def forward(self, first: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """[CLS] (n, 1, H) and patches (n, P, T, H) -> the same shapes.

        [CLS] has no place in time: it is among the places of every frame, and becomes the mean of what it is in each.
        """
        n, places, frames, _ = x.shape
        over_time = self._kept(self.temporal_attn(self.temporal_norm1(x.flatten(0, 1))))
        x = x + self.temporal_fc(over_time).unflatten(0, (n, places))
        with_first = torch.cat([first[:, None].expand(-1, frames, -1, -1), x.transpose(1, 2)], 2)
        over_space = self._kept(self.attn(self.norm1(with_first.flatten(0, 1)))).unflatten(0, (n, frames))
        first, x = first + over_space[:, :, :1].mean(1), x + over_space[:, :, 1:].transpose(1, 2)
        together = torch.cat([first, x.flatten(1, 2)], 1)
        together = together + self._kept(self.mlp(self.norm2(together)))
        return together[:, :1], together[:, 1:].unflatten(1, (places, frames))

    def _kept(self, x: Tensor) -> Tensor:
        return drop_path(x, self.drop_path, self.training)


class _PatchEmbed(nn.Module):
    def __init__(self, config: ALPROConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.hidden, config.patch, config.patch)


class TimeSformer(nn.Module):
    """Without the head for the classes of its pre-training, which ALPRO does not use."""

    def __init__(self, config: ALPROConfig) -> None:
        super().__init__()
        patches = (config.image_size // config.patch) ** 2
        self.patch_embed = _PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, config.hidden))
        self.time_embed = nn.Parameter(torch.zeros(1, config.frames, config.hidden))
        steps = torch.linspace(0, config.drop_path, config.video_layers, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(config, step) for step in steps)
        self.norm = nn.LayerNorm(config.hidden, EPS)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for block in list(self.blocks)[1:]:  # training begins with attention over the places alone
            nn.init.zeros_(block.get_submodule("temporal_fc").get_parameter("weight"))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels from 0 to 1 (n, T, 3, h, w) -> [CLS] (n, 1, H), and every patch of every frame (n, P, T, H)."""
        n, count = frames.shape[:2]
        weight = self.patch_embed.proj.weight
        mean, std = (frames.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        pixels = ((frames - mean) / std).to(weight.dtype).flatten(0, 1)
        x = self.patch_embed.proj(pixels).flatten(2).unflatten(0, (n, count)).permute(0, 3, 1, 2)
        x = x + self.pos_embed[:, 1:, None] + self.time_embed[:, None]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(n, -1, -1)
        for block in self.blocks:
            first, x = block(first, x)
        return self.norm(first), self.norm(x)


class VideoEncoder(nn.Module):
    """A TimeSformer under the name `model`."""

    def __init__(self, config: ALPROConfig) -> None:
        super().__init__()
        self.model = TimeSformer(config)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, T, 3, h, w) -> (n, 1+P, H): [CLS], and each place as its mean over time."""
        first, x = self.model(frames)
        return torch.cat([first, x.mean(2)], 1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
