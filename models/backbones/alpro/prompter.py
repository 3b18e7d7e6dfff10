"""The entity prompter (CVPR 2022, section 3.3): frozen encoders that say which entities a crop of a video may show.

Shape legend: n samples, T frames of h x w pixels, M entities, D joint width.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.alpro.bert import Bert
from models.backbones.alpro.config import TEXT_LAYERS, ALPROConfig
from models.backbones.alpro.losses import clamped
from models.backbones.alpro.timesformer import VideoEncoder
from models.backbones.univl.losses import wide
from models.data.files import read_lines
from models.data.tokens import Tokenizer
from models.errors import UserError

TOKENS = 32
"""Of a prompt at most."""
AT_ONCE = 256
"""Prompts that go through BERT at a time."""


class _Text(nn.Module):
    def __init__(self, config: ALPROConfig, vocabulary: int) -> None:
        super().__init__()
        self.bert = Bert(config, vocabulary, TEXT_LAYERS)


class Prompter(nn.Module):
    """What of the official prompter computes anything: no fusion layers and no heads. It is never in training mode."""

    video_prompt_feat: Tensor
    """(M, D), what crops are compared with."""

    def __init__(self, config: ALPROConfig, vocabulary: int, entities: int) -> None:
        super().__init__()
        self.visual_encoder = VideoEncoder(config)
        self.text_encoder = _Text(config, vocabulary)
        self.vision_proj, self.text_proj = (nn.Linear(config.hidden, config.joint) for _ in range(2))
        self.temp = nn.Parameter(torch.full((1,), config.temperature))
        self.register_buffer("video_prompt_feat", torch.zeros(entities, config.joint))
        super().train(False)

    def train(self, mode: bool = True) -> "Prompter":
        return self

    @torch.no_grad()
    def prompt(self, entities: Sequence[str], config: ALPROConfig, vocabulary: int) -> None:
        """Keeps the mean of each entity's prompts, each normalised.

        Raises:
            UserError: the tokenizer cannot be loaded, or has another vocabulary.
        """
        tokenizer = Tokenizer(config.tokenizer)
        if tokenizer.vocabulary != vocabulary:
            raise UserError(
                f"model.tokenizer={config.tokenizer!r}: has {tokenizer.vocabulary} ids, the data's has {vocabulary}; "
                "name the same tokenizer in both places"
            )
        if self.video_prompt_feat.is_meta:  # a network to check sizes by
            return
        prompts = [prompt.replace("{}", entity) for prompt in config.prompts for entity in entities]
        table = tokenizer.table(prompts, min(TOKENS, config.positions))
        vectors = []
        for ids, lengths in zip(table.ids.split(AT_ONCE), table.lengths.split(AT_ONCE), strict=True):
            shown = ids[:, : int(lengths.max())].to(self.video_prompt_feat.device, torch.long)
            states = self.text_encoder.bert(shown, (shown != 0).long())
            vectors.append(F.normalize(wide(self.text_proj(states[:, 0])), dim=1))
        self.video_prompt_feat.copy_(torch.cat(vectors).view(len(config.prompts), len(entities), -1).mean(0))

    @torch.no_grad()
    def forward(self, frames: Tensor, crop: Tensor) -> Tensor:
        """(n, T, 3, h, w), and the cells (n, g, g) outside which they are made black -> soft labels (n, M)."""
        cell = frames.shape[-1] // crop.shape[-1]
        shown = crop.repeat_interleave(cell, -2).repeat_interleave(cell, -1)[:, None, None]
        video = cast(Tensor, self.visual_encoder(frames * shown))
        vectors = F.normalize(wide(self.vision_proj(video[:, 0])), dim=1)
        return (vectors @ wide(self.video_prompt_feat).T / clamped(self.temp)).softmax(1)


def read_entities(path: Path) -> tuple[str, ...]:
    """The names of a text file, one a line; a number after a name, which the official list has, is left away.

    Raises:
        UserError: the file cannot be read, holds fewer than two names, or one twice.
    """
    lines: dict[str, int] = {}
    for number, line in read_lines(path):
        name = re.sub(r"\s+\d+$", "", line.strip())
        if name in lines:
            raise UserError(f"{path}:{number}: {name!r} is there already, on line {lines[name]}; name each entity once")
        lines[name] = number
    if len(lines) < 2:
        raise UserError(f"{path}: {len(lines)} entities; expected names of at least two, one a line")
    return tuple(lines)
