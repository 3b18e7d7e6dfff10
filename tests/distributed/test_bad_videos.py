"""What a user can get wrong about videos, captions and their network: one clear line before anything is launched."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from distributed.recipe_file import dump_recipe
from distributed.train import train
from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.network import UniVL
from models.backbones.univl.official import official_state
from tests.models.data.test_mosi import write as write_mosi
from tests.support.small_videos import TRAINED, WIDTH, annotations, small_videos, video_recipe
from tests.support.workers import refusal

NUMBERS = range(TRAINED, TRAINED + 6)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_videos(tmp_path / "videos")


def error_of(data: Path, override: str | None = None, changes: Mapping[str, object] | None = None) -> str:
    """The one line that a refused `train` leaves; nothing of a run is left behind."""
    storage = data.parent / "runs"
    recipe = data.parent / "recipe.yaml"
    recipe.write_text(dump_recipe(video_recipe(data, storage, changes or {})))
    found = refusal(train, recipe, *([override] if override else []))
    assert not (storage / "videos" / "checkpoints").exists()
    return found


def unknown_video(data: Path) -> None:
    (data / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\nret0,msr0,video99,a dog\n")


def empty_caption(data: Path) -> None:
    content = annotations("test", NUMBERS, 3)
    content["sentences"][4]["caption"] = " "
    (data / "test_videodatainfo.json").write_text(json.dumps(content))


def not_utf8(data: Path) -> None:
    (data / "MSRVTT_train.7k.csv").write_bytes(b"video_id\nvideo0\nvid\xffeo1\n")


def no_frames(data: Path) -> None:
    np.savez(
        data / "frames.npz",
        allow_pickle=False,
        **{f"video{n}": np.ones((0 if n == 3 else 2, WIDTH)) for n in range(TRAINED + 6)},
    )


def two_widths(data: Path) -> None:
    frames = {f"video{n}": np.ones((2, WIDTH + (n == 3))) for n in range(TRAINED + 6)}
    np.savez(data / "frames.npz", allow_pickle=False, **frames)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unknown_video, "MSRVTT_JSFUSION_test.csv:2: unknown video 'video99'"),
        (empty_caption, "sentences[4] of 'video21' is empty; expected a sentence"),
        (not_utf8, "MSRVTT_train.7k.csv:3: byte 4 of the line is not UTF-8; save the file as UTF-8"),
        (no_frames, "frames.npz: 1 of 16 train videos have no features (video3); set data.allow_missing_videos=true"),
        (two_widths, f"'video3' have {WIDTH + 1} dimensions and those of 'video0' {WIDTH}; expected one width"),
    ],
)
def test_files(data: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(data)
    assert message in error_of(data)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.video_dim=9", f"model.video_dim=9: the data has {WIDTH}; set model.video_dim={WIDTH}"),
        (
            "model.text_from=minilm",
            "'embeddings.LayerNorm.weight' is (384,), the model's (16,); set model.hidden",
        ),
        ("model.checkpoint=/no/where.bin", "/no/where.bin: no such file; expected a UniVL checkpoint"),
        ("inputs.transcripts=true", "inputs.transcripts=true is for captioning; set it false for retrieval"),
        ("primary=decoder", "'primary' should be one of 'align', 'joint'; found 'decoder'"),
    ],
)
def test_recipes(data: Path, override: str, message: str) -> None:
    assert message in error_of(data, override)


def test_a_checkpoint_of_other_sizes(data: Path) -> None:
    recipe = video_recipe(data, data)
    other = UniVL(UniVLConfig.model_validate(recipe.model.model_dump() | {"hidden": 8}))
    path = data / "other.bin"
    torch.save(official_state(other), path)
    found = error_of(data, f"model.checkpoint={path}")
    assert found.startswith(f"{path}: 'bert.")
    assert found.endswith("set the model's sizes to the checkpoint's")


def test_no_transcripts(data: Path) -> None:
    found = error_of(data, "inputs.transcripts=true", {"task": "captioning"})
    assert found == "inputs.transcripts=true: the data has no transcripts; set it false, or use UniVL's files"


def test_a_sentiment_out_of_range(data: Path) -> None:
    write_mosi(data / "utterances.npz", y=np.array([7.0] + [0.0] * 11))
    values = {"name": "mosi", "root": str(data), "path": "utterances.npz"}
    found = error_of(data, None, {"task": "sentiment", "data": values, "model.sentiment": True})
    assert "has a label outside -3 to 3" in found
