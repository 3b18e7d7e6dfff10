"""The conformance vectors of Violet, read once, and the networks that made them."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.backbones.video_language import Kind, Setting, VideoLanguageBatch
from models.backbones.violet.config import CELL, VioletConfig
from models.backbones.violet.network import Violet
from models.backbones.violet.official import load_official

DATA = os.environ.get("MELTMATCH_DATA")
FOLDER = Path(DATA or "").absolute().parent / "golden" / "violet"
needs_vectors = pytest.mark.skipif(
    DATA is None or not FOLDER.is_dir(), reason="needs the conformance vectors beside MELTMATCH_DATA"
)
KINDS: dict[str, Kind] = {"retrieval": "retrieval", "qamc": "multiple_choice", "qaoe": "open_ended"}
"""By the prefix of their files."""


@functools.cache
def read(name: str) -> Any:
    """A JSON or safetensors file of the folder."""
    path = FOLDER / name
    return load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())


def config(prefix: str, **changes: Any) -> VioletConfig:
    """The sizes of the vectors, and the official code's behaviour."""
    found = read(f"{prefix}_config.json")
    bert, swin = found["bert_config" if "bert_config" in found else "bert"], found["swin"]
    state = read(f"{prefix}_state_dict.safetensors")
    sizes = {
        "frames": found["T"],
        "image_size": found["H"],
        "embed_dim": swin["embed_dim"],
        "depths": swin["depths"],
        "swin_heads": swin["num_heads"],
        "layers": bert["num_hidden_layers"],
        "heads": bert["num_attention_heads"],
        "intermediate": bert["intermediate_size"],
        "vocabulary": bert["vocab_size"],
        "text_positions": bert["max_position_embeddings"],
        "frame_positions": state["enc_img.emb_len"].shape[1],
        "cell_positions": state["enc_img.emb_pos"].shape[2] - 1,
        "codes": found["NVQ"],
        "temperature": found["vtm_temperature"],
        "released_masking": True,
        "released_windows": True,
    }
    return VioletConfig.model_validate(sizes | changes)


def setting(prefix: str) -> Setting:
    found = read(f"{prefix}_config.json")
    special = found["special"]
    answers = len(read(f"{prefix}_state_dict.safetensors").get("fc_oe.3.bias", ()))
    return Setting(
        KINDS[prefix],
        vocabulary=found["bert"]["vocab_size"],
        words=found["X"],
        special=(special["CLS"], special["SEP"], special["MASK"]),
        classes=tuple(map(str, range(answers))),
        codes=found["NVQ"],
    )


def network(prefix: str, **changes: Any) -> Violet:
    """In evaluation mode, with the recorded weights."""
    made = Violet(config(prefix, **changes), setting(prefix))
    load_official(made, read(f"{prefix}_state_dict.safetensors"), "vectors")
    return made.eval()


def batch(prefix: str) -> VideoLanguageBatch:
    """The recorded inputs; the frames are those with hidden cells black already, which hiding them again leaves so."""
    x: dict[str, Tensor] = read(f"{prefix}_inputs.safetensors")
    n, frames, size = len(x["img"]), x["img"].shape[1], x["img"].shape[-1] // CELL
    tokens, labels = (x[name].view(n, frames, -1)[:, :, 1:].unflatten(-1, (size, size)) for name in ("vq", "ans_mvm"))
    texts = {name: x[name].view(n, -1, x[name].shape[-1]) for name in ("txt", "m_txt", "ans_mtm")}
    return VideoLanguageBatch(
        frames=x["img"],
        hidden=labels != -1,
        cell_tokens=tokens,
        ids=texts["txt"],
        masked_ids=texts["m_txt"],
        token_labels=texts["ans_mtm"],
        answers=x.get("ans_mc", x.get("ans_oe", torch.full((n,), -1))),
        seeds=torch.arange(n),
    )
