"""Films as a source of frames: the frame shown at a place is the right one, upright, in any order."""

import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from models.data.film import Film, frames
from models.data.pixels.films import FilmFrames
from models.data.pixels.sampling import places
from models.data.pixels.sources import open_frames
from models.data.rendering import Scene, Subject, render
from models.errors import UserError
from tests.support.films import cut_short, picture, scenes, turn, write_sound, write_video


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for what compression costs."""
    return found.shape == expected.shape and float(np.abs(found.astype(int) - expected).mean()) < 20


@pytest.mark.parametrize("key_every", [1, 7, 250])
def test_the_frame_at_a_place(tmp_path: Path, key_every: int) -> None:
    """Eight seconds, a picture each; some places are far apart, and the decoder skips what lies between."""
    write_video(tmp_path / "a.mp4", scenes(range(8)), key_every=key_every)
    source = open_frames(tmp_path)
    asked = [0.0, 0.12, 0.13, 0.49, 0.51, 0.9, 0.999]
    for place, image in zip(asked, source.frames("a", asked), strict=True):
        assert near(image, picture(int(8 * place))), place
    for count in (1, 4, 8):
        found = source.frames("a", places(count))
        assert all(near(image, picture(int(8 * p))) for p, image in zip(places(count), found, strict=True))


def test_places_in_any_order_and_twice(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", scenes(range(8)))
    found = open_frames(tmp_path).frames("a", [0.8, 0.1, 0.8, 0.4])
    assert [near(image, picture(n)) for image, n in zip(found, [6, 0, 6, 3], strict=True)] == [True] * 4
    assert open_frames(tmp_path).frames("a", []) == []


def test_every_frame_of_a_rendered_film(tmp_path: Path) -> None:
    """Beside decoding everything in order."""
    shown = [Scene(Subject(i, i, i, 1), 0, 1.0) for i in range(3)]
    render(tmp_path / "a.mp4", shown, size=(64, 48), rate=6)
    everything = [frame.image[..., ::-1] for frame in frames(tmp_path / "a.mp4", side=1000)]
    found = open_frames(tmp_path).frames("a", places(len(everything)))
    assert len(found) == 18
    assert all(near(a, b) for a, b in zip(found, everything, strict=True))
    assert not near(found[0], everything[-1])


CODECS = {"avi": "mpeg4", "webm": "libvpx", "mkv": "libx264", "gif": "gif"}


@pytest.mark.parametrize("ending", CODECS)
def test_other_kinds_of_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(CODECS[ending], rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8" if ending == "gif" else "yuv420p"
        for image in scenes(range(4)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    found = open_frames(tmp_path).frames("a", places(4))
    for number, image in enumerate(found):  # with a gif's few colours not near, but nearest
        assert number == min(range(4), key=lambda n: float(np.abs(image.astype(int) - picture(n)).mean()))


def test_a_film_that_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    """Matroska that is written to where nobody can go back."""

    class Pipe:
        def __init__(self, file: object) -> None:
            self.write = file.write  # type: ignore[attr-defined]

    path = tmp_path / "a.mkv"
    with path.open("wb") as file, av.open(Pipe(file), "w", format="matroska", options={"live": "1"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in scenes(range(4)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    assert Film.open(path).seconds is None
    found = open_frames(tmp_path).frames("a", places(4))
    assert all(near(image, picture(n)) for n, image in enumerate(found))


def test_a_turned_film_is_upright(tmp_path: Path) -> None:
    turn(write_video(tmp_path / "a.mp4", scenes([1, 2])))
    first, second = open_frames(tmp_path, threads=1).frames("a", [0.2, 0.7])
    assert near(first, np.rot90(picture(1), -1))
    assert near(second, np.rot90(picture(2), -1))


def test_films_are_found_in_all_folders(tmp_path: Path) -> None:
    film = write_video(tmp_path / "b" / "two.MP4", scenes([1], 3))
    (tmp_path / "a").mkdir()
    shutil.copy(film, tmp_path / "a" / "one.mp4")
    shutil.copy(film, tmp_path / "._two.mp4")
    (tmp_path / "b" / "notes.txt").touch()
    source = open_frames(tmp_path)
    assert list(source.names()) == ["one", "two"]
    assert "two" in source
    assert "._two" not in source
    shutil.copy(film, tmp_path / "a" / "two.avi")
    with pytest.raises(UserError, match=r"video 'two' is '.*a/two.avi' and '.*b/two.MP4'; expected one file"):
        open_frames(tmp_path)


def test_a_lost_end_gives_the_last_frame_that_is_there(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole" / "a.mp4", scenes(range(6)), faststart=True)
    (tmp_path / "cut").mkdir()
    cut_short(tmp_path / "cut" / "a.mp4", whole, 0.8)
    last = list(frames(tmp_path / "cut" / "a.mp4", side=1000))[-1]
    assert 1 < last.end < 5.7
    source = open_frames(tmp_path / "cut")
    for asked in ([0.1, 0.99], [0.99], [0.95, 0.99, 0.0]):
        for place, image in zip(asked, source.frames("a", asked), strict=True):
            assert near(image, last.image[..., ::-1] if place > 0.9 else picture(0)), asked


@pytest.mark.parametrize(
    ("kind", "says"), [("empty", "the file is empty"), ("text", "no video"), ("sound", "no video")]
)
def test_damaged_films(tmp_path: Path, kind: str, says: str) -> None:
    path = tmp_path / "clip7.mp4"
    if kind == "sound":
        write_sound(tmp_path / "clip7.mov")
        path = tmp_path / "clip7.mov"
    else:
        path.write_text("" if kind == "empty" else "once upon a time " * 100)
    with pytest.raises(UserError, match=says) as error:
        FilmFrames(tmp_path, [path]).frames("clip7", [0.5])
    assert "video 'clip7'" in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_real_films(data_root: Path) -> None:
    folder = data_root / "msrvtt" / "videos"
    source = open_frames(folder, threads=1)
    assert list(source.names()) == [f"video{number}" for number in range(7010, 7020)]
    path = folder / "video7013.mp4"
    seconds = Film.open(path).seconds
    assert seconds is not None
    asked = places(5)
    times = [seconds * place for place in asked]
    everything = [frame for frame in frames(path, side=1000) if any(frame.start <= time < frame.end for time in times)]
    for image, frame in zip(source.frames("video7013", asked), everything, strict=True):
        assert image.shape == frame.image.shape
        assert float(np.abs(image.astype(float) - frame.image[..., ::-1]).mean()) < 4
