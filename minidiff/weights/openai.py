"""OpenAI's own names of the tensors of a CLIP, whose shapes tell everything else.

After ``build_model`` of ``clip/model.py`` in https://github.com/openai/CLIP.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from minidiff.clip import CLIPConfig
from minidiff.errors import InputError
from minidiff.text import TextConfig
from minidiff.vit import ViTConfig
from minidiff.weights.files import refuse
from minidiff.weights.mapping import SAME, TRANSPOSED, Entry, Tensor, linear, norm, patches
from minidiff.weights.open_clip import read_open_clip
from minidiff.weights.preprocess import Preprocess

HEAD = 64  # numbers of a head
EXTRAS = {"input_resolution", "context_length", "vocab_size"}  # the shapes say the same
RANKS = {  # of the tensors that tell the sizes
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "positional_embedding": 2,
    "token_embedding.weight": 2,
    "text_projection": 2,
}
IMAGE_BLOCKS, TEXT_BLOCKS = "visual.transformer.resblocks", "transformer.resblocks"


def openai_config(tensors: Mapping[str, Tensor], path: Path) -> tuple[CLIPConfig, Preprocess]:
    """What a file's shapes say; heads are 64 wide, the activation is quick_gelu.

    open_clip uses the same names for models of its own: where its settings lie beside the file, they
    count. InputError if a tensor is missing without which sizes cannot be told, for a ResNet, and
    for settings that the shapes contradict or that ours has no part for.
    """
    if any(name.startswith("visual.layer1.") for name in tensors):
        raise InputError(f"{path} is a CLIP with a ResNet: only vision transformers can be loaded")
    refuse(path, [f"{name} is missing" for name in RANKS if name not in tensors])
    shapes = {name: tensors[name].shape for name in RANKS}
    refuse(
        path,
        [
            f"{name} has shape {shape}, not {RANKS[name]} sizes above 0"
            for name, shape in shapes.items()
            if len(shape) != RANKS[name] or 0 in shape
        ],
    )
    width, _, _, patch = shapes["visual.conv1.weight"]
    places = shapes["visual.positional_embedding"][0]
    side = math.isqrt(places - 1)
    if side == 0 or side**2 != places - 1:
        raise InputError(
            f"{path}: visual.positional_embedding has {places} rows, not one more than a square"
        )
    context, text_width = shapes["positional_embedding"]
    sizes = {
        "image": {"image_size": side * patch, "patch_size": patch, "width": width},
        "text": {
            "vocab_size": shapes["token_embedding.weight"][0],
            "context_length": context,
            "width": text_width,
        },
    }
    sizes["image"]["layers"] = _layers(tensors, IMAGE_BLOCKS)
    sizes["text"]["layers"] = _layers(tensors, TEXT_BLOCKS)
    told = read_open_clip(path.parent, shapes["text_projection"][1], sizes)
    both = {"activation": "quick_gelu" if told.quick_gelu else "gelu"}
    config = CLIPConfig(
        embedding=shapes["text_projection"][1],
        image=ViTConfig(
            image_size=side * patch,
            patch=patch,
            width=width,
            layers=sizes["image"]["layers"],
            heads=told.heads or _heads(path, "visual.conv1.weight", width),
            mean=told.mean,
            std=told.std,
            **both,
        ),
        text=TextConfig(
            vocabulary=sizes["text"]["vocab_size"],
            context=context,
            width=text_width,
            layers=sizes["text"]["layers"],
            heads=told.text_heads or _heads(path, "positional_embedding", text_width),
            end=told.end,
            **both,
        ),
    )
    return config, told.preprocess


def _heads(path: Path, name: str, size: int) -> int:
    if size < HEAD or size % (size // HEAD):
        raise InputError(f"{path}: {name} is {size} wide, which makes no heads of {HEAD}")
    return size // HEAD


def _layers(tensors: Mapping[str, Tensor], blocks: str) -> int:
    """How many different numbers follow ``blocks``; at least one, so that what lacks is named."""
    rest = (name.removeprefix(f"{blocks}.") for name in tensors if name.startswith(f"{blocks}."))
    return max(1, len({name.partition(".")[0] for name in rest}))


def openai_entries(config: CLIPConfig) -> list[Entry]:
    """Where each tensor belongs. OpenAI multiplies by projections as we do: (in, out)."""
    return [
        Entry("visual.class_embedding", ("image.class_token",)),
        Entry("visual.conv1.weight", ("image.patches.weight",), patches(config.image.patch)),
        Entry("visual.positional_embedding", ("image.positions",)),
        *norm("visual.ln_pre", "image.norm_in"),
        *_blocks(IMAGE_BLOCKS, "image", config.image.layers),
        *norm("visual.ln_post", "image.norm_out"),
        Entry("visual.proj", ("image_projection.weight",)),
        Entry("token_embedding.weight", ("text.tokens",)),
        Entry("positional_embedding", ("text.positions",)),
        *_blocks(TEXT_BLOCKS, "text", config.text.layers),
        *norm("ln_final", "text.norm_out"),
        Entry("text_projection", ("text_projection.weight",)),
        Entry("logit_scale", ("log_scale",)),
    ]


def _blocks(theirs: str, ours: str, layers: int) -> list[Entry]:
    entries = []
    for i in range(layers):
        block, stack = f"{theirs}.{i}", f"{ours}.transformer.blocks"
        three = [f"{stack}.attention.{name}" for name in ("query", "key", "value")]
        weights, biases = (tuple(f"{path}.{x}" for path in three) for x in ("weight", "bias"))
        entries += [
            *norm(f"{block}.ln_1", f"{stack}.norm1", i),
            Entry(f"{block}.attn.in_proj_weight", weights, TRANSPOSED, i),
            Entry(f"{block}.attn.in_proj_bias", biases, SAME, i),
            *linear(f"{block}.attn.out_proj", f"{stack}.attention.out", layer=i),
            *norm(f"{block}.ln_2", f"{stack}.norm2", i),
            *linear(f"{block}.mlp.c_fc", f"{stack}.mlp.up", layer=i),
            *linear(f"{block}.mlp.c_proj", f"{stack}.mlp.down", layer=i),
        ]
    return entries
