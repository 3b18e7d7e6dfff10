"""Regions of pictures out of the files that detectors write; what is damaged is named one by one, and passed over."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.data import regions
from models.data.regions import Regions, find_regions, read_regions
from models.errors import UserError
from tests.support.detections import SIZE, found, line, write_npz, write_tsv


def same(read: Regions | UserError, id: str, features: np.ndarray, boxes: np.ndarray) -> None:
    assert isinstance(read, Regions), read
    assert read.id == id
    np.testing.assert_array_equal(read.features, features)
    for got, box in zip(read.boxes, boxes, strict=True):
        expected = [box[0] / SIZE[0], box[1] / SIZE[1], box[2] / SIZE[0], box[3] / SIZE[1]]
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert read.features.dtype == read.boxes.dtype == np.float32


@pytest.mark.parametrize("lxmert", [False, True])
def test_a_tsv_file(tmp_path: Path, lxmert: bool) -> None:
    pictures = {f"film_{n}": found(n + 1, n) for n in range(3)}
    path = write_tsv(tmp_path / "a.tsv", [line(id, *seen, lxmert=lxmert) for id, seen in pictures.items()])
    read = list(read_regions(path))
    assert len(read) == 3
    for one, (id, seen) in zip(read, pictures.items(), strict=True):
        same(one, id, *seen)


def test_more_columns(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "a.tsv", [line("deeper/film_0.jpg", *found(2, 0)) + "\tY2xz"])
    [read] = read_regions(path)
    same(read, "film_0", *found(2, 0))


def test_damaged_lines_are_named_and_the_others_read(tmp_path: Path) -> None:
    good = line("film_0", *found(3, 0))
    cells = good.split("\t")
    lines = [
        good,
        good[:-101],
        "\t".join(cells[:4]),
        "\t".join([*cells[:3], "4", *cells[4:]]),
        "\t".join([*cells[:5], "b'" + cells[5] + "'"]),
        "\t".join([cells[0], "many", *cells[2:]]),
        line("film_1", np.full((2, 16), np.nan, np.float32), found(2, 1)[1]),
        line("film_1", found(2, 1)[0], 3 * np.full((2, 4), SIZE[0], np.float32)),
        line("film_1", *found(0, 1)),
        line("film_2", *found(1, 2)),
    ]
    read = list(read_regions(write_tsv(tmp_path / "a.tsv", lines)))
    same(read[0], "film_0", *found(3, 0))
    same(read[-1], "film_2", *found(1, 2))
    says = [
        "",
        "is damaged; expected float32 numbers in base64",
        "4 columns; expected image_id, image_w",
        "4 regions with 12 numbers in boxes",
        "features b\"b'",
        r"image_w b'many' is damaged; expected a whole number",
        "NaN or infinite",
        "reaches out of the picture of 640x480",
        "0 regions with",
        "",
    ]
    for number, (one, expected) in enumerate(zip(read, says, strict=True), start=1):
        if 1 < number < len(says):
            assert isinstance(one, UserError), number
            assert str(one).startswith(f"{tmp_path / 'a.tsv'}:{number}: ")
            assert expected in str(one)
            assert "\n" not in str(one)


def test_a_file_that_is_no_tsv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "LONGEST_LINE", 2**20)
    (tmp_path / "a.tsv").write_bytes(bytes(2**21))
    [read] = read_regions(tmp_path / "a.tsv")
    assert "more than 1 MB in a line; is it a .tsv file?" in str(read)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"x": None, "features": found(4, 0)[0]},
        {"x": found(4, 0)[0].T},
        {"bbox": None, "boxes": found(4, 0)[1], "num_bbox": None},
        {"bbox": None, "image_w": None, "image_h": None, "norm_bb": found(4, 0)[1] / np.array(SIZE * 2, np.float32)},
        {"x": found(4, 0)[0].astype(np.float64)},
    ],
)
def test_an_npz_file(tmp_path: Path, more: dict[str, Any]) -> None:
    """`info` is an object that only pickle could read: it is left alone."""
    [read] = read_regions(write_npz(tmp_path / "film_7.npz", *found(4, 0), **more))
    same(read, "film_7", *found(4, 0))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"x": None}, "holds no 'x' or 'features'"),
        ({"bbox": None}, "holds no 'bbox' or 'boxes'"),
        ({"image_w": None}, "holds no 'image_w' or 'img_w'"),
        ({"num_bbox": 5}, "states 5 regions and holds 4"),
        ({"x": np.ones((3, 16), np.float32)}, r"features \(3, 16\) and boxes \(4, 4\)"),
        ({"x": np.array([{"a": 1}])}, "is no .npz file of numbers, or is damaged"),
        ({"image_h": 0}, "or the size"),
    ],
)
def test_npz_files_that_hold_no_regions(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    path = write_npz(tmp_path / "film_7.npz", *found(4, 0), **more)
    [read] = read_regions(path)
    assert isinstance(read, UserError)
    assert str(read).startswith(f"{path}: ")
    with pytest.raises(UserError, match=says):
        raise read


def test_a_damaged_npz_file(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "film_7.npz", *found(4, 0))
    path.write_bytes(path.read_bytes()[:200])
    [read] = read_regions(path)
    assert "film_7.npz: is no .npz file of numbers, or is damaged" in str(read)


def test_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder; expected regions"):
        find_regions(tmp_path / "absent")
    (tmp_path / "notes.txt").touch()
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match=r"holds no regions; expected \.tsv or \.npz files"):
            find_regions(place)
    write_npz(tmp_path / "deeper" / "film_7.npz", *found(4, 0))
    write_tsv(tmp_path / "a.tsv", [])
    assert [path.name for path in find_regions(tmp_path)] == ["a.tsv", "film_7.npz"]
