r"""Adding a vector to every position: a twin, with a fast gradient, of ``layers.add_bias``.

The gradient of a bias is the sum, over all positions, of what comes back to them. XLA's CPU backend
sums in windows of 32 values, one stage after the other; a product with a row of ones gives the same
sum 2 to 5 times faster.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minidiff.kernels.group_norm import sum_space
from minidiff.kernels.platform import platform


@jax.custom_vjp
def summed_by_products(
    x: Float[Array, "batch *space channels"], bias: Float[Array, "*each channels"]
) -> Float[Array, "batch *space channels"]:
    """x + bias; the gradient's sum over everything is a product with ones, over space two sums."""
    return x + bias.reshape(-1, *(1,) * (x.ndim - 2), x.shape[-1])


def _forward(x, bias):
    return summed_by_products(x, bias), bias


def _backward(bias, gradient):
    batch, channels = gradient.shape[0], gradient.shape[-1]
    if bias.ndim == 1:
        to_bias = sum_rows(gradient.reshape(-1, channels))
    else:
        to_bias = sum_space(gradient.reshape(batch, -1, channels))
    return gradient, to_bias.astype(bias.dtype)


def sum_rows(x: Float[Array, "rows width"]) -> Float[Array, " width"]:
    """x.sum(axis=0), as a product."""
    return (jnp.ones((1, len(x)), x.dtype) @ x)[0]


summed_by_products.defvjp(_forward, _backward)


def bias_twin(x: jax.Array, bias: jax.Array) -> Callable | None:
    """The twin for this platform, if there is one."""
    del x, bias
    return summed_by_products if platform() == "cpu" else None
