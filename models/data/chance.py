"""What is random about a sample: a function of a step's draw and the sample's own number, one for each kind of chance.

So no batch mate, no worker and no other kind of chance changes it.
"""

from enum import IntEnum

import numpy as np


class Chance(IntEnum):
    """What is drawn; the numbers are part of every run's trajectory."""

    WORDS = 0
    """Which words are masked, and by what."""
    FRAMES = 1
    """Which frames are set to zero."""
    SAMPLING = 2
    """Which frames of a video are seen, and how they are cut and coloured."""
    SEED = 3
    """For whatever a network draws."""
    CHOICE = 4
    """Which of its items a video comes with."""
    CELLS = 5
    """Which cells of frames are hidden."""


def generator(draw: int, number: int, kind: Chance) -> np.random.Generator:
    """The source of one kind of chance of a sample."""
    return np.random.default_rng(_sequence(draw, number, kind))


def seed_of(draw: int, number: int) -> int:
    """A sample's seed, from 0 to below 2**62."""
    return int(_sequence(draw, number, Chance.SEED).generate_state(1, np.uint64)[0] >> 2)


def _sequence(draw: int, number: int, kind: Chance) -> np.random.SeedSequence:
    return np.random.SeedSequence(draw, spawn_key=(number, int(kind)))
