"""The numbers that runs are made of stay as they are."""

import numpy as np

from models.data.chance import Chance, generator, seed_of


def test_every_kind_of_chance_of_a_sample_is_its_own() -> None:
    first = {(draw, n, kind): generator(draw, n, kind).random() for draw in (4, 5) for n in (0, 7) for kind in Chance}
    assert len(set(first.values())) == len(first)
    for (draw, number, kind), value in first.items():
        assert generator(draw, number, kind).random() == value


def test_the_numbers_are_those_of_earlier_runs() -> None:
    assert [(kind.name, int(kind)) for kind in Chance] == [
        ("WORDS", 0),
        ("FRAMES", 1),
        ("SAMPLING", 2),
        ("SEED", 3),
        ("CHOICE", 4),
        ("CELLS", 5),
    ]
    for kind in Chance:
        expected = np.random.default_rng(np.random.SeedSequence(9, spawn_key=(3, int(kind)))).random(4)
        assert np.array_equal(generator(9, 3, kind).random(4), expected)
    seeds = [seed_of(2, number) for number in range(1000)]
    expected_seed = np.random.SeedSequence(2, spawn_key=(0, 3)).generate_state(1, np.uint64)[0]
    assert seeds[0] == int(expected_seed) // 4
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**62 for seed in seeds)
