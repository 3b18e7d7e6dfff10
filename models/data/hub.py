"""Finds pre-trained models on this machine or on the hub, and reads them without a word and without their code."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from models.errors import UserError

_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")
_TIMEOUT_S = 10
LOAD: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""What every `from_pretrained` is told: nothing but what `locate` found, and no code that comes with it."""


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars or warnings of transformers in the block; its settings are as before afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def loading(failing: str, expected: str = "") -> Iterator[None]:
    """`quiet`, where any error becomes a UserError: what fails, the error in one line, and what was expected."""
    with quiet():
        try:
            yield
        except Exception as error:  # a bad folder surfaces as many unrelated types
            raise UserError(f"{failing} ({one_line(error)}){expected}") from None


def locate(source: str, what: str, built_in: str) -> Path:
    """The folder of a model: a local one, or a hub name's, which is downloaded where it is not there already.

    `what` and `built_in` are for errors: the kind of model, and the name of the one that needs neither.

    Raises:
        UserError: no such folder, and the hub cannot give it.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise UserError(f"{what} {source!r}: no such folder; expected {built_in!r}, a folder or a hub name")
    try:
        # Without a network this falls back to what was downloaded before.
        return Path(snapshot_download(source, allow_patterns=list(_PATTERNS), etag_timeout=_TIMEOUT_S))
    except Exception as error:  # connection, name, access and cache errors share no base class
        raise UserError(
            f"{what} {source!r}: no such folder, and not available from the hub ({one_line(error)}); "
            f"expected {built_in!r}, a local folder, or a hub name that is downloaded already or can be reached"
        ) from None


def one_line(error: Exception) -> str:
    """An error's type and the beginning of what it says, in one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__


def identity(folder: Path) -> str:
    """A digest of the files that decide what a model makes, wherever the folder lies."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _PATTERNS for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
