"""The U-Net in and out of diffusers' folders.

Names, settings and defaults are those of diffusers' ``UNet2DModel`` and ``UNet2DConditionModel``.
"""

import functools
from pathlib import Path

import jax

from minidiff.errors import InputError
from minidiff.files import read_json
from minidiff.keys import key_of_seed
from minidiff.settings import Settings
from minidiff.unet import UNet, UNetConfig
from minidiff.weights.folders import weight_files
from minidiff.weights.mapping import Entry, linear, norm, open_tensors, read, same_parts, write
from minidiff.weights.parts import (
    STEM,
    attention_block,
    conv,
    levels,
    present_names,
    res_block,
    write_folder,
)
from minidiff.weights.unet_settings import read_config, settings

MOST_SIDE = 2**16


def load_unet(path: Path | str) -> UNet:
    """A U-Net, in float32, from a diffusers folder, or from a pipeline's folder with unet/ inside.

    Call it as ``unet(x, t)`` or, if it looks at a text, ``unet(x, t, states)``. The folder holds
    config.json, of a UNet2DModel or UNet2DConditionModel, and diffusion_pytorch_model.safetensors
    (its shards, or the only variant there, such as fp16); ``path`` may be one of several variants.
    A class embedding of the kind "simple_projection" is ours of the whole text: ``config.pooled``.

    InputError if the path is no such thing, if a setting asks for a part that our U-Net has not,
    and if tensors are missing, unexpected or of another shape, which it names; then nothing is
    loaded. Pickled weights are not read.
    """
    path = _place(path)
    files = weight_files(path, STEM)
    folder = path if path.is_dir() else path.parent
    config, linear_projection = read_config(folder)
    try:
        template = _template(config)
    except ValueError as error:  # sizes that do not fit each other
        raise InputError(f"{folder / 'config.json'}: {error}") from None
    with open_tensors(files) as tensors:
        named = present_names(tensors)
        return read(entries(template, linear_projection), template, named, path)


def image_side(path: Path | str) -> int | None:
    """The side of the images, or latents, of the U-Net in a folder; none if it does not say.

    ``path`` as of load_unet. InputError if the settings cannot be read, or images are no squares.
    """
    path = _place(path)
    path = (path if path.is_dir() else path.parent) / "config.json"
    facts = read_json(path)
    side = facts.get("sample_size")
    sides = side if isinstance(side, list) and len(side) == 2 else [side]
    if side is None:
        return None
    if any(type(n) is not int or not 1 <= n <= MOST_SIDE or n != sides[0] for n in sides):
        wanted = f"a whole number from 1 to {MOST_SIDE}"
        raise Settings(facts, str(path)).wrong("sample_size", side, wanted)
    return sides[0]


def save_unet(unet: UNet, folder: Path | str, *, side: int | None = None) -> None:
    """Write a folder that diffusers' from_pretrained loads, and load_unet.

    It is a UNet2DConditionModel if the network looks at a text, else a UNet2DModel. ``side`` of its
    images is noted if given: diffusers' pipelines sample that size.

    InputError for what diffusers has no settings for: patches, a pooled text without states, heads
    of several widths without text, parts that differ from ``unet.config``. OSError where a file
    cannot be written. An older model in the folder is replaced only when the new one is whole.
    """
    facts = settings(unet.config, side)
    template = _template(unet.config)
    if not same_parts(unet, template):
        raise InputError(
            "the parts of this U-Net are not what its config says: diffusers needs that"
        )
    write_folder(folder, facts, write(entries(template), unet))


def _place(path: Path | str) -> Path:
    """Where the network lies, in the folder of a pipeline too."""
    path = Path(path)
    inside = (path / "unet").is_dir() and not (path / "config.json").exists()
    return path / "unet" if inside else path


def _template(config: UNetConfig) -> UNet:
    return jax.eval_shape(functools.partial(UNet.init, config=config), key_of_seed(0))


def entries(unet: UNet, linear_projection: bool = False) -> list[Entry]:
    """Where each tensor of a network (its shapes suffice) belongs.

    ``linear_projection``: its transformers begin and end in a Linear, not in a convolution.
    """
    found = [
        *linear("time_embedding.linear_1", "time1"),
        *linear("time_embedding.linear_2", "time2"),
        *(linear("class_embedding", "pooled") if unet.pooled else []),
        *conv("conv_in", "conv_in"),
        *norm("conv_norm_out", "norm_out"),
        *conv("conv_out", "conv_out"),
    ]
    first, look, second = unet.middle
    found += res_block("mid_block.resnets.0", "middle.0", first)
    found += attention_block("mid_block.attentions.0", "middle.1", look, linear_projection)
    found += res_block("mid_block.resnets.1", "middle.2", second)
    for side in ("down", "up"):
        found += levels(side, "", getattr(unet, side), linear_projection)
    return found
