"""Square frames beside one pixel at a time, and one cut, mirroring and colour for all frames of a video."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.data.film import Image
from models.data.pixels.augmentation import AugmentationConfig, chances_needed, crop, recoloured, square

CHANCE = st.floats(0, 1, exclude_max=True)
PLAIN = AugmentationConfig(scale=(1.0, 1.0), stretch=1.0, mirror=0.0)


def noise(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def chances(*given: float) -> NDArray[np.float64]:
    return np.array([*given, *[0.5] * (8 - len(given))])


def test_crop_keeps_the_middle_square() -> None:
    wide, high = noise(8, 14), noise(13, 8)
    found = square([wide, high], 8)
    assert found.shape == (2, 3, 8, 8)
    assert found.dtype == np.uint8
    assert np.array_equal(found[0], wide[:, 3:11].transpose(2, 0, 1))
    assert np.array_equal(found[1], high[2:10].transpose(2, 0, 1))


def test_pad_keeps_the_whole_frame_between_black_bars() -> None:
    wide, high = noise(4, 8), noise(8, 6)
    found = square([wide, high], 8, AugmentationConfig(fit="pad")).transpose(0, 2, 3, 1)
    assert np.array_equal(found[0, 2:6], wide)
    assert not found[0, :2].any()
    assert not found[0, 6:].any()
    assert np.array_equal(found[1, :, 1:7], high)
    assert not found[1, :, [0, 7]].any()


def test_what_shrinks_is_averaged() -> None:
    """Squashed from 12 x 8 to 4 x 4: each pixel is the mean of 3 x 2."""
    image = noise(12, 8)
    found = square([image], 4, AugmentationConfig(fit="squash"))[0]
    for y in range(4):
        for x in range(4):
            mean = image[3 * y : 3 * y + 3, 2 * x : 2 * x + 2].reshape(-1, 3).mean(0)
            assert np.abs(found[:, y, x] - mean).max() <= 0.51


def test_what_grows_is_interpolated() -> None:
    image = noise(3, 3)
    assert np.array_equal(square([image], 7)[0], cv2.resize(image, (7, 7)).transpose(2, 0, 1))


def test_no_frames() -> None:
    assert square([], 5).shape == (0, 3, 5, 5)
    assert square([], 5, AugmentationConfig(jitter=0.2), chances()).shape == (0, 3, 5, 5)


@given(st.integers(1, 400), st.integers(1, 400), st.tuples(*[CHANCE] * 4), st.floats(0.05, 1), st.floats(1, 3))
def test_a_random_crop_lies_within(
    height: int, width: int, drawn: tuple[float, ...], low: float, stretch: float
) -> None:
    config = AugmentationConfig(scale=(low, 1.0), stretch=stretch)
    top, left, down, across = crop(height, width, np.array(drawn), config)
    assert top >= 0
    assert left >= 0
    assert down >= 1
    assert across >= 1
    assert top + down <= height
    assert left + across <= width


def test_a_random_crops_area_shape_and_place() -> None:
    config = AugmentationConfig(scale=(0.2, 0.6), stretch=2.0)
    assert crop(100, 100, np.array([0.0, 0.5, 0.0, 0.0]), config) == (0, 0, 45, 45)  # 0.2 of the area
    assert crop(100, 100, np.array([0.4, 0.0, 0.0, 0.0]), config) == (0, 0, 85, 42)  # 0.36, twice as high as wide
    assert crop(100, 100, np.array([0.4, 1 - 1e-9, 0.5, 1 - 1e-9]), config) == (29, 15, 42, 85)
    assert crop(40, 100, np.array([0.4, 0.0, 0.9, 0.0]), config) == (0, 0, 40, 27)  # what is too high is cut down


def test_one_cut_and_mirroring_for_all_frames() -> None:
    image, drawn = noise(40, 60), chances(0.3, 0.6, 0.2, 0.8, 0.4)
    config = AugmentationConfig(mirror=0.5)
    top, left, down, across = crop(40, 60, drawn[:4], config)
    cut = cv2.resize(image[top : top + down, left : left + across], (16, 16), interpolation=cv2.INTER_AREA)
    found = square([image, image, image], 16, config, drawn)
    for frame in found:
        assert np.array_equal(frame, cut[:, ::-1].transpose(2, 0, 1))
    config = AugmentationConfig(mirror=0.4)  # a chance of 0.4 is not below it
    assert np.array_equal(square([image], 16, config, drawn)[0], cut.transpose(2, 0, 1))


def test_frames_of_other_sizes_are_cut_at_the_same_place() -> None:
    small = noise(30, 40)
    large = small.repeat(2, 0).repeat(2, 1)
    config = AugmentationConfig(scale=(0.25, 0.25), stretch=1.0, mirror=0.0)
    found = square([small, large], 5, config, chances(0.0, 0.5, 0.5, 0.5))
    assert np.abs(found[0].astype(int) - found[1]).max() <= 40  # a pixel of the large one aside


def test_nothing_varies_at_test_or_where_that_is_off() -> None:
    image = noise(20, 30)
    for fit in ("crop", "squash", "pad"):
        still = AugmentationConfig(fit=fit, vary=False)
        assert chances_needed(still) == 0
        plain = square([image], 8, AugmentationConfig(fit=fit))
        assert np.array_equal(square([image], 8, still, np.empty(0)), plain)
    assert chances_needed(AugmentationConfig()) == 8
    whole = noise(9, 9)
    assert np.array_equal(square([whole], 9, PLAIN, chances(0.3, 0.3, 0.3, 0.3, 0.0))[0], whole.transpose(2, 0, 1))
    with pytest.raises(ValueError, match="expected \\(8,\\)"):
        square([image], 8, AugmentationConfig(), np.zeros(4))


def reference_colours(squares: NDArray[np.uint8], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """A pixel at a time."""

    def grey(pixel: list[float]) -> float:
        return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]

    def clip(value: float) -> float:
        return min(255.0, max(0.0, value))

    pixels = [[clip(factors[0] * float(v)) for v in pixel] for pixel in squares.transpose(0, 2, 3, 1).reshape(-1, 3)]
    mean = sum(grey(pixel) for pixel in pixels) / len(pixels)
    pixels = [[clip(mean + factors[1] * (v - mean)) for v in pixel] for pixel in pixels]
    pixels = [[clip(grey(pixel) + factors[2] * (v - grey(pixel))) for v in pixel] for pixel in pixels]
    return np.array(pixels).reshape(len(squares), *squares.shape[2:], 3).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("factors", [(1.3, 1.0, 1.0), (1.0, 0.6, 1.0), (1.0, 1.0, 1.5), (0.7, 1.4, 0.6)])
def test_colours_against_one_pixel_at_a_time(factors: tuple[float, float, float]) -> None:
    squares = np.stack([noise(4, 4, 1), noise(4, 4, 2)]).transpose(0, 3, 1, 2)
    found = recoloured(squares, np.array(factors))
    assert np.abs(found - reference_colours(squares, np.array(factors))).max() <= 0.51


def test_colours_of_a_video() -> None:
    image, config = noise(6, 6), PLAIN.model_copy(update={"jitter": 0.4})
    found = square([image, image], 6, config, chances(0.5, 0.5, 0.5, 0.5, 0.5, 0.75, 0.0, 1 - 1e-9))
    expected = recoloured(np.stack([image, image]).transpose(0, 3, 1, 2), np.array([1.2, 0.6, 1.4]))
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.array_equal(found[0], found[1])
    unchanged = square([image], 6, config, chances())
    assert np.abs(unchanged[0].transpose(1, 2, 0).astype(int) - image).max() <= 1


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.8, 0.5), (0.5, 1.5)])
def test_what_is_no_scale(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < from <= to <= 1"):
        AugmentationConfig(scale=scale)
