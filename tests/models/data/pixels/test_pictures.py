"""Stored frames: tar files beside tarfile's own reading, folders, several of them, and what is wrong with them."""

import gzip
import io
import multiprocessing
import shutil
import tarfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from models.data import film
from models.data.pixels.pictures import TarFrames, decoded
from models.data.pixels.sampling import places
from models.data.pixels.sources import FrameSource, open_frames
from models.errors import UserError


def encoded(seed: int, ending: str = ".png", size: tuple[int, int] = (6, 8)) -> bytes:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    return cv2.imencode(ending, image)[1].tobytes()


def write_tar(path: Path, members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


FRAMES = {f"v{video}/{frame}.png": encoded(10 * video + frame) for video in (2, 1) for frame in (11, 9, 10)}


def test_the_frame_at_a_place(tmp_path: Path) -> None:
    source = open_frames(write_tar(tmp_path / "a.tar", FRAMES))
    assert list(source.names()) == ["v2", "v1"]
    assert "v1" in source
    assert "v3" not in source
    asked = [0.99, 0.0, 0.34, 0.33, 0.5]
    for place, image in zip(asked, source.frames("v1", asked), strict=True):
        assert np.array_equal(image, decoded(FRAMES[f"v1/{9 + int(3 * place)}.png"], ""))  # 9, 10, 11: by number
    assert source.frames("v1", []) == []


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length_and_other_members(tmp_path: Path, form: int) -> None:
    long = "v" * 90
    members = {"./README.txt": b"no frame", f"frames/{long}/0.jpg": encoded(1, ".jpg"), f"frames/{long}/._0.jpg": b"?"}
    if form != tarfile.USTAR_FORMAT:
        long = long * 2
        members[f"frames/{long}/7.webp"] = encoded(2, ".webp")
    path = write_tar(tmp_path / "a.tar", members, form)
    with tarfile.open(path, "a", format=form) as tar:
        folder = tarfile.TarInfo("frames")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    source = open_frames(path)
    assert long in source
    assert len(source.frames(long, [0.5])) == 1
    assert len(source.names()) == len(members) - 2


def test_the_last_of_the_same_name_counts(tmp_path: Path) -> None:
    """`tar -r` leaves what it replaces where it was."""
    path = write_tar(tmp_path / "a.tar", FRAMES)
    newer = encoded(99)
    with tarfile.open(path, "a") as tar:
        for name in ("./v1/10.png", "v1/12.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(newer)
            tar.addfile(entry, io.BytesIO(newer))
    expected = [FRAMES["v1/9.png"], newer, FRAMES["v1/11.png"], newer]
    for image, data in zip(open_frames(path).frames("v1", places(4)), expected, strict=True):
        assert np.array_equal(image, decoded(data, ""))


def read(source: FrameSource, video: str) -> list[film.Image]:
    return source.frames(video, places(3))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_read_it_too(tmp_path: Path, method: str) -> None:
    source = open_frames(write_tar(tmp_path / "a.tar", FRAMES))
    videos = ["v1", "v2"] * 20
    expected = [read(source, video) for video in videos]
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        found = list(pool.map(read, [source] * len(videos), videos))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_folders_of_pictures(tmp_path: Path) -> None:
    for name, data in FRAMES.items():
        path = tmp_path / "some" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "some" / "v1" / "notes.txt").touch()
    (tmp_path / "some" / "v1" / ".0.png").touch()
    stored, packed = open_frames(tmp_path), open_frames(write_tar(tmp_path / "a.tar", FRAMES))
    assert list(stored.names()) == ["v1", "v2"]
    for video in ("v1", "v2"):
        assert np.array_equal(read(stored, video), read(packed, video))
    shutil.copytree(tmp_path / "some" / "v1", tmp_path / "other" / "v1")
    with pytest.raises(UserError, match=r"video 'v1' is in '.*other/v1' and in '.*some/v1'; expected one folder"):
        open_frames(tmp_path)


def test_several_places(tmp_path: Path) -> None:
    both = open_frames(write_tar(tmp_path / "all.tar", FRAMES))
    for video in ("v1", "v2"):
        write_tar(tmp_path / f"part_{video}.tar", {name: data for name, data in FRAMES.items() if video in name})
    for paths in (tmp_path / "part_*.tar", [tmp_path / "part_v1.tar", tmp_path / "part_v2.tar"]):
        source = open_frames(paths)
        assert list(source.names()) == ["v1", "v2"]
        assert all(np.array_equal(read(source, video), read(both, video)) for video in ("v1", "v2"))
    with pytest.raises(UserError, match=r"part_v1.tar, .*part_v2.tar: has no video 'v9'; expected one of its 2"):
        source.frames("v9", [0.5])
    with pytest.raises(UserError, match=r"video 'v2' is in .*all.tar and in .*part_v2.tar; expected it in one"):
        open_frames([tmp_path / "all.tar", tmp_path / "part_v2.tar"])


def test_a_place_is_within(tmp_path: Path) -> None:
    source = open_frames(write_tar(tmp_path / "a.tar", FRAMES))
    for place in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="expected each in"):
            source.frames("v1", [0.5, place])


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "head"])
def test_damaged_frames(tmp_path: Path, ending: str, damage: str) -> None:
    whole = encoded(3, ending, (60, 80))
    data = {"cut": whole[: len(whole) * 2 // 3], "empty": b"", "text": b"once upon a time", "head": whole[:12]}[damage]
    source = open_frames(write_tar(tmp_path / "a.tar", {f"v1/0{ending}": whole, f"v1/1{ending}": data}))
    assert source.frames("v1", [0.2])[0].shape == (60, 80, 3)
    (tmp_path / "folder" / "v1").mkdir(parents=True)
    (tmp_path / "folder" / "v1" / f"1{ending}").write_bytes(data)
    for damaged, where in ((source, "a.tar"), (open_frames(tmp_path / "folder"), f"v1/1{ending}")):
        with pytest.raises(UserError, match="cannot be decoded; expected a whole JPEG, PNG or WebP") as error:
            damaged.frames("v1", [0.7])
        assert where in str(error.value)
        assert f"1{ending}" in str(error.value)
        assert "video 'v1'" in str(error.value)
        assert "\n" not in str(error.value)


def test_grey_and_transparent_pictures() -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert np.array_equal(decoded(cv2.imencode(".png", grey)[1].tobytes(), ""), grey[..., None].repeat(3, -1))
    blue = np.full((6, 8, 4), (255, 0, 0, 128), np.uint8)  # OpenCV's order
    assert np.array_equal(decoded(cv2.imencode(".png", blue)[1].tobytes(), "")[0, 0], [0, 0, 255])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/v1/0.png", "leads out of the archive"),
        ("v1/../../0.png", "leads out of the archive"),
        ("../v1/0.txt", "leads out of the archive"),
        ("0.png", "is in no folder; expected VIDEO/FRAME.jpg"),
        ("other/v1/0.png", "video 'v1' is in 'v1' and in 'other/v1'"),
    ],
)
def test_members_that_are_refused(tmp_path: Path, name: str, says: str) -> None:
    path = write_tar(tmp_path / "a.tar", {**FRAMES, name: encoded(0)})
    with pytest.raises(UserError, match=says) as error:
        open_frames(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = write_tar(tmp_path / "a.tar", FRAMES)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("v1/12.png")
        link.type, link.linkname = kind, "v1/9.png"
        tar.addfile(link)
    with pytest.raises(UserError, match=r"member 'v1/12.png' is a link; expected the frame itself"):
        open_frames(path)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("gzip", r"is compressed \(gzip\); .* decompress it"),
        ("xz", r"is compressed \(xz\)"),
        ("text", "is no tar file, or is cut short"),
        ("empty", "is no tar file, or is cut short"),
        ("cut in a frame", "is no tar file, or is cut short"),
        ("cut in a header", "is no tar file, or is cut short"),
        ("cut behind a frame", "is no tar file, or is cut short"),
        ("bad header", "is no tar file, or is cut short"),
        ("no frames", "holds no frames; expected VIDEO/FRAME.jpg"),
        ("missing", "no such file or folder; expected a tar file"),
    ],
)
def test_what_is_no_tar_of_frames(tmp_path: Path, kind: str, says: str) -> None:
    path = tmp_path / "a.tar"
    last = sorted(TarFrames(write_tar(path, FRAMES)).index["v1"], key=lambda member: member.offset)[-1]
    data = path.read_bytes()
    if kind == "xz":
        with tarfile.open(path, "w:xz") as tar:
            tar.addfile(tarfile.TarInfo("v1/0.png"))
    elif kind == "no frames":
        write_tar(path, {"v1/0.txt": b"text"})
    elif kind == "missing":
        path.unlink()
    else:
        padded = last.offset + -(-last.size // 512) * 512
        changed = {
            "gzip": gzip.compress(data),
            "text": b"once upon a time " * 100,
            "empty": b"",
            "cut in a frame": data[: last.offset + 10],
            "cut in a header": data[: last.offset - 100],
            "cut behind a frame": data[:padded],
            "bad header": data[: last.offset - 512] + b"\xff" * 512 + data[last.offset :],
        }
        path.write_bytes(changed[kind])
    with pytest.raises(UserError, match=says) as error:
        open_frames(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_folder_of_frames(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither films nor folders of frames"):
        open_frames(tmp_path)
    (tmp_path / "0.png").write_bytes(encoded(0))
    with pytest.raises(UserError, match="holds neither films nor folders of frames"):
        open_frames(tmp_path)
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "0.png").write_bytes(encoded(0))
    source = open_frames(tmp_path)
    assert list(source.names()) == ["v1"]
    (tmp_path / "v2.mp4").touch()
    with pytest.raises(UserError, match=r"holds films \('v2.mp4'\) and folders of frames \('v1'\)"):
        open_frames(tmp_path)
    with pytest.raises(UserError, match="nothing fits this pattern"):
        open_frames(tmp_path / "frames_*.tar")
    with pytest.raises(UserError, match="no place of frames is given"):
        open_frames([])
    (tmp_path / "v1" / "0.png").unlink()
    with pytest.raises(UserError, match="v1: holds no frames of video 'v1' any more"):
        source.frames("v1", [0.5])


def test_a_tar_that_is_gone(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", FRAMES)
    source = open_frames(path)
    path.unlink()
    with pytest.raises(UserError, match=r"a.tar: cannot be read \(No such file"):
        source.frames("v1", [0.5])


def test_real_tars(data_root: Path) -> None:
    """Every frame of every video beside tarfile's own reading."""
    source = open_frames(data_root / "msrvtt" / "frames_*.tar")
    assert len(source.names()) == 1476
    path = data_root / "msrvtt" / "frames_test_1ka.tar"
    with tarfile.open(path) as tar:
        expected: dict[str, list[tuple[str, bytes]]] = {}
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            expected.setdefault(member.name.split("/")[0], []).append((member.name, stream.read()))
    assert len(expected) == 476
    for video, stored in expected.items():
        found = source.frames(video, places(len(stored)))
        for image, (_, data) in zip(found, sorted(stored), strict=True):
            with Image.open(io.BytesIO(data)) as picture:
                assert np.abs(image.astype(int) - np.asarray(picture.convert("RGB"))).max() <= 2  # two decoders
