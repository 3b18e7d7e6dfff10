"""MSVD-QA (Xu et al., ACM MM 2017): questions about the clips of MSVD, with an answer of one word each."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from models.backbones.video_language import Kind
from models.data.asked import Asked, AskedDataConfig, Has, check_name, is_number
from models.data.files import read_lines
from models.data.questions import open_ended, read_questions
from models.data.videos import check_apart
from models.errors import UserError

FILES = {"train": "train_qa.json", "validation": "val_qa.json", "test": "test_qa.json"}


class MSVDQAConfig(AskedDataConfig):
    """Which questions and answers."""

    name: Literal["msvd_qa"] = "msvd_qa"
    folder: str = "msvd_qa"
    """Holds train_qa.json, val_qa.json and test_qa.json."""
    mapping: str | None = "youtube_mapping.txt"
    """A file in the folder with lines `YOUTUBEID vidN`: videos are called by their YouTube ids (with start and end
    seconds). null: they are called vidN."""
    top: int = Field(default=1000, ge=1)
    """So many of the most frequent training answers are known; others are not trained on, and always wrong."""

    @property
    def kind(self) -> Kind:
        return "open_ended"


def load_msvd_qa(config: MSVDQAConfig, has: Has) -> Asked:
    """The splits train, validation and test; `has` says which videos have frames.

    Raises:
        UserError: a file is missing or malformed, a video is in two splits, or videos have no frames and may not be
            left out.
    """
    folder = config.place(config.folder)
    names = None if config.mapping is None else read_mapping(folder / config.mapping)
    questions = {
        split: read_questions(folder / file, lambda number: f"vid{number}" if names is None else names.get(number))
        for split, file in FILES.items()
    }
    check_apart(folder, {split: (question.video for question in found) for split, found in questions.items()})
    return open_ended(config, has, questions, config.top)


def read_mapping(path: Path) -> dict[int, str]:
    """The YouTube ids of videos by their numbers.

    Raises:
        UserError: the file is missing, a line is no `YOUTUBEID vidN`, or an id or a number comes twice.
    """
    names: dict[int, str] = {}
    taken: set[str] = set()
    for line, text in read_lines(path):
        where, words = f"{path}:{line}", text.split()
        number = words[-1].removeprefix("vid")
        if len(words) != 2 or number == words[-1] or not is_number(number):
            raise UserError(f"{where}: {text!r:.80}; expected a YouTube id and vidN")
        name = check_name(words[0], where)
        if int(number) in names or name in taken:
            raise UserError(f"{where}: {words[1] if int(number) in names else name!r} comes twice; expected each once")
        names[int(number)] = name
        taken.add(name)
    return names
