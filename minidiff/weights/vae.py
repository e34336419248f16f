"""AutoencoderKL in and out of diffusers' folders, and under the names of latent diffusion's own files."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import jax

from minidiff.errors import InputError
from minidiff.keys import key_of_seed
from minidiff.vae import VAE, VAEConfig
from minidiff.weights.folders import weight_files
from minidiff.weights.mapping import Entry, Tensor, norm, open_tensors, read, same_parts, write
from minidiff.weights.parts import (
    STEM,
    attention_block,
    conv,
    levels,
    present_names,
    res_block,
    write_folder,
)
from minidiff.weights.vae_settings import read_config, settings

# A file of latent diffusion: its name for the whole, and what belongs to training alone.
FIRST_STAGE = "first_stage_model."
TRAINING = ("loss.", "model_ema.")
# Its names, and diffusers': one after the other.
LDM = (
    (r"\.(down|up)\.(\d+)\.block\.", r".\1_blocks.\2.resnets."),
    (r"\.(down|up)\.(\d+)\.attn\.", r".\1_blocks.\2.attentions."),
    (r"\.(down|up)\.(\d+)\.(?:down|up)sample\.", r".\1_blocks.\2.\1samplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(\.attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
)


def load_vae(path: Path | str) -> VAE:
    """An AutoencoderKL, in float32, from a diffusers folder, or a pipeline's folder with vae/ inside.

    ``encode(images) -> z`` is the mode, unscaled, and ``decode(z) -> images``, in [-1, 1];
    ``config.scale`` is what z is multiplied by where it is diffused. The folder holds config.json and
    diffusion_pytorch_model.safetensors (its shards, or the only variant there, such as fp16);
    attention may have the names of before diffusers 0.15. The file may also be one of latent
    diffusion's own (``encoder.down.0.block.0...``), beside such a config.json.

    InputError if the path is no such thing, if a setting asks for a part that is not here, and if
    tensors are missing, unexpected or of another shape, which it names. Pickled weights are not read.
    """
    path = Path(path)
    if (path / "vae").is_dir() and not (path / "config.json").exists():
        path = path / "vae"
    files = weight_files(path, STEM)
    folder = path if path.is_dir() else path.parent
    config = read_config(folder)
    try:
        template = _template(config)
    except ValueError as error:  # sizes that do not fit each other
        raise InputError(f"{folder / 'config.json'}: {error}") from None
    with open_tensors(files) as tensors:
        named = present_names(ldm_names(tensors, len(config.channels)))
        return read(entries(template), template, named, path)


def save_vae(vae: VAE, folder: Path | str) -> None:
    """Write a folder that diffusers' AutoencoderKL.from_pretrained loads, and load_vae.

    InputError for what AutoencoderKL has no settings for: patches at the entrance, towers of other
    channels or without a middle, parts that differ from ``vae.config``. OSError where a file cannot
    be written. An older model in the folder is replaced only when the new one is whole.
    """
    facts = settings(vae.config)
    template = _template(vae.config)
    if not same_parts(vae, template):
        raise InputError("the parts of this VAE are not what its config says: diffusers needs that")
    write_folder(folder, facts, write(entries(template), vae))


def _template(config: VAEConfig) -> VAE:
    return jax.eval_shape(functools.partial(VAE.init, config=config), key_of_seed(0))


def entries(vae: VAE) -> list[Entry]:
    """Where each tensor of a VAE (its shapes suffice) belongs."""
    found = []
    for name, side in (("encoder", "down"), ("decoder", "up")):
        tower = getattr(vae, name)
        found += conv(f"{name}.conv_in", f"{name}.conv_in")
        found += levels(side, f"{name}.", getattr(tower, side))
        if tower.middle:
            theirs, ours = f"{name}.mid_block", f"{name}.middle"
            found += res_block(f"{theirs}.resnets.0", f"{ours}.first", tower.middle.first)
            if tower.middle.look:
                found += attention_block(
                    f"{theirs}.attentions.0", f"{ours}.look", tower.middle.look
                )
            found += res_block(f"{theirs}.resnets.1", f"{ours}.second", tower.middle.second)
        found += norm(f"{name}.conv_norm_out", f"{name}.norm_out")
        found += conv(f"{name}.conv_out", f"{name}.conv_out")
    if vae.quant is not None:
        found += conv("quant_conv", "quant") + conv("post_quant_conv", "post_quant")
    return found


def ldm_names(tensors: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """A file's tensors under diffusers' names, if they have latent diffusion's; else as they are.

    Latent diffusion counts the ``count`` levels of ``up`` from the finest, diffusers from the coarsest.
    Its attention is made of 1 x 1 convolutions. What belongs to training alone is left out.
    """
    found = {}
    for name, tensor in tensors.items():
        old = new = name.removeprefix(FIRST_STAGE)
        if old.startswith(TRAINING):
            continue
        for theirs, ours in LDM:
            new = re.sub(theirs, ours, new)
        if new != old:
            new = re.sub(r"(?<=\.up_blocks\.)\d+", lambda n: str(count - 1 - int(n[0])), new)
            tensor = _matrix(tensor) if ".attentions." in new else tensor
        found[new] = tensor
    return found


def _matrix(tensor: Tensor) -> Tensor:
    """A kernel that looks at one pixel, as the matrix that it is."""
    if tensor.shape[2:] != (1, 1):
        return tensor
    shape = tensor.shape[:2]
    return tensor._replace(shape=shape, read=lambda: tensor.read().reshape(shape))
