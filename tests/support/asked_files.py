"""Small sets of questions, clips and categories in the official files of MSVD-QA, TGIF-QA, Kinetics and MSR-VTT."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHOICE_HEADER = ("gif_name", "question", "a1", "a2", "a3", "a4", "a5", "answer", "vid_id", "key")
FRAME_HEADER = ("gif_name", "question", "answer", "type", "vid_id", "key", "description")
KINETICS_HEADER = "label,youtube_id,time_start,time_end,split,is_cc"


def has_all(video: str) -> bool:
    """A source of frames that has every video."""
    return True


def youtube_id(number: int) -> str:
    """What the mapping of MSVD calls video `number`; ids may begin with a dash."""
    return f"-{number:03d}_abc_{number}_{number + 5}"


def questions(videos: Mapping[int, Sequence[tuple[str, str]]], first: int = 0) -> list[dict[str, Any]]:
    """The content of a json file of MSVD-QA: by video, questions with answers."""
    asked = [(video, *pair) for video, pairs in videos.items() for pair in pairs]
    return [
        {"answer": answer, "id": first + place, "question": question, "video_id": video}
        for place, (video, question, answer) in enumerate(asked)
    ]


def write_msvd(folder: Path) -> None:
    """Videos 1 to 4 to train on, 5 to validate, 6 and 7 to test; the mapping counts up to 8."""
    parts = {
        "train": {
            1: [("what is a cat doing?", "jump"), ("who is jumping?", "cat")],
            2: [("what is a man doing?", "run"), ("who is running?", "man")],
            3: [("what does a man do?", "jump"), ("who is it?", "man")],
            4: [("what does a dog do?", "eat")],
        },
        "val": {5: [("who is eating?", "dog"), ("what is a dog doing?", "eat")]},
        "test": {6: [("what is a man doing?", "jump")], 7: [("who is singing?", "girl"), ("who cooks?", "man")]},
    }
    for place, (part, videos) in enumerate(parts.items()):
        (folder / f"{part}_qa.json").write_text(json.dumps(questions(videos, 100 * place)))
    lines = [f"{youtube_id(number)} vid{number}" for number in range(1, 9)]
    (folder / "youtube_mapping.txt").write_text("\n".join(lines) + "\n")


def write_tabs(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as TGIF-QA has them: tabs between the cells, in spite of its name."""
    path.write_text("".join("\t".join(row) + "\n" for row in (header, *rows)))


def choice(gif: str, number: int, answer: str, key: int = 900) -> tuple[str, ...]:
    """A row of TGIF-QA's action and transition files: question `number`, of the GIF with the number `key`."""
    options = (f"jump {number}", "nod head", "wave hands", "strum guitar", "step")
    return (gif, f"What does the man do {number} times ?", *options, answer, f"ACTION{number}", str(key))


def frame_question(gif: str, number: int, question: str, answer: str, key: int = 900) -> tuple[str, ...]:
    """A row of TGIF-QA's frameqa files, as `choice`."""
    return (gif, question, answer, "0", f"FRAMEQA{number}", str(key), f"a {answer} .")


def write_tgif(folder: Path) -> None:
    """Ten questions to train on about eight GIFs, three to test about two, of each subset."""
    trained = [f"tumblr_t{n}_250" for n in (0, 0, 1, 2, 3, 4, 5, 6, 7, 7)]
    tested = ["tumblr_x0_400", "tumblr_x0_400", "tumblr_x1_400"]
    for subset in ("action", "transition"):
        for part, gifs in (("Train", trained), ("Test", tested)):
            rows = [choice(gif, number, str(number % 5), 900 + gifs.index(gif)) for number, gif in enumerate(gifs)]
            write_tabs(folder / f"{part}_{subset}_question.csv", CHOICE_HEADER, rows)
    asked = [("what is the color of the cat ?", "black"), ("how many men dance ?", "two"), ("what eats ?", "cat")]
    for part, gifs in (("Train", trained), ("Test", tested)):
        pairs = [(gif, *asked[number % 3]) for number, gif in enumerate(gifs)]
        rows = [
            frame_question(gif, number, question, answer, 900 + gifs.index(gif))
            for number, (gif, question, answer) in enumerate(pairs)
        ]
        write_tabs(folder / f"{part}_frameqa_question.csv", FRAME_HEADER, rows)


def clip(label: str, video: str, start: int, split: str = "train") -> str:
    """A line of a file of Kinetics; labels with a comma are in quotes."""
    quoted = f'"{label}"' if "," in label else label
    return f"{quoted},{video},{start},{start + 10},{split},0"


def write_kinetics(folder: Path) -> None:
    """Three classes; nine clips to train on, three to test."""
    labels = ("tap dancing", "abseiling", "making tea, hot")
    train = [clip(labels[n % 3], f"-train_{n}", 7 * n) for n in range(9)]
    test = [clip(labels[n], f"test{n}", 100, "validate") for n in range(3)]
    for name, lines in (("train", train), ("validate", test)):
        (folder / f"{name}.csv").write_text("\n".join([KINETICS_HEADER, *lines]) + "\n")


def add_categories(folder: Path) -> None:
    """Gives each video of a small MSR-VTT its number, modulo 20, as its category."""
    packed, member = folder / "train_val_annotation.zip", "train_val_videodatainfo.json"
    with zipfile.ZipFile(packed) as archive:
        train = json.loads(archive.read(member))
    plain = folder / "test_videodatainfo.json"
    test = json.loads(plain.read_text())
    for video in (*train["videos"], *test["videos"]):
        video["category"] = video["id"] % 20
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(member, json.dumps(train))
    plain.write_text(json.dumps(test))
