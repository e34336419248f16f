"""The parts that diffusers' U-Nets and autoencoders are made of, under its names."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from minidiff.blocks import Level, ResBlock, SpatialAttention, SpatialTransformer
from minidiff.weights.files import write_together
from minidiff.weights.mapping import CONV, Entry, Layout, Tensor, linear, norm

STEM = "diffusion_pytorch_model"  # of a network's file of weights
# A Linear of ours as the kernel of a convolution that looks at one pixel.
PIXEL = Layout(lambda x: np.transpose(x)[:, :, None, None], lambda x: np.transpose(x[:, :, 0, 0]))
# Attention without text in files from before diffusers 0.15.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD = re.compile(rf"(\.attentions\.\d+)\.({'|'.join(OLD_NAMES)})(?=\.(weight|bias)$)")


def write_folder(
    folder: Path | str, facts: Mapping[str, object], tensors: Mapping[str, np.ndarray]
) -> None:
    """A network's folder: its settings and tensors. An older one is replaced when this is whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        f"{STEM}.safetensors": safetensors.numpy.save(tensors, {"format": "pt"}),
        "config.json": (json.dumps(facts, indent=2) + "\n").encode(),  # the seal
    }
    write_together(folder, contents)


def present_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under the names that diffusers gives them today."""
    named = {}
    for name, tensor in tensors.items():
        new = OLD.sub(lambda found: f"{found[1]}.{OLD_NAMES[found[2]]}", name)
        named[name if new in tensors else new] = tensor
    return named


def levels(
    side: str, within: str, stack: Sequence[Level], linear_projection: bool = False
) -> list[Entry]:
    """The levels of a way ``down`` or ``up``; ``within``: the name of the tower they belong to."""
    found = []
    for n, level in enumerate(stack):
        theirs, ours = f"{within}{side}_blocks.{n}", f"{within}{side}.{n}"
        for i, block in enumerate(level.blocks):
            found += res_block(f"{theirs}.resnets.{i}", f"{ours}.blocks.{i}", block)
        for i, look in enumerate(level.attention):
            names = f"{theirs}.attentions.{i}", f"{ours}.attention.{i}"
            found += attention_block(*names, look, linear_projection)
        if level.resample:
            found += conv(f"{theirs}.{side}samplers.0.conv", f"{ours}.resample")
    return found


def conv(name: str, path: str, layout: Layout = CONV) -> list[Entry]:
    """A convolution."""
    return [
        Entry(f"{name}.weight", (f"{path}.weight",), layout),
        Entry(f"{name}.bias", (f"{path}.bias",)),
    ]


def res_block(name: str, path: str, block: ResBlock) -> list[Entry]:
    """diffusers' ResnetBlock2D, told a time or not."""
    return [
        *norm(f"{name}.norm1", f"{path}.norm1"),
        *conv(f"{name}.conv1", f"{path}.conv1"),
        *(linear(f"{name}.time_emb_proj", f"{path}.time") if block.time else []),
        *norm(f"{name}.norm2", f"{path}.norm2"),
        *conv(f"{name}.conv2", f"{path}.conv2"),
        *(conv(f"{name}.conv_shortcut", f"{path}.shortcut") if block.shortcut else []),
    ]


def attention_block(
    name: str,
    path: str,
    look: SpatialAttention | SpatialTransformer,
    linear_projection: bool = False,
) -> list[Entry]:
    """What follows a ResBlock: attention between positions, or a transformer that sees a text."""
    if isinstance(look, SpatialAttention):
        return [
            *norm(f"{name}.group_norm", f"{path}.norm"),
            *_attention(name, f"{path}.attention", bias=True),
        ]
    ends = linear if linear_projection else functools.partial(conv, layout=PIXEL)
    block, ours = f"{name}.transformer_blocks.0", f"{path}.block"
    return [
        *norm(f"{name}.norm", f"{path}.norm"),
        *ends(f"{name}.proj_in", f"{path}.enter"),
        *norm(f"{block}.norm1", f"{ours}.norm1"),
        *_attention(f"{block}.attn1", f"{ours}.attention", bias=False),
        *norm(f"{block}.norm2", f"{ours}.norm2"),
        *_attention(f"{block}.attn2", f"{ours}.cross", bias=False),
        *norm(f"{block}.norm3", f"{ours}.norm3"),
        *linear(f"{block}.ff.net.0.proj", f"{ours}.mlp.up"),
        *linear(f"{block}.ff.net.2", f"{ours}.mlp.down"),
        *ends(f"{name}.proj_out", f"{path}.leave"),
    ]


def _attention(name: str, path: str, bias: bool) -> list[Entry]:
    return [
        *linear(f"{name}.to_q", f"{path}.query", bias=bias),
        *linear(f"{name}.to_k", f"{path}.key", bias=bias),
        *linear(f"{name}.to_v", f"{path}.value", bias=bias),
        *linear(f"{name}.to_out.0", f"{path}.out"),
    ]
