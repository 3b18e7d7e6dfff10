"""Films are decoded frame by frame, upright and with square pixels, through damage as far as it goes."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from models.data.film import Film, frames, stills
from models.errors import UserError
from tests.support.films import HEIGHT, WIDTH, cut_short, picture, scenes, turn, write_sound, write_video


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for what compression costs."""
    return found.shape == expected.shape and float(np.abs(found.astype(int) - expected).mean()) < 20


def test_a_films_head(tmp_path: Path) -> None:
    film = Film.open(write_video(tmp_path / "a.mp4", scenes([0, 1, 2]), rate=10))
    assert (film.width, film.height) == (WIDTH, HEIGHT)
    assert film.rate == 10
    assert film.seconds == pytest.approx(3.0, abs=0.05)


def test_frames_in_order_with_their_times(tmp_path: Path) -> None:
    found = list(frames(write_video(tmp_path / "a.mp4", scenes([0, 1, 2], 4), rate=10), side=256))
    assert [frame.start for frame in found] == pytest.approx([i / 10 for i in range(12)])
    assert all(a.end == pytest.approx(b.start) for a, b in pairwise(found))
    for number, frame in enumerate(found):
        assert near(frame.image[..., ::-1], picture(number // 4))


def test_frames_are_reduced_to_the_longer_side(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", scenes([0], 2))
    assert next(frames(path, side=32)).image.shape == (24, 32, 3)
    assert next(frames(path, side=640)).image.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("key_every", [1, 12, 250])
def test_stills_are_those_of_decoding_everything(tmp_path: Path, key_every: int) -> None:
    """Uneven times, far apart and close together, also the same twice and behind the end."""
    starts = [0.0, 0.3, 0.4, 1.0, 1.05, 2.5, 2.6, 9.0, 9.5, 20.0, 20.1, 31.0]
    path = write_video(tmp_path / "a.mp4", [picture(i % 8) for i in range(12)], starts, key_every=key_every)
    everything = list(frames(path, side=256))
    asked = [0.0, 0.29, 0.3, 0.35, 0.35, 2.55, 8.99, 9.6, 19.9, 20.05, 30.0, 31.0, 99.0]
    for time, image in zip(asked, stills(path, asked), strict=True):
        shown = max((f for f in everything if f.start <= time + 1e-6), key=lambda f: f.start)
        assert near(image, shown.image[..., ::-1]), time


def test_a_turned_film_is_shown_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", scenes([1], 3))
    turn(path)
    film = Film.open(path)
    assert (film.width, film.height) == (HEIGHT, WIDTH)
    [image] = stills(path, [0.1])
    assert near(image, np.rot90(picture(1), -1))


def test_pixels_become_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", scenes([2], 3), aspect=Fraction(4, 3))
    film = Film.open(path)
    assert (film.width, film.height) == (round(WIDTH * 4 / 3), HEIGHT)
    [image] = stills(path, [0.0], side=24)
    assert image.shape == (24, round(film.width / 2), 3)


def test_a_lost_end(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", scenes([0, 1, 2, 3, 4, 5], 10), faststart=True)
    cut = cut_short(tmp_path / "cut.mp4", whole, 0.8)
    found = list(frames(cut, side=256))
    assert 10 < len(found) < 60
    assert Film.open(cut).seconds == pytest.approx(6.0, abs=0.05)  # it says so still


def test_a_damaged_middle(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", scenes([0, 1, 2, 3, 4, 5], 10), faststart=True, key_every=5)
    data = bytearray(path.read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    found = list(frames(path, side=256))
    assert 40 < len(found) <= 60
    assert found[-1].start == pytest.approx(5.9)
    assert near(found[-1].image[..., ::-1], picture(5))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent.mp4", "no such file; expected a video"),
        ("empty.mp4", "the file is empty"),
        ("text.mp4", "is no video, or is cut short"),
        ("headless.mp4", "is no video, or is cut short"),
        ("sound.m4a", "holds no video stream, only audio"),
    ],
)
def test_what_is_no_film(tmp_path: Path, name: str, says: str) -> None:
    path = tmp_path / name
    if name == "empty.mp4":
        path.touch()
    elif name == "text.mp4":
        path.write_text("once upon a time " * 100)
    elif name == "headless.mp4":
        cut_short(path, write_video(tmp_path / "whole.mp4", scenes([0, 1])), 0.5)  # its index comes last
    elif name == "sound.m4a":
        write_sound(path)
    with pytest.raises(UserError, match=says) as error:
        Film.open(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
