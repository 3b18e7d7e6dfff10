"""Square frames of one size: the same cut, mirroring and colours for all frames of a video.

Shape legend: T frames of h x w pixels become (T, 3, s, s). Nothing here is drawn: chances come in as numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.config import StrictConfig
from models.data.film import Image

Fit = Literal["crop", "squash", "pad"]
_CHANCES = 8  # area, shape, row, column, mirror, brightness, contrast, saturation
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class AugmentationConfig(StrictConfig):
    """How a frame becomes square, and how it varies in training."""

    fit: Fit = "crop"
    """What is not varied: `crop` keeps the middle square, `squash` the whole frame out of shape, `pad` the whole frame
    with black bars (as Violet does)."""
    vary: bool = True
    """Random crops, mirroring and colours in training; else training frames are made like those at test."""
    scale: tuple[float, float] = Field(default=(0.5, 1.0), strict=False)
    """Share of the frame's area that a random crop has, from and to."""
    stretch: float = Field(default=4 / 3, ge=1)
    """A random crop is at most so many times wider than high, or higher than wide, before it is made square."""
    mirror: float = Field(default=0.5, ge=0, le=1)
    """Probability that left and right are swapped; 0 where texts tell them apart."""
    jitter: float = Field(default=0.0, ge=0, lt=1)
    """Brightness, contrast and saturation are each multiplied by 1 - jitter to 1 + jitter."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale={list(self.scale)}; expected 0 < from <= to <= 1")
        return self


def chances_needed(config: AugmentationConfig) -> int:
    """How many numbers `square` takes to vary frames."""
    return _CHANCES if config.vary else 0


def square(
    images: Sequence[Image],
    size: int,
    config: AugmentationConfig = AugmentationConfig(),  # noqa: B008 (it is frozen)
    chances: NDArray[np.float64] | None = None,
) -> NDArray[np.uint8]:
    """Frames as networks see them -> (T, 3, size, size).

    As at test each becomes square as `config.fit` has it; `crop` is what reducing the short side and cutting out the
    middle gives. With chances it is a random resized crop (Szegedy et al. 2015), mirrored or not, recoloured.

    Args:
        chances: `chances_needed` numbers in [0, 1), one set for all frames of a video; None: as at test. Frames of
            different sizes are cut at the same place relative to their sizes.
    """
    if chances is None or not config.vary:
        return _squares(images, size, lambda image: _whole(image, config.fit))
    if chances.shape != (_CHANCES,):
        raise ValueError(f"chances are of shape {chances.shape}; expected ({_CHANCES},)")

    def part(image: Image) -> Image:
        top, left, height, width = crop(image.shape[0], image.shape[1], chances[:4], config)
        return image[top : top + height, left : left + width]

    squares = _squares(images, size, part)
    if chances[4] < config.mirror:
        squares = squares[..., ::-1].copy()
    return recoloured(squares, 1 + config.jitter * (2 * chances[5:] - 1)) if config.jitter else squares


def crop(
    height: int, width: int, chances: NDArray[np.float64], config: AugmentationConfig
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop that lies within a frame.

    Its area and the logarithm of its shape are uniform; what would be longer than the frame is cut down to it.
    `chances` are four: area, shape, row, column.
    """
    low, high = config.scale
    area = (low + (high - low) * chances[0]) * height * width
    shape = config.stretch ** (2 * chances[1] - 1)
    across = min(width, max(1, round(math.sqrt(area * shape))))
    down = min(height, max(1, round(math.sqrt(area / shape))))
    return int(chances[2] * (height - down + 1)), int(chances[3] * (width - across + 1)), down, across


def recoloured(squares: NDArray[np.uint8], factors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(T, 3, s, s) with brightness, contrast and saturation multiplied by three factors, in this order.

    Contrast is around the mean grey of all frames of the video; saturation around each pixel's grey.
    """
    brightness, contrast, saturation = (np.float32(factor) for factor in factors)
    pixels = np.clip(squares.astype(np.float32) * brightness, 0, 255)
    mean = np.tensordot(_GREY, pixels.mean((0, 2, 3)), 1) if pixels.size else np.float32(0)
    pixels = np.clip(mean + contrast * (pixels - mean), 0, 255)
    grey = np.tensordot(pixels, _GREY, (1, 0))[:, None]
    coloured: NDArray[np.uint8] = np.clip(grey + saturation * (pixels - grey), 0, 255).round().astype(np.uint8)
    return coloured


def _squares(images: Sequence[Image], size: int, part: Callable[[Image], Image]) -> NDArray[np.uint8]:
    """The part of each frame that is wanted, resized."""
    squares = np.empty((len(images), 3, size, size), np.uint8)
    for square, image in zip(squares, images, strict=True):
        cut = part(image)
        # Averages where it gets smaller: interpolation alone would see single pixels.
        method = cv2.INTER_LINEAR if min(cut.shape[:2]) < size else cv2.INTER_AREA
        square[:] = cv2.resize(cut, (size, size), interpolation=method).transpose(2, 0, 1)
    return squares


def _whole(image: Image, fit: Fit) -> Image:
    height, width = image.shape[:2]
    if fit == "squash":
        return image
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return image[top : top + side, left : left + side]
    side = max(height, width)
    padded = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    padded[top : top + height, left : left + width] = image
    return padded
