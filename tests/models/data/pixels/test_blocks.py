"""Hidden cells beside one box and one cell at a time, their extent, and their independence of batch mates."""

import numpy as np
import pytest

from models.data.pixels.blocks import hidden_cells


def reference(number: int, draw: int, frames: int, grid: int) -> set[tuple[int, int, int]]:
    """The cells of one sample, a box at a time: Violet's rule, with single cells where its ranges are empty."""
    source = np.random.default_rng(np.random.SeedSequence(draw, spawn_key=(number, 5)))
    cells = set()
    for _ in range(frames):
        # Both ends of these ranges count; Violet's upper bounds, T and 2g // 3, do not.
        size = [source.integers(1, max(1, most), endpoint=True) for most in (frames - 1, *[grid * 2 // 3 - 1] * 2)]
        start = [
            source.integers(0, whole - part, endpoint=True)
            for whole, part in zip((frames, grid, grid), size, strict=True)
        ]
        for t in range(size[0]):
            for y in range(size[1]):
                for x in range(size[2]):
                    cells.add((int(start[0] + t), int(start[1] + y), int(start[2] + x)))
    return cells


@pytest.mark.parametrize(("frames", "grid"), [(4, 7), (1, 7), (2, 3), (5, 4), (3, 2), (2, 1), (1, 1), (3, 14)])
def test_against_one_box_and_one_cell_at_a_time(frames: int, grid: int) -> None:
    numbers = [5 * row + 1 for row in range(40)]
    hidden = hidden_cells(numbers, 3, frames, grid)
    assert hidden.shape == (40, frames, grid, grid)
    for row, number in enumerate(numbers):
        assert {tuple(map(int, cell)) for cell in np.argwhere(hidden[row])} == reference(number, 3, frames, grid)


def test_every_size_and_place_occurs() -> None:
    """Of a single frame, one rectangle of 1 to 3 of 7 cells a side."""
    hidden = hidden_cells(range(600), 0, 1, 7)[:, 0]
    sizes = set()
    for sample in hidden:
        rows, columns = np.flatnonzero(sample.any(1)), np.flatnonzero(sample.any(0))
        assert sample.sum() == len(rows) * len(columns) == np.ptp(rows) * len(columns) + len(columns)
        sizes.add((len(rows), len(columns)))
    assert sizes == {(h, w) for h in (1, 2, 3) for w in (1, 2, 3)}
    assert hidden.any(0).all()


def test_a_sample_is_hidden_alike_in_any_batch() -> None:
    whole = hidden_cells(range(20), 5, 4, 7)
    assert np.array_equal(hidden_cells([7, 3], 5, 4, 7), whole[[7, 3]])
    assert not np.array_equal(hidden_cells(range(20), 6, 4, 7), whole)
    assert len({sample.tobytes() for sample in whole}) > 15
    assert hidden_cells([], 5, 4, 7).shape == (0, 4, 7, 7)
