"""What the learned baselines share: the clip statistics, and the movies held out to choose settings on."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models.data.examples import Example
from models.errors import UserError


@dataclass(frozen=True, slots=True)
class Standardiser:
    """Per-dimension mean and deviation of clip features, `(d,)` each."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, video: Tensor) -> "Standardiser":
        """The statistics of `video`, (P, d)."""
        return cls(video.mean(0), video.std(0, correction=0).clamp_min(1e-6))

    def __call__(self, video: Tensor) -> Tensor:
        """(..., d) to zero mean and unit variance."""
        return (video - self.mean) / self.deviation


def hold_out(examples: Sequence[Example], every: int) -> tuple[list[Example], list[Example]]:
    """(training, held out): every `every`-th movie is held out. A single movie has to serve as both.

    Raises:
        UserError: there are no movies.
    """
    if not examples:
        raise UserError("baseline: there are no training movies; give at least one")
    held = list(examples[every - 1 :: every]) or [examples[-1]]
    kept = [example for example in examples if all(example is not other for other in held)]
    return kept or held, held
