"""JSON and CSV files, plain or inside a zip archive, read with errors that name the file and the place in it."""

import csv
import json
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from models.data.files import read_lines
from models.errors import UserError

SEPARATORS = {",": "commas", "\t": "tabs"}


def read_json(path: Path, member: str) -> tuple[str, Any]:
    """What to call a JSON file in errors, and its value; in a zip archive, of the one `member`, in any of its folders.

    Nothing is unpacked to disk. Raises UserError for a missing or malformed file (the line is named), and an archive
    that is cut short, holds no such member or several, or in which a name leads out of it.
    """
    if path.suffix != ".zip":
        return str(path), _parse(_bytes(path), str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            name = _member(archive, path, member)
            data = archive.read(name)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a zip archive there") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: is no zip archive or is cut short ({error}); download it again") from None
    where = f"{path}:{name}"
    return where, _parse(data, where)


def _member(archive: zipfile.ZipFile, path: Path, member: str) -> str:
    found = []
    for name in archive.namelist():
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
            raise UserError(f"{path}: member {name!r} leads out of the archive; download it from a place you trust")
        if parts[-1] == member:
            found.append(name)
    if len(found) != 1:
        raise UserError(f"{path}: holds {'several' if found else 'no'} {member}; expected the official archive")
    return found[0]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a JSON file there") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a JSON file") from None


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line, before = data.count(b"\n", 0, error.start) + 1, data.rfind(b"\n", 0, error.start)
        raise UserError(
            f"{where}:{line}: byte {error.start - before} of the line is not UTF-8; save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}:{error.lineno}: column {error.colno} is no JSON ({error.msg}); is the file cut short?"
        ) from None
    except RecursionError:
        raise UserError(f"{where}: is nested too deeply to be an annotation file; download it again") from None


def read_table(path: Path, *columns: str, delimiter: str = ",") -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a header, one a line: `FILE:LINE` for errors, and the cells by column.

    Raises UserError for a missing or undecodable file, a header that lacks one of `columns` or repeats one, and a line
    with another number of cells.
    """
    rows: list[tuple[str, dict[str, str]]] = []
    header: list[str] = []
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            cells = next(csv.reader([line], strict=True, delimiter=delimiter))
        except csv.Error as error:
            raise UserError(
                f"{where}: is no line of a CSV file ({error}); expected cells separated by {SEPARATORS[delimiter]}"
            ) from None
        if not header:
            header = [cell.strip() for cell in cells]
            absent = [column for column in columns if column not in header]
            if absent:
                raise UserError(f"{where}: no column {absent[0]!r} among {', '.join(header)}")
            if len(set(header)) < len(header):
                raise UserError(f"{where}: a column comes twice among {', '.join(header)}; expected each once")
            continue
        if len(cells) != len(header):
            raise UserError(f"{where}: {len(cells)} cells; expected {len(header)}: {','.join(header)}")
        rows.append((where, dict(zip(header, cells, strict=True))))
    if not header:
        raise UserError(f"{path}: is empty; expected a header with {','.join(columns)}")
    return rows


def sentence(value: object, what: str) -> str:
    """A text of a data set without blanks at its ends; `what` it is, and where, is for the errors.

    Raises UserError if it is no text, empty, or holds broken characters.
    """
    if not isinstance(value, str):
        raise UserError(f"{what} is {value!r:.60}; expected a sentence")
    text = value.strip()
    if not text:
        raise UserError(f"{what} is empty; expected a sentence")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{what} holds half a character (a lone surrogate); expected Unicode text")
    return text
