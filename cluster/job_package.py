"""The package of a job: which files of the checkout go to the cluster, how large they are, and the zip of them."""

import json
import logging
import os
import shlex
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _dir_travel, _get_excludes
from ray._private.thirdparty.pathspec.patterns.gitwildmatch import GitWildMatchPattern

from cluster.command import UserError

SECRETS = ".job_environment.json"
"""The file at the package's root that `distributed.job_environment` reads on every node."""
MEGABYTE = 10**6
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Selection:
    """The files of a folder that go to the cluster, by their path in it, with their size in bytes."""

    folder: Path
    files: Mapping[str, int]

    @property
    def size(self) -> int:
        return sum(self.files.values())


def select(folder: Path, excludes: Sequence[str] = ()) -> Selection:
    """What Ray itself would upload of a checkout: all but what .gitignore, .rayignore and `excludes` leave out.

    Raises:
        UserError: it is no checkout, or cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"--working-dir {folder}: no such folder; name the checkout of meltmatch")
    if not (folder / "pyproject.toml").is_file():
        raise UserError(
            f"{folder} is no checkout: there is no pyproject.toml; run this in the checkout, or name it: --working-dir"
        )
    folder = folder.absolute()
    files: dict[str, int] = {}

    def found(path: Path) -> None:
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = path.stat().st_size

    try:
        # Ray's own walk, so that both see the same files.
        leave_out = _get_excludes(folder, [*get_runtime_env_default_excludes(), f"/{SECRETS}", *excludes])
        gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
        _dir_travel(folder, [leave_out], found, include_gitignore=gitignore, logger=logging.getLogger(__name__))
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be read: {error.strerror}; leave it out: --exclude"
        ) from error
    except (ValueError, IndexError) as error:  # both from patterns, the latter for a lone "!"
        raise UserError(f"{folder}: a pattern of .gitignore, .rayignore or --exclude is wrong: {error}") from error
    return Selection(folder, dict(sorted(files.items())))


def check_size(selection: Selection, limit_mb: float) -> None:
    """Raises UserError, with what is largest and how to leave it out, for more than `limit_mb` megabytes."""
    if selection.size <= limit_mb * MEGABYTE:
        return
    largest = largest_parts(selection.files)
    shown = ", ".join(f"{path} ({megabytes(size)})" for path, size in largest)
    options = " ".join(f"--exclude {pattern_of(path)}" for path, _ in largest)
    raise UserError(
        f"{selection.folder}: {megabytes(selection.size)} would be uploaded, --max-size allows {limit_mb:g} MB; the "
        f"largest: {shown}; leave out what the job does not need: {options} (or lines in .rayignore)"
    )


def largest_parts(files: Mapping[str, int], count: int = 3) -> list[tuple[str, int]]:
    """The largest files and folders, largest first; folders end in "/".

    A folder with most of its bytes in one child gives way to that child: `data/` says less than `data/frames.npz`.
    """
    children: dict[str, dict[str, int]] = {}
    for path, size in files.items():
        parts = PurePosixPath(path).parts
        for depth in range(len(parts)):
            parent = "".join(f"{part}/" for part in parts[:depth])
            child = f"{parent}{parts[depth]}" + ("/" if depth < len(parts) - 1 else "")
            inside = children.setdefault(parent, {})
            inside[child] = inside.get(child, 0) + size

    def narrowed(path: str, size: int) -> tuple[str, int]:
        while path in children:
            inner, inner_size = max(children[path].items(), key=lambda item: item[1])
            if 2 * inner_size <= size:
                break
            path, size = inner, inner_size
        return path, size

    largest = sorted(children.get("", {}).items(), key=lambda item: -item[1])[:count]
    return [narrowed(path, size) for path, size in largest]


def pattern_of(path: str) -> str:
    """The pattern that leaves out this path alone, as a shell takes it."""
    return shlex.quote(f"/{GitWildMatchPattern.escape(path)}")


def megabytes(size: int) -> str:
    return f"{size / MEGABYTE:,.1f} MB"


def write_package(selection: Selection, secrets: Mapping[str, str], to: Path) -> None:
    """Writes the zip file that is uploaded: the files, and the secrets where there are any.

    Its bytes depend on nothing else, so that what has been uploaded once is not uploaded again. Its folder must be one
    that nobody else can read.

    Raises:
        UserError: a file cannot be read, or the package is larger than Ray takes.
    """
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as package:
        for name in selection.files:
            try:
                entry = zipfile.ZipInfo.from_file(selection.folder / name, name, strict_timestamps=False)
                entry.date_time, entry.compress_type = _EPOCH, zipfile.ZIP_DEFLATED
                with (selection.folder / name).open("rb") as source, package.open(entry, "w") as target:
                    shutil.copyfileobj(source, target)
            except OSError as error:
                raise UserError(
                    f"{selection.folder / name}: cannot be read: {error.strerror}; leave it out: "
                    f"--exclude {pattern_of(name)}"
                ) from error
        if secrets:
            entry = zipfile.ZipInfo(SECRETS, _EPOCH)
            entry.external_attr = 0o100600 << 16  # Ray gives the unpacked file this mode
            package.writestr(entry, json.dumps(dict(sorted(secrets.items()))))
    if (size := to.stat().st_size) >= GCS_STORAGE_MAX_SIZE:
        shown = ", ".join(f"{path} ({megabytes(part)})" for path, part in largest_parts(selection.files))
        raise UserError(
            f"{selection.folder}: the package has {megabytes(size)}, and Ray takes less than "
            f"{megabytes(GCS_STORAGE_MAX_SIZE)}; the largest: {shown}; put data where every node can read it"
        )
