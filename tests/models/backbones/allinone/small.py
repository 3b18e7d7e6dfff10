"""A tiny All-in-one and random batches, for what needs no recorded numbers."""

from typing import Any, cast

import torch
from torch import Tensor

from models.backbones.allinone.config import AllInOneConfig
from models.backbones.allinone.network import AllInOne
from models.backbones.video_language import Kind, Setting, VideoLanguageBatch

FRAMES, SIDE, PATCH, WORDS, VOCABULARY, CODES, OPTIONS, CLASSES = 3, 16, 4, 7, 23, 11, 3, 5
CLS, SEP, MASK = 1, 2, 3
SIZES: dict[str, Any] = {
    "frames": FRAMES,
    "image_size": SIDE,
    "patch": PATCH,
    "hidden": 16,
    "layers": 2,
    "heads": 2,
    "intermediate": 24,
    "text_positions": WORDS + 1,
    "vocabulary": VOCABULARY,
    "shared": 6,
    "dropout": 0.0,
    "answer_dropout": 0.0,
    "stochastic_depth": 0.0,
    "false_texts": 3,
}
AUXILIARY: dict[Kind, tuple[str, ...]] = {
    "retrieval": ("mlm", "vtm", "wpa", "irtr", "mvm"),
    "multiple_choice": ("mlm", "mvm"),
    "open_ended": ("mlm", "vtm", "wpa", "mvm"),
    "recognition": ("mvm",),
}
KINDS = tuple(AUXILIARY)


def config(**changes: Any) -> AllInOneConfig:
    return AllInOneConfig.model_validate(SIZES | changes)


def setting(kind: Kind, codes: int = CODES) -> Setting:
    classes = tuple(f"class {number}" for number in range(CLASSES))
    return Setting(kind, VOCABULARY, WORDS, (CLS, SEP, MASK), classes, codes=codes)


def names(kind: Kind) -> tuple[str, ...]:
    """All losses that the kind can have."""
    return config(auxiliary=AUXILIARY[kind]).losses(kind, CODES)


def network(kind: Kind, **changes: Any) -> AllInOne:
    """The same weights at every call, large enough for gradients to be seen; float64."""
    torch.manual_seed(1)
    made = cast(AllInOne, config(**{"auxiliary": AUXILIARY[kind]} | changes).network(setting(kind)).double())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def batch(kind: Kind, samples: int = 7) -> VideoLanguageBatch:
    """Texts of different lengths, the last two alike; some have no masked word, the first answer is not known."""
    source = torch.Generator().manual_seed(2)

    def number(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=source)

    options = OPTIONS if kind == "multiple_choice" else 1
    lengths = 3 + number(WORDS - 2, samples, options)
    places = torch.arange(WORDS)
    ids = 4 + number(VOCABULARY - 4, samples, options, WORDS)
    ids[..., 0] = CLS
    ids = ids.masked_fill(places == lengths[..., None] - 1, SEP).masked_fill(places >= lengths[..., None], 0)
    if samples > 1:
        ids[-1] = ids[-2]
    chosen = (number(3, *ids.shape) == 0) & (ids > MASK)
    side = SIDE // PATCH
    hidden = number(3, samples, FRAMES, side, side) == 0
    answers = number(OPTIONS if kind == "multiple_choice" else CLASSES, samples)
    answers[:1] = -1
    return VideoLanguageBatch(
        frames=torch.rand(samples, FRAMES, 3, SIDE, SIDE, generator=source, dtype=torch.float64),
        hidden=hidden,
        cell_tokens=number(CODES, *hidden.shape),
        ids=ids,
        masked_ids=ids.masked_fill(chosen, MASK),
        token_labels=ids.masked_fill(~chosen, -1),
        answers=answers,
        seeds=torch.randint(2**62, (samples,), generator=source),
    )
