r"""Convolution: the readable reference and a twin whose gradients XLA's CPU backend runs fast.

The gradient of a convolution with respect to its kernel is itself a convolution, of the input with
the output's gradient, in which batch and channels change places. Left to autodiff it is written with
those axes in unusual positions. XLA brings them into the order its fast routine knows only at the
top level of a program; inside a loop, such as a scan over training steps, a generic routine runs
that is about 30 times slower (jaxlib 0.10.2 and 0.12). The twin writes the transposes out.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ORDER = ("NHWC", "HWIO", "NHWC")


def reference(
    x: Float[Array, "batch height width inputs"],
    weight: Float[Array, "kernel kernel inputs outputs"],
    stride: int = 1,
    zeros: tuple[int, int] | None = None,
) -> Float[Array, "batch new_height new_width outputs"]:
    """Cross-correlation; ``zeros`` before and after each side, or kernel // 2 (``kernel`` is odd)."""
    zeros = zeros or (weight.shape[0] // 2,) * 2
    return jax.lax.conv_general_dilated(
        x, weight, (stride, stride), (zeros, zeros), dimension_numbers=ORDER
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def explicit_gradients(
    x: Float[Array, "batch height width inputs"],
    weight: Float[Array, "kernel kernel inputs outputs"],
    stride: int = 1,
    zeros: tuple[int, int] | None = None,
) -> Float[Array, "batch new_height new_width outputs"]:
    """The same, with both gradients written as convolutions in the usual order of axes."""
    return reference(x, weight, stride, zeros)


def _forward(x, weight, stride, zeros):
    return reference(x, weight, stride, zeros), (x, weight)


def _backward(stride, zeros, saved, gradient):
    x, weight = saved
    kernel = weight.shape[0]
    before, after = zeros or (kernel // 2,) * 2
    # What the strided window left over at the far edge.
    rest = [(size + before + after - kernel) % stride for size in x.shape[1:3]]

    # To the input: the flipped kernel slides over the gradient, its values ``stride`` apart.
    flipped = jnp.flip(weight, (0, 1)).transpose(0, 1, 3, 2)
    to_x = jax.lax.conv_general_dilated(
        gradient,
        flipped,
        (1, 1),
        [(kernel - 1 - before, kernel - 1 - after + r) for r in rest],
        lhs_dilation=(stride, stride),
        dimension_numbers=ORDER,
    )
    # To the kernel: channels of x play the batch, the batch plays the channels.
    to_weight = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        (1, 1),
        [(before, after - r) for r in rest],
        rhs_dilation=(stride, stride),
        dimension_numbers=ORDER,
    )
    return to_x, to_weight.transpose(1, 2, 0, 3)


explicit_gradients.defvjp(_forward, _backward)

conv = explicit_gradients
