"""The two towers of a dual encoder: videos and texts as vectors, and how alike they are.

Shape legend: n videos, T frames of h x w pixels, k texts, X tokens a text, d width of the shared space, P places.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.hf.passes import at_least_one
from models.errors import UserError

CLIPS = ("clip", "metaclip_2", "chinese_clip")
SIGLIPS = ("siglip", "siglip2")
XCLIP = "xclip"


class Video(NamedTuple):
    """What a video tower makes of n videos."""

    vector: Tensor
    """(n, d), not normalised."""
    frames: Tensor
    """(n, T, d), not normalised."""
    places: Tensor
    """(n, P, d): what X-CLIP's prompts look at; (n, 0, d) of the others."""


class Scale(nn.Module):
    """Cosines times a learned number, plus a learned bias in SigLIP, as logits; where the model keeps them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # DeepSpeed broadcasts no parameter without dimensions.
        self.log_scale = nn.Parameter(model.logit_scale.detach().reshape(1))  # type: ignore[operator]
        del model.logit_scale
        if hasattr(model, "logit_bias"):
            self.bias = nn.Parameter(model.logit_bias.detach().reshape(1))  # type: ignore[operator]
            del model.logit_bias

    def forward(self, cosines: Tensor) -> Tensor:
        scaled = cosines * self.log_scale.exp()
        return scaled + self.bias if hasattr(self, "bias") else scaled


class Towers(nn.Module):
    """CLIP, MetaCLIP 2, Chinese-CLIP: each frame is seen alone, and a video is the mean of its frames' unit vectors
    (Luo et al. 2021, CLIP4Clip, section 3.3, parameter-free)."""

    def __init__(self, model: Any, padding: int) -> None:
        super().__init__()
        self.scale = Scale(model)
        self.model, self.padding = model, padding
        self.family: str = model.config.model_type
        self.width = self._width()

    def _width(self) -> int:
        width: int = self.model.config.projection_dim
        return width

    def video(self, pixels: Tensor) -> Video:
        """(n, T, 3, h, w), standardised."""
        samples, frames = pixels.shape[:2]
        found = at_least_one(self._images, pixels.flatten(0, 1)).unflatten(0, (samples, frames))
        return Video(F.normalize(found, dim=-1).mean(1), found, found[:, :0])

    def _images(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output
        return found

    def texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(k, X) of the model's own ids, and 1 for those that are no padding -> (k, d), not normalised."""
        return at_least_one(self._texts, ids, mask)

    def _texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.model.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
        if self.family == "chinese_clip":
            chosen = states[:, 0]
        else:  # the end token; the model itself looks it up by its id
            chosen = states[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        found: Tensor = self.model.text_projection(chosen)
        return found

    def scores(self, video: Video, texts: Tensor) -> Tensor:
        """n videos with the same k texts (k, d), or with k of each one's own (n, k, d) -> logits (n, k)."""
        return self.frame_scores(video.vector[:, None], texts)[:, 0]

    def frame_scores(self, frames: Tensor, texts: Tensor) -> Tensor:
        """(n, T, d) and texts as above -> logits (n, T, k)."""
        cosines = F.normalize(frames, dim=-1) @ F.normalize(texts, dim=-1).mT
        found: Tensor = self.scale(cosines)
        return found


class SigLIPTowers(Towers):
    """SigLIP and SigLIP 2. Their texts have no start token, and are padded to full length with no mask."""

    def _width(self) -> int:
        width: int = self.model.config.vision_config.hidden_size
        return width

    def _images(self, pixels: Tensor) -> Tensor:
        if self.family == "siglip":
            return super()._images(pixels)
        side = self.model.config.vision_config.patch_size
        rows, columns = pixels.shape[-2] // side, pixels.shape[-1] // side
        patches = pixels.unflatten(-1, (columns, side)).unflatten(-3, (rows, side))  # (n, 3, rows, side, columns, side)
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        shapes = torch.tensor([[rows, columns]], device=pixels.device).expand(len(pixels), -1)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
        found: Tensor = self.model.get_image_features(
            pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes
        ).pooler_output
        return found

    def _texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        added = self.model.config.text_config.max_position_embeddings - ids.shape[1] + 1
        words = F.pad(ids.masked_fill(mask == 0, self.padding)[:, 1:], (0, added), value=self.padding)
        found: Tensor = self.model.get_text_features(input_ids=words).pooler_output
        return found


class XCLIPTowers(Towers):
    """X-CLIP (Ni et al., ECCV 2022): frames exchange messages, and texts are prompted by the video they meet."""

    def video(self, pixels: Tensor) -> Video:
        return Video(*at_least_one(self._video, pixels))

    def _video(self, pixels: Tensor) -> tuple[Tensor, ...]:
        samples, frames = pixels.shape[:2]
        seen = self.model.vision_model(pixel_values=pixels.flatten(0, 1))
        of_frames = self.model.visual_projection(seen.pooler_output).unflatten(0, (samples, frames))
        places = self.model.prompts_visual_layernorm(seen.last_hidden_state[:, 1:])
        places = (places @ self.model.prompts_visual_projection).unflatten(0, (samples, frames)).mean(1)
        return self.model.mit(of_frames).pooler_output, of_frames, places

    def scores(self, video: Video, texts: Tensor) -> Tensor:
        if texts.ndim == 2:
            texts = texts.expand(len(video.vector), *texts.shape)
        added = at_least_one(self._prompts, texts, video.places)
        return self.frame_scores(video.vector[:, None], texts + added)[:, 0]

    def _prompts(self, texts: Tensor, places: Tensor) -> Tensor:
        count = texts.shape[1]
        if not count:  # as for no rows
            texts = torch.cat([texts, texts.new_zeros(len(texts), 1, texts.shape[2])], 1)
        found: Tensor = self.model.prompts_generator(texts, places)
        return found[:, :count]


def towers_of(model: Any, padding: int, where: str) -> Towers:
    """The towers of a model of one of the families.

    Raises:
        UserError: it is of none of them, or lacks a part.
    """
    kinds = dict.fromkeys(CLIPS, Towers) | dict.fromkeys(SIGLIPS, SigLIPTowers) | {XCLIP: XCLIPTowers}
    vision = model.config.vision_config
    if not getattr(vision, "vision_use_head", True):
        raise UserError(f"{where}: its vision tower has no pooling head (vision_use_head=false); expected one")
    return kinds[model.config.model_type](model, padding)
