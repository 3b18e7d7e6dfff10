"""Finds data files, reads text with errors that name the line, writes files so that nobody sees half of one."""

import codecs
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import UserError


def data_path(root: str | None, name: str) -> Path:
    """Where a file of a data set is: a relative `name` is looked up below `root`, or else below MELTMATCH_DATA."""
    if Path(name).is_absolute():
        return Path(name)
    folder = root or os.environ.get("MELTMATCH_DATA")
    if not folder:
        raise UserError(
            f"data: {name!r} is a relative path; set MELTMATCH_DATA to the data folder, or give data.root=FOLDER"
        )
    return Path(folder).absolute() / name


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a UTF-8 text file that are not blank, each with its number (from 1) and without its line end.

    Only a line feed ends a line (sentences may hold exotic separators such as U+2028).
    Raises UserError when the file cannot be read or a line is not UTF-8 (the line is named).
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a UTF-8 text file there") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a UTF-8 text file") from None
    return split_lines(data, path)


def split_lines(data: bytes, path: Path) -> list[tuple[int, str]]:
    """The lines of `data` as `read_lines` gives them; `path` is for the errors."""
    lines = []
    for number, raw in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
            ) from None
        if line.strip():
            lines.append((number, line))
    return lines


def check_writable(folder: Path, remedy: str) -> None:
    """Whether a folder can be made and written, as far as that is plain before the work; nothing is made.

    Raises:
        UserError: it cannot; `remedy` says what to do.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written, for {there} is no folder that can; {remedy}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; what was written there takes `path`'s place when the block ends well.

    A reader sees the old file or the whole new one. Missing folders are created. If the block raises, the temporary
    file is removed and `path` is left as it was. Raises UserError when the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); expected a writable place") from None
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
