"""Renders small films, and what there is to say of them: shapes that move in front of drawn places, scene by scene."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from models.data.files import atomic_path
from models.data.film import Image

Colour = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "blue": (38, 84, 214),
    "yellow": (250, 208, 44),
    "purple": (134, 44, 158),
    "white": (246, 246, 246),
    "orange": (244, 128, 24),
}
PLACES = (
    "on a green meadow",
    "in the desert",
    "under the stars at night",
    "on the open sea",
    "in front of a brick wall",
    "on a chessboard",
    "in the snow",
    "in a dark forest",
)
SHAPES = ("ball", "box", "triangle", "star", "ring", "cross")
MOTIONS = ("rolls from left to right", "bounces up and down", "spins around", "grows larger and larger")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a phrase speaks of and its scenes show: indices into SHAPES, COLOURS, PLACES and MOTIONS."""

    shape: int
    colour: int
    place: int
    motion: int

    @property
    def sentence(self) -> str:
        colour = list(COLOURS)[self.colour]
        article = "An" if colour[0] in "aeiou" else "A"
        return f"{article} {colour} {SHAPES[self.shape]} {MOTIONS[self.motion]} {PLACES[self.place]}."


@dataclass(frozen=True, slots=True)
class Scene:
    """One take. `subject` None shows a test card, which no phrase speaks of; `take` varies the framing."""

    subject: Subject | None
    take: int
    seconds: float


def render(path: Path, scenes: Sequence[Scene], size: tuple[int, int] = (192, 128), rate: int = 12) -> None:
    """Writes an H.264 film of `size` (width, height) pixels and `rate` frames a second, whole or not at all."""
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = Fraction(1, rate)
        for image in _pictures(scenes, size, rate):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def _pictures(scenes: Sequence[Scene], size: tuple[int, int], rate: int) -> Iterator[Image]:
    """Frame n shows what is there at n / rate seconds."""
    end, at = 0.0, 0
    for scene in scenes:
        begin, end = end, end + scene.seconds
        while at / rate < end - 1e-9:
            yield picture(scene, (at / rate - begin) / scene.seconds, size)
            at += 1


def picture(scene: Scene, share: float, size: tuple[int, int]) -> Image:
    """What a scene shows after this share (0 to 1) of it."""
    width, height = size
    if scene.subject is None:
        return _test_card(scene.take, share, width, height)
    zoom = (1.0, 1.6, 0.7)[scene.take % 3]
    image = _place(scene.subject.place, scene.take, width, height)
    middle, radius, angle = _movement(scene.subject.motion, share, width, height, zoom)
    _draw(image, scene.subject.shape, list(COLOURS.values())[scene.subject.colour], middle, radius, angle)
    return image


def _movement(motion: int, share: float, width: int, height: int, zoom: float) -> tuple[Point, float, float]:
    """Middle, radius and angle."""
    radius = 0.2 * height * zoom
    x, y, angle = 0.5 * width, 0.55 * height, 0.0
    if motion == 0:
        x, angle = (0.15 + 0.7 * share) * width, 2 * math.pi * share
    elif motion == 1:
        y -= 0.25 * height * abs(math.sin(3 * math.pi * share))
    elif motion == 2:
        angle = 4 * math.pi * share
    else:
        radius *= 0.6 + 0.9 * share
    return (x, y), radius, angle


def _draw(image: Image, shape: int, colour: Colour, middle: tuple[float, float], radius: float, angle: float) -> None:
    """One of SHAPES, with a dark outline so that it stands out anywhere."""
    centre = round(middle[0]), round(middle[1])
    line = max(2, round(radius / 12))
    ink = (24, 24, 24)
    if SHAPES[shape] == "ball":
        cv2.circle(image, centre, round(radius), colour, -1, cv2.LINE_AA)
        cv2.circle(image, centre, round(radius), ink, line, cv2.LINE_AA)
        spot = round(middle[0] + radius / 2 * math.cos(angle)), round(middle[1] + radius / 2 * math.sin(angle))
        cv2.circle(image, spot, max(2, round(radius / 6)), ink, -1, cv2.LINE_AA)
    elif SHAPES[shape] == "ring":
        squashed = round(radius), max(2, round(radius * (0.55 + 0.45 * abs(math.cos(angle)))))
        cv2.ellipse(image, centre, squashed, 0, 0, 360, ink, round(radius / 2) + 2 * line, cv2.LINE_AA)
        cv2.ellipse(image, centre, squashed, 0, 0, 360, colour, round(radius / 2), cv2.LINE_AA)
    else:
        corners = _outline(SHAPES[shape], radius, angle) + np.array(middle)
        points = [np.round(corners).astype(np.int32)]
        cv2.fillPoly(image, points, colour, cv2.LINE_AA)
        cv2.polylines(image, points, True, ink, line, cv2.LINE_AA)


