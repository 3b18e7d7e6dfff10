"""Texts as ids through the tokenizers of `transformers`.

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
    """A BERT tokenizer and its special ids; or another, such as CLIP's, in the same guise.

    Ids of others are their own plus one, so that 0 is padding everywhere; their texts begin with their start token, or
    their end token where they have none, and end with their end token.

    Attributes:
        vocabulary: how many ids there are.
        cls, sep, mask: special ids. Padding is always 0.
        shift: how much more the ids are than the tokenizer's own.
        padding: the tokenizer's own id of padding.
    """

    def __init__(self, source: str) -> None:
        """`minilm`, a folder, or a hub name. Raises UserError if it cannot be loaded, or has no end token."""
        self._tokenizer: Any = load_tokenizer(source)
        vocabulary, end = self._tokenizer.get_vocab(), self._tokenizer.eos_token_id
        absent = [token for token in SPECIAL if token not in vocabulary]
        if absent and end is None:
            raise UserError(
                f"tokenizer {source!r}: has no {absent[0]}; expected WordPiece as of BERT, with {', '.join(SPECIAL)}, "
                "or a tokenizer with an end token"
            )
        if not absent:
            self.padding, self.cls, self.sep, self.mask = (int(vocabulary[token]) for token in SPECIAL)
            if self.padding != 0:
                raise UserError(f"tokenizer {source!r}: [PAD] is {self.padding}; expected 0, as of BERT")
        self.shift: int = 1 if absent else 0
        self.vocabulary: int = len(self._tokenizer) + self.shift
        if absent:
            start, padding, mask = (
                end if found is None else found
                for found in (
                    self._tokenizer.bos_token_id,
                    self._tokenizer.pad_token_id,
                    self._tokenizer.mask_token_id or self._tokenizer.unk_token_id,
                )
            )
            self.cls, self.sep, self.mask, self.padding = start + 1, end + 1, mask + 1, padding

    def table(self, texts: Sequence[str], at_most: int) -> TokenTable:
        """Texts longer than `at_most` tokens are cut, and still end with [SEP]."""
        if not texts:
            return TokenTable(torch.zeros(0, at_most, dtype=torch.int32), torch.zeros(0, dtype=torch.long))
        found = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=at_most - 2 * self.shift,
            add_special_tokens=not self.shift,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        if self.shift:
            found = [[self.cls, *(word + self.shift for word in text), self.sep] for text in found]
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
        own = [id - self.shift for id in ids[:end]]
        decoded: str = self._tokenizer.decode(own, skip_special_tokens=True)
        return decoded
