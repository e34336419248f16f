"""CLIP in and out of Hugging Face's folders, and in from a file with OpenAI's names.

Names, settings and defaults are those of transformers' ``CLIPModel``.
"""

import functools
import json
from pathlib import Path

import jax
import safetensors.numpy

from minidiff.clip import CLIP, CLIPConfig
from minidiff.errors import InputError
from minidiff.keys import key_of_seed
from minidiff.text import Tokenizer
from minidiff.weights.clip_settings import LEGACY_END, preprocessor_settings, read_config, settings
from minidiff.weights.files import write_together
from minidiff.weights.folders import weight_files
from minidiff.weights.mapping import (
    Entry,
    linear,
    norm,
    open_tensors,
    patches,
    read,
    same_parts,
    write,
)
from minidiff.weights.openai import EXTRAS, openai_config, openai_entries
from minidiff.weights.preprocess import Preprocess, assumed, read_preprocess

BUFFERS = {f"{tower}_model.embeddings.position_ids" for tower in ("text", "vision")}


def load_clip(path: Path | str) -> CLIP:
    """A CLIP, in float32, from a Hugging Face folder, or from a file with OpenAI's names.

    A folder holds config.json and model.safetensors (or its shards); what config.json leaves out is
    as in transformers. Images are normalised as preprocessor_config.json says; without it mean and
    std are 0.5, so images in [-1, 1] reach the network as they are. A safetensors file with OpenAI's
    names, alone or in a folder, needs no settings: its shapes tell them, by OpenAI's conventions;
    where open_clip_config.json lies beside it, that counts.

    InputError if the path is no such thing, if settings are impossible, and if tensors are missing,
    unexpected or of another shape, which it names; then nothing is loaded. Pickled weights are not read.
    """
    return read_clip(path)[0]


def read_clip(path: Path | str) -> tuple[CLIP, Preprocess]:
    """A CLIP as ``load_clip`` reads it, and how pictures are made ready for it.

    Where no file tells that, ``notes`` of the second says what is taken instead.
    """
    path = Path(path)
    files = weight_files(path)
    folder = path if path.is_dir() else path.parent
    with open_tensors(files) as tensors:
        preprocess = None
        if any(name.startswith("visual.") for name in tensors):
            config, preprocess = openai_config(tensors, files[0])
            entries, ignored = openai_entries(config), EXTRAS
        else:
            config = read_config(folder)
            entries, ignored = _entries(config), BUFFERS
        tensors = {name: tensor for name, tensor in tensors.items() if name not in ignored}
        clip = read(entries, _template(config), tensors, path)
    side = config.image.image_size
    return clip, preprocess or read_preprocess(folder, side) or assumed(side)


def save_clip(clip: CLIP, folder: Path | str, preprocess: Preprocess | None = None) -> None:
    """Write a folder that transformers' CLIPModel and CLIPImageProcessor load, and load_clip.

    ``preprocess``: how pictures are made ready for it; none: as OpenAI's are.

    InputError for a model that cannot be told in Hugging Face's settings: a SigLIP (``bias``), parts
    that differ from ``clip.config``, end token 2. OSError where a file cannot be written. An older
    model in the folder is replaced only when the new one is whole.
    """
    config = clip.config
    if clip.bias is not None:
        raise InputError("a CLIP with a bias on its logits (SigLIP) is no CLIPModel")
    if config.text.end == LEGACY_END:
        raise InputError(
            f"end token {LEGACY_END} means another thing in transformers: the largest id"
        )
    template = _template(config)
    if not same_parts(clip, template):
        raise InputError(
            "the parts of this CLIP are not what its config says: CLIPModel needs that"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = write(_entries(config), clip)
    contents = {
        "model.safetensors": safetensors.numpy.save(tensors, {"format": "pt"}),
        "preprocessor_config.json": _json(preprocessor_settings(config.image, preprocess)),
        "config.json": _json(settings(config)),  # the seal: load_clip asks for it
    }
    write_together(folder, contents)


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, or of a pipeline's: see ``Tokenizer.load``.

    InputError if vocab.json and merges.txt, or tokenizer.json, are missing, or no CLIP's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    place = tokenizer_place(folder)
    if place is None:
        raise InputError(
            f"{folder} holds no tokenizer: vocab.json and merges.txt, or tokenizer.json"
        )
    return Tokenizer.load(place)


def tokenizer_place(folder: Path) -> Path | None:
    """Where the files of a folder's tokenizer lie: in it, or in tokenizer/, as in a pipeline."""
    for place in (folder, folder / "tokenizer"):
        pair = [place / "vocab.json", place / "merges.txt"]
        if (place / "tokenizer.json").exists() or all(file.exists() for file in pair):
            return place
    return None


def _template(config: CLIPConfig) -> CLIP:
    return jax.eval_shape(functools.partial(CLIP.init, config=config), key_of_seed(0))


def _json(facts: dict) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()


def _entries(config: CLIPConfig) -> list[Entry]:
    """Where each tensor of a CLIPModel belongs."""
    vision = "vision_model.embeddings"
    return [
        Entry(f"{vision}.class_embedding", ("image.class_token",)),
        Entry(
            f"{vision}.patch_embedding.weight",
            ("image.patches.weight",),
            patches(config.image.patch),
        ),
        Entry(f"{vision}.position_embedding.weight", ("image.positions",)),
        *norm("vision_model.pre_layrnorm", "image.norm_in"),  # spelled so
        *_blocks("vision_model.", "image.", config.image.layers),
        *norm("vision_model.post_layernorm", "image.norm_out"),
        *linear("visual_projection", "image_projection", bias=False),
        *text_entries("text_model.", "text.", config.text.layers),
        *linear("text_projection", "text_projection", bias=False),
        Entry("logit_scale", ("log_scale",)),
    ]


def text_entries(tower: str, ours: str, layers: int) -> list[Entry]:
    """Where each tensor of a text tower belongs; ``tower``, ``ours``: what its names begin with."""
    embeddings = f"{tower}embeddings"
    return [
        Entry(f"{embeddings}.token_embedding.weight", (f"{ours}tokens",)),
        Entry(f"{embeddings}.position_embedding.weight", (f"{ours}positions",)),
        *_blocks(tower, ours, layers),
        *norm(f"{tower}final_layer_norm", f"{ours}norm_out"),
    ]


def _blocks(tower: str, ours: str, layers: int) -> list[Entry]:
    linears = {
        "self_attn.q_proj": "attention.query",
        "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value",
        "self_attn.out_proj": "attention.out",
        "mlp.fc1": "mlp.up",
        "mlp.fc2": "mlp.down",
    }
    entries = []
    for i in range(layers):
        block, stack = f"{tower}encoder.layers.{i}", f"{ours}transformer.blocks"
        for n in (1, 2):
            entries += norm(f"{block}.layer_norm{n}", f"{stack}.norm{n}", i)
        for theirs, path in linears.items():
            entries += linear(f"{block}.{theirs}", f"{stack}.{path}", layer=i)
    return entries
