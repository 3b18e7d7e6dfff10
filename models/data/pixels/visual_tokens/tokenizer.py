"""What every tokenizer of frames takes and gives.

Shape legend: n videos, T frames of s x s pixels, each a grid of g x g cells, g being the tokenizer's own.
"""

from typing import Protocol

from torch import Tensor


class VisualTokenizer(Protocol):
    """Gives each cell one of `codes` tokens. A frame's tokens depend on that frame alone, on no batch mate."""

    @property
    def codes(self) -> int: ...

    def __call__(self, frames: Tensor) -> Tensor:
        """(n, T, 3, s, s) RGB from 0 to 1, on any device -> (n, T, g, g) int64 from 0 to below `codes`."""
        ...
