"""Regions that were detected elsewhere to clip features on a real Ray cluster, and the frames for their detector."""

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from distributed.detections import EncodeRegions, Places, read_clips
from distributed.extract import CLIP_FEATURES, FAILED, collect, extract
from distributed.extraction import FILMS, finished
from models.data.features import FeatureStore
from models.data.film import stills
from models.data.movie import Clip
from models.data.regions import MEAN, Regions, read_regions, region_encoder
from models.data.timecode import format_interval
from models.data.yms import SEGMENTATION
from models.errors import UserError
from tests.support.detections import found, line, write_npz, write_tsv
from tests.support.films import scenes, write_video
from tests.support.lxmert import small_lxmert


def cut(film: str, count: int) -> list[Clip]:
    """Clips of a second each."""
    return [Clip(format_interval(film, n, n + 1), n, n + 1) for n in range(count)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of three films' clips, and their regions in files of every layout."""
    films = {"a": cut("a", 3), "b": cut("b", 2), "c": cut("c", 1)}
    (tmp_path / SEGMENTATION).write_text("".join(f"{f}/{clip.id}\n" for f, clips in films.items() for clip in clips))
    detected = tmp_path / "detected"
    write_tsv(
        detected / "one.tsv",
        [
            line("b_1", *found(3, 11)),
            line("a_2.jpg", *found(2, 2)),
            line("a_0", *found(5, 0)),
            "cut short",
            line("z_0", *found(1, 9)),
        ],
    )
    write_tsv(detected / "two.tsv", [line(films["a"][1].id, *found(4, 1), lxmert=True)])
    write_npz(detected / "b_0.npz", *found(6, 10))
    (detected / "c_0.npz").write_bytes(b"nothing")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("lxmert", [False, True])
@pytest.mark.usefixtures("cluster")
def test_from_regions_to_features_and_on(place: Path, lxmert: bool, capfd: pytest.CaptureFixture[str]) -> None:
    source = str(small_lxmert(place / "lxmert")) if lxmert else MEAN
    to = place / "to"
    command = ["--regions", str(place / "detected"), "--clips", str(place), "--to", str(to), "--encoder", source]
    extract(command)
    out = capfd.readouterr().out
    assert "5 clips of 2 films" in out
    assert "1 pictures are of no clip that is wanted" in out
    with (to / FAILED).open() as file:
        failed = {Path(row["file"]).name: row["reason"] for row in csv.DictReader(file)}
    assert sorted(failed) == ["c", "c_0.npz", "one.tsv:4"]
    assert "no regions of 1 of 1 pictures (c_0, of clip c_00.00.00.000-00.00.01.000)" in failed["c"]
    assert "is damaged" in failed["c_0.npz"]
    encoder = region_encoder(source)
    ids, expected = [], []
    for film, seeds in (("a", (5, 4, 2)), ("b", (6, 3))):
        for number, count in enumerate(seeds):
            features, boxes = found(count, number + 10 * (film == "b"))
            shares = (boxes / np.array([640, 480, 640, 480])).astype(np.float32)
            ids.append(cut(film, 3)[number].id)
            expected.append(encoder.encode([Regions("", features, shares)])[0])
    store = FeatureStore.open(to / CLIP_FEATURES, expected_width=32 if lxmert else 16)
    torch.testing.assert_close(store.gather(ids), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert [line.partition("/")[2] for line in (to / SEGMENTATION).read_text().splitlines()] == ids

    before = {path.name: path.stat().st_mtime_ns for path in (to / FILMS).iterdir()}
    write_npz(place / "detected" / "c_0.npz", *found(1, 5))
    extract(command)
    assert "2 of 3 films are done already" in capfd.readouterr().out
    assert finished(to) == ["a", "b", "c"]
    assert {name: (to / FILMS / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_frames_are_kept_for_a_detector(tmp_path: Path) -> None:
    """Whole pictures, under the names that their regions are looked for by."""
    path = write_video(tmp_path / "films" / "a.mp4", scenes([0, 1, 2]))
    pictures = tmp_path / "pictures"
    extract([str(path), "--to", str(tmp_path / "to"), "--pictures", str(pictures)])
    assert sorted(picture.name for picture in pictures.iterdir()) == ["a_0.jpg", "a_1.jpg", "a_2.jpg"]
    for number, image in enumerate(stills(path, [0.5, 1.5, 2.5])):
        with av.open(str(pictures / f"a_{number}.jpg")) as file:
            kept = next(file.decode(video=0)).to_ndarray(format="rgb24")
        assert kept.shape == image.shape
        assert np.abs(kept.astype(int) - image).mean() < 12
        write_npz(tmp_path / "detected" / f"a_{number}.npz", *found(2, number))
    regions = ["--regions", str(tmp_path / "detected"), "--clips", str(tmp_path / "to")]
    extract([*regions, "--to", str(tmp_path / "regions")])
    assert collect(tmp_path / "regions") == 3
    assert (tmp_path / "regions" / SEGMENTATION).read_bytes() == (tmp_path / "to" / SEGMENTATION).read_bytes()
    with pytest.raises(UserError, match=r"was begun with .*; name another folder with --to"):
        extract([*regions, "--to", str(tmp_path / "to")])


def test_names_of_pictures() -> None:
    places = Places({"a_b": cut("a_b", 2), "c": cut("c", 1)}, 1)
    assert places.find("a_b_1") == ("a_b", 1)
    assert places.find(cut("a_b", 2)[1].id) == ("a_b", 1)
    for name in ("a_b_2", "a_b", "a_b_-1", "a_b_x", "d_0", ""):
        assert places.find(name) is None, name
    several = Places({"c": cut("c", 2)}, 3)
    assert several.find("c_5") == ("c", 5)
    assert several.find(cut("c", 2)[0].id) is None  # which of its three?


def test_a_picture_that_comes_twice_and_one_of_another_width() -> None:
    places = Places({"a": cut("a", 2)}, 1)
    feature = {n: np.full(4, n, np.float32).tobytes() for n in range(3)}
    arrived = [
        {"id": "a_0", "error": "", "feature": feature[0]},
        {"id": "a_0", "error": "", "feature": feature[1]},
        {"id": "a_1", "error": "", "feature": feature[2][:8]},
    ]
    rows = list(places.rows(iter(arrived)))
    assert [(row["film"], row["number"]) for row in rows] == [(["a"], [0]), (["a_1"], [-1])]
    assert rows[0]["feature"][0].tolist() == [0.0] * 4
    assert "a_1: regions of another width (2, not 4)" in json.loads(rows[1]["told"][0])["error"]
    assert places.missing("a") == f"a: no regions of 1 of 2 pictures (a_1, of clip {cut('a', 2)[1].id})"


def test_a_picture_that_does_not_fit_stops_no_other(tmp_path: Path) -> None:
    lines = [line("a_0", *found(2, 0)), line("a_1", *found(2, 1, width=8)), line("a_2", *found(2, 2))]
    path = write_tsv(tmp_path / "a.tsv", lines)
    [rows] = EncodeRegions(MEAN)({"paths": [[str(path)]]})
    assert rows["error"] == [""] * 3
    assert [len(feature) for feature in rows["feature"]] == [4 * 16, 4 * 8, 4 * 16]  # told apart where films are made
    [rows] = EncodeRegions(str(small_lxmert(tmp_path / "lxmert")))({"paths": [[str(path)]]})
    assert rows["id"] == ["a_0", "a_1", "a_2"]
    assert [bool(error) for error in rows["error"]] == [False, True, False]
    assert len(list(read_regions(path))) == 3


def test_options_that_do_not_go_together(place: Path) -> None:
    to = ["--to", str(place / "to")]
    regions = ["--regions", str(place / "detected")]
    with pytest.raises(UserError, match="--regions and --clips go together"):
        extract([*regions, *to])
    with pytest.raises(UserError, match="extract the others into another folder"):
        extract([str(place), *regions, "--clips", str(place), *to])
    with pytest.raises(UserError, match=r"no such file or folder; expected regions"):
        extract(["--regions", str(place / "absent"), "--clips", str(place), *to])
    with pytest.raises(UserError, match=r"encoder './absent': no such folder; expected 'mean'"):
        extract([*regions, "--clips", str(place), "--encoder", "./absent", *to])
    (place / SEGMENTATION).write_text("a/a_1-2\n")
    with pytest.raises(UserError, match=r"clip_segmentation\.txt:1: malformed interval 'a_1-2'"):
        extract([*regions, "--clips", str(place), *to])
    (place / SEGMENTATION).write_text("b/a_00.00.00.000-00.00.01.000\n")
    with pytest.raises(UserError, match=r":1: expected a/a_00"):
        read_clips(place / SEGMENTATION)
    (place / SEGMENTATION).write_text("\n")
    with pytest.raises(UserError, match="holds no clips; expected lines FILM/FILM_START-END"):
        read_clips(place)
    assert not (place / "to").exists()
