"""Two aligners that look at no feature: they show what a figure is worth on data with much or little narration."""

from bisect import bisect_right
from collections.abc import Sequence

from models.data.examples import Example
from models.data.movie import Alignment


class AllUnmatched:
    """Leaves every clip unmatched: its video accuracy is the share of video without narration."""

    def fit(self, examples: Sequence[Example]) -> None:
        """Nothing to learn."""

    def align(self, example: Example) -> Alignment:
        return [() for _ in example.movie.clips]


class Uniform:
    """Gives each snippet an equal share of the movie's time; a clip goes to the share that holds its midpoint."""

    def fit(self, examples: Sequence[Example]) -> None:
        """Nothing to learn."""

    def align(self, example: Example) -> Alignment:
        clips, texts = example.movie.clips, len(example.movie.snippets)
        if not clips or not texts:
            return [() for _ in clips]
        start, seconds = clips[0].start, clips[-1].end - clips[0].start
        bounds = [start + seconds * j / texts for j in range(1, texts)]
        return [(bisect_right(bounds, (clip.start + clip.end) / 2),) for clip in clips]
