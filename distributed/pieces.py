"""The slices of a checkpoint, put together again for whoever needs a part of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from distributed.shards import Slice
from models.errors import UserError


class Pieces:
    """Random access to the slices of a checkpoint, whichever worker wrote them."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        """`names`: of all files in the checkpoint's `folder`."""
        self._folder = folder
        self._files = [safe_open(folder / name, framework="pt") for name in names if name.startswith("shard-")]
        self._at: dict[str, list[tuple[int, int, Any, str]]] = {}
        for file in self._files:
            for key in file.keys():  # noqa: SIM118
                name, _, start = key.rpartition("@")
                length = file.get_slice(key).get_shape()[0]
                self._at.setdefault(name, []).append((int(start), length, file, key))

    def __enter__(self) -> "Pieces":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._at.clear()

    def has(self, kind: str) -> bool:
        """Whether there are slices of this kind: weight, exp_avg, exp_avg_sq or average."""
        return any(name.startswith(f"{kind}/") for name in self._at)

    def gather(self, kind: str, s: Slice) -> Tensor:
        """(s.length,) float32: the elements of slice `s`."""
        wanted, found = torch.empty(s.length), 0
        for start, length, file, key in self._at.get(f"{kind}/{s.name}", []):
            low, high = max(start, s.start), min(start + length, s.start + s.length)
            if low < high:
                wanted[low - s.start : high - s.start] = file.get_slice(key)[low - start : high - start]
                found += high - low
        if found != s.length:
            raise UserError(
                f"{self._folder}: its files hold {found} of {s.length} elements of {kind} {s.name}; "
                f"delete {self._folder} to fall back to an older checkpoint"
            )
        return wanted
