"""A small generated data set in YMS's formats with features, on which alignment can be learned in minutes.

Each phrase speaks of one of 40 topics. A clip of a matched phrase has its topic's direction plus noise as its feature;
a clip without narration has noise alone. So what has to be learned is which sentences go with which directions, and to
leave out what has no counterpart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.data.features import write_features
from models.data.movie import Clip, Movie, Snippet
from models.data.timecode import format_interval
from models.data.yms import write_yms
from models.errors import UserError

CLIP_FEATURES = "clip_features.npz"

# (who, does what, where): far apart in meaning, so that sentence embeddings tell the topics apart.
TOPICS = (
    ("a chef", "chops onions", "in a restaurant kitchen"),
    ("an astronaut", "repairs a satellite", "in orbit above the earth"),
    ("a surgeon", "operates on a patient", "in the hospital"),
    ("a violinist", "plays a concerto", "in the concert hall"),
    ("a farmer", "milks the cows", "in the barn"),
    ("a diver", "swims among sharks", "at the coral reef"),
    ("a judge", "reads the verdict", "in the courtroom"),
    ("a boxer", "knocks out his opponent", "in the ring"),
    ("a pilot", "lands the damaged airplane", "on the runway"),
    ("a bride", "walks to the altar", "in the church"),
    ("a thief", "cracks the safe", "in the bank vault"),
    ("a teacher", "writes equations on the blackboard", "in the classroom"),
    ("a knight", "slays the dragon", "outside the castle"),
    ("a cowboy", "rides his horse", "across the desert"),
    ("a skier", "races down the slope", "in the snowy mountains"),
    ("a scientist", "looks through a microscope", "in the laboratory"),
    ("a painter", "finishes a portrait", "in her studio"),
    ("a firefighter", "puts out the flames", "in a burning building"),
    ("a sailor", "raises the sails", "on a ship in the storm"),
    ("a detective", "looks for fingerprints", "at the crime scene"),
    ("a ballerina", "rehearses a dance", "on the theatre stage"),
    ("a soldier", "throws a grenade", "on the battlefield"),
    ("a robot", "welds car parts", "in the factory"),
    ("a vampire", "rises from his coffin", "in the crypt"),
    ("a gambler", "bets all his chips at poker", "in the casino"),
    ("a fisherman", "pulls in his net", "on the lake"),
    ("a hacker", "breaks into the computer network", "in a dark basement"),
    ("a gardener", "waters the roses", "in the garden"),
    ("a senator", "gives a speech to voters", "at the election rally"),
    ("a baker", "takes bread out of the oven", "in the bakery"),
    ("a footballer", "scores a goal", "in the stadium"),
    ("a train driver", "pulls the brake", "on the railway"),
    ("a wizard", "casts a spell", "in the enchanted forest"),
    ("a dentist", "pulls out a tooth", "in the clinic"),
    ("a tailor", "sews a suit", "in his workshop"),
    ("a mother", "reads a bedtime story", "in the nursery"),
    ("a miner", "digs for gold", "deep in the tunnel"),
    ("a librarian", "sorts old books", "in the library"),
    ("a monkey", "steals bananas", "in the zoo"),
    ("a prisoner", "digs an escape hole", "in his cell"),
)
TEMPLATES = (
    "{who} {does} {where}.",
    "Now {who} {does} {where}.",
    "Meanwhile, {where}, {who} {does}.",
    "We see that {who} {does} {where}.",
    "Then {who} {does}.",
    "Some time later, {who} {does} {where}.",
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the story in milliseconds. `topic` is None without narration; `cuts` are its clips' boundaries."""

    topic: int | None
    matched: bool
    start: int
    end: int
    cuts: tuple[int, ...]


