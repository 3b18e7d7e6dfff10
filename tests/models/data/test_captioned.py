"""Captioned videos as pairs: every frame with every caption of its video, training videos alone."""

import os
from pathlib import Path

import pytest
import torch

from models.data.captioned import CaptionedDataConfig, load_captioned
from models.data.sentences import SentenceEncoder
from models.errors import UserError
from tests.support.small_videos import caption, small_videos

DATA = os.environ.get("MELTMATCH_DATA")


def config(folder: Path, **changes: object) -> CaptionedDataConfig:
    values = {"root": str(folder), "folder": ".", "features": "frames.npz", "split": "7k", "validation": 0, **changes}
    return CaptionedDataConfig.model_validate(values)


def test_pairs_of_frames_and_captions(tmp_path: Path) -> None:
    found = load_captioned(config(small_videos(tmp_path), per_video=2), "minilm", tmp_path)
    frames = [1 + number % 4 for number in range(20)]
    assert len(found.video) == sum(frames)
    assert len(found.text) == 2 * 20
    assert len(found.rows) == len(found.group) == 2 * sum(frames)
    expected = SentenceEncoder.load("minilm").encode([caption(n, v) for n in range(20) for v in range(2)])
    torch.testing.assert_close(found.text, expected)
    owner = [number for number, count in enumerate(frames) for _ in range(count)]
    assert {(owner[frame], text // 2) for frame, text in found.rows.tolist()} == {(n, n) for n in range(20)}
    assert [owner[frame] for frame in found.rows[:, 0].tolist()] == found.group.tolist()
    assert len({tuple(pair) for pair in found.rows.tolist()}) == len(found.rows)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_val_videodatainfo\.json: no such file"):
        load_captioned(config(tmp_path), "minilm", None)


@pytest.mark.skipif(DATA is None, reason="needs MELTMATCH_DATA")
def test_official_training_videos_are_not_those_of_validation_and_test_movies() -> None:
    from models.data.msrvtt import load_msrvtt

    splits = load_msrvtt(CaptionedDataConfig(features="msrvtt/frame_features.npz"))
    assert not set(splits["train"].videos) & {*splits["validation"].videos, *splits["test"].videos}
    assert len(splits["train"]) > 3000
