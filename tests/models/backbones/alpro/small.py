"""A tiny ALPRO and a random batch."""

from pathlib import Path
from typing import Any

import torch

from models.backbones.alpro.config import ALPROConfig
from models.backbones.alpro.network import ALPRO
from models.backbones.video_language import Kind, Setting, VideoLanguageBatch
from models.freezing import freeze

FRAMES, SIDE, WORDS, VOCABULARY, OPTIONS, CODES, ENTITIES = 2, 3, 5, 23, 3, 6, 4
CLASSES = ("a", "b", "c", "d", "e")
KINDS: tuple[Kind, ...] = ("retrieval", "multiple_choice", "open_ended", "recognition")
SIZES: dict[str, Any] = {
    "frames": FRAMES,
    "image_size": 8 * SIDE,
    "patch": 8,
    "hidden": 16,
    "heads": 2,
    "intermediate": 24,
    "video_layers": 2,
    "cross_layers": 2,
    "positions": 16,
    "joint": 6,
    "dropout": 0.0,
    "drop_path": 0.0,
    "entity_threshold": 0.3,
}


def config(**changes: Any) -> ALPROConfig:
    return ALPROConfig.model_validate(SIZES | changes)


def setting(kind: Kind = "retrieval", vocabulary: int = VOCABULARY, codes: int = CODES) -> Setting:
    classes = CLASSES if kind in {"open_ended", "recognition"} else ()
    return Setting(kind, vocabulary, WORDS, (1, 2, 3), classes, tuple((5,) for _ in classes), codes)


def names(kind: Kind) -> tuple[str, ...]:
    """All losses of a kind."""
    entities = {"entities": "file", "prompter": "file"} if kind == "retrieval" else {}
    return config(**entities).losses(kind, CODES)


def network(kind: Kind = "retrieval", entities: int = ENTITIES, **changes: Any) -> ALPRO:
    """The same weights at every call, large enough for gradients to be seen; float64, with a frozen prompter."""
    torch.manual_seed(1)
    made = ALPRO(config(**changes), setting(kind), entities).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.add_((0.0 if name.endswith("temp") else 0.2) * torch.randn_like(parameter))
        if entities and kind == "retrieval":
            made.prompter.video_prompt_feat.copy_(torch.randn(entities, SIZES["joint"], dtype=torch.float64) / 10)
    freeze(made, lambda name: name.startswith("prompter."))
    return made


def batch(samples: int = 7, kind: Kind = "retrieval") -> VideoLanguageBatch:
    """Texts of different lengths; some samples have no masked word."""
    source = torch.Generator().manual_seed(2)
    options = OPTIONS if kind == "multiple_choice" else 1

    def number(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=source)

    lengths = 2 + number(WORDS - 1, samples, options)
    ids = 4 + number(VOCABULARY - 4, samples, options, WORDS)
    ids[:, :, 0] = 1
    ids[torch.arange(WORDS) >= lengths[..., None]] = 0
    chosen = (number(3, samples, options, WORDS) == 0) & (ids > 3)
    return VideoLanguageBatch(
        frames=torch.rand(samples, FRAMES, 3, 8 * SIDE, 8 * SIDE, generator=source),
        hidden=number(3, samples, FRAMES, SIDE, SIDE) == 0,
        cell_tokens=number(CODES, samples, FRAMES, SIDE, SIDE),
        ids=ids,
        masked_ids=ids.masked_fill(chosen, 3),
        token_labels=ids.masked_fill(~chosen, -1),
        answers=number(OPTIONS, samples) if options > 1 else number(len(CLASSES) + 1, samples) - 1,
        seeds=number(2**62, samples),
    )


def entity_file(folder: Path, text: str = "dog 12\npolar bear 7\ncar\n") -> Path:
    path = folder / "entities.txt"
    path.write_text(text)
    return path