def tell(random: np.random.Generator) -> list[Piece]:
    """The story of a movie: 7-11 matched phrases, 1-3 unmatched ones, 2-4 stretches without narration, 20-40 clips."""
    matched, unmatched, silent = (int(random.integers(low, high)) for low, high in ((7, 12), (1, 4), (2, 5)))
    kinds = [*["matched"] * matched, *["unmatched"] * unmatched, *["silent"] * silent]
    random.shuffle(kinds)
    topics = iter(random.permutation(len(TOPICS)).tolist())
    pieces, at = [], 0
    for kind in kinds:
        if kind == "unmatched":
            # Spoken in passing, as in YMS: so short that the clip over it still belongs to its neighbour.
            end = at + int(random.integers(100, 300))
            pieces.append(Piece(next(topics), False, at, end, ()))
        else:
            count = int(random.integers(2, 4)) if kind == "matched" else int(random.integers(1, 3))
            lengths = random.integers(1500, 3500, size=count)
            cuts = tuple(int(cut) for cut in at + np.cumsum(lengths))
            end = cuts[-1]
            pieces.append(Piece(next(topics) if kind == "matched" else None, kind == "matched", at, end, cuts))
        at = end
    return pieces if 20 <= sum(len(piece.cuts) for piece in pieces) <= 40 else tell(random)


def _film(id: str, random: np.random.Generator) -> tuple[Movie, list[int | None]]:
    """A movie and, for each clip, its topic."""
    pieces = tell(random)
    snippets, boundaries, topics = [], [0], list[int | None]()
    for piece in pieces:
        start, end = piece.start / 1000, piece.end / 1000
        if piece.topic is not None:
            who, does, where = TOPICS[piece.topic]
            text = TEMPLATES[int(random.integers(len(TEMPLATES)))].format(who=who, does=does, where=where)
            snippets.append(
                Snippet(format_interval(id, start, end), text[0].upper() + text[1:], start, end, piece.matched)
            )
        for cut in piece.cuts:
            # Video is cut a little off the narration, as in real recordings.
            boundaries.append(cut + int(random.integers(-150, 150)))
            topics.append(piece.topic)
    boundaries[-1] = max(boundaries[-1], pieces[-1].end)
    spans = [(start / 1000, end / 1000) for start, end in pairwise(boundaries)]
    clips = tuple(Clip(format_interval(id, start, end), start, end) for start, end in spans)
    return Movie(id, clips, tuple(snippets)), topics


def _features(topics: Sequence[int | None], directions: Tensor, random: np.random.Generator) -> Tensor:
    """(clips, width) float32: the direction of each clip's topic, or zero, plus noise of mean squared length 0.49."""
    width = directions.shape[1]
    noise: Tensor = torch.from_numpy(random.standard_normal((len(topics), width))) / width**0.5
    signal = torch.stack([torch.zeros(width) if topic is None else directions[topic] for topic in topics])
    return (signal + 0.7 * noise).float()


def split(ids: list[str]) -> dict[str, list[str]]:
    """Training, validation and test movies, about 70/15/15. Raises UserError for fewer than 3: each split needs one."""
    if len(ids) < 3:
        raise UserError(f"cannot generate {len(ids)} movies; expected 3 or more, one a split")
    held_out = max(1, round(0.15 * len(ids)))
    cut = len(ids) - 2 * held_out
    return {"train": ids[:cut], "validation": ids[cut:-held_out], "test": ids[-held_out:]}


def generate_movies(folder: Path, movies: int = 20, seed: int = 0, width: int = 128) -> None:
    """Write a data set of `movies` movies into `folder`, the same for the same arguments on any machine.

    Files: those of YMS (see `models.data.yms`), split about 70/15/15, and `clip_features.npz` (`width` dimensions,
    readable by `FeatureStore`). A movie has about 20 to 40 clips and 8 to 14 snippets, with unmatched ones of both.
    Raises UserError for fewer than 3 movies (each split needs one) or a width under 1.
    """
    if movies < 3 or width < 1:
        raise UserError(f"cannot generate {movies} movies with {width}-d features; expected 3 movies and 1 d or more")
    random = np.random.default_rng(seed)
    directions = F.normalize(torch.from_numpy(random.standard_normal((len(TOPICS), width))), dim=1)
    made: dict[str, Movie] = {}
    features = []
    for number in range(movies):
        movie, topics = _film(f"{number:04d}", random)
        made[movie.id] = movie
        features.append(_features(topics, directions, random))
    write_yms(folder, made, split(list(made)))
    write_features(
        folder / CLIP_FEATURES, [clip.id for movie in made.values() for clip in movie.clips], torch.cat(features)
    )
