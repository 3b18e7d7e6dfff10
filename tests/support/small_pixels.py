"""A small data set of pixels in official files, and recipes that train small backbones on it in a blink."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distributed.config import Recipe
from tests.support.small_runs import changed
from tests.support.small_videos import SUBJECTS, TESTED, TRAINED, VERBS, small_videos

COLOURS = ((220, 40, 40), (40, 200, 60), (50, 80, 230), (230, 210, 60))
SIDE = 48


def small_pixels(folder: Path) -> Path:
    """Writes MSR-VTT's annotations with categories, MSRVTT-QA's questions, and two tars of frames.

    A video's subject is its colour, its verb a pattern; its category is its verb.
    """
    small_videos(folder)
    with zipfile.ZipFile(folder / "train_val_annotation.zip") as archive:
        train = json.loads(archive.read("train_val_videodatainfo.json"))
    test = json.loads((folder / "test_videodatainfo.json").read_text())
    for content in (train, test):
        for video in content["videos"]:
            video["category"] = video["id"] // 4 % 4
    with zipfile.ZipFile(folder / "train_val_annotation.zip", "w") as archive:
        archive.writestr("train_val_videodatainfo.json", json.dumps(train))
    (folder / "test_videodatainfo.json").write_text(json.dumps(test))
    numbers = range(TRAINED + TESTED)
    for part, own in (("train", numbers[:TRAINED]), ("test", numbers[TRAINED:])):
        with tarfile.open(folder / f"frames_{part}.tar", "w") as archive:
            for number in own:
                for frame in range(1 + number % 3):
                    content = picture(number, frame)
                    entry = tarfile.TarInfo(f"video{number}/{frame:05d}.jpg")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    write_questions(folder)
    return folder


def picture(number: int, frame: int) -> bytes:
    """A frame of a video, as a JPEG file."""
    grid = np.arange(SIDE) // 6 % 2
    patterns = (np.zeros((SIDE, SIDE)), grid[:, None] + 0 * grid, grid + 0 * grid[:, None], grid[:, None] ^ grid)
    shade = 1 - 0.6 * np.roll(patterns[number // 4 % 4], frame, 0)[..., None]
    image = Image.fromarray((shade * np.array(COLOURS[number % 4])).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


def write_questions(folder: Path) -> None:
    """What does ... do, and who ...; two questions a video, in MSRVTT-QA's json."""
    parts = {"train": range(16), "val": range(16, TRAINED), "test": range(TRAINED, TRAINED + TESTED)}
    for part, numbers in parts.items():
        asked: list[dict[str, Any]] = []
        for number in numbers:
            subject, verb = SUBJECTS[number % 4], VERBS[number // 4 % 4]
            for question, answer in ((f"what does {subject} do?", verb.split()[-1]), (f"who {verb}?", subject)):
                asked.append(
                    {
                        "id": len(asked),
                        "video_id": number,
                        "category_id": 0,
                        "question": question,
                        "answer": answer.split()[-1],
                    }
                )
        (folder / f"{part}_qa.json").write_text(json.dumps(asked))


SMALL: dict[str, dict[str, Any]] = {
    "violet": {
        "image_size": 64,
        "frames": 2,
        "embed_dim": 4,
        "depths": [1, 1, 1, 1],
        "swin_heads": [1, 1, 2, 2],
        "layers": 1,
        "heads": 2,
        "intermediate": 32,
        "codes": 16,
        "text_positions": 16,
        "dropout": 0.0,
        "answer_dropout": 0.0,
        "stochastic_depth": 0.0,
    },
    "allinone": {
        "image_size": 32,
        "frames": 2,
        "patch": 16,
        "hidden": 16,
        "layers": 2,
        "heads": 2,
        "intermediate": 32,
        "shared": 8,
        "text_positions": 12,
        "dropout": 0.0,
        "answer_dropout": 0.0,
        "stochastic_depth": 0.0,
    },
}
"""Sizes of small networks without dropout."""

DATA: dict[str, dict[str, Any]] = {
    "retrieval": {"name": "msrvtt_pixels", "ask": "retrieval", "split": "7k"},
    "question_answering": {"name": "msrvtt_qa", "top": 20},
    "recognition": {"name": "msrvtt_pixels", "ask": "category", "split": "7k"},
}


def pixel_values(data: Path, storage: Path, task: str, model: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as a YAML file has it; `changes` are by dotted key."""
    values: dict[str, Any] = {
        "name": "pixels",
        "task": task,
        "storage": str(storage),
        "data": {"root": str(data), "folder": ".", "frames": "frames_*.tar", "validation": 0.2, **DATA[task]},
        "model": {"name": model, **SMALL.get(model, {})},
        "inputs": {"words": {"most": 12}, "visual_tokens": {"name": "kmeans", "codes": 16}},
        "combiner": {
            "name": "meltr",
            "network": {"width": 16, "feed_forward": 16, "value_hidden": 8},
            "inner_steps": 2,
            "rate": 0.01,
        },
        "optimiser": {"name": "adam", "eta": 0.001},
        "training": {"epochs": 1, "batch_size": 8, "evaluate_every": 1, "log_every": 1},
        "tracking": {"wandb": "disabled"},
    }
    return changed(values, changes)


def pixel_recipe(data: Path, storage: Path, task: str, model: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The same, checked."""
    values = pixel_values(data, storage, task, model, changes or {})
    return Recipe.variant(values).model_validate(values, strict=False)
