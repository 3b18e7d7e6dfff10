"""Cuts a film into clips with PySceneDetect's detectors (NeuMATCH: content detector, threshold 20, 5 frames or more).

Detectors count frames; the times of cuts are those of the frames themselves, so that a film whose frame rate varies is
cut where its pictures change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector, HashDetector, HistogramDetector, ThresholdDetector

from models.config import StrictConfig
from models.data.ahead import ahead
from models.data.film import Film, frames
from models.errors import UserError

DETECTORS: dict[str, Any] = {
    "content": ContentDetector,
    "adaptive": AdaptiveDetector,
    "threshold": ThresholdDetector,
    "histogram": HistogramDetector,
    "hash": HashDetector,
}
_THRESHOLD_NAME = {"adaptive": "adaptive_threshold"}
SIDE = 256
"""Pixels of the longer side that detectors look at; PySceneDetect's own choice for its command."""


class SegmentationConfig(StrictConfig):
    """How to cut. Defaults are the paper's (spec section 3)."""

    detector: Literal["content", "adaptive", "threshold", "histogram", "hash"] = "content"
    threshold: float | None = Field(default=None, gt=0)
    """Of the detector; default: 20 for `content`, PySceneDetect's own for the others."""
    min_frames: int = Field(default=5, ge=1)
    """The fewest frames of a clip."""

    def make(self) -> Any:
        """A fresh detector."""
        threshold = 20.0 if self.threshold is None and self.detector == "content" else self.threshold
        options: dict[str, Any] = {"min_scene_len": self.min_frames}
        if threshold is not None:
            options[_THRESHOLD_NAME.get(self.detector, "threshold")] = threshold
        return DETECTORS[self.detector](**options)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The clips of a film.

    Attributes:
        clips: (start, end) in seconds; each begins where the one before it ends.
        cuts: numbers (from 0) of the frames that begin a clip, the first clip apart.
        frames: how many could be decoded.
    """

    film: Film
    clips: tuple[tuple[float, float], ...]
    cuts: tuple[int, ...]
    frames: int

    @property
    def lost(self) -> float:
        """Seconds at the end that the file states but that could not be decoded."""
        return max(0.0, (self.film.seconds or 0.0) - self.clips[-1][1])


def segment(
    path: Path, config: SegmentationConfig | None = None, seen: Callable[[float], None] | None = None
) -> Segmentation:
    """Cuts a film into clips; a film without cuts is one clip.

    Args:
        seen: is called with the time (seconds) that has been reached, for progress.

    Raises:
        UserError: the file is no video that can be decoded.
    """
    config = config or SegmentationConfig()
    film, detector = Film.open(path), config.make()
    starts: list[float] = []
    end = 0.0
    cuts: list[Any] = []
    for number, frame in enumerate(ahead(frames(path, SIDE))):
        starts.append(frame.start if not starts else max(frame.start, starts[-1]))
        end = max(end, frame.end)
        cuts += detector.process_frame(FrameTimecode(number, film.rate), frame.image)
        if seen is not None:
            seen(frame.end)
    if not starts:
        raise UserError(f"{path}: no frame of its video can be decoded; is it cut short or damaged?")
    cuts += detector.post_process(FrameTimecode(len(starts) - 1, film.rate))
    numbers = sorted({cut.frame_num for cut in cuts} - {0})
    # Frames that share a time (a damaged clock) cannot begin a clip of their own.
    edges = [0.0]
    kept = []
    for number in numbers:
        if edges[-1] < starts[number] < end:
            edges.append(starts[number])
            kept.append(number)
    return Segmentation(film, tuple(pairwise([*edges, end])), tuple(kept), len(starts))
