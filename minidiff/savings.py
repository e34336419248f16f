r"""What an autoencoder saves the U-Net that diffuses behind it: the arithmetic of latent diffusion.

f times shorter sides are f^2 times fewer positions, and attention, which compares each position with
each, has f^4 times fewer pairs (Rombach et al. 2022, https://arxiv.org/abs/2112.10752). Everything here
comes from shapes; nothing is computed, however large the network. It is read after lesson 09.
"""

import dataclasses
import math
from collections.abc import Callable

import jax

from minidiff import tables
from minidiff.autoencoder import AutoencoderConfig
from minidiff.kernels.platform import assume
from minidiff.layouts import LAYOUTS, called
from minidiff.unet import UNet, UNetConfig


def savings(config: AutoencoderConfig, side: int, unet: UNetConfig) -> list[tuple[str, int, int]]:
    """What diffusion handles of one image: (what, in pixels, in latents), a row each.

    A step is one call of ``unet``, given as many image channels as pixels, or latents, have. ValueError
    where the side fits the autoencoder or the U-Net not.
    """
    outside = (side, side, config.image_channels)
    both = outside, config.latent_shape(outside)
    positions = [height * width for height, width, _ in both]
    steps = []
    for height, _, channels in both:
        inputs = called(dataclasses.replace(unet, image_channels=channels), height)
        steps.append(multiply_adds(UNet.__call__, *inputs))
    return [
        ("numbers", *map(math.prod, both)),
        ("positions", *positions),
        ("pairs that attention compares", *(n**2 for n in positions)),
        ("bytes of their scores, float32", *(4 * n**2 for n in positions)),
        ("multiply-adds of a step", *steps),
    ]


def table(config: AutoencoderConfig, side: int, name: str = "stable-diffusion-1") -> str:
    """``savings`` as text, with how many times fewer there are in latents; ``name``: of the U-Net."""
    rows = [
        (what, f"{pixels:,}", f"{latents:,}", f"{pixels / latents:,.0f}")
        for what, pixels, latents in savings(config, side, LAYOUTS[name])
    ]
    head = (f"of one image, for {name}", "in pixels", "in latents", "times fewer")
    return tables.plain([head, *rows], "<>")


def multiply_adds(function: Callable, *inputs) -> int:
    """Multiplications, with an addition each, in the matrix products and convolutions of a call.

    As the kernels for a CPU do them, whatever device is here.
    """
    with assume("cpu"):
        return _counted(jax.make_jaxpr(lambda *inputs: function(*inputs))(*inputs).jaxpr)


def _counted(program: object) -> int:
    total = 0
    for step in program.eqns:
        name, given = step.primitive.name, [x.aval.shape for x in step.invars]
        made = math.prod(step.outvars[0].aval.shape)
        if name == "dot_general":
            (summed, _), _ = step.params["dimension_numbers"]
            total += made * math.prod(given[0][axis] for axis in summed)
        elif name == "conv_general_dilated":
            outputs = step.params["dimension_numbers"].rhs_spec[0]
            total += made * math.prod(given[1]) // given[1][outputs]
        else:  # a program within: once, or in a loop
            within = jax.tree.leaves(step.params, is_leaf=lambda x: hasattr(x, "eqns"))
            within = [getattr(x, "jaxpr", x) for x in within]
            often = step.params["length"] if name == "scan" else 1
            total += often * sum(_counted(x) for x in within if hasattr(x, "eqns"))
    return total
