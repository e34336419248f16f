r"""Group normalisation, alone or with the SiLU after it: twins of ``layers.group_norm``, in fewer passes.

Per channel of an image all of this is one multiply-add, u = x a + b. So the twins sum over space per
channel, combine the few sums of a group, and touch the big array once more. Going back, with the
gradient g that arrives at u,

    gradient to x = g a + x c + d,

where c and d, one each per channel of an image, carry what mean and variance owe to every value:
two more sums over space, of g and of g x, are all they need.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minidiff.kernels import pallas_group_norm
from minidiff.kernels.platform import pallas, platform


def sum_space(x: Float[Array, "batch space channels"]) -> Float[Array, "batch channels"]:
    """x.sum(axis=1), about sqrt(space) partial sums first.

    XLA's CPU backend runs one long sum slowly, and two short ones fast; without the barrier between
    them it would merge them into the long one.
    """
    batch, space, channels = x.shape
    rows = next(n for n in range(math.isqrt(space), 0, -1) if space % n == 0)
    partial_sums = x.reshape(batch, rows, space // rows, channels).sum(axis=1)
    return jax.lax.optimization_barrier(partial_sums).sum(axis=1)


def _coefficients(flat, scale, shift, groups, eps, sums):
    """(mean, 1 / standard deviation, a, b), each (batch, channels) in float32."""
    mean = _over_group(sums(flat), groups, flat.shape[1])
    # From centred values: E[x^2] - E[x]^2 would lose its digits where the mean is large.
    variance = _over_group(sums(jnp.square(flat - mean[:, None, :])), groups, flat.shape[1])
    inverse = jax.lax.rsqrt(variance + eps)
    a = inverse * scale.astype(jnp.float32)[None, :]
    return mean, inverse, a, shift.astype(jnp.float32)[None, :] - mean * a


def _over_group(per_channel: jax.Array, groups: int, space: int) -> jax.Array:
    """Sums over space per channel -> the mean over the channel's group, again per channel."""
    batch, channels = per_channel.shape
    size = channels // groups
    mean = per_channel.reshape(batch, groups, size).sum(axis=2) / (space * size)
    return jnp.repeat(mean, size, axis=1)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)


def _affine(flat: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """x a + b, with one a and one b per channel of an image."""
    return flat * a[:, None, :] + b[:, None, :]


def two_stage(
    x: Float[Array, "batch *space channels"],
    scale: Float[Array, " channels"],
    shift: Float[Array, " channels"],
    groups: int,
    eps: float = 1e-5,
    silu: bool = False,
) -> Float[Array, "batch *space channels"]:
    """Sum over space per channel, then over the small group axis, then apply x a + b once.

    The sums never split the channel axis of the big array, so XLA keeps its layout; the gradient is
    left to it. Accelerators fuse the rest by themselves.
    """
    flat = _flat(x)
    a, b = _coefficients(flat, scale, shift, groups, eps, partial(jnp.sum, axis=1))[2:]
    out = _affine(flat, a, b)
    return (jax.nn.silu(out) if silu else out).reshape(x.shape).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def few_passes(
    x: Float[Array, "batch *space channels"],
    scale: Float[Array, " channels"],
    shift: Float[Array, " channels"],
    groups: int,
    eps: float = 1e-5,
    silu: bool = False,
) -> Float[Array, "batch *space channels"]:
    """The same with sums and a gradient written for XLA's CPU backend: see above."""
    return _forward(x, scale, shift, groups, eps, silu)[0]


def _forward(x, scale, shift, groups, eps, silu):
    flat = _flat(x)
    mean, inverse, a, b = _coefficients(flat, scale, shift, groups, eps, sum_space)
    a, b = jax.lax.optimization_barrier((a, b))  # or each value would compute its own again
    out = _affine(flat, a, b)
    out = (jax.nn.silu(out) if silu else out).reshape(x.shape).astype(x.dtype)
    return out, (x, scale, shift, mean, inverse)


def _backward(groups, eps, silu, saved, gradient):
    x, scale, shift, mean, inverse = saved
    flat, gradient, dtype = _flat(x), _flat(gradient), scale.dtype
    scale, shift = scale.astype(jnp.float32), shift.astype(jnp.float32)
    a = inverse * scale[None, :]
    b = shift[None, :] - mean * a
    if silu:
        # Nor shall XLA keep the forward pass's sigmoid for us: that is one more array to write.
        flat, a, b = jax.lax.optimization_barrier((flat, a, b))
        u = _affine(flat, a, b)
        gate = jax.nn.sigmoid(u)
        # Three readers follow: without the barrier each would compute the sigmoid again.
        gradient = jax.lax.optimization_barrier(gradient * gate * (1 + u * (1 - gate)))
    to_shift = sum_space(gradient)
    to_scale = (sum_space(gradient * flat) - mean * to_shift) * inverse
    space = flat.shape[1]
    c = -jnp.square(inverse) * _over_group(to_scale * scale[None, :], groups, space)
    d = -inverse * _over_group(to_shift * scale[None, :], groups, space) - mean * c
    a, c, d = jax.lax.optimization_barrier((a, c, d))
    to_x = gradient * a[:, None, :] + _affine(flat, c, d)
    to_scale, to_shift = (to.sum(axis=0).astype(dtype) for to in (to_scale, to_shift))
    return to_x.reshape(x.shape).astype(x.dtype), to_scale, to_shift


few_passes.defvjp(_forward, _backward)


def group_norm_twin(*_) -> Callable:
    """The twin for this platform."""
    return few_passes if platform() == "cpu" else two_stage


def group_norm_silu_twin(x: jax.Array, *_) -> Callable:
    """The twin with the SiLU, for this platform and shape."""
    if pallas() and pallas_group_norm.fits(x):
        return pallas_group_norm.group_norm_silu
    return partial(_with_silu, group_norm_twin())


def _with_silu(twin, *args):
    return twin(*args, True)
