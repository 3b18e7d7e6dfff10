"""What every source of frames is: an index from a video's name to where its frames lie."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from models.data.film import Image
from models.errors import UserError

Place = TypeVar("Place")


class FrameSource(Protocol):
    """Frames of videos, (h, w, 3) uint8 RGB; can be pickled and used in forked processes."""

    def names(self) -> Sequence[str]:
        """The videos, in an order that depends on the files alone."""
        ...

    def __contains__(self, video: object) -> bool: ...

    def frames(self, video: str, places: Sequence[float]) -> list[Image]:
        """The frame that is shown at each of `places`, each in [0, 1) along the video, in their order.

        Sizes may differ between frames; a frame that is asked for twice may be the same array.

        Raises:
            UserError: there is no such video, or a frame of it cannot be read or decoded.
        """
        ...


class Indexed(ABC, Generic[Place]):
    """A `FrameSource` that knows from the beginning where everything lies, and opens files only to read frames.

    Attributes:
        where: what it reads from, for errors.
    """

    def __init__(self, where: str, index: Mapping[str, Place]) -> None:
        self.where, self.index = where, index

    def names(self) -> list[str]:
        return list(self.index)

    def __contains__(self, video: object) -> bool:
        return video in self.index

    def frames(self, video: str, places: Sequence[float]) -> list[Image]:
        if not all(0 <= place < 1 for place in places):
            raise ValueError(f"places {list(places)}; expected each in [0, 1)")
        if video not in self.index:
            raise UserError(f"{self.where}: has no video {video!r}; expected one of its {len(self.index)} videos")
        return self.at(video, places)

    @abstractmethod
    def at(self, video: str, places: Sequence[float]) -> list[Image]:
        """`frames` of a video that is there, at places that are in [0, 1)."""
