"""The conformance vectors of All-in-one, read once, and the network that made them."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.backbones.allinone.config import AllInOneConfig
from models.backbones.allinone.layers import IMAGE_MEAN, IMAGE_STD, in_order
from models.backbones.allinone.network import AllInOne
from models.backbones.allinone.official import load_official
from models.backbones.video_language import Setting

DATA = os.environ.get("MELTMATCH_DATA")
FOLDER = Path(DATA or "").absolute().parent / "golden" / "allinone"
needs_vectors = pytest.mark.skipif(
    DATA is None or not FOLDER.is_dir(), reason="needs the conformance vectors beside MELTMATCH_DATA"
)
NAMES = ("itc", "mlm", "vtm", "wpa", "irtr", "oe", "mc")


@functools.cache
def read(name: str) -> Any:
    """A JSON or safetensors file of the folder."""
    path = FOLDER / name
    return load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())


def inputs() -> dict[str, Tensor]:
    found: dict[str, Tensor] = read("inputs.safetensors")
    return found


def network(names: tuple[str, ...] = NAMES) -> AllInOne:
    """In evaluation mode, with the recorded weights."""
    found = read("config.json")
    config = AllInOneConfig(
        frames=found["num_frames"],
        image_size=found["image_size"],
        patch=found["patch_size"],
        hidden=found["hidden_size"],
        layers=found["num_layers"],
        heads=found["num_heads"],
        intermediate=found["hidden_size"] * found["mlp_ratio"],
        text_positions=found["max_text_len"],
        vocabulary=found["vocab_size"],
        shared=found["shared_embedding_dim"],
        dropout=found["drop_rate"],
    )
    special = found["special"]
    setting = Setting(
        "open_ended",
        config.vocabulary,
        config.text_positions,
        (special["CLS"], special["SEP"], special["MASK"]),
        classes=tuple(map(str, range(found["msrvttqa_label_size"]))),
    )
    made = AllInOne(config, setting, names)
    load_official(made, read("state_dict.safetensors"), "vectors")
    return made.eval()


def frames(images: Tensor) -> Tensor:
    """Recorded images, which are standardised already, as the network takes them."""
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    return (images.double() * std + mean).float()


def tokens(made: AllInOne, images: Tensor, loss: str, copies: int = 1) -> Tensor:
    """Of recorded images, each `copies` times, in the order of patches that was drawn for this loss."""
    found = made.image_tokens(frames(images)).repeat_interleave(copies, 0)
    order = inputs()[f"draw.{loss}.patch_order"]
    return in_order(found, order.view(*found.shape[:2], -1))


def texts(*names: str) -> Tensor:
    """(n, len(names), X)."""
    return torch.stack([inputs()[f"{name}_ids"] for name in names], 1)
