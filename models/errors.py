"""The one exception for a user's mistake: printed as a single line, exit code 2, no traceback."""


class UserError(Exception):
    """Bad input from the user.

    The message is one line that names the file, line, key or tensor, says what was expected and what to do.
    """
