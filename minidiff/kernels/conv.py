r"""Convolution: twins of ``layers.conv`` whose gradients XLA's CPU backend runs fast.

The gradient of a convolution with respect to its kernel is itself a convolution, of the input with
the output's gradient, in which batch and channels change places. Left to autodiff it is written with
those axes in unusual positions. XLA brings them into the order its fast routine knows only at the
top level of a program; inside a loop, such as a scan over training steps, a generic routine runs
that is about 30 times slower (jaxlib 0.10.2 and 0.12). The twins write the transposes out.

The second twin needs half the products, for 3x3 kernels (Lavin and Gray 2015, https://arxiv.org/
abs/1509.09308; the method is Winograd's). Take four rows of the result. Each is a sum over three of
the six rows x above, at and below them, times the kernel's three rows w: twelve products of rows. But

    y = A^T [(G w) * (B^T x)]

is the same with six: one for each of six sums of rows of x, with as many sums of rows of w. A, B, G
come from evaluating polynomials at 0, 1, -1, 2, -2 and infinity. A "product of rows" is here a
convolution with a kernel of one row. Rounding errors grow from about 1e-7 to 1e-6 of the result.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from minidiff.kernels.platform import platform

ORDER = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros (above, below), (left, right)."""


def _slide(x: jax.Array, weight: jax.Array, stride: int, padding: Padding, **dilation) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, weight, (stride, stride), padding, dimension_numbers=ORDER, **dilation
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def padded(
    x: Float[Array, "batch height width inputs"],
    weight: Float[Array, "down across inputs outputs"],
    stride: int,
    padding: Padding,
) -> Float[Array, "batch new_height new_width outputs"]:
    """Any kernel, any zeros around; both gradients as convolutions in the usual order of axes."""
    return _slide(x, weight, stride, padding)


def _padded_forward(x, weight, stride, padding):
    return padded(x, weight, stride, padding), (x, weight)


def _padded_backward(stride, padding, saved, gradient):
    x, weight = saved
    # What the strided window left over at the far edges.
    rest = [
        (size + sum(zeros) - kernel) % stride
        for size, zeros, kernel in zip(x.shape[1:3], padding, weight.shape[:2], strict=True)
    ]
    # The flipped kernel slides over the gradient, its values ``stride`` apart.
    around = tuple(
        (kernel - 1 - before, kernel - 1 - after + r)
        for (before, after), kernel, r in zip(padding, weight.shape[:2], rest, strict=True)
    )
    to_x = _slide(gradient, _flip(weight), 1, around, lhs_dilation=(stride, stride))
    return to_x, to_weight(x, gradient, stride, padding, rest)


def _flip(weight: jax.Array) -> jax.Array:
    return jnp.flip(weight, (0, 1)).transpose(0, 1, 3, 2)


def to_weight(x, gradient, stride: int, padding: Padding, rest=(0, 0)) -> jax.Array:
    """The gradient to the kernel: channels of x play the batch, the batch plays the channels."""
    # Computed once, then turned: a transpose that computes its values on the way is 3 times slower.
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    around = tuple((before, after - r) for (before, after), r in zip(padding, rest, strict=True))
    out = _slide(
        x.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        1,
        around,
        rhs_dilation=(stride, stride),
    )
    return out.transpose(1, 2, 0, 3)


padded.defvjp(_padded_forward, _padded_backward)


def explicit_gradients(
    x: Float[Array, "batch height width inputs"],
    weight: Float[Array, "kernel kernel inputs outputs"],
    stride: int = 1,
    padding: tuple[int, int] | None = None,
) -> Float[Array, "batch new_height new_width outputs"]:
    """Gradients that are fast everywhere; a 1x1 kernel is a matrix product."""
    padding = padding or (weight.shape[0] // 2,) * 2
    if weight.shape[0] == stride == 1 and padding == (0, 0):
        return (x.reshape(-1, x.shape[-1]) @ weight[0, 0]).reshape(*x.shape[:-1], -1)
    return padded(x, weight, stride, (padding, padding))


TILE = 4  # rows of the result that are computed together, from TILE + 2 of the input
B_T = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A_T = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
SIDES: Padding = ((0, 0), (1, 1))  # of a kernel of one row


@jax.custom_vjp
def winograd(
    x: Float[Array, "batch height width inputs"], weight: Float[Array, "3 3 inputs outputs"]
) -> Float[Array, "batch height width outputs"]:
    """Stride 1 and one zero around, by half the products; TILE divides height."""
    return _winograd_forward(x, weight)[0]


def _winograd_forward(x, weight):
    x = jax.lax.optimization_barrier(x)  # or each of the six sums would compute it again
    sums = _combine(B_T, _six_rows(x))
    kernels = jnp.einsum("ij,jkcd->ikcd", G.astype(x.dtype), weight)
    products = [_slide(row, kernels[i : i + 1], 1, SIDES) for i, row in enumerate(sums)]
    y = jnp.stack(_combine(A_T, jax.lax.optimization_barrier(products)), axis=2)
    return y.reshape(*x.shape[:3], -1), (sums, weight)


def _winograd_backward(saved, gradient):
    sums, weight = saved
    gradient = jax.lax.optimization_barrier(gradient)
    to_x = winograd(gradient, _flip(weight))
    parts = _combine(A_T.T, _rows(gradient))
    to_products = [to_weight(row, g, 1, SIDES)[0] for row, g in zip(sums, parts, strict=True)]
    return to_x, jnp.einsum("ij,ikcd->jkcd", G.astype(to_x.dtype), jnp.stack(to_products))


winograd.defvjp(_winograd_forward, _winograd_backward)


def _rows(x: jax.Array) -> list[jax.Array]:
    """Each tile's rows: TILE arrays (batch, tiles, width, channels)."""
    batch, height, width, channels = x.shape
    tiles = x.reshape(batch, height // TILE, TILE, width, channels)
    return [tiles[:, :, i] for i in range(TILE)]


def _six_rows(x: jax.Array) -> list[jax.Array]:
    """The same with the row above and the row below, zero beyond the image."""
    rows = _rows(x)
    zero = jnp.zeros_like(rows[0][:, :1])
    above = jnp.concatenate([zero, rows[-1][:, :-1]], axis=1)
    below = jnp.concatenate([rows[0][:, 1:], zero], axis=1)
    return [above, *rows, below]


def _combine(matrix: np.ndarray, rows: list[jax.Array]) -> list[jax.Array]:
    """matrix @ rows, each sum computed once and without the zeros of the matrix."""
    out = []
    for factors in matrix:
        terms = [float(f) * row for f, row in zip(factors, rows, strict=True) if f]
        out.append(sum(terms[1:], terms[0]))
    return jax.lax.optimization_barrier(out)


def conv_twin(
    x: jax.Array, weight: jax.Array, stride: int, padding: tuple[int, int] | None
) -> Callable:
    """The twin for this platform and shape."""
    kernel, inputs, outputs = weight.shape[1:]
    plain = kernel == 3 and stride == 1 and padding in (None, (1, 1)) and x.dtype == jnp.float32
    # Below these sizes the sums cost what the products save.
    large = x.shape[1] % TILE == 0 and x.shape[1] >= 2 * TILE and min(inputs, outputs) >= 32
    if platform() == "cpu" and plain and large:
        return lambda x, weight, *_: winograd(x, weight)
    return explicit_gradients
