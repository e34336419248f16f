"""Weights in and out of files: our own, and those of the real models under their own names."""

import importlib
import os  # noqa: F401  the tests let a disk fail through it

from minidiff.weights.files import (
    LISTED,
    TEMPORARY,
    flatten,
    load,
    load_arrays,
    load_metadata,
    remove_leftovers,
    save,
    unflatten,
    write_atomically,
)

# A training run needs no other library's names, nor the networks that they belong to.
_LAZY = dict.fromkeys(("load_clip", "read_clip", "save_clip"), "clip")
_LAZY |= dict.fromkeys(("load_tokenizer", "tokenizer_place"), "clip")
_LAZY |= dict.fromkeys(("load_unet", "save_unet"), "unet")
_LAZY |= dict.fromkeys(("read_components",), "pipeline")
_LAZY |= dict.fromkeys(("load_vae", "save_vae"), "vae")
_LAZY |= dict.fromkeys(("read_scheduler", "write_scheduler"), "scheduler")

__all__ = [
    "LISTED",
    "TEMPORARY",
    "flatten",
    "load",
    "load_arrays",
    "load_clip",
    "load_metadata",
    "load_tokenizer",
    "load_unet",
    "load_vae",
    "read_clip",
    "read_components",
    "read_scheduler",
    "remove_leftovers",
    "save",
    "save_clip",
    "save_unet",
    "save_vae",
    "tokenizer_place",
    "unflatten",
    "write_atomically",
    "write_scheduler",
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
