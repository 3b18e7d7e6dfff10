"""TGIF-QA (Jang et al., CVPR 2017): what is done repeatedly, what comes before or after, and what one frame shows."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from models.backbones.video_language import Kind
from models.data.asked import Asked, AskedDataConfig, Entry, Has, asked_split, check_name
from models.data.documents import read_table, sentence
from models.data.questions import Question, open_ended
from models.data.videos import held_out
from models.errors import UserError

Row = TypeVar("Row", Entry, Question)
OPTIONS = ("a1", "a2", "a3", "a4", "a5")


class TGIFQAConfig(AskedDataConfig):
    """Which questions and answers."""

    name: Literal["tgif_qa"] = "tgif_qa"
    folder: str = "tgif_qa"
    """Holds the official Train_SUBSET_question.csv and Test_SUBSET_question.csv, whose cells are separated by tabs."""
    subset: Literal["action", "transition", "frameqa"] = "action"
    """Multiple choice of five (action, transition), or an answer of one word (frameqa)."""
    top: int = Field(default=1540, ge=1)
    """frameqa: so many of the most frequent training answers are known; others are not trained on, and always wrong."""

    @property
    def kind(self) -> Kind:
        return "open_ended" if self.subset == "frameqa" else "multiple_choice"


def load_tgif_qa(config: TGIFQAConfig, has: Has) -> Asked:
    """The splits train, validation (a share of the training GIFs) and test; `has` says which GIFs have frames.

    A GIF that the official files both train and test on stays in both, and how many there are is said on stderr.

    Raises:
        UserError: a file is missing or malformed, or GIFs have no frames and may not be left out.
    """
    folder = config.place(config.folder)
    train, test = (folder / f"{part}_{config.subset}_question.csv" for part in ("Train", "Test"))
    if config.subset == "frameqa":
        asked = _split(config, train, _questions(train), _questions(test))
        return open_ended(config, has, asked, config.top)
    chosen = _split(config, train, _choices(train), _choices(test))
    splits = {split: asked_split(config, has, split, entries) for split, entries in chosen.items()}
    return Asked(config.kind, splits)


def _split(config: TGIFQAConfig, path: Path, train: Sequence[Row], test: Sequence[Row]) -> dict[str, Sequence[Row]]:
    tested = {row.video for row in test}
    if both := {row.video for row in train} & tested:
        print(f"{path}: {len(both)} of {len(tested)} test videos are trained on too", file=sys.stderr, flush=True)
    held = held_out((row.video for row in train if row.video not in tested), config.validation)
    return {
        "train": [row for row in train if row.video not in held],
        "validation": [row for row in train if row.video in held],
        "test": test,
    }


def _questions(path: Path) -> list[Question]:
    questions = []
    for where, cells in _rows(path, "answer"):
        text, answer = (sentence(cells[column], f"{where}: the {column}") for column in ("question", "answer"))
        questions.append(Question(cells["gif_name"], text, answer))
    return questions


def _choices(path: Path) -> list[Entry]:
    entries = []
    for where, cells in _rows(path, *OPTIONS, "answer"):
        text = sentence(cells["question"], f"{where}: the question")
        options = [sentence(cells[column], f"{where}: option {column}") for column in OPTIONS]
        right = cells["answer"].strip()
        if right not in {str(number) for number in range(len(OPTIONS))}:
            raise UserError(f"{where}: the answer is {right!r:.60}; expected the number of an option, 0 to 4")
        entries.append(Entry(cells["gif_name"], tuple(f"{text} {option}" for option in options), int(right)))
    return entries


def _rows(path: Path, *columns: str) -> list[tuple[str, dict[str, str]]]:
    """The rows of an official file. Its other columns, numbers of questions and GIFs, say nothing of what is asked."""
    rows = read_table(path, "gif_name", "question", *columns, delimiter="\t")
    if not rows:
        raise UserError(f"{path}: holds no question; expected one or more")
    for where, cells in rows:
        check_name(cells["gif_name"], where)
    return rows
