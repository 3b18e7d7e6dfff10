"""What every command of this folder does around its work: one line and exit code 2 for a user's mistake.

Like `distributed/command.py`; this folder imports nothing of the others, for it runs where only Ray is installed.
"""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn


class UserError(Exception):
    """Something the user can put right; the message is one line that says what and how."""


def main_of(command: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs `command` on the process's arguments and exits with the code that it returns."""
    try:
        code = command(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
