"""What every command does around its work: one line and exit code 2 for a user's mistake, 130 for Ctrl-C."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from distributed import job_environment
from models.errors import UserError


def main_of(command: Callable[[Sequence[str]], None]) -> NoReturn:
    """Runs `command` on the process's arguments and exits."""
    try:
        job_environment.load()
        command(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
