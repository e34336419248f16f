"""U-Nets of the field as settings of ours, and what a U-Net is made of, as a table.

It is read in lesson 09.
"""

import jax
import jax.numpy as jnp

from minidiff import tables
from minidiff.keys import key_of_seed
from minidiff.layers import count_parameters
from minidiff.unet import Condition, UNet, UNetConfig

LAYOUTS = {
    # Ours: small enough for two cores.
    "compact": UNetConfig(),
    # google/ddpm-cifar10-32 (Ho et al. 2020, appendix B).
    "ddpm-cifar10": UNetConfig(
        channels=(128, 256, 256, 256),
        blocks=2,
        attention=(1,),
        groups=32,
        eps=1e-6,
        padding=(0, 1),
    ),
    # The U-Net of Stable Diffusion 1.1 to 1.5 (Rombach et al. 2022), on latents.
    "stable-diffusion-1": UNetConfig(
        image_channels=4,
        channels=(320, 640, 1280, 1280),
        blocks=2,
        attention=(0, 1, 2),
        heads=8,
        groups=32,
        context=768,
        cos_first=True,
        frequency_shift=0,
    ),
}
SIDES = {"compact": 16, "ddpm-cifar10": 32, "stable-diffusion-1": 64}


def describe(config: UNetConfig, side: int) -> list[tuple[str, tuple[int, ...], int]]:
    """A row per stage: its name, the shape of its output for one image, its parameters.

    Shapes alone are evaluated: nothing is allocated, however large the network. The rows' parameters
    add up to the whole network's.
    """
    config.check_image(side)
    unet = jax.eval_shape(lambda key: UNet.init(key, config), key_of_seed(0))
    names = []

    def run(unet, image, t, condition):
        stages = unet.stages(image, t, condition)
        names.extend(stages)  # the order that a compiled program's dict does not keep
        return list(stages.values())

    def floats(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    condition = None
    if config.context or config.pooled:
        states = floats(1, 1, config.context) if config.context else None
        condition = Condition(states, floats(1, config.pooled) if config.pooled else None)
    image, t = floats(1, side, side, config.image_channels), jax.ShapeDtypeStruct((1,), jnp.int32)
    shapes = jax.eval_shape(run, unet, image, t, condition)
    return [
        (name, shape.shape[1:], count_parameters(_part(unet, name)))
        for name, shape in zip(names, shapes, strict=True)
    ]


def _part(unet: UNet, name: str) -> object:
    """The layers that compute the stage of this name."""
    if name == "time":
        return unet.time1, unet.time2, unet.pooled
    if name == "out":
        return unet.norm_out, unet.conv_out
    if "." not in name:
        return getattr(unet, name)
    side, level, kind, *index = name.split(".")
    level = getattr(unet, side)[int(level)]
    if kind == "resample":
        return level.resample
    return level.blocks[int(index[0])], level.attention[int(index[0]) : int(index[0]) + 1]


def count_blocks(config: UNetConfig) -> dict[str, int]:
    """How many blocks, counted as papers on Stable Diffusion count them.

    ``input``: the first convolution, each ResBlock with its attention on the way down, and each
    halving. ``output``: each ResBlock on the way up, with attention and doubling if there is any.
    ``resblocks`` and ``attention`` count these parts themselves, the middle's too.
    """
    unet = jax.eval_shape(lambda key: UNet.init(key, config), key_of_seed(0))
    down, up = (sum(len(level.blocks) for level in side) for side in (unet.down, unet.up))
    levels = (*unet.down, *unet.up)
    return {
        "input": 1 + down + sum(level.resample is not None for level in unet.down),
        "middle": 1,
        "output": up,
        "resblocks": down + 2 + up,
        "attention": sum(len(level.attention) for level in levels) + 1,
    }


def table(config: UNetConfig, side: int) -> str:
    """``describe`` and ``count_blocks`` as text."""
    rows = describe(config, side)
    cells = [(name, " x ".join(map(str, shape)), f"{count:,}") for name, shape, count in rows]
    n = count_blocks(config)
    kind = "transformer blocks" if config.context else "self-attentions"
    return "\n".join(
        [
            tables.plain([("stage", "output", "parameters"), *cells], "<>"),
            f"{n['input']} + {n['middle']} + {n['output']} input, middle and output blocks: "
            f"{n['resblocks']} ResBlocks, {n['attention']} {kind}",
            f"{sum(count for _, _, count in rows):,} parameters",
        ]
    )
