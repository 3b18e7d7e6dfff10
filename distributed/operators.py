"""DeepSpeed's compiled operators, built once a machine: a process killed while it compiles blocks nobody after it.

torch marks a build by a file that only its maker removes; whoever finds that file waits for it, for ever if the maker
was killed. Here a lock that the kernel releases with its holder guards the build in that file's place.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXTENSIONS = "TORCH_EXTENSIONS_DIR"


def build_operators() -> None:
    """Builds, or loads, what `deepspeed.init_distributed` is going to ask for on a machine without a GPU."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    if get_accelerator().communication_backend_name() == "nccl":
        return  # its collectives are NCCL's own
    folder = Path(os.environ.setdefault(EXTENSIONS, str(_cache() / "operators" / _installation(deepspeed))))
    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None or not deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "building").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with _nobody_waits():
            builder.load(verbose=False)


class _Baton:
    """torch's marker of a build, for one who holds the lock: nobody else can be building."""

    def __init__(self, path: str, *_: object) -> None:
        self.path = Path(path)

    def try_acquire(self) -> bool:
        return True

    def release(self) -> None:
        self.path.unlink(missing_ok=True)  # left over by somebody who was killed


@contextmanager
def _nobody_waits() -> Iterator[None]:
    from torch.utils import cpp_extension

    module: Any = cpp_extension
    before = module.FileBaton
    module.FileBaton = _Baton
    try:
        yield
    finally:
        module.FileBaton = before


def _installation(deepspeed: Any) -> str:
    """Two installations that shared a folder would build in turn, each in place of the other's."""
    import torch

    return hashlib.sha256(f"{deepspeed.__file__} {torch.__version__}".encode()).hexdigest()[:12]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "meltmatch"
