"""Tiny models of every family with random weights, and random batches for them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from models.backbones.hf.config import DualEncoderConfig, GenerativeConfig
from models.backbones.video_language import Kind, Setting, VideoLanguageBatch
from models.data.hub import quiet

FRAMES, SIDE, WORDS, OPTIONS, VOCABULARY, CODES = 2, 16, 7, 3, 30, 5
FIRST, LAST, MASK = 20, 21, 22
CLASS_IDS = ((3,), (3, 4), (5, 6, 7), (), (3, 4, 8))
_LAYERS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = _LAYERS | {"patch_size": 8}
_TEXT = _LAYERS | {"max_position_embeddings": 9}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "clip": {"projection_dim": 12, "text_config": _TEXT, "vision_config": _VISION},
    "metaclip_2": {"projection_dim": 12, "text_config": _TEXT, "vision_config": _VISION},
    "chinese_clip": {
        "projection_dim": 12,
        "text_config": _TEXT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "vision_config": _VISION,
    },
    "siglip": {"text_config": _TEXT | {"projection_size": 16}, "vision_config": _VISION},
    "siglip2": {"text_config": _TEXT | {"projection_size": 16}, "vision_config": _VISION},
    "xclip": {
        "projection_dim": 12,
        "prompt_num_attention_heads": 2,
        "prompt_attention_dropout": 0.0,
        "text_config": _TEXT,
        "vision_config": _VISION
        | {
            "mit_hidden_size": 12,
            "mit_intermediate_size": 24,
            "mit_num_hidden_layers": 1,
            "mit_num_attention_heads": 2,
        },
    },
    "videomae": _VISION
    | {
        "decoder_hidden_size": 12,
        "decoder_intermediate_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
    },
    "qwen2_5_vl": {
        "text_config": _LAYERS
        | {
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 16,
            "patch_size": 4,
            "window_size": 8,
            "fullatt_block_indexes": [1],
        },
    },
    "qwen2_vl": {
        "text_config": _LAYERS
        | {
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        "vision_config": {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 16, "patch_size": 4},
    },
    "llava": {
        "text_config": _LAYERS | {"model_type": "llama", "num_key_value_heads": 1},
        "vision_config": _VISION | {"model_type": "clip_vision_model", "num_hidden_layers": 3},
    },
    "llava_siglip": {
        "model_type": "llava",
        "vision_feature_select_strategy": "full",
        "text_config": _LAYERS | {"model_type": "qwen2", "num_key_value_heads": 1},
        "vision_config": _VISION | {"model_type": "siglip_vision_model"},
    },
}
DUALS = ("clip", "metaclip_2", "chinese_clip", "siglip", "siglip2", "xclip")
GENERATIVE = ("qwen2_vl", "qwen2_5_vl", "llava", "llava_siglip")


def config(family: str, **changes: Any) -> Any:
    kind = GenerativeConfig if family in GENERATIVE else DualEncoderConfig
    given = {"frames": FRAMES, "image_size": SIDE, "architecture": {"model_type": family} | ARCHITECTURES[family]}
    return kind.model_validate(given | changes)


def setting(kind: Kind, **changes: Any) -> Setting:
    named = kind in ("open_ended", "recognition")
    classes, ids = (tuple("abcde"), CLASS_IDS) if named else ((), ())
    return Setting(kind, VOCABULARY, WORDS, (FIRST, LAST, MASK), classes, ids, **changes)


def saved(family: str, kind: Any, folder: Path) -> Any:
    """A model of `kind` of `transformers` with random weights, float32, also saved in `folder`."""
    torch.manual_seed(3)
    made = config(family).of_transformers(setting("retrieval", shift=1))
    for part in (made, getattr(made, "text_config", made)):
        part.eos_token_id, part.bos_token_id, part.pad_token_id = LAST - 1, FIRST - 1, 1
    with quiet():
        model = (getattr(kind, "from_config", None) or kind._from_config)(made).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    return model


def reference(family: str) -> Any:
    """The library's own generative model, with random weights."""
    with quiet():
        made = config(family).of_transformers(setting("retrieval"))
        return AutoModelForImageTextToText.from_config(made)


def network(family: str, kind: Kind, codes: int = 0, **changes: Any) -> Any:
    """The same weights at every call, large enough for gradients to be seen; float64."""
    torch.manual_seed(1)
    made = config(family, **changes).network(setting(kind, codes=codes)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def batch(kind: Kind, samples: int = 5, codes: int = 0) -> VideoLanguageBatch:
    """Texts of different lengths; the last sample has no known answer."""
    source = torch.Generator().manual_seed(2)

    def number(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=source)

    options = OPTIONS if kind == "multiple_choice" else 1
    lengths = number(2, WORDS + 1, samples, options) if kind != "recognition" else torch.full((samples, options), 2)
    ids = number(1, FIRST, samples, options, WORDS)
    ids[..., 0] = FIRST
    places = torch.arange(WORDS)
    ids = ids.masked_fill(places == lengths[..., None] - 1, LAST).masked_fill(places >= lengths[..., None], 0)
    answers = number(0, OPTIONS if kind == "multiple_choice" else len(CLASS_IDS), samples)
    if kind in ("open_ended", "multiple_choice"):
        answers[-1:] = -1
    side = SIDE // 8
    return VideoLanguageBatch(
        frames=torch.rand(samples, FRAMES, 3, SIDE, SIDE, generator=source),
        hidden=number(0, 2, samples, FRAMES, side, side).bool(),
        cell_tokens=number(0, codes, samples, FRAMES, side, side)
        if codes
        else torch.full((samples, FRAMES, side, side), -1),
        ids=ids,
        masked_ids=ids,
        token_labels=torch.full_like(ids, -1),
        answers=answers,
        seeds=number(0, 2**40, samples),
    )
