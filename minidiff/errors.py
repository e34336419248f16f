"""The one exception that means "what you asked for cannot be done", and how a command tells of it."""

import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator

MOST_CHARACTERS = 1000  # of a line
PLATFORM = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")  # what a user asks JAX for
NO_MEMORY = "the memory is used up: make the batch, the images or the network smaller"


class InputError(ValueError):
    """Bad input from a user: what was wrong, which value, what is allowed, in one line.

    The command line prints its message after ``minidiff:`` and exits with status 2. Library code
    raises it for whatever a caller can get wrong with a file, a name or a setting.
    """


def one_line(message: str) -> str:
    """A message fit for a terminal: no line breaks, nothing that steers it, and not without end."""
    words = " ".join(message.split())
    if len(words) > MOST_CHARACTERS:
        half = MOST_CHARACTERS // 2
        words = f"{words[:half]} ... {words[-half:]}"
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in words)


@contextlib.contextmanager
def naming(source: object) -> Iterator[None]:
    """What is wrong inside is told with the file, or folder, that it stands in."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def tell(error: BaseException) -> int:
    """Say in one line on standard error what ended a command; its exit status.

    That is 2 for bad input, for what the machine has no room for and where JAX cannot start, and 128
    and the signal's number for an interruption. What nobody foresaw is told with its traceback, and
    the status is 1.
    """
    if isinstance(error, InputError):
        return complain(str(error), 2)
    if isinstance(error, OSError):  # a full disk, a folder that may not be written
        where = f": {error.filename}" if error.filename else ""
        return complain(f"{error.strerror or error}{where}", 2)
    if isinstance(error, MemoryError):
        return complain(NO_MEMORY, 2)
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):  # JAX's
        return complain(f"{NO_MEMORY} ({str(error).splitlines()[0]})", 2)
    if isinstance(error, KeyboardInterrupt):
        said = str(error) or "stopped; the same command goes on from the last checkpoint"
        return complain(said, 128 + getattr(error, "number", signal.SIGINT))
    if cause := no_platform(error):
        return complain(cause, 2)
    traceback.print_exception(error)
    return 1


def no_platform(error: BaseException) -> str:
    """Why JAX cannot start here, if that is what raised this error, of whatever kind; else nothing.

    It raises many kinds, from a value in the environment that it cannot read to an assertion without
    a word. So it is asked to start once more: where it has started, that takes no time.
    """
    if isinstance(error, ValueError) and re.search("JAX flag|environment 'JAX_", str(error)):
        return f"JAX cannot read its settings in the environment: {error}"
    jax = sys.modules.get("jax")
    if jax is None:
        return ""
    try:
        jax.devices()
        return ""
    except Exception as failure:
        reason = str(failure).partition(" (")[0] or "no such device was found"
    asked = [f"{name}={os.environ[name]}" for name in PLATFORM if os.environ.get(name)]
    if not asked:
        return f"JAX cannot start here: {reason}"
    try:
        for name in PLATFORM:
            jax.config.update(name.lower(), "")
        there = f"without it {jax.default_backend()} would start"
    except Exception:
        there = "nor would anything else start"
    return f"{' '.join(asked)} asks for what JAX cannot start here ({reason}); {there}"


def complain(message: str, status: int = 1) -> int:
    """One line on standard error; returns the status."""
    print(f"minidiff: {one_line(message)}", file=sys.stderr, flush=True)
    return status
