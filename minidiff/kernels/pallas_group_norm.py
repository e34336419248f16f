r"""GroupNorm followed by SiLU as Pallas kernels: an image is read once, and written once.

Wu and He 2018, https://arxiv.org/abs/1803.08494; Elfwing et al. 2017, https://arxiv.org/abs/1702.03118.
One program owns one image and keeps it on the chip for all three walks over it: the mean, the variance
of the centred values (E[x^2] - E[x]^2 would lose its digits where the mean is large), the result. The
sums of a group's channels are products with a thin matrix that says which channel is in which group,
because splitting the last axis is slow or impossible on the chip. Kept for the gradient are the input
and two numbers per image and channel.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from minidiff.kernels.pallas_attention import (
    FAST_MEMORY,
    Shaped,
    at,
    dot,
    padded,
    place,
    power_of_two,
    settings,
)

ROWS = 16
"""Pixels at a time."""


def fits(x: Shaped) -> bool:
    """Whether a TPU's fast memory holds an image three times (backward), each twice: the next comes."""
    pixels = x.size // (len(x) * x.shape[-1])
    return 2 * 3 * pixels * max(x.shape[-1], 128) * x.dtype.itemsize <= FAST_MEMORY


def _group_mean(sums, size, count):
    """(1, channels) sums to (1, channels) means over the ``size`` channels of a group."""
    channels = sums.shape[1]
    channel, group = place((channels, power_of_two(pl.cdiv(channels, size))), 0, 0)
    member = ((group * size <= channel) & (channel < (group + 1) * size)).astype(jnp.float32)
    exact = {"precision": jax.lax.Precision.HIGHEST}
    totals = dot(jnp.broadcast_to(sums, (16, channels)), member, **exact)  # 16: Triton's least
    return dot(totals, member, (1, 1), **exact).max(axis=0, keepdims=True) / count


def _over_pixels(step, x, start):
    return jax.lax.fori_loop(0, x.shape[0] // ROWS, lambda i, c: step(at(i, ROWS), i, c), start)


def _forward_kernel(x, scale, shift, out, mean, inverse, *, pixels, size, eps):
    count = pixels * size
    zeros = jnp.zeros(scale.shape, jnp.float32)

    def add(here, i, total):
        return total + x[here, :].astype(jnp.float32).sum(axis=0, keepdims=True)

    middle = _group_mean(_over_pixels(add, x, zeros), size, count)

    def add_square(here, i, total):
        centred = x[here, :].astype(jnp.float32) - middle
        row, _ = place(centred.shape, i * ROWS, 0)
        return total + jnp.where(row < pixels, centred * centred, 0.0).sum(axis=0, keepdims=True)

    variance = _group_mean(_over_pixels(add_square, x, zeros), size, count)
    one_over = jax.lax.rsqrt(variance + eps)
    a, b = one_over * scale[...], shift[...]

    def write(here, i, carry):
        y = (x[here, :].astype(jnp.float32) - middle) * a + b
        out[here, :] = (y * jax.nn.sigmoid(y)).astype(out.dtype)
        return carry

    _over_pixels(write, x, 0)
    mean[...], inverse[...] = middle, one_over


def _backward_kernel(
    x, gradient, scale, shift, mean, inverse, to_x, to_scale, to_shift, *, pixels, size
):
    count = pixels * size
    middle, one_over, a, b = mean[...], inverse[...], scale[...], shift[...]
    zeros = jnp.zeros(a.shape, jnp.float32)

    def slopes(here):
        normal = (x[here, :].astype(jnp.float32) - middle) * one_over
        y = normal * a + b
        gate = jax.nn.sigmoid(y)
        return normal, gradient[here, :].astype(jnp.float32) * gate * (1 + y * (1 - gate))

    def add(here, i, totals):  # padded pixels add nothing: their gradient is 0
        normal, slope = slopes(here)
        new = slope.sum(axis=0, keepdims=True), (slope * normal).sum(axis=0, keepdims=True)
        return totals[0] + new[0], totals[1] + new[1]

    sum_shift, sum_scale = _over_pixels(add, x, (zeros, zeros))
    mean_slope = _group_mean(sum_shift * a, size, count)
    mean_product = _group_mean(sum_scale * a, size, count)

    def write(here, i, carry):
        normal, slope = slopes(here)
        to_here = one_over * (slope * a - mean_slope - normal * mean_product)
        to_x[here, :] = to_here.astype(to_x.dtype)
        return carry

    _over_pixels(write, x, 0)
    to_scale[...], to_shift[...] = sum_scale, sum_shift


def _image(x):
    return pl.BlockSpec((None, *x.shape[1:]), lambda b: (b, 0, 0))


def _shared(x):
    return pl.BlockSpec(x.shape, lambda b: (0, 0))


def _flat(x):
    """(batch, *space, channels) -> (batch, pixels, channels), padded."""
    return padded(x.reshape(len(x), -1, x.shape[-1]), ROWS, power_of_two(x.shape[-1]))


def _row(x):
    """(channels,) -> (1, channels) in float32, padded."""
    return padded(x.astype(jnp.float32)[None, :], 1, power_of_two(len(x)))


def _like(flat, x):
    pixels = x.size // (len(x) * x.shape[-1])
    return flat[:, :pixels, : x.shape[-1]].reshape(x.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm_silu(
    x: Float[Array, "batch *space channels"],
    scale: Float[Array, " channels"],
    shift: Float[Array, " channels"],
    groups: int,
    eps: float = 1e-5,
) -> Float[Array, "batch *space channels"]:
    """silu(group_norm(x, scale, shift, groups, eps)), in float32 inside."""
    return _forward(x, scale, shift, groups, eps)[0]


def _forward(x, scale, shift, groups, eps):
    flat, row = _flat(x), _row(scale)
    each = jax.ShapeDtypeStruct((len(x), *row.shape), jnp.float32)
    static = {"pixels": x.size // (len(x) * x.shape[-1]), "size": x.shape[-1] // groups, "eps": eps}
    out, mean, inverse = pl.pallas_call(
        partial(_forward_kernel, **static),
        grid=(len(x),),
        in_specs=[_image(flat), _shared(row), _shared(row)],
        out_specs=[_image(flat), _image(each), _image(each)],
        out_shape=[jax.ShapeDtypeStruct(flat.shape, x.dtype), each, each],
        **settings(),
    )(flat, row, _row(shift))
    return _like(out, x), (x, scale, shift, mean, inverse)


def _backward(groups, eps, saved, gradient):
    x, scale, shift, mean, inverse = saved
    flat, row = _flat(x), _row(scale)
    static = {"pixels": x.size // (len(x) * x.shape[-1]), "size": x.shape[-1] // groups}
    to_x, to_scale, to_shift = pl.pallas_call(
        partial(_backward_kernel, **static),
        grid=(len(x),),
        in_specs=[
            *map(_image, (flat, flat)),
            *map(_shared, (row, row)),
            _image(mean),
            _image(mean),
        ],
        out_specs=[_image(flat), _image(mean), _image(mean)],
        out_shape=[jax.ShapeDtypeStruct(flat.shape, x.dtype), mean, mean],
        **settings(),
    )(flat, _flat(gradient), row, _row(shift), mean, inverse)
    to_scale, to_shift = (each.sum(axis=(0, 1))[: x.shape[-1]] for each in (to_scale, to_shift))
    return _like(to_x, x), to_scale.astype(scale.dtype), to_shift.astype(shift.dtype)


group_norm_silu.defvjp(_forward, _backward)
