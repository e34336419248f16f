"""Random keys that mean the same numbers everywhere, whatever JAX was told is its default.

JAX's default implementation can be changed (``JAX_DEFAULT_PRNG_IMPL=rbg``). Those other ones are quicker
on a TPU, but what ``jax.vmap`` draws with them depends on the whole batch of keys
(https://docs.jax.dev/en/latest/jax.random.html): sample i would no longer follow from (key, i) alone,
nor would the order of an epoch hold every example once. So our keys say what they are, and a key that
is given to us is made one of these where numbers are drawn for each of many.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer, Key

IMPLEMENTATION = "threefry2x32"  # Salmon et al. 2011; JAX's own default


def key_of_seed(seed: int | np.integer | Integer[Array, ""]) -> Key[Array, ""]:
    """The key of a seed from 0 to 2**32 - 1. Traceable."""
    return jax.random.key(seed, impl=IMPLEMENTATION)


def sample_key(
    key: Key[Array, ""], i: int | Integer[Array, ""], k: int | Integer[Array, ""]
) -> Key[Array, ""]:
    """The key of draw k of sample i, fold_in(fold_in(key, i), k), alone or under ``jax.vmap``.

    A key of another implementation is first made one of ours, from its bits.
    """
    if jax.random.key_impl(key) != IMPLEMENTATION:
        bits = jax.random.bits(key, (2,), jnp.uint32)
        key = jax.random.wrap_key_data(bits, impl=IMPLEMENTATION)
    return jax.random.fold_in(jax.random.fold_in(key, i), k)
