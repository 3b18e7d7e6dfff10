"""Questions about videos with an answer of a word or two: the files that data sets of them share, and the answers."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.backbones.video_language import NO_LABEL
from models.data.asked import Asked, AskedDataConfig, Entry, Has, asked_split, is_number
from models.data.documents import read_json, read_table, sentence
from models.errors import UserError

LAYOUT = "expected 'video_id' and 'id' (numbers), 'question' and 'answer' (texts)"


class Question(NamedTuple):
    """A question about a video, and its answer."""

    video: str
    text: str
    answer: str


def read_questions(path: Path, name: Callable[[int], str | None]) -> list[Question]:
    """The questions of a file in the layouts of MSVD-QA and MSRVTT-QA (Xu et al., ACM MM 2017).

    A .json file is a list of {"video_id", "id", "question", "answer"}; a .csv file has the columns video, qid, question
    and answer. Both count videos; `name` gives the name of one, or None for one that it does not know.

    Raises:
        UserError: the file is missing, malformed or empty; a question's number comes twice, a video is unknown, or a
            text is empty.
    """
    questions: list[Question] = []
    numbers: set[int] = set()
    for where, counted, number, question, answer in _rows(path):
        video = name(counted)
        if video is None:
            raise UserError(f"{where}: unknown video {counted}; expected one of the data set's")
        if number in numbers:
            raise UserError(f"{where}: question {number} comes twice; expected each once")
        numbers.add(number)
        texts = [sentence(text, f"{where}: the {what}") for what, text in (("question", question), ("answer", answer))]
        questions.append(Question(video, *texts))
    if not questions:
        raise UserError(f"{path}: holds no question; expected one or more")
    return questions


def _rows(path: Path) -> Iterator[tuple[str, int, int, Any, Any]]:
    """Of each question: where it is, the numbers of its video and its own, its text and its answer."""
    if path.suffix == ".csv":
        for where, cells in read_table(path, "video", "question", "answer", "qid"):
            numbers = [cells[column].strip() for column in ("video", "qid")]
            for column, cell in zip(("video", "qid"), numbers, strict=True):
                if not is_number(cell):
                    raise UserError(f"{where}: {column} is {cell!r:.60}; expected a number")
            yield where, int(numbers[0]), int(numbers[1]), cells["question"], cells["answer"]
        return
    where, content = read_json(path, path.name)
    if not isinstance(content, list):
        raise UserError(f"{where}: is no JSON list; expected one of questions")
    for place, entry in enumerate(content):
        values = entry if isinstance(entry, dict) else {}
        counted, number = values.get("video_id"), values.get("id")
        if not isinstance(counted, int) or not isinstance(number, int):
            raise UserError(f"{where}: [{place}] has no 'video_id' or no 'id'; {LAYOUT}")
        yield f"{where}: [{place}]", counted, number, values.get("question"), values.get("answer")


def most_frequent(answers: Iterable[str], top: int) -> tuple[str, ...]:
    """The `top` most frequent answers, or all if there are fewer; those that are as frequent by name."""
    counts = Counter(answers)
    return tuple(sorted(counts, key=lambda answer: (-counts[answer], answer))[:top])


def open_ended(config: AskedDataConfig, has: Has, questions: Mapping[str, Sequence[Question]], top: int) -> Asked:
    """Questions by split, whose answers are the `top` most frequent ones of the training questions that have frames.

    Raises:
        UserError: videos have no frames and may not be left out.
    """
    classes = most_frequent((question.answer for question in questions["train"] if has(question.video)), top)
    numbers = {answer: number for number, answer in enumerate(classes)}
    splits = {
        split: asked_split(
            config, has, split, [Entry(video, (text,), numbers.get(answer, NO_LABEL)) for video, text, answer in found]
        )
        for split, found in questions.items()
    }
    return Asked(config.kind, splits, classes)
