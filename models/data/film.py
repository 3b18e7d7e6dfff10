"""Decodes films with PyAV: frames in order with their times, stills at given times; through damage as far as it goes.

Shapes: h, w pixels of a frame as it is shown, i.e. after rotation and with square pixels.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from models.errors import UserError

Image = NDArray[np.uint8]
"""(h, w, 3), RGB or BGR."""

FAILURES_IN_A_ROW = 8
"""Frames that cannot be decoded, one after the other, after which the rest of a film counts as lost."""


@dataclass(frozen=True, slots=True)
class Film:
    """What a video file says of itself.

    Attributes:
        width, height: as shown, in square pixels.
        rate: frames a second, on average where they vary.
        seconds: its length as stated, None where it is not stated.
    """

    path: Path
    width: int
    height: int
    rate: Fraction
    seconds: float | None

    @classmethod
    def open(cls, path: Path, threads: int | None = None) -> "Film":
        """Reads the head of a file; `threads` as in `stills`.

        Raises:
            UserError: there is no such file, or it is empty, holds no video, or cannot be decoded.
        """
        with _opened(path, threads) as container:
            stream = container.streams.video[0]
            first = next(_decoded(container), None)
            if first is None:
                raise UserError(f"{path}: no frame of its video can be decoded; is it cut short or damaged?")
            width, height = _shown(first, stream)
            return cls(path, width, height, _rate(stream), _stated_seconds(container, stream))


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `start` and `end` in seconds from the beginning of the video."""

    image: Image
    start: float
    end: float


def frames(path: Path, side: int) -> Iterator[Frame]:
    """All frames that can be decoded, in order of time; frames that are damaged are left out.

    Images are in BGR, as stored: neither rotated nor with square pixels. Where the longer side is longer than `side`
    pixels, it is reduced to that as PySceneDetect does it, on whose detectors each rounding tells.

    Raises:
        UserError: as `Film.open`.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        clock = _Clock(stream)
        size: tuple[int, int] | None = None
        reformatter = VideoReformatter()  # one for all frames: each that is new makes its tables anew
        for decoded in _decoded(container):
            image: Any = reformatter.reformat(decoded, format="bgr24", threads=1).to_ndarray()
            if size is None:  # frames of another size in the middle of a film are made like the first
                shrink = max(1.0, max(decoded.width, decoded.height) / side)
                size = max(1, round(decoded.width / shrink)), max(1, round(decoded.height / shrink))
            if (decoded.width, decoded.height) != size:
                image = cv2.resize(image, size)
            start, end = clock.read(decoded)
            yield Frame(image, start, end)


def stills(path: Path, times: Sequence[float], side: int | None = None, threads: int | None = None) -> Iterator[Image]:
    """The frame that is shown at each of `times` (seconds, ascending), in RGB, upright and with square pixels.

    A time after the last frame gives the last frame. `side` is the length that the shorter side is reduced to where it
    is longer; `threads` is how many decode, by default OMP_NUM_THREADS, or one a core without it.

    Raises:
        UserError: as `Film.open`; a time that is before another, or no frame can be decoded from there on.
    """
    with _opened(path, threads) as container:
        stream = container.streams.video[0]
        reader, reformatter = _Reader(container, stream), VideoReformatter()
        for time in times:
            found = reader.at(time)
            if found is None:
                raise UserError(f"{path}: no frame can be decoded at {time:.3f} s; is it damaged?")
            yield _upright(found, stream, side, reformatter)


class _Clock:
    """Times of frames from the beginning of the video, also where a file leaves them out or repeats them."""

    def __init__(self, stream: Any) -> None:
        self.origin = Fraction(0)
        if stream.start_time is not None and stream.time_base:
            self.origin = stream.start_time * _fraction(stream.time_base)
        self.step = 1 / _rate(stream)
        self.end = Fraction(0)

    def read(self, frame: Any) -> tuple[float, float]:
        """Start and end of the next frame; starts never go back."""
        start = self.end
        if frame.pts is not None and frame.time_base:
            start = frame.pts * _fraction(frame.time_base) - self.origin
        duration = frame.duration * _fraction(frame.time_base) if frame.duration and frame.time_base else self.step
        self.end = start + duration
        return float(start), float(self.end)


class _Reader:
    """Finds frames by time; seeks only where that skips something."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.container, self.stream = container, stream
        self.seeks = True
        self.restart()

    def restart(self) -> None:
        self.frames, self.clock = _decoded(self.container), _Clock(self.stream)
        self.current: Any = None
        self.ahead: tuple[Any, float] | None = None

    def at(self, time: float) -> Any:
        """The last frame that begins at `time` or before; of all frames the nearest to that."""
        if self.seeks and (self.ahead is None or time - self.ahead[1] > SEEK_BEYOND):
            self.seek(time)
        while self.ahead is None or self.ahead[1] <= time + 1e-6:
            if self.ahead is not None:
                self.current = self.ahead[0]
            following = next(self.frames, None)
            if following is None and self.ahead is None and self.seeks:
                # Nothing is left there: the last frame that is lies somewhere before.
                self.seek(0.0)
                self.seeks = False
                continue
            if following is None:
                break
            self.ahead = following, self.clock.read(following)[0]
        if self.current is None and self.ahead is not None:
            return self.ahead[0]
        return self.current

    def seek(self, time: float) -> None:
        last = self.current
        offset = int((Fraction(time) + self.clock.origin) / _fraction(self.stream.time_base))
        try:
            self.container.seek(offset, stream=self.stream)
        except av.FFmpegError:  # cannot be sought: from the beginning of what is left
            return
        self.restart()
        self.current = last


