"""A small data set in MSR-VTT's official files, and recipes that train on it in a blink."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distributed.config import VideoTextRecipe
from tests.support.small_runs import changed

WIDTH, TRAINED, TESTED = 12, 20, 6
SUBJECTS, VERBS = ("a man", "a dog", "two girls", "the chef"), ("is running", "cooks rice", "plays music", "is singing")


def caption(number: int, variant: int) -> str:
    """What a video shows; its features say it too."""
    endings = ("", " outside", " on a stage")
    return f"{SUBJECTS[number % 4]} {VERBS[number // 4 % 4]}{endings[variant % 3]}"


def small_videos(folder: Path, captions: int = 3) -> Path:
    """Writes annotations (the training part zipped, as published), the lists of the splits, and frame features."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, numbers in (("train_val", range(TRAINED)), ("test", range(TRAINED, TRAINED + TESTED))):
        text = json.dumps(annotations(part, numbers, captions))
        if part == "train_val":
            with zipfile.ZipFile(folder / "train_val_annotation.zip", "w") as archive:
                archive.writestr("train_val_videodatainfo.json", text)
        else:
            (folder / "test_videodatainfo.json").write_text(text)
    train = [f"video{number}" for number in range(TRAINED)]
    (folder / "MSRVTT_train.7k.csv").write_text("video_id\n" + "\n".join(train) + "\n")
    (folder / "MSRVTT_train.full.csv").write_text("video_id\n" + "\n".join(train[:16]) + "\n")
    test = range(TRAINED, TRAINED + TESTED)
    rows = [f"ret{n},msr{n},video{n},{caption(n, 0)}" for n in test]
    (folder / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\n" + "\n".join(rows) + "\n")
    (folder / "MSRVTT_test.full.csv").write_text("video_id\n" + "\n".join(f"video{n}" for n in test) + "\n")
    write_frames(folder / "frames.npz", range(TRAINED + TESTED))
    return folder


def annotations(part: str, numbers: range, captions: int) -> dict[str, Any]:
    split = {n: "test" if part == "test" else ("validate" if n >= 16 else "train") for n in numbers}
    return {
        "videos": [{"video_id": f"video{n}", "split": split[n], "id": n} for n in numbers],
        "sentences": [
            {"video_id": f"video{n}", "caption": caption(n, variant), "sen_id": n}
            for n in numbers
            for variant in range(captions)
        ],
    }


def write_frames(path: Path, numbers: range) -> None:
    """One to four frames a video, near a vector of its subject and verb."""
    source = np.random.default_rng(0)
    meanings = source.normal(size=(8, WIDTH))
    features, places = [], []
    for number in numbers:
        middle = meanings[number % 4] + meanings[4 + number // 4 % 4]
        for frame in range(1 + number % 4):
            features.append(middle + 0.1 * source.normal(size=WIDTH))
            places.append((number, 0, 0, frame))
    order = source.permutation(len(places))  # rows of a table may come in any order
    np.savez(
        path,
        features=np.array(features, dtype=np.float16)[order],
        video_shot_sub_frame=np.array(places, dtype=np.int32)[order],
    )


def video_values(data: Path, storage: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as a YAML file has it; `changes` are by dotted key."""
    values: dict[str, Any] = {
        "name": "videos",
        "task": "retrieval",
        "storage": str(storage),
        "data": {"name": "msrvtt", "root": str(data), "folder": ".", "features": "frames.npz", "validation": 0.2},
        "model": {
            "name": "univl",
            "hidden": 16,
            "heads": 2,
            "intermediate": 32,
            "text_layers": 1,
            "visual_layers": 1,
            "cross_layers": 1,
            "decoder_layers": 1,
            "video_dim": WIDTH,
            "text_positions": 16,
            "visual_positions": 8,
            "cross_positions": 24,
            "dropout": 0.0,
        },
        "inputs": {"max_words": 12},
        "combiner": {
            "name": "meltr",
            "network": {"width": 16, "feed_forward": 16, "value_hidden": 8},
            "inner_steps": 2,
            "rate": 0.01,
            "way": "forward_mode",
        },
        "optimiser": {"name": "adam", "eta": 0.001, "rates": {"text": 0.5}},
        "training": {"epochs": 1, "batch_size": 8, "evaluate_every": 1, "log_every": 1},
        "decoding": {"beams": 2, "max_words": 8},
        "tracking": {"wandb": "disabled"},
    }
    return changed(values, changes)


def video_recipe(data: Path, storage: Path, changes: Mapping[str, Any] | None = None) -> VideoTextRecipe:
    """The same, checked."""
    return VideoTextRecipe.model_validate(video_values(data, storage, changes or {}), strict=False)
