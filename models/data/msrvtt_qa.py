"""MSRVTT-QA (Xu et al., ACM MM 2017): questions about the videos of MSR-VTT, with an answer of one word each."""

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from models.backbones.video_language import Kind
from models.data.asked import Asked, AskedDataConfig, Has
from models.data.questions import open_ended, read_questions
from models.data.videos import check_apart, held_out
from models.errors import UserError


class MSRVTTQAConfig(AskedDataConfig):
    """Which questions and answers."""

    name: Literal["msrvtt_qa"] = "msrvtt_qa"
    folder: str = "msrvtt_qa"
    """Holds train_qa.json, val_qa.json and test_qa.json, or train.csv, val.csv and test.csv."""
    frames: str = "msrvtt/frames_*.tar"
    top: int = Field(default=1500, ge=1)
    """So many of the most frequent training answers are known; others are not trained on, and always wrong."""
    train_from_test: bool = False
    """Where there is no training file: train on the questions of the test file, with a share of its videos held out for
    validation, and test on those of the validation file."""

    @property
    def kind(self) -> Kind:
        return "open_ended"


def load_msrvtt_qa(config: MSRVTTQAConfig, has: Has) -> Asked:
    """The splits train, validation and test; `has` says which videos have frames.

    Raises:
        UserError: a file is missing or malformed, a video is in two splits, or videos have no frames and may not be
            left out.
    """
    folder = config.place(config.folder)
    found = {part: _file(folder, part) for part in ("train", "val", "test")}
    train, val, test = (found[part] or folder / f"{part}_qa.json" for part in ("train", "val", "test"))
    if config.train_from_test == (found["train"] is not None):
        raise UserError(
            f"{train}: is there; set data.train_from_test=false to train on it"
            if found["train"]
            else f"{train}: no such file, nor train.csv; set data.train_from_test=true to train on the test questions"
            " and to test on those for validation"
        )
    questions = {
        part: read_questions(path, lambda number: f"video{number}")
        for part, path in (("train", train), ("validation", val), ("test", test))
        if path is not train or not config.train_from_test
    }
    if config.train_from_test:
        chosen = held_out((question.video for question in questions["test"]), config.validation)
        questions = {
            "train": [question for question in questions["test"] if question.video not in chosen],
            "validation": [question for question in questions["test"] if question.video in chosen],
            "test": questions["validation"],
        }
        print(
            f"{folder}: no training file: trains on {test.name}, {len(chosen)} of its videos held out, and tests on "
            f"{val.name}; published figures are not comparable",
            file=sys.stderr,
            flush=True,
        )
    check_apart(folder, {split: (question.video for question in found) for split, found in questions.items()})
    return open_ended(config, has, questions, config.top)


def _file(folder: Path, part: str) -> Path | None:
    return next((path for path in (folder / f"{part}_qa.json", folder / f"{part}.csv") if path.is_file()), None)
