"""Whether nodes share a place: each writes a file there, and must see what the others wrote. Runs on the nodes."""

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_VISIBLE_S = 5.0  # NFS may show another machine's file this much later
_SECRET = re.compile(r"(?<=://)[^/@]*@|\?.*")


def shown(place: str) -> str:
    """A place as people may see it: without the keys that a URI can carry."""
    return _SECRET.sub("", place)


def write_file(place: str, name: str, text: str) -> dict[str, Any]:
    """Writes a file of that name into the place -> `error` (empty if all is well) and `free` bytes where known."""
    try:
        system, base = _open(place)
        if system.type_name == "local" and not Path(base).is_dir():
            return {"error": "no such folder here", "free": None}
        with system.open_output_stream(f"{base}/{name}") as file:
            file.write(text.encode())
        return {"error": "", "free": shutil.disk_usage(base).free if system.type_name == "local" else None}
    except Exception as error:  # every storage has errors of its own
        return {"error": _said(error, place), "free": None}


def read_files(place: str, names: Sequence[str]) -> dict[str, str]:
    """What stands in each file; None is left out, after a while of waiting for it."""
    texts: dict[str, str] = {}
    end = time.monotonic() + _VISIBLE_S
    system, base = _open(place)
    while len(texts) < len(names):
        for name in set(names) - texts.keys():
            try:
                with system.open_input_stream(f"{base}/{name}") as file:
                    texts[name] = file.read().decode(errors="replace")
            except OSError:  # not there, or not yet
                continue
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return texts


def remove_file(place: str, name: str) -> str:
    """Removes a file that may be gone already -> why it could not be removed, empty if it is gone."""
    try:
        system, base = _open(place)
        system.delete_file(f"{base}/{name}")
    except FileNotFoundError:
        return ""
    except Exception as error:  # as above
        return _said(error, place)
    return ""


def _open(place: str) -> tuple[Any, str]:
    """The file system of a place, and the place's path in it. The one that Ray Train itself uses."""
    from pyarrow import fs

    if "://" not in place:
        return fs.LocalFileSystem(), place.rstrip("/") or "/"
    system, base = fs.FileSystem.from_uri(place)
    return system, base.rstrip("/")


def _said(error: Exception, place: str) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    password = urlsplit(place).password
    text = text.replace(place, shown(place))
    return (text.replace(password, "***") if password else text)[:200]
