"""What a user would otherwise do: plain aligners that every results table shows."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from models.baselines.ridge import Ridge
from models.baselines.trivial import AllUnmatched, Uniform
from models.baselines.two_tower import TwoTower
from models.data.examples import Example
from models.data.movie import Alignment


class Aligner(Protocol):
    """Learns from movies with gold intervals, then aligns movies of which it sees the features alone."""

    def fit(self, examples: Sequence[Example]) -> None:
        """Learns; a second call starts afresh.

        Raises:
            UserError: there is nothing to learn from.
        """

    def align(self, example: Example) -> Alignment:
        """One tuple of snippet indices a clip."""
        ...


ALIGNERS: Mapping[str, Callable[[], Aligner]] = MappingProxyType(
    {"all_unmatched": AllUnmatched, "uniform": Uniform, "ridge": Ridge, "two_tower": TwoTower}
)
