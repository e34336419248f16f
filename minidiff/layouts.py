"""U-Nets and autoencoders of the field as settings of ours; what they are made of, as tables.

It is read in lesson 09.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from minidiff import tables
from minidiff.autoencoder import Decoder, Encoder
from minidiff.keys import key_of_seed
from minidiff.layers import count_parameters
from minidiff.unet import Condition, UNet, UNetConfig
from minidiff.vae import VAE, VAEConfig

WORDS = 77  # of a text, as the published models read it

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
    # Autoencoders. Ours of the recipe vae, preset cpu:
    "compact-f8": VAEConfig(
        channels=(64, 96),
        decoder_channels=(96, 96),
        patch=4,
        blocks=1,
        middle=False,
        groups=8,
        eps=1e-5,
        quant=False,
        log_variance=-5.0,
    ),
    # Those of Rombach et al. 2022, table 8; Stable Diffusion's is kl-f8.
    "kl-f4": VAEConfig(channels=(128, 256, 512), latent_channels=3),
    "kl-f8": VAEConfig(),
    "kl-f16": VAEConfig(channels=(128, 128, 256, 256, 512), latent_channels=16, attention=(4,)),
    "kl-f32": VAEConfig(
        channels=(128, 128, 256, 256, 512, 512), latent_channels=64, attention=(4, 5)
    ),
}
SIDES = {
    "compact": 16, "ddpm-cifar10": 32, "stable-diffusion-1": 64,
    "compact-f8": 64, "kl-f4": 256, "kl-f8": 512, "kl-f16": 256, "kl-f32": 256,
}  # fmt: skip

Rows = list[tuple[str, tuple[int, ...], int]]


def describe(config: UNetConfig | VAEConfig, side: int) -> Rows:
    """A row per stage: its name, the shape of its output for one image, its parameters.

    Shapes alone are evaluated: nothing is allocated, however large the network. The rows' parameters
    add up to the whole network's.
    """
    if isinstance(config, VAEConfig):
        return _describe_vae(config, side)
    unet, *inputs = called(config, side)
    return _rows(UNet.stages, unet, *inputs)


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def called(config: UNetConfig, side: int) -> tuple:
    """A U-Net and what it is called with for one image, all of them shapes."""
    config.check_image(side)
    unet = jax.eval_shape(lambda key: UNet.init(key, config), key_of_seed(0))
    condition = None
    if config.context or config.pooled:
        states = _floats(1, WORDS, config.context) if config.context else None
        condition = Condition(states, _floats(1, config.pooled) if config.pooled else None)
    image, t = _floats(1, side, side, config.image_channels), jax.ShapeDtypeStruct((1,), jnp.int32)
    return unet, image, t, condition


def _rows(stages: Callable, network: object, *inputs) -> Rows:
    """A row per stage of a network; ``stages`` gives their outputs by name."""
    names = []

    def run(network, *inputs):
        found = stages(network, *inputs)
        names.extend(found)  # the order that a compiled program's dict does not keep
        return list(found.values())

    shapes = jax.eval_shape(run, network, *inputs)
    return [
        (name, shape.shape[1:], count_parameters(_part(network, name)))
        for name, shape in zip(names, shapes, strict=True)
    ]


def _describe_vae(config: VAEConfig, side: int) -> Rows:
    """Encoder, the convolutions on both sides of z, decoder; z is what the decoder is given."""
    vae = jax.eval_shape(lambda key: VAE.init(key, config), key_of_seed(0))
    image = (side, side, config.image_channels)
    h, w, latent = config.latent_shape(image)
    sides = [
        (name, (h, w, channels), count_parameters(part))
        for name, channels, part in (
            ("quant", 2 * latent, vae.quant),
            ("post_quant", latent, vae.post_quant),
        )
        if part
    ]
    down = _rows(Encoder.forward, vae.encoder, _floats(1, *image))
    up = _rows(Decoder.forward, vae.decoder, _floats(1, h, w, latent))
    return [
        *((f"encoder.{name}", *rest) for name, *rest in down),
        *sides,
        *((f"decoder.{name}", *rest) for name, *rest in up),
    ]


def _part(network: object, name: str) -> object:
    """The layers that compute the stage of this name."""
    if name == "time":
        return network.time1, network.time2, network.pooled
    if name == "out":
        return network.norm_out, network.conv_out
    if "." not in name:
        return getattr(network, name)
    side, level, kind, *index = name.split(".")
    level = getattr(network, side)[int(level)]
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


def table(config: UNetConfig | VAEConfig, side: int) -> str:
    """``describe`` as text, and of a U-Net ``count_blocks``."""
    rows = describe(config, side)
    cells = [(name, " x ".join(map(str, shape)), f"{count:,}") for name, shape, count in rows]
    lines = [tables.plain([("stage", "output", "parameters"), *cells], "<>")]
    if isinstance(config, UNetConfig):
        n = count_blocks(config)
        kind = "transformer blocks" if config.context else "self-attentions"
        lines.append(
            f"{n['input']} + {n['middle']} + {n['output']} input, middle and output blocks: "
            f"{n['resblocks']} ResBlocks, {n['attention']} {kind}"
        )
    return "\n".join([*lines, f"{sum(count for _, _, count in rows):,} parameters"])
