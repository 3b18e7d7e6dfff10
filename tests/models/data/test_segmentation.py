"""Films are cut where PySceneDetect's own command cuts them, and where their pictures change."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from scenedetect import SceneManager, open_video
from scenedetect.detectors import HistogramDetector

from models.data.segmentation import SegmentationConfig, segment
from models.errors import UserError
from tests.support.films import cut_short, scenes, write_video

OTHER_RELEASE = "testvideo.mp4.HistogramDetector.default"
"""Its known cuts are of a release whose detector differs from the one installed."""


def goldens(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def test_known_cuts(data_root: Path) -> None:
    folder = data_root / "clips" / "scenedetect_goldens"
    compared = 0
    for path in goldens(folder):
        if path.stem == OTHER_RELEASE:
            continue
        film, _, rest = path.stem.partition(".mp4.")
        detector, setting = rest.split(".")
        kind = detector.removesuffix("Detector").lower()
        # "default" is PySceneDetect's; ours for content is the paper's.
        threshold = float(setting[1:]) if setting != "default" else 27.0 if kind == "content" else None
        config = SegmentationConfig.model_validate({"detector": kind, "threshold": threshold, "min_frames": 15})
        cuts = segment(folder.parent / f"{film}.mp4", config).cuts
        assert list(cuts) == json.loads(path.read_text())["cuts"], path.name
        compared += 1
    assert compared == 13


def test_the_installed_release_agrees_where_the_known_cuts_are_of_another(data_root: Path) -> None:
    path = data_root / "clips" / "testvideo.mp4"
    manager = SceneManager()
    manager.add_detector(HistogramDetector(min_scene_len=15))
    manager.detect_scenes(open_video(str(path)))
    expected = [start.frame_num for start, _ in manager.get_scene_list()][1:]
    found = segment(path, SegmentationConfig(detector="histogram", min_frames=15))
    assert list(found.cuts) == expected


def test_clips_of_a_film(tmp_path: Path) -> None:
    reached: list[float] = []
    found = segment(write_video(tmp_path / "a.mp4", scenes([0, 1, 2, 3], 10)), seen=reached.append)
    assert found.cuts == (10, 20, 30)
    assert found.frames == 40
    assert [time for clip in found.clips for time in clip] == pytest.approx([0, 1, 1, 2, 2, 3, 3, 4])
    assert found.lost == pytest.approx(0.0, abs=0.05)
    assert reached == sorted(reached)
    assert len(reached) == 40


def test_a_film_without_cuts_is_one_clip(tmp_path: Path) -> None:
    found = segment(write_video(tmp_path / "a.mp4", scenes([3], 8)))
    assert found.cuts == ()
    [clip] = found.clips
    assert clip == pytest.approx((0.0, 0.8))


def test_a_clip_has_some_frames(tmp_path: Path) -> None:
    """Pictures that change every third frame, between longer ones: none of the clips is shorter than asked for."""
    images = scenes([0], 10) + scenes([1, 2, 3], 3) + scenes([4], 10)
    path = write_video(tmp_path / "a.mp4", images)
    assert segment(path, SegmentationConfig(min_frames=1)).cuts == (10, 13, 16, 19)
    few = segment(path, SegmentationConfig(min_frames=5)).cuts
    assert few[0] == 10
    assert all(b - a >= 5 for a, b in pairwise(few))


def test_a_frame_rate_that_varies(tmp_path: Path) -> None:
    """Cuts are at the times of the frames, not at their numbers over an average rate."""
    times = [i * 0.04 for i in range(20)] + [0.8 + i * 0.2 for i in range(20)]
    found = segment(write_video(tmp_path / "a.mp4", scenes([0, 1, 2, 3], 10), times))
    assert found.cuts == (10, 20, 30)
    assert [start for start, _ in found.clips] == pytest.approx([0.0, 0.4, 0.8, 2.8])


def test_a_lost_end_is_told(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", scenes([0, 1, 2, 3, 4, 5]), faststart=True)
    found = segment(cut_short(tmp_path / "cut.mp4", whole, 0.8))
    assert 0.5 < found.lost < 5.0
    assert found.clips[-1][1] + found.lost == pytest.approx(6.0, abs=0.05)


def test_what_is_no_film(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("nothing")
    with pytest.raises(UserError, match=r"a\.mp4: is no video"):
        segment(tmp_path / "a.mp4")


@pytest.mark.parametrize("values", [{"detector": "magic"}, {"threshold": 0.0}, {"min_frames": 0}])
def test_settings_that_are_none(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        SegmentationConfig.model_validate(values)
