"""Where runs live: a folder that all nodes share, or any place that pyarrow's file systems and fsspec reach.

A run works in a folder. With a URI as its storage that folder is a mirror, one on every node, and `Mirror` carries
files between it and the place that counts. A file appears there whole or not at all, or its size gives it away.
"""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from models.data.files import atomic_path
from models.errors import UserError

LOG = ("metrics.jsonl", "wandb_id.txt")
"""What rank 0 writes into a run's folder while it trains."""

PREPROCESSING = "preprocessing.safetensors"
"""What was fitted before a run, in its folder."""

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_CUT_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
_ONLY_NAMES = {"abfs", "abfss", "gcs", "gs", "hdfs", "viewfs"}
"""Schemes with a name before the @ that is no secret: a container, `anonymous`, a user of the cluster."""
_SECRETS = "(?:key|token|secret|password|passwd|pwd|credentials?|sig|signature)"
_SECRET = re.compile(rf"{_SECRETS}$", re.IGNORECASE)
_SECRET_IN_TEXT = (
    (re.compile(r"(?<=://)[^/@\s]+(?=@)"), "***"),
    (re.compile(rf"([?&][^=&\s]*{_SECRETS}=)[^&\s']+", re.IGNORECASE), r"\1***"),
)
_WHOLE_OBJECTS = {"s3", "gcs", "abfs"}
"""File systems that show an object once all of it is there; elsewhere a file is moved into its place."""
_CHUNK = 8 * 2**20
_LOOK_S = 5.0
"""How often a running run looks for a file that somebody may have put into its place."""


class StorageError(UserError):
    """A place cannot be reached, read or written."""


def place(text: str) -> Path | str:
    """A folder, or the URI of a place. ValueError for a URI that is none, or that holds a secret."""
    if _CUT_URI.match(text):
        raise ValueError("a URI begins with scheme://, and a folder with no scheme")
    if (found := _URI.match(text)) is None:
        return Path(text)
    rest, _, query = text[found.end() :].partition("?")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    named = ":" not in user and found[1].lower() in _ONLY_NAMES
    if (at and not named) or any(_SECRET.search(name) for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise ValueError(
            "a URI with a key or a password in it would be written into recipes and logs; give them in the provider's "
            "environment variables or files (AWS_ACCESS_KEY_ID or ~/.aws/credentials, GOOGLE_APPLICATION_CREDENTIALS, "
            "...), on every node"
        )
    if not rest.rpartition("@")[2].strip("/"):
        raise ValueError("a URI needs a bucket or a folder after scheme://")
    return text


def _storage(value: Any) -> Path | str:
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "should be text")
    return place(value)


StorageField = Annotated[Path | str, PlainValidator(_storage)]
"""The type of a place in a schema: a folder (Path) or a URI (str)."""


def without_secrets(text: str) -> str:
    """`text` with what may be a secret in a URI starred out."""
    for pattern, stars in _SECRET_IN_TEXT:
        text = pattern.sub(stars, text)
    return text


def below(uri: str, name: str) -> str:
    """The URI of `name` in the folder `uri`."""
    base, mark, query = uri.partition("?")
    return f"{base.removesuffix('/')}/{name}{mark}{query}"


def mirror_of(uri: str, kind: str = "runs") -> Path:
    """The folder on this node that mirrors a URI's: below MELTMATCH_CACHE, or ~/.cache/meltmatch."""
    cache = Path(os.environ.get("MELTMATCH_CACHE") or "~/.cache/meltmatch").expanduser().absolute()
    base = uri.partition("?")[0]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", base).strip("-")[-40:]
    return cache / kind / f"{slug}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