def _outline(shape: str, radius: float, angle: float) -> NDArray[np.float64]:
    """(corners, 2) around the origin."""
    if shape == "star":
        turns, lengths = np.arange(10) / 10, np.where(np.arange(10) % 2, 0.45, 1.1)
    elif shape == "cross":
        turns = (np.repeat(np.arange(4), 3) + np.tile([-0.11, 0.11, 0.5], 4)) / 4
        lengths = np.tile([1.0, 1.0, 0.45], 4)
    else:
        corners = 4 if shape == "box" else 3
        turns, lengths = (np.arange(corners) + 0.5 * (shape == "box")) / corners, np.full(corners, 1.15)
    radians = 2 * math.pi * turns + angle - math.pi / 2
    points: NDArray[np.float64] = radius * lengths[:, None] * np.stack([np.cos(radians), np.sin(radians)], axis=1)
    return points


def _place(place: int, take: int, width: int, height: int) -> Image:
    """One of PLACES; another take stands elsewhere in it."""
    random = np.random.default_rng(1000 * place + take)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x += 37 * take
    name = PLACES[place]
    horizon = height * (0.35 + 0.12 * (take % 3))
    if name == "on a green meadow":
        image = _two(y < horizon, (150, 205, 245), (86, 168, 60))
        image[(np.sin(x * 0.9) * np.sin(y * 0.7) > 0.6) & (y >= horizon)] = (60, 136, 44)
    elif name == "in the desert":
        image = _two(y < horizon + 10 * np.sin(x / 30), (250, 222, 170), (222, 178, 104))
        image[(np.sin(x / 14 + y / 5) > 0.75) & (y > horizon + 12)] = (198, 150, 82)
    elif name == "under the stars at night":
        image = np.full((height, width, 3), (14, 16, 44), np.uint8)
        for _ in range(60):
            spot = int(random.integers(width)), int(random.integers(height))
            cv2.circle(image, spot, int(random.integers(1, 3)), (240, 240, 210), -1)
    elif name == "on the open sea":
        image = _two(y < horizon, (196, 222, 236), (20, 92, 140))
        image[(np.sin(x / 9 + 2 * np.sin(y / 6)) > 0.7) & (y >= horizon)] = (110, 176, 204)
    elif name == "in front of a brick wall":
        row = np.floor(y / 14)
        joint = (y % 14 < 2) | ((x + 14 * (row % 2)) % 28 < 2)
        image = _two(joint, (206, 196, 186), (158, 70, 52))
    elif name == "on a chessboard":
        side = 24 + 8 * (take % 3)
        image = _two((np.floor(x / side) + np.floor(y / side)) % 2 == 0, (232, 214, 178), (92, 58, 36))
    elif name == "in the snow":
        image = _two(y < horizon, (186, 198, 212), (240, 244, 250))
        for _ in range(80):
            cv2.circle(image, (int(random.integers(width)), int(random.integers(height))), 2, (255, 255, 255), -1)
    else:
        image = _two((x % 38) < 15, (52, 36, 24), (22, 58, 34))
        image[(np.sin(x / 5) * np.sin(y / 4) > 0.5) & (x % 38 >= 15)] = (34, 84, 46)
    return image


def _two(mask: NDArray[np.bool_], yes: Colour, no: Colour) -> Image:
    return np.where(mask[..., None], np.array(yes, np.uint8), np.array(no, np.uint8))


def _test_card(take: int, share: float, width: int, height: int) -> Image:
    """Vertical bars of a random order and a clock hand."""
    random = np.random.default_rng(9000 + take)
    bars = random.integers(40, 216, size=(7, 3)).astype(np.uint8)
    image = np.ascontiguousarray(np.repeat(bars[(np.arange(width) * 7 // width)][None], height, axis=0))
    middle, length = (width // 2, height // 2), height / 3
    angle = 2 * math.pi * share
    hand = round(middle[0] + length * math.sin(angle)), round(middle[1] - length * math.cos(angle))
    cv2.circle(image, middle, round(length), (20, 20, 20), 3, cv2.LINE_AA)
    cv2.line(image, middle, hand, (20, 20, 20), 3, cv2.LINE_AA)
    return image
