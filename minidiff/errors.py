"""The one exception that means "what you asked for cannot be done", told in one line; and how it is told."""

import contextlib
import signal
import sys
import traceback
from collections.abc import Iterator

MOST_CHARACTERS = 1000  # of a line
NO_MEMORY = "the memory is used up: make the batch, the images or the network smaller"


class InputError(ValueError):
    """Bad input from a user: what was wrong, which value, what is allowed, in one line.

    The command line prints its message after ``minidiff:`` and exits with status 2. Library code
    raises it for whatever a caller can get wrong with a file, a name or a setting.
    """