SEEK_BEYOND = 4.0
"""Seconds ahead from which on seeking is quicker than decoding what lies between: about a group of pictures."""


@contextmanager
def _opened(path: Path, threads: int | None = None) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a video")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; expected a video")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: is no video, or is cut short ({_reason(error)})") from None
    with container:
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise UserError(f"{path}: holds no video stream, only {kinds}")
        codec = container.streams.video[0].codec_context
        codec.thread_type = "AUTO"
        if threads is None:
            threads = int(os.environ.get("OMP_NUM_THREADS", "0"))  # as in PyTorch; Ray sets it for its tasks
        codec.thread_count = threads
        yield container


def _decoded(container: Any) -> Iterator[Any]:
    """The frames that can be decoded."""
    failures = 0
    while failures < FAILURES_IN_A_ROW:
        try:
            for frame in container.decode(video=0):
                failures = 0
                yield frame
            return
        except av.FFmpegError:  # goes on behind the packet that could not be decoded
            failures += 1


def _rate(stream: Any) -> Fraction:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate:
            return _fraction(rate)
    return Fraction(25)


def _stated_seconds(container: Any, stream: Any) -> float | None:
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * _fraction(stream.time_base))
    return None if container.duration is None else float(container.duration / av.time_base)


def _shown(frame: Any, stream: Any) -> tuple[int, int]:
    """Width and height with square pixels, after rotation."""
    aspect = stream.sample_aspect_ratio
    width = round(frame.width * _fraction(aspect)) if aspect else frame.width
    return (frame.height, width) if frame.rotation % 180 else (width, frame.height)


def _upright(frame: Any, stream: Any, side: int | None, reformatter: Any) -> Image:
    turned = frame.rotation % 180 != 0
    width, height = _shown(frame, stream)
    shrink = 1.0 if side is None else max(1.0, min(width, height) / side)
    width, height = max(1, round(width / shrink)), max(1, round(height / shrink))
    lying = (height, width) if turned else (width, height)
    fitted = reformatter.reformat(frame, *lying, format="rgb24", interpolation="AREA", threads=1)
    return np.ascontiguousarray(np.rot90(fitted.to_ndarray(), round(frame.rotation / 90) % 4))


def _fraction(ratio: Any) -> Fraction:
    return Fraction(ratio.numerator, ratio.denominator)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
