"""What a run tells whoever watches; a full disk under the log must not end what it tells of."""

import contextlib
import sys


def say(text: str) -> None:
    """One line on stdout."""
    _written(text, error=False)


def warn(message: str) -> None:
    """One line on stderr."""
    _written(f"warning: {message}", error=True)


def _written(line: str, error: bool) -> None:
    with contextlib.suppress(OSError):  # there is nobody left to tell
        print(line, file=sys.stderr if error else sys.stdout, flush=True)
