"""Tokenizers of transformers: special ids, cutting, and the way back."""

from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

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


def test_every_text_is_as_if_alone() -> None:
    tokenizer = Tokenizer("minilm")
    texts = ["", "a", "two girls sing", "he plays the piano very well on a stage", "\N{GRINNING FACE} straße", "[SEP]"]
    table = tokenizer.table(texts, 6)
    for row, text in enumerate(texts):
        alone = tokenizer.table([text], 6)
        assert torch.equal(table.ids[row], alone.ids[0])
        assert int(table.lengths[row]) == int(alone.lengths[0]) == int((alone.ids != 0).sum())
        assert int(alone.ids[0, 0]) == tokenizer.cls
        assert int(alone.ids[0, int(alone.lengths[0]) - 1]) == tokenizer.sep


def test_a_folder_of_a_vocabulary_alone(tmp_path: Path) -> None:
    """As UniVL has its users download it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "run", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = Tokenizer(str(tmp_path))
    assert (tokenizer.cls, tokenizer.sep, tokenizer.mask, tokenizer.vocabulary) == (2, 3, 4, 9)
    assert tokenizer.table(["A dog runs away"], 9).ids.tolist() == [[2, 5, 6, 7, 8, 1, 3, 0, 0]]


def test_tokenizers_that_are_not_berts(tmp_path: Path) -> None:
    def refused(said: str) -> None:
        with pytest.raises(UserError) as caught:
            Tokenizer(str(tmp_path))
        assert str(caught.value).startswith(f"tokenizer {str(tmp_path)!r}: {said}")

    (tmp_path / "vocab.txt").write_text("[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\n")
    refused("[PAD] is 1; expected 0, as of BERT")
    tokenizers.Tokenizer(WordLevel({"a": 0, "<unk>": 1})).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    refused("has no [PAD]; expected WordPiece as of BERT, with [PAD], [CLS], [SEP], [MASK], or a tokenizer with")


def test_a_tokenizer_as_of_clip(tmp_path: Path) -> None:
    """Its first token is a word, so that ids are one more than its own; its end token is also its padding."""
    words = {"!": 0, "a": 1, "dog": 2, "<start>": 3, "<end>": 4, "runs": 5}
    made = tokenizers.Tokenizer(WordLevel(words, "<end>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 3), ("<end>", 4)]
    )
    special = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>"}
    save = PreTrainedTokenizerFast(tokenizer_object=made, **special)
    save.save_pretrained(tmp_path)
    tokenizer = Tokenizer(str(tmp_path))
    assert (tokenizer.shift, tokenizer.padding, tokenizer.vocabulary) == (1, 4, 7)
    assert (tokenizer.cls, tokenizer.sep, tokenizer.mask) == (4, 5, 5)
    table = tokenizer.table(["a dog !", "a dog runs !", ""], 5)
    assert table.ids.tolist() == [[4, 2, 3, 1, 5], [4, 2, 3, 6, 5], [4, 5, 0, 0, 0]]
    assert table.lengths.tolist() == [5, 5, 2]
    assert (table.ids[0] - 1).tolist() == save("a dog !")["input_ids"]
    assert tokenizer.text(table.ids[1, 1:].tolist()) == "a dog runs"


def test_no_tokenizer(tmp_path: Path) -> None:
    """`transformers` would make one up from a configuration, to which every word is unknown."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"has no words; expected one of tokenizer\.json, vocab\.txt"):
        Tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        Tokenizer(str(tmp_path))
