"""Small video files of every kind that a test needs, written with PyAV."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
WIDTH, HEIGHT = 64, 48


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> Image:
    """A picture unlike that of any other number below 8: black and white halves, thirds, ... in its own colour."""
    x = np.arange(width) * (number + 2) // width % 2
    colour = np.array([255 * (number & 1), 255 * (number >> 1 & 1), 255 * (number >> 2 & 1)])
    row = np.where(x[:, None] == 0, colour, 255 - colour).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(row, (height, width, 3)))


def write_video(
    path: Path,
    images: Sequence[Image],
    times: Sequence[float] | None = None,
    rate: int = 10,
    aspect: Fraction | None = None,
    faststart: bool = False,
    key_every: int = 12,
) -> Path:
    """An H.264 film in MP4. `times`: seconds of each frame; default: evenly at `rate`. `aspect`: of a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12", "g": str(key_every)})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * (number / rate if times is None else times[number]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def scenes(numbers: Sequence[int], frames: int = 10) -> list[Image]:
    """Each picture for so many frames."""
    return [picture(number) for number in numbers for _ in range(frames)]


def turn(path: Path) -> None:
    """Marks an MP4 film as one to be shown turned by a quarter, as phones do: its track header's matrix."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    matrix = at + (4 + 16 + 16 if data[at] == 0 else 4 + 28 + 16)  # version 0 has times of 32 bits
    turned = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *turned)
    path.write_bytes(data)


def write_sound(path: Path) -> Path:
    """A file with a second of sound and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def cut_short(path: Path, source: Path, share: float) -> Path:
    """The first bytes of a film."""
    data = source.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path
