"""Small JPEG pictures of clips for a page, kept to a total size however long the film is."""

from collections.abc import Sequence

import cv2
import numpy as np

from models.data.film import Image

HEIGHT = 96
BUDGET = 3_000_000
"""Bytes of a page's pictures in all; as text in the page they take a third more."""
_SIZES = ((HEIGHT, 80), (HEIGHT, 60), (72, 60), (54, 50), (40, 40))
"""Heights in pixels and JPEG qualities, the first that keeps to the budget is taken."""


def thumbnail(image: Image, height: int = HEIGHT, quality: int = 90) -> bytes:
    """A JPEG of at most `height` pixels, and at most three times as wide, of an image (h, w, 3) in RGB."""
    image = image[:, : 3 * image.shape[0]]
    if image.shape[0] > height:
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def within_budget(pictures: Sequence[bytes], budget: int = BUDGET) -> list[bytes | None]:
    """The same pictures (as `thumbnail` makes them), smaller where `budget` bytes would not do; at last only some."""
    smaller: list[bytes] = []
    for height, quality in _SIZES:
        smaller = [thumbnail(_decoded(picture), height, quality) for picture in pictures]
        if sum(map(len, smaller)) <= budget:
            return list(smaller)
    every = -(-sum(map(len, smaller)) // budget)
    kept: list[bytes | None] = [picture if number % every == 0 else None for number, picture in enumerate(smaller)]
    while sum(len(picture) for picture in kept if picture) > budget:
        kept[max(range(len(kept)), key=lambda number: len(kept[number] or b""))] = None
    return kept


def _decoded(picture: bytes) -> Image:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(image, dtype=np.uint8)
