"""Texts as WordPiece ids through the tokenizers of `transformers`.

Shape legend: n texts, W tokens a text at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from models.data.sentences import load_tokenizer
from models.errors import UserError

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class TokenTable:
    """Tokenised texts."""

    ids: Tensor
    """(n, W) int32: [CLS] text [SEP], then zeros."""
    lengths: Tensor
    """(n,) int64, [CLS] and [SEP] included."""


class Tokenizer:
    """A BERT tokenizer and its special ids.

    Attributes:
        vocabulary: how many ids there are.
        cls, sep, mask: special ids. Padding is always 0.
    """

    def __init__(self, source: str) -> None:
        """`minilm`, a folder, or a hub name. Raises UserError if it cannot be loaded or is no BERT tokenizer."""
        self._tokenizer: Any = load_tokenizer(source)
        self.vocabulary: int = len(self._tokenizer)
        vocabulary = self._tokenizer.get_vocab()
        if absent := [token for token in SPECIAL if token not in vocabulary]:
            raise UserError(
                f"tokenizer {source!r}: has no {absent[0]}; expected WordPiece as of BERT, with {', '.join(SPECIAL)}"
            )
        padding, self.cls, self.sep, self.mask = (int(vocabulary[token]) for token in SPECIAL)
        if padding != 0:
            raise UserError(f"tokenizer {source!r}: [PAD] is {padding}; expected 0, as of BERT")

    def table(self, texts: Sequence[str], at_most: int) -> TokenTable:
        """Texts longer than `at_most` tokens are cut, and still end with [SEP]."""
        if not texts:
            return TokenTable(torch.zeros(0, at_most, dtype=torch.int32), torch.zeros(0, dtype=torch.long))
        found = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=at_most,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        ids = torch.zeros(len(found), at_most, dtype=torch.int32)
        lengths = torch.tensor([len(text) for text in found], dtype=torch.long)
        # Filled in one go, row after row: a tensor a text would take longer than the tokenizer.
        ids[torch.arange(at_most) < lengths[:, None]] = torch.tensor(
            list(chain.from_iterable(found)), dtype=torch.int32
        )
        return TokenTable(ids, lengths)

    def text(self, ids: Sequence[int]) -> str:
        """Generated ids up to the first [SEP] -> a sentence."""
        end = list(ids).index(self.sep) if self.sep in ids else len(ids)
        decoded: str = self._tokenizer.decode(list(ids)[:end], skip_special_tokens=True)
        return decoded
