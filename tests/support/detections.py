"""Regions of pictures in the files that detectors write: bottom-up-attention's and LXMERT's .tsv, .npz of ports."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = (640, 480)
"""Width and height of the pictures."""


def found(count: int, seed: int, width: int = 16) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Random features (count, width) and boxes (count, 4) in pixels."""
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, 1, (count, 2, 2)), axis=1).reshape(count, 4) * np.array(SIZE * 2)
    return random.normal(size=(count, width)).astype(np.float32), corners.astype(np.float32)


def line(id: str, features: NDArray[np.float32], boxes: NDArray[np.float32], lxmert: bool = False) -> str:
    """A line of a .tsv file."""
    packed = [str(len(boxes)), *(base64.b64encode(array.tobytes()).decode() for array in (boxes, features))]
    if lxmert:
        detected = [base64.b64encode(np.arange(len(boxes)).tobytes()).decode()] * 4
        return "\t".join([id, str(SIZE[1]), str(SIZE[0]), *detected, *packed])
    return "\t".join([id, str(SIZE[0]), str(SIZE[1]), *packed])


def write_tsv(path: Path, lines: Sequence[str]) -> Path:
    """As Python's csv writer ends lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    return path


def write_npz(path: Path, x: NDArray[np.float32], bbox: NDArray[np.float32], /, **more: Any) -> Path:
    """As the ports to detectron2 write one, with facts that only pickle could read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        "x": x,
        "bbox": bbox,
        "num_bbox": len(bbox),
        "image_w": SIZE[0],
        "image_h": SIZE[1],
        "info": {"objects_id": [1, 2]},
    }
    np.savez(path, **{key: value for key, value in (arrays | more).items() if value is not None})
    return path
