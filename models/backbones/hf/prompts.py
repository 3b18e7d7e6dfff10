"""What a generative model reads around video and question, and the order of tokens in its input.

Shape legend: n samples, X and Y tokens of texts at most, L of what follows the video.
"""

from typing import Any

import torch
from torch import Tensor

from models.backbones.hf.config import LLAVA, GenerativeConfig
from models.data.sentences import has_tokenizer, load_tokenizer
from models.errors import UserError

VIDEO, QUESTION = "{video}", "{question}"
_LLAVA = "USER: {video}\n{question} ASSISTANT:"
_QWEN = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{video}<|vision_end|>"
    "{question}<|im_end|>\n<|im_start|>assistant\n"
)
NOTHING: tuple[tuple[int, ...], ...] = ((), (), ())


def prompt_ids(config: GenerativeConfig) -> tuple[tuple[int, ...], ...]:
    """The model's own tokens before the video, between it and the question, and after that.

    Raises:
        UserError: the prompt lacks a place, or there is no tokenizer to read it with.
    """
    if config.prompt_ids:
        if len(config.prompt_ids) != 3:
            raise UserError(f"model.prompt_ids: has {len(config.prompt_ids)} parts; expected before, between and after")
        return config.prompt_ids
    folder = config.folder()
    if folder is None or not has_tokenizer(folder):
        if config.prompt is not None:
            raise UserError("model.prompt needs a model.source with a tokenizer, or give model.prompt_ids")
        return NOTHING
    prompt = config.prompt or (_LLAVA if config.family == LLAVA else _QWEN)
    before, video, rest = prompt.partition(VIDEO)
    between, question, after = rest.partition(QUESTION)
    if not (video and question):
        raise UserError(f"model.prompt={prompt!r}: expected {VIDEO} and after it {QUESTION}")
    tokenizer: Any = load_tokenizer(str(folder))
    first = tokenizer(before)["input_ids"]  # with the start token, where the family has one
    if first and first[-1] == tokenizer.eos_token_id:
        first = first[:-1]
    return tuple(first), *(tuple(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (between, after))


def packed(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Texts one after the other, without gaps between them.

    Args:
        parts: (n, X) tokens each, with (n, X) bool of those that exist.

    Returns:
        (n, L) tokens, bool of those that exist (all first), and the part (counted from 0) that each is of.
    """
    ids, there = (torch.cat([part[place] for part in parts], 1) for place in (0, 1))
    of = torch.cat([torch.full_like(part, number) for number, (part, _) in enumerate(parts)], 1)
    order = (~there).long().argsort(dim=1, stable=True)
    longest = int(there.sum(1).max()) if len(ids) else 0
    ids, there, of = (tensor.gather(1, order)[:, : max(1, longest)] for tensor in (ids, there, of))
    return ids, there, of


def words(ids: Tensor) -> tuple[Tensor, Tensor]:
    """(n, X) as batches have texts -> the ids between the first and the last, and which of them are words."""
    return ids[:, 1:-1], ids[:, 2:] != 0


def ended(ids: Tensor) -> tuple[Tensor, Tensor]:
    """(n, X) as batches have texts -> the ids after the first, the end token among them, and which exist."""
    return ids[:, 1:], ids[:, 1:] != 0
