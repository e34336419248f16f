"""Weights in and out of files: our own, and those of the real models under their own names."""

from minidiff.weights.clip import load_clip, load_tokenizer, read_clip, save_clip, tokenizer_place
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
from minidiff.weights.pipeline import is_latent, load_pipeline, read_components
from minidiff.weights.scheduler import read_scheduler, write_scheduler
from minidiff.weights.text_encoder import load_text_encoder
from minidiff.weights.unet import load_unet, save_unet
from minidiff.weights.vae import load_vae, save_vae

__all__ = [
    "LISTED",
    "TEMPORARY",
    "flatten",
    "is_latent",
    "load",
    "load_arrays",
    "load_clip",
    "load_metadata",
    "load_pipeline",
    "load_text_encoder",
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
