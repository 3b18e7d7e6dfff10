"""Generated films: the same for the same arguments, readable as a data set, and cut where their scenes change."""

from pathlib import Path

import numpy as np
import pytest

from models.data.film import Film
from models.data.filming import SCRIPTS, VIDEOS, film, invent, main, subjects
from models.data.rendering import COLOURS, MOTIONS, PLACES, SHAPES, Scene, Subject, picture, render
from models.data.scripts import read_script
from models.data.segmentation import segment
from models.data.yms import ANNOTATIONS, SPLIT_FILES


def test_every_subject_can_be_told_from_every_other() -> None:
    every = subjects()
    assert len({subject.sentence for subject in every}) == len(every)
    images = [picture(Scene(subject, 0, 1.0), 0.4, (96, 64)).astype(int) for subject in every]
    for number, image in enumerate(images):
        assert all(np.abs(image - other).mean() > 0.5 for other in images[:number])


@pytest.mark.parametrize("shape", range(len(SHAPES)))
@pytest.mark.parametrize("place", range(len(PLACES)))
def test_shapes_are_drawn_in_their_colour_in_every_place(shape: int, place: int) -> None:
    for motion in range(len(MOTIONS)):
        for take in range(3):
            image = picture(Scene(Subject(shape, 3, place, motion), take, 1.0), 0.5, (192, 128))
            assert image.shape == (128, 192, 3)
            purple = np.abs(image.astype(int) - list(COLOURS.values())[3]).sum(2) < 20
            assert 100 < purple.sum() < 0.6 * purple.size


def test_each_split_needs_a_film(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "films"), "--films", "2"]) == 2
    assert capsys.readouterr().err == "error: cannot generate 2 movies; expected 3 or more, one a split\n"
    assert not (tmp_path / "films").exists()


def test_a_film_shows_its_scenes(tmp_path: Path) -> None:
    takes = [Scene(Subject(0, 0, place, 2), 0, seconds) for place, seconds in ((0, 1.0), (2, 0.75), (5, 1.25))]
    render(tmp_path / "a.mp4", takes)
    found = Film.open(tmp_path / "a.mp4")
    assert (found.width, found.height) == (192, 128)
    clips = segment(tmp_path / "a.mp4").clips
    assert [start for start, _ in clips] == pytest.approx([0.0, 1.0, 1.75], abs=1 / 12)


def test_a_set_of_films(tmp_path: Path) -> None:
    paths = film(tmp_path / "a", 3, seed=4)
    assert [path.name for path in paths] == ["0000.mp4", "0001.mp4", "0002.mp4"]
    for number, path in enumerate(paths):
        story = invent(f"{number:04d}", np.random.default_rng(4)) if number == 0 else None
        gold = read_script(tmp_path / "a" / ANNOTATIONS, movie=path.stem)
        script = read_script(tmp_path / "a" / SCRIPTS / f"{path.stem}.txt")
        assert [passage.text for passage in script] == [passage.text for passage in gold]
        assert any(not passage.matched for passage in gold)
        if story is not None:
            assert [passage.text for passage in gold] == [snippet.text for snippet in story.snippets]
            assert Film.open(path).seconds == pytest.approx(story.seconds, abs=0.1)
    names = [(tmp_path / "a" / name).read_text().split() for name in SPLIT_FILES.values()]
    assert names == [["0000"], ["0001"], ["0002"]]
    film(tmp_path / "b", 3, seed=4)
    for name in (ANNOTATIONS, f"{VIDEOS}/0001.mp4", f"{SCRIPTS}/0002.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
