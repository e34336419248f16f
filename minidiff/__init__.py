"""CLIP and diffusion models from scratch in JAX, small enough to read in one sitting.

Importing this package is quick and does not import JAX: it settles what has to be settled before
JAX starts (see ``minidiff.runtime``), and loads a module such as ``minidiff.unet`` when it is first
used.
"""

import importlib

from minidiff import runtime

__version__ = "0.1.0"

runtime.configure()


def __getattr__(name: str):
    if not name.startswith("_"):
        qualified = f"{__name__}.{name}"
        try:
            return importlib.import_module(qualified)
        except ModuleNotFoundError as error:
            if error.name != qualified:  # the module is there, and something it imports is not
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
