"""A run, or a published folder, opened as the object that draws or embeds."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from minidiff.commands import _found
from minidiff.data.arrays import to_float
from minidiff.data.images import read_images
from minidiff.errors import InputError
from minidiff.text import Reader
from minidiff.trained.diffusion import Diffusion
from minidiff.trained.encoder import Encoder
from minidiff.training.run import Run

SHOWN_SIDE = 128  # pixels of an image in a picture


def open_encoder(path: str) -> Encoder:
    """The CLIP that a path names, with its tokenizer; on stderr, what its files leave unsaid."""
    encoder = _open(path, Encoder, Encoder.open)
    for note in encoder.notes:
        print(f"minidiff: {path}: {note}", file=sys.stderr)
    return encoder


def open_diffusion(path: str) -> Diffusion:
    """The diffusion model that a path names."""
    return _open(path, Diffusion, Diffusion.read)


def _open(path: str, kind: type, published: Callable[[str], object]) -> object:
    """A run by its recipe's ``load``, what others published by ``published``. InputError if neither."""
    recipe = _recipe(path)
    if recipe is None:
        return published(path)
    fit = _found.recipes(kind.__name__)
    if recipe not in fit:
        raise InputError(f"{path} is a run of {recipe}, not of {' or '.join(fit)}")
    return _found.recipe(recipe).load(path)


def _recipe(path: str) -> object:
    """What config.json says that trained this; None for what was published by others."""
    place = Path(path)
    theirs = ("model_index.json", "open_clip_config.json")
    if (
        place.suffix == ".safetensors"
        or place.is_file()
        or any((place / x).exists() for x in theirs)
    ):
        return None
    return Run.named(path).read_json("config.json").get("recipe")


def tell_cut(encoder: Reader, texts: Sequence[str]) -> None:
    """On stderr: texts that are longer than the encoder reads."""
    for text in encoder.cut(texts):
        print(f"minidiff: cut to {encoder.context} tokens: {text}", file=sys.stderr)


def as_they_are(paths: Sequence[Path | str]) -> np.ndarray:
    """Image files for a person to look at, finer than a small encoder sees them."""
    return to_float(read_images([Path(path) for path in paths], SHOWN_SIDE, Path()))
