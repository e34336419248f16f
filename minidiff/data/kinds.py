"""What ``--data`` understands: the one table of sources. It needs no JAX, so that help is quick.

To add a source, write its module and a line here.
"""

import importlib
import re
from collections.abc import Callable

from minidiff.errors import InputError

# How it is written, capitals standing for what the user fills in: where the function lies that
# opens it, called as open_it(rest, seed=, split=, size=, batch_size=) with what follows the small
# letters. ``size`` is None where the user named none.
KINDS = {
    "scenes": "scenes:scene_source",
    "digits": "digits:digits_source",
    "tfds:NAME": "prepared:prepared_source",
    "tfds:NAME:SPLIT": "prepared:prepared_source",
    "stream:tfds:NAME": "prepared:streamed_source",
    "folder:PATH": "folder:folder_source",
}

SPECS = " or ".join(", ".join(KINDS).rsplit(", ", 1))  # as help and errors tell it


def opener(spec: str) -> tuple[Callable, str]:
    """(function, rest) of the kind of source that ``spec`` names. InputError where there is none."""
    for written, place in KINDS.items():
        begins = re.match("[a-z:]*", written)[0]
        rest = spec.removeprefix(begins)
        if spec.startswith(begins) and bool(rest) == (written != begins):
            module, _, function = place.partition(":")
            return getattr(importlib.import_module(f"minidiff.data.{module}"), function), rest
    raise InputError(f"unknown data {spec!r}: choose {SPECS}")
