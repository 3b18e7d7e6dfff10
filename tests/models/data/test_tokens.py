"""WordPiece through transformers: special ids, cutting, and the way back."""

from pathlib import Path

import pytest
import torch

from models.data.tokens import Tokenizer
from models.errors import UserError


def test_there_and_back() -> None:
    tokenizer = Tokenizer("minilm")
    assert (tokenizer.cls, tokenizer.sep, tokenizer.mask, tokenizer.vocabulary) == (101, 102, 103, 30522)
    table = tokenizer.table(["A dog runs.", "a very long text that is cut at seven tokens"], 7)
    assert table.lengths.tolist() == [6, 7]
    assert table.ids[0].tolist()[5:] == [102, 0]
    assert int(table.ids[1, -1]) == 102
    assert tokenizer.text(table.ids[0, 1:].tolist()) == "a dog runs."
    assert tokenizer.text([1037, 3899, 102, 3899]) == "a dog"
    assert tokenizer.text([]) == ""
    assert tokenizer.table([], 7).ids.shape == (0, 7)
    assert table.ids.dtype == torch.int32


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        Tokenizer(str(tmp_path))
