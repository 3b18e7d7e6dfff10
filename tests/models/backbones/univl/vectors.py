"""The conformance vectors of UniVL, read once, and the network that made them."""

import functools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.network import UniVL, UniVLBatch
from models.backbones.univl.official import load_official

DATA = os.environ.get("MELTMATCH_DATA")
FOLDER = Path(DATA or "").absolute().parent / "golden" / "univl"
needs_vectors = pytest.mark.skipif(
    DATA is None or not FOLDER.is_dir(), reason="needs the conformance vectors beside MELTMATCH_DATA"
)


@functools.cache
def read(name: str) -> Any:
    """A JSON or safetensors file of the folder."""
    path = FOLDER / name
    return load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())


def config(**changes: Any) -> UniVLConfig:
    """The sizes of the vectors, and the official code's behaviour."""
    found = read("config.json")
    bert, task = found["bert_config"], found["task_config"]
    sizes = {
        "hidden": bert["hidden_size"],
        "heads": bert["num_attention_heads"],
        "intermediate": bert["intermediate_size"],
        "text_layers": task["text_num_hidden_layers"],
        "visual_layers": task["visual_num_hidden_layers"],
        "cross_layers": task["cross_num_hidden_layers"],
        "decoder_layers": task["decoder_num_hidden_layers"],
        "video_dim": task["video_dim"],
        "vocabulary": bert["vocab_size"],
        "text_positions": bert["max_position_embeddings"],
        "visual_positions": found["visual_config"]["max_position_embeddings"],
        "cross_positions": found["cross_config"]["max_position_embeddings"],
        "margin": task["margin"],
        "train_padding": True,
    }
    return UniVLConfig.model_validate(sizes | changes)


def network(**changes: Any) -> UniVL:
    """In evaluation mode, with the recorded weights."""
    torch.manual_seed(0)
    made = UniVL(config(**changes))
    load_official(made, read("state_dict.safetensors"), "vectors")
    return made.eval()


def batch(dtype: torch.dtype = torch.float32) -> UniVLBatch:
    """The recorded inputs."""
    x: dict[str, Tensor] = {name: tensor.flatten(0, 1) for name, tensor in read("inputs.safetensors").items()}
    return UniVLBatch(
        ids=x["input_ids"],
        types=x["token_type_ids"],
        mask=x["attention_mask"],
        video=x["video"].to(dtype),
        video_mask=x["video_mask"],
        masked_ids=x["pairs_masked_text"],
        token_labels=x["pairs_token_labels"],
        masked_video=x["masked_video"].to(dtype),
        frame_labels=x["video_labels_index"],
        caption_ids=x["input_caption_ids"],
        caption_labels=x["output_caption_ids"],
        caption_mask=x["decoder_mask"],
        sentiment=torch.linspace(-3, 3, len(x["input_ids"])).to(dtype),
    )


def share(whole: UniVLBatch, rows: slice) -> UniVLBatch:
    """Some samples of a batch."""
    parts: dict[str, Any] = {n: None if tensor is None else tensor[rows] for n, tensor in vars(whole).items()}
    return replace(whole, **parts)
