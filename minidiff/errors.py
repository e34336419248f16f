"""The one exception that means "what you asked for cannot be done", told in one line; and how it is told."""

import signal
import sys
import traceback


class InputError(ValueError):
    """Bad input from a user: what was wrong, which value, what is allowed, in one line.

    The command line prints its message after ``minidiff:`` and exits with status 2. Library code
    raises it for whatever a caller can get wrong with a file, a name or a setting.
    """


def tell(error: BaseException) -> int:
    """Say in one line on standard error what ended a command; its exit status.

    That is 2 for bad input, and 128 and the signal's number for an interruption. What nobody foresaw is
    told with its traceback, and the status is 1.
    """
    if isinstance(error, InputError):
        return complain(str(error), 2)
    if isinstance(error, OSError):  # a full disk, a folder that may not be written
        where = f": {error.filename}" if error.filename else ""
        return complain(f"{error.strerror or error}{where}", 2)
    if isinstance(error, KeyboardInterrupt):
        said = str(error) or "stopped; the same command goes on from the last checkpoint"
        return complain(said, 128 + getattr(error, "number", signal.SIGINT))
    traceback.print_exception(error)
    return 1


def complain(message: str, status: int = 1) -> int:
    """One line on standard error; returns the status."""
    print("minidiff: " + " ".join(message.split()), file=sys.stderr, flush=True)
    return status
