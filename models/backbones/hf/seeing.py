"""How generative models see: frames to visual tokens in the language model's space, and where these are in time.

Shape legend: n videos, T frames of h x w pixels, V visual tokens a video, D width of the language model.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import UserError


class Seeing(Protocol):
    """The visual half of a model."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """(n, T, 3, h, w), standardised -> (n, V, D)."""
        ...

    def positions(self, before: int, frames: int, size: int) -> tuple[Tensor, int]:
        """(axes, before + V): the positions of tokens before the video and of its own, on the axes of the language
        model's rotary embedding; and the one at which the text goes on."""
        ...


class QwenSeeing(nn.Module):
    """Pairs of frames are cut into patches, of which each square of merge x merge becomes a token (Qwen2-VL report,
    section 2.1). A last frame without a pair is its own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.visual
        self.vision = model.config.vision_config
        # One pair stands for one second, as of the library where no time is given.
        self.step = int(getattr(self.vision, "tokens_per_second", 1))

    def grid(self, frames: int, size: int) -> tuple[int, int]:
        """Pairs of frames, and patches of a side."""
        return -(-frames // self.vision.temporal_patch_size), size // self.vision.patch_size

    def patches(self, pixels: Tensor) -> Tensor:
        """(n, T, 3, h, w) -> (n * pairs * patches, values), those of a square one after the other."""
        side, merge, depth = self.vision.patch_size, self.vision.spatial_merge_size, self.vision.temporal_patch_size
        if odd := -pixels.shape[1] % depth:
            pixels = torch.cat([pixels, pixels[:, -1:].expand(-1, odd, -1, -1, -1)], 1)
        cut = pixels.unflatten(4, (-1, merge, side)).unflatten(3, (-1, merge, side)).unflatten(1, (-1, depth))
        # n, pairs, depth, colours, rows, merge, side, columns, merge, side
        cut = cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
        patches: Tensor = cut.flatten(6).flatten(0, 5)
        return patches

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, T, 3, h, w), standardised -> (n, V, D)."""
        pairs, side = self.grid(pixels.shape[1], pixels.shape[-1])
        grid = torch.tensor([[pairs, side, side]], device=pixels.device).expand(len(pixels), -1)
        found: Tensor = self.visual(self.patches(pixels), grid_thw=grid).pooler_output
        return found.view(len(pixels), -1, found.shape[1])

    def positions(self, before: int, frames: int, size: int) -> tuple[Tensor, int]:
        """(3, before + V): time, row and column (Qwen2-VL report, section 2.1, M-RoPE). The text goes on after the
        rows and columns, as the library has it, also where the video's time is further."""
        pairs, side = self.grid(frames, size)
        side //= self.vision.spatial_merge_size
        places = torch.cartesian_prod(torch.arange(pairs) * self.step, torch.arange(side), torch.arange(side)).T
        return torch.cat([torch.arange(before).expand(3, -1), before + places], 1), before + side


class LlavaSeeing(nn.Module):
    """Each frame is an image (LLaVA 1.5, Liu et al., CVPR 2024): the patches of a layer of CLIP's, through a small
    network. Layers above that one are left out, since nothing that they give is used."""

    def __init__(self, model: Any, where: str) -> None:
        super().__init__()
        self.tower, self.projector = model.vision_tower, model.multi_modal_projector
        layer, vision = model.config.vision_feature_layer, model.config.vision_config
        if not isinstance(layer, int) or vision.model_type not in ("clip_vision_model", "siglip_vision_model"):
            raise UserError(f"{where}: expected one vision_feature_layer, and the vision tower of a CLIP or a SigLIP")
        layers = self.tower.encoder.layers
        self.tower.encoder.layers = layers[: layer if layer >= 0 else len(layers) + 1 + layer]
        self.tower.post_layernorm = nn.Identity()
        if getattr(self.tower, "use_head", False):
            self.tower.use_head = False
            del self.tower.head
        self.skipped = 1 if model.config.vision_feature_select_strategy == "default" else 0
        self.side: int = vision.image_size // vision.patch_size
        self.first = 1 if vision.model_type == "clip_vision_model" else 0

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, T, 3, h, w), standardised -> (n, V, D)."""
        states = self.tower(pixels.flatten(0, 1)).last_hidden_state[:, self.skipped :]
        found: Tensor = self.projector(states)
        return found.reshape(len(pixels), -1, found.shape[2])

    def positions(self, before: int, frames: int, size: int) -> tuple[Tensor, int]:
        """(1, before + V): one after the other."""
        count = before + frames * (self.side**2 + self.first - self.skipped)
        return torch.arange(count)[None], count


class TiedWords(nn.Embedding):
    """Tokens to vectors, and vectors to logits of tokens, where a model uses one table for both."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) int64 -> (..., D); (..., D) -> (..., vocabulary)."""
        return F.linear(x, self.weight) if x.is_floating_point() else super().forward(x)
