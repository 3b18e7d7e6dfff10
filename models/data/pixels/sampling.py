"""Which frames of a video a network sees: places in [0, 1) along it, whatever its length.

Shape legend: T frames are taken.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LAST = math.nextafter(1.0, 0.0)


def places(count: int, chances: Sequence[float] | NDArray[np.float64] | None = None) -> list[float]:
    """One place in each of `count` equal segments, ascending (sparse sampling: Wang et al., ECCV 2016, TSN).

    Args:
        chances: where in its segment each place lies, (count,) numbers in [0, 1); default: in the middle, as at test.
    """
    if count < 1:
        raise ValueError(f"count={count}; expected 1 or more frames")
    within = [0.5] * count if chances is None else [float(chance) for chance in chances]
    if len(within) != count or not all(0 <= chance < 1 for chance in within):
        raise ValueError(f"expected {count} chances in [0, 1), got {within}")
    return [min((segment + chance) / count, LAST) for segment, chance in enumerate(within)]
