"""Videos to clips and features on a real Ray cluster: what comes out, what is left out, and going on."""

import csv
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distributed.extract import CLIP_FEATURES, FAILED, collect, extract, find_videos
from distributed.extraction import (
    FILMS,
    Cutter,
    ExtractionConfig,
    Facts,
    begin,
    finished,
    frame_times,
    gather,
    read_film,
    write_film,
)
from models.data.encoders import LITE0, geometry, image_encoder
from models.data.features import FeatureStore
from models.data.film import frames
from models.data.segmentation import SegmentationConfig, segment
from models.data.yms import SEGMENTATION
from models.errors import UserError
from tests.support.films import cut_short, scenes, write_sound, write_video


def slowly(path: Path, count: int) -> torch.Tensor:
    """The features of a film's clips, frame by frame, each found among all frames."""
    everything = list(frames(path, side=256))
    fit, encoder, rows = geometry(LITE0).fit, image_encoder(LITE0), []
    for start, end in segment(path).clips:
        features = []
        for time in frame_times(start, end, count):
            image = max((f for f in everything if f.start <= time + 1e-6), key=lambda f: f.start).image
            features.append(encoder.encode(torch.from_numpy(fit(np.ascontiguousarray(image[..., ::-1])))[None])[0])
        rows.append(torch.stack(features).mean(0))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films below one folder, one of them deeper."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "one.mp4", scenes([0, 1, 2, 3]))
    write_video(folder / "deeper" / "two.mkv", scenes([4, 5]))
    write_video(folder / "three.mp4", scenes([6], 7))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_from_videos_to_features_and_on(videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    whole = write_video(tmp_path / "whole.mp4", scenes([0, 1, 2, 3, 4, 5]), faststart=True)
    cut_short(bad / "cut.mp4", whole, 0.8)
    (bad / "empty.mp4").touch()
    (bad / "text.mp4").write_text("no video")
    write_sound(bad / "sound.mp4")
    to = tmp_path / "features"

    extract([str(videos), str(bad), "--to", str(to), "--frames", "2"])
    out = capfd.readouterr().out
    with (to / FAILED).open() as file:
        failed = {Path(row["file"]).stem: row["reason"] for row in csv.DictReader(file)}
    assert sorted(failed) == ["cut", "empty", "sound", "text"]
    assert "cannot be decoded" in failed["cut"]
    assert all(f"left out: {reason}" in out for reason in failed.values())
    assert "7 clips of 3 films" in out
    lines = (to / SEGMENTATION).read_text().splitlines()
    assert [line.split("/")[0] for line in lines] == ["one"] * 4 + ["three"] + ["two"] * 2
    store = FeatureStore.open(to / CLIP_FEATURES, expected_width=1280)
    for name, path in find_videos([videos]).items():
        ids = [line.split("/")[1] for line in lines if line.startswith(f"{name}/")]
        torch.testing.assert_close(store.gather(ids), slowly(path, 2), rtol=1e-4, atol=1e-4)

    # A film that is there is not made again; one that is not, and those that failed, are.
    (to / FILMS / "two.safetensors").unlink()
    (bad / "text.mp4").unlink()
    write_video(bad / "text.mp4", scenes([7], 6))
    before = {path.name: path.stat().st_mtime_ns for path in (to / FILMS).iterdir()}
    extract([str(videos), str(bad), "--to", str(to), "--frames", "2", "--damaged"])
    out = capfd.readouterr().out
    assert "2 of 7 films are done already" in out
    assert "film 5/5" in out
    after = {path.name: path.stat().st_mtime_ns for path in (to / FILMS).iterdir()}
    assert sorted(after) == [f"{name}.safetensors" for name in ("cut", "one", "text", "three", "two")]
    assert {name: after[name] for name in before} == before
    facts, features = read_film(to / FILMS / "cut.safetensors")
    assert facts.lost > 0.5
    assert features.shape == (len(facts.clips), 1280)


class Deadly(Cutter):
    """Stands for a film that kills the process which decodes it."""

    def _frames(self, name: str, path: Path, shape: Any) -> Iterator[dict[str, Any]]:
        if name == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super()._frames(name, path, shape)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_film_that_kills_its_process_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distributed.extraction.Cutter", Deadly)
    for name in ("deadly", "one", "two"):
        write_video(tmp_path / "films" / f"{name}.mp4", scenes([0, 1], 6))
    extract([str(tmp_path / "films"), "--to", str(tmp_path / "to")])
    assert finished(tmp_path / "to") == ["one", "two"]
    assert "deadly.mp4: its process died 3 times" in (tmp_path / "to" / FAILED).read_text()


def rows(film: str, numbers: list[int], facts: Facts, width: int = 3) -> dict[str, Any]:
    features = np.array([[number + 10.0 * i for i in range(width)] for number in numbers], np.float32)
    return {
        "film": [film] * len(numbers),
        "number": numbers,
        "told": [facts.told()] * len(numbers),
        "feature": features,
    }


def test_rows_in_any_order_become_films() -> None:
    facts = [Facts(f"{name}.mp4", [(0.0, 1.0), (1.0, 2.5)], 64, 48, 25, 0.0) for name in "ab"]
    broken = {"film": ["c"], "number": [-1], "told": [json.dumps({"error": "c: no"})], "feature": np.zeros((1, 3))}
    stream = [rows("a", [3, 0], facts[0]), rows("b", [1], facts[1]), broken, rows("b", [0, 2, 3], facts[1])]
    stream += [rows("a", [2, 1], facts[0])]
    found = list(gather(iter(stream), frames=2))
    assert [name for name, _, _ in found] == ["c", "b", "a"]
    assert found[0][1:] == ("c: no", None)
    assert found[2][1] == facts[0]
    assert found[2][2] is not None
    assert found[2][2].tolist() == [[0.5, 10.5, 20.5], [2.5, 12.5, 22.5]]  # means of frames 0, 1 and of 2, 3


def test_central_frames() -> None:
    assert frame_times(2.0, 4.0, 1) == [3.0]
    assert frame_times(2.0, 4.0, 2) == [2.5, 3.5]


def test_a_films_file_there_and_back(tmp_path: Path) -> None:
    facts = Facts("a.mp4", [(0.0, 1.0)], 64, 48, 25, 0.25)
    write_film(tmp_path, "a", facts, torch.ones(1, 4))
    read, features = read_film(tmp_path / FILMS / "a.safetensors")
    assert read == facts
    assert torch.equal(features, torch.ones(1, 4))
    (tmp_path / FILMS / "b.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"b\.safetensors: is no film's features .* delete it"):
        collect(tmp_path)


def test_a_folder_is_of_one_setting(tmp_path: Path) -> None:
    begin(tmp_path, ExtractionConfig())
    begin(tmp_path, ExtractionConfig())
    begin(tmp_path, ExtractionConfig(damaged=True))  # changes no film that is there
    with pytest.raises(UserError, match=r"was begun with frames=1, not 3; name another folder with --to"):
        begin(tmp_path, ExtractionConfig(frames=3))
    with pytest.raises(UserError, match="was begun with segmentation"):
        begin(tmp_path, ExtractionConfig(segmentation=SegmentationConfig(min_frames=9)))


def test_a_name_with_blanks(tmp_path: Path) -> None:
    (tmp_path / "My  first film.mp4").touch()
    assert list(find_videos([tmp_path])) == ["My_first_film"]


def test_places_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        find_videos([tmp_path / "absent"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="holds no video"):
        find_videos([tmp_path / "folder"])
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / "folder" / name).touch()
    with pytest.raises(UserError, match=r"a\.mp4: is called like .*a\.mkv"):
        find_videos([tmp_path / "folder"])
    (tmp_path / "#1.mp4").touch()
    with pytest.raises(UserError, match="bad movie name '#1'"):
        find_videos([tmp_path / "#1.mp4"])
    with pytest.raises(UserError, match=r"encoder './absent': no such folder"):
        extract([str(tmp_path / "folder" / "a.mp4"), "--to", str(tmp_path / "to"), "--encoder", "./absent"])
    for option in ("--frames", "--min-frames", "--threshold"):
        with pytest.raises(UserError, match=rf"^{option} 0(\.0)?: input should be greater than"):
            extract([str(tmp_path / "folder" / "a.mp4"), "--to", str(tmp_path / "to"), option, "0"])
    assert not (tmp_path / "to").exists()
