"""Which cells of a video's frames are hidden: boxes in time and space, or tubes; a function of draw and sample alone.

Shape legend: n samples, T frames, each a grid of g x g cells.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.data.chance import Chance, generator


def hidden_cells(numbers: Sequence[int], draw: int, frames: int, grid: int) -> NDArray[np.bool_]:
    """Blockwise masking (Fu et al. 2021, Violet) -> (n, T, g, g): the union of T boxes a sample.

    A box lasts 1 to T - 1 frames (1 of a single frame), is 1 to 2g // 3 - 1 cells high and wide, and lies anywhere
    within. A grid of fewer than 3 cells a side has no such boxes: there they are single cells.

    Args:
        numbers: of the samples.
    """
    hidden = np.zeros((len(numbers), frames, grid, grid), np.bool_)
    longest = np.array([max(1, frames - 1), *[max(1, grid * 2 // 3 - 1)] * 2])
    bounds = np.array([frames, grid, grid])
    for sample, number in zip(hidden, numbers, strict=True):
        source = generator(draw, number, Chance.CELLS)
        for _ in range(frames):
            size = source.integers(1, longest + 1)
            start = source.integers(0, bounds - size + 1)
            (t, y, x), (t_end, y_end, x_end) = start, start + size
            sample[t:t_end, y:y_end, x:x_end] = True
    return hidden
