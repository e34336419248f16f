"""How the samplers are compiled: once for each shape and setting, and given any callable."""

from functools import wraps

import jax
import jax.numpy as jnp


def without_functions(denoiser: object) -> object:
    """A plain function, alone or inside a denoiser that wraps it, as a pytree without arrays."""

    def wrap(leaf):
        return jax.tree_util.Partial(leaf) if callable(leaf) else leaf

    return jax.tree.map(wrap, denoiser)


def compiled_sampler(*static: str):
    """Compile a sampler once per shape and setting: a decorator; ``static`` names its settings."""

    def wrap(function):
        compiled = jax.jit(function, static_argnames=("shape", "every", *static))

        @wraps(function)
        def call(key, denoiser, schedule, shape, *, start=None, **settings):
            shape, denoiser = tuple(shape), without_functions(denoiser)
            if start is not None:
                start = jnp.asarray(start, jnp.float32)
                if start.shape != shape:
                    raise ValueError(f"start must be shaped {shape}; got {start.shape}")
            return compiled(key, denoiser, schedule, shape=shape, start=start, **settings)

        return call

    return wrap
