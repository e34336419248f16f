"""The one exception that means "what you asked for cannot be done", told in one line."""

import contextlib
from collections.abc import Iterator

MOST_CHARACTERS = 1000  # of a line


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
