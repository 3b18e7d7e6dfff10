"""Pictures of clips keep to their total size: smaller first, then fewer."""

import cv2
import numpy as np
import pytest

from distributed.pages.thumbnails import HEIGHT, thumbnail, within_budget
from models.data.film import Image


def noise(height: int = 120, width: int = 200, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def size(picture: bytes) -> tuple[int, int]:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.shape[0], image.shape[1]


@pytest.mark.parametrize(
    ("shape", "becomes"), [((192, 128), (96, 64)), ((50, 80), (50, 80)), ((100, 2000), (96, 288)), ((500, 1), (96, 1))]
)
def test_a_picture_is_made_small(shape: tuple[int, int], becomes: tuple[int, int]) -> None:
    assert size(thumbnail(noise(*shape))) == becomes


def test_colours_are_kept() -> None:
    image = np.full((96, 96, 3), (200, 60, 20), np.uint8)
    back = cv2.imdecode(np.frombuffer(thumbnail(image), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert back is not None
    assert np.abs(back.astype(int) - image).max() < 8


def test_many_are_smaller_and_very_many_are_fewer() -> None:
    pictures = [thumbnail(noise(seed=seed)) for seed in range(40)]
    whole = sum(map(len, pictures))
    for budget in (whole, whole // 3, whole // 6, whole // 40):
        kept = within_budget(pictures, budget)
        assert len(kept) == 40
        assert 0 < sum(len(picture) for picture in kept if picture) <= budget
    assert [size(picture)[0] for picture in within_budget(pictures, whole) if picture] == [HEIGHT] * 40
    assert {size(picture)[0] for picture in within_budget(pictures, whole // 6) if picture} < {72, 54, 40}
    few = within_budget(pictures, whole // 40)
    assert any(picture is None for picture in few)
    assert few[0] is not None


def test_no_pictures_are_none() -> None:
    assert within_budget([]) == []
