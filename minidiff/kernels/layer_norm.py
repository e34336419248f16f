r"""Layer normalisation: a twin, with a gradient for XLA's CPU backend, of ``layers.layer_norm``.

With n = (x - mean) / deviation and g the gradient that arrives at n, a row's

    gradient to x = (g - mean(g) - n mean(g n)) / deviation.

Left to autodiff, mean and variance come back by four sums over every row. The twin writes all sums,
over rows and over columns, as products with ones: see minidiff/kernels/bias.py.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minidiff.kernels.bias import sum_rows
from minidiff.kernels.platform import platform


def _mean(x: jax.Array) -> jax.Array:
    """x.mean(axis=1, keepdims=True), as a product."""
    return x @ jnp.full((x.shape[1], 1), 1 / x.shape[1], x.dtype)


def _normal(x: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
    """The normal rows, and 1 / standard deviation of each, in float32."""
    centred = x.astype(jnp.float32) - _mean(x.astype(jnp.float32))
    inverse = jax.lax.rsqrt(_mean(jnp.square(centred)) + eps)
    return centred * inverse, inverse


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def own_gradient(
    x: Float[Array, "rows width"],
    scale: Float[Array, " width"],
    shift: Float[Array, " width"],
    eps: float = 1e-5,
) -> Float[Array, "rows width"]:
    """Means by products, and the gradient above."""
    scale, shift = scale.astype(jnp.float32), shift.astype(jnp.float32)
    return (_normal(x, eps)[0] * scale[None, :] + shift[None, :]).astype(x.dtype)


def _forward(x, scale, shift, eps):
    return own_gradient(x, scale, shift, eps), (x, scale)


def _backward(eps, saved, gradient):
    x, scale = saved
    normal, inverse = _normal(x, eps)
    gradient = gradient.astype(jnp.float32)
    to_normal = gradient * scale.astype(jnp.float32)[None, :]
    to_x = (to_normal - _mean(to_normal) - normal * _mean(to_normal * normal)) * inverse
    to_scale, to_shift = sum_rows(gradient * normal), sum_rows(gradient)
    return to_x.astype(x.dtype), to_scale.astype(scale.dtype), to_shift.astype(scale.dtype)


own_gradient.defvjp(_forward, _backward)


def layer_norm_twin(*_) -> Callable | None:
    """The twin for this platform, if there is one."""
    return own_gradient if platform() == "cpu" else None
