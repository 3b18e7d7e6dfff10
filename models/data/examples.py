"""A movie together with the features of its clips and snippets."""

from dataclasses import dataclass

from torch import Tensor

from models.data.movie import Movie


@dataclass(frozen=True, slots=True)
class Example:
    """One movie ready to align.

    Attributes:
        movie: the two sequences and their times.
        video: (N, d_video) float32, one row a clip, in time order.
        text: (M, d_text) float32, one row a snippet, in time order.
    """

    movie: Movie
    video: Tensor
    text: Tensor
