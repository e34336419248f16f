r"""Nearest-neighbour doubling followed by a 3x3 convolution: a twin of ``layers.doubled_conv``.

Doubling repeats every pixel, so of the nine pixels under the kernel several are copies of one. An
even row 2i of the result sees the small image's rows i - 1, i, i: the kernel's last two rows act on
the same pixels and can be added up first. An odd row sees i, i, i + 1. Likewise for columns: each of
the four kinds of output pixel is a 2x2 convolution of the small image, four multiplications in
place of nine, and the large image is never made.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minidiff.kernels.conv import padded


def four_phases(
    x: Float[Array, "batch height width inputs"],
    weight: Float[Array, "3 3 inputs outputs"],
) -> Float[Array, "batch 2*height 2*width outputs"]:
    """Four 2x2 convolutions, one for each place in a 2x2 square of the result."""
    batch, height, width, _ = x.shape
    rows = _merge(weight)
    squares = []
    for up in (0, 1):
        for left in (0, 1):
            kernel = _merge(rows[up].swapaxes(0, 1))[left].swapaxes(0, 1)
            squares.append(padded(x, kernel, 1, ((1 - up, up), (1 - left, left))))
    out = jnp.stack([jnp.stack(squares[:2], axis=3), jnp.stack(squares[2:], axis=3)], axis=2)
    return out.reshape(batch, 2 * height, 2 * width, -1)


def _merge(weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two rows that a kernel's three become, for even and for odd rows of the result."""
    even = jnp.stack([weight[0], weight[1] + weight[2]])
    odd = jnp.stack([weight[0] + weight[1], weight[2]])
    return even, odd


def doubled_conv_twin(*_) -> Callable:
    """The twin, the same everywhere."""
    return four_phases
