"""Generates a data set of little films in YMS's formats: videos, a script each, gold times, splits. No features.

A story is one of `models.data.synthetic`: phrases with their scenes, scenes that nobody speaks of, phrases that nothing
shows.

python -m models.data.filming FOLDER [--films 40] [--seed 0]
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from models.data.files import atomic_path
from models.data.movie import Snippet
from models.data.rendering import COLOURS, MOTIONS, PLACES, SHAPES, Scene, Subject, render
from models.data.synthetic import split, tell
from models.data.timecode import format_interval
from models.data.yms import write_phrases
from models.errors import UserError

VIDEOS, SCRIPTS = "videos", "scripts"
SUBJECTS = 40


@dataclass(frozen=True, slots=True)
class Story:
    """A film to be: its scenes, and its phrases with their gold times."""

    id: str
    scenes: tuple[Scene, ...]
    snippets: tuple[Snippet, ...]
    seconds: float


def subjects() -> list[Subject]:
    """What the phrases of all films speak of: SUBJECTS that one frame tells apart, always the same."""
    random = np.random.default_rng(3)
    sizes = (len(SHAPES), len(COLOURS), len(PLACES), len(MOTIONS))
    chosen: dict[tuple[int, int, int], Subject] = {}
    while len(chosen) < SUBJECTS:
        subject = Subject(*(int(random.integers(size)) for size in sizes))
        chosen.setdefault((subject.shape, subject.colour, subject.place), subject)
    return list(chosen.values())


def invent(id: str, random: np.random.Generator) -> Story:
    """A random story of half a minute to two."""
    pieces, known = tell(random), subjects()
    scenes: list[Scene] = []
    snippets, shown = [], 0.0
    for piece in pieces:
        start, end = piece.start / 1000, piece.end / 1000
        subject = None if piece.topic is None else known[piece.topic]
        if subject is not None:
            snippets.append(Snippet(format_interval(id, start, end), subject.sentence, start, end, piece.matched))
        for take, cut in enumerate(piece.cuts):
            # A phrase that nothing shows is spoken over the beginning of what comes next.
            scenes.append(Scene(subject, take + (0 if subject else len(scenes)), cut / 1000 - shown))
            shown = cut / 1000
    return Story(id, tuple(scenes), tuple(snippets), shown)


def film(folder: Path, films: int = 40, seed: int = 0) -> list[Path]:
    """Writes `films` films, the same for the same arguments, and returns their paths in order.

    Files below `folder`: `videos/ID.mp4`, `scripts/ID.txt` (a phrase a line), `annotations_phrases.txt` with the gold
    times, and the splits, about 70/15/15. `clip_segmentation.txt` and features are for `distributed.extract` to make.
    Raises UserError for fewer than 3 films.
    """
    ids = [f"{number:04d}" for number in range(films)]
    splits, random = split(ids), np.random.default_rng(seed)
    stories = [invent(id, random) for id in ids]
    paths = []
    # A bar only on a terminal.
    for story in tqdm(stories, desc="filming", unit="film", disable=None, leave=False):
        paths.append(folder / VIDEOS / f"{story.id}.mp4")
        render(paths[-1], story.scenes)
        with atomic_path(folder / SCRIPTS / f"{story.id}.txt") as temporary:
            temporary.write_text("".join(f"{snippet.text}\n" for snippet in story.snippets), encoding="utf-8")
    snippets = {story.id: story.snippets for story in stories}
    write_phrases(folder, snippets, {story.id: story.seconds for story in stories}, splits)
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.data.filming", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--films", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        made = film(options.folder, options.films, options.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(made)} films in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