class Mirror:
    """A run's folder on this node and its place; names are relative to both."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder, uri
        self._next_look: dict[str, float] = {}

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        files, path = _open(self.uri)
        return files, path.rstrip("/")

    @contextmanager
    def _doing(self, what: str) -> Iterator[Any]:
        """Gives the file system; whatever it raises becomes one line. A file that is not there stays as it is."""
        try:
            yield self._opened[0]
        except (UserError, FileNotFoundError):
            raise
        except Exception as error:  # fsspec's file systems raise errors of their own
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise StorageError(
                f"storage: {self.uri}: {what}: {without_secrets(lines[0])[:300]}; expected a bucket or folder that is "
                "there, credentials in the provider's environment variables or files, and a network that reaches it"
            ) from error

    def _at(self, name: str) -> str:
        return f"{self._opened[1]}/{name}"

    def told(self, text: str) -> str:
        """A message about the mirror as one about the place, which is what a user can change."""
        return text.replace(str(self.folder), self.uri.partition("?")[0])

    def check(self) -> None:
        """Writes a small file there and reads it back. Raises StorageError where that fails."""
        name, wanted = f".probe-{secrets.token_hex(4)}", secrets.token_bytes(64)
        try:
            with self._doing("cannot be written") as files, self._writing(self._at(name)) as sink:
                sink.write(wanted)
            if self.read(name) != wanted:
                raise StorageError(f"storage: {self.uri}: what was written there does not read back as it was")
        except FileNotFoundError as error:
            raise StorageError(f"storage: {self.uri}: cannot be written: {error.strerror or error}") from None
        with suppress(FileNotFoundError), self._doing("cannot delete there") as files:
            files.delete_file(self._at(name))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process of this node at a time."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("w")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be locked ({error.strerror or error}); set MELTMATCH_CACHE to a folder on this "
                "node's own disk"
            ) from None
        with file:
            yield

    def push(self, *paths: Path) -> None:
        """Puts files of the mirror into the place and verifies their sizes. Raises StorageError."""
        for path in paths:
            name = path.relative_to(self.folder).as_posix()
            with self._doing(f"{name} cannot be written") as files:
                _upload(files, self._writing, path, self._at(name))

    def push_tree(self, name: str) -> None:
        """Puts a folder of the mirror with all its files into the place."""
        found = [path for path in sorted((self.folder / name).rglob("*")) if path.is_file() and not path.is_symlink()]
        self.push(*found)

    @contextmanager
    def _writing(self, at: str) -> Iterator[Any]:
        files = self._opened[0]
        try:
            sink = files.open_output_stream(at)
        except FileNotFoundError:  # an object store needs no folder, and gets none
            files.create_dir(at.rpartition("/")[0], recursive=True)
            sink = files.open_output_stream(at)
        with sink:
            yield sink

    def pull(self, *names: str) -> None:
        """Brings small files into the mirror; those that the place does not have leave it."""
        with self.lock():
            for name in names:
                content = self.read(name)
                if content is None:
                    (self.folder / name).unlink(missing_ok=True)
                else:
                    with atomic_path(self.folder / name) as temporary:
                        temporary.write_bytes(content)

    def read(self, name: str) -> bytes | None:
        """A small file of the place; None where there is none."""
        try:
            with self._doing(f"{name} cannot be read") as files, files.open_input_stream(self._at(name)) as source:
                return bytes(source.read())
        except FileNotFoundError:
            return None

    def download(self, name: str) -> None:
        """Brings a file into the mirror. Raises StorageError, also where it is not there any more."""
        try:
            with (
                self._doing(f"{name} cannot be read") as files,
                files.open_input_stream(self._at(name)) as source,
                atomic_path(self.folder / name) as temporary,
                temporary.open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink, _CHUNK)
        except FileNotFoundError:
            raise StorageError(f"storage: {self.uri}: {name} went away while it was read; try again") from None

    def files(self, name: str) -> dict[str, int]:
        """Every file below a folder of the place by its name in it, and its size."""
        from pyarrow.fs import FileSelector

        with self._doing("cannot be listed") as files:
            at = self._at(name).rstrip("/")
            found = files.get_file_info(FileSelector(at, recursive=True, allow_not_found=True))
            top = at.lstrip("/") + "/"  # fsspec's file systems differ in how a path begins
            return {info.path.lstrip("/").removeprefix(top): info.size for info in found if info.is_file}

    def has(self, name: str) -> bool:
        """Whether the place has a file, as far as is known: it is looked for every few seconds at most, and a place
        that does not answer costs a run a tenth of its time at most."""
        began = time.monotonic()
        if began < self._next_look.get(name, 0.0):
            return False
        there = False
        with suppress(UserError, FileNotFoundError), self._doing(f"{name} cannot be looked for") as files:
            there = bool(files.get_file_info(self._at(name)).is_file)
        self._next_look[name] = time.monotonic() + max(_LOOK_S, 10 * (time.monotonic() - began))
        return there

    def delete(self, name: str) -> None:
        """Deletes a file of the place, if it is there."""
        with suppress(FileNotFoundError), self._doing(f"{name} cannot be deleted") as files:
            files.delete_file(self._at(name))

    def drop(self, name: str) -> None:
        """Deletes a folder of the place, if it is there."""
        with suppress(FileNotFoundError), self._doing(f"{name} cannot be deleted") as files:
            files.delete_dir(self._at(name))


def _upload(files: Any, writing: Any, path: Path, at: str) -> None:
    folder, _, name = at.rpartition("/")
    target = at if files.type_name in _WHOLE_OBJECTS else f"{folder}/.{name}.{secrets.token_hex(4)}.tmp"
    try:
        with path.open("rb") as source, writing(target) as sink:
            shutil.copyfileobj(source, sink, _CHUNK)
            sent = source.tell()
        if (arrived := files.get_file_info(target).size) != sent:
            raise OSError(f"{arrived} of {sent} bytes arrived")
        if target != at:
            _move(files, target, at)
    except Exception as error:
        try:
            files.delete_file(target)
        except Exception as second:
            error.add_note(f"{target} may be left: {second}")
        raise


def _move(files: Any, source: str, target: str) -> None:
    try:
        files.move(source, target)
    except OSError:  # not every file system lets a file take another's place
        files.delete_file(target)
        files.move(source, target)


def _open(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path there."""
    import pyarrow
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    if uri.partition(":")[0] in ("gs", "gcs") and "retry_limit_seconds=" not in uri:
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds=60"  # its own limit is a quarter of an hour
    try:
        found: tuple[Any, str] = FileSystem.from_uri(uri)
        return found
    except pyarrow.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
    import fsspec.core

    files, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return PyFileSystem(FSSpecHandler(files)), path
