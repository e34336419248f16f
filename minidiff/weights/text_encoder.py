"""The text tower of a CLIP alone, in from Hugging Face's folders (transformers' ``CLIPTextModel``)."""

import functools
from pathlib import Path

import jax

from minidiff.keys import key_of_seed
from minidiff.text import TextConfig, TextTransformer
from minidiff.weights.clip import text_entries
from minidiff.weights.clip_settings import read_text_config
from minidiff.weights.folders import weight_files
from minidiff.weights.mapping import open_tensors, read

PREFIX = "text_model."  # that older versions of transformers put before every name of the tower
# Not of the tower: places counted out, and the way into the space that texts share with images.
LEFT_OUT = {"embeddings.position_ids", "text_projection.weight"}


def load_text_encoder(path: Path | str) -> TextTransformer:
    """A text tower, in float32, from a folder, or from a pipeline's folder with text_encoder/ inside.

    ``encoder.states(ids)`` is what Stable Diffusion looks at: the last states after the final norm, of
    every token of the row, padding included. The folder holds config.json, of a CLIPTextModel or
    CLIPTextModelWithProjection, and model.safetensors (its shards, or the only variant there, such as
    fp16). A projection is left out: see ``load_clip`` for a whole CLIP.

    InputError if the path is no such thing, if settings are impossible, and if tensors are missing,
    unexpected or of another shape, which it names. Pickled weights are not read.
    """
    path = Path(path)
    if (path / "text_encoder").is_dir() and not (path / "config.json").exists():
        path = path / "text_encoder"
    files = weight_files(path)
    config = read_text_config(path if path.is_dir() else path.parent)
    with open_tensors(files) as tensors:
        named = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        named = {name: tensor for name, tensor in named.items() if name not in LEFT_OUT}
        return read(text_entries("", "", config.layers), template(config), named, path)


def template(config: TextConfig) -> TextTransformer:
    """The shapes of a tower."""
    return jax.eval_shape(functools.partial(TextTransformer.init, config=config), key_of_seed(0))
