"""The type checker that conftest.py gives to jaxtyping's import hook."""

from beartype import beartype


def shapes(fn):
    """Check ``fn``'s annotations, shapes included, on every call; leave classes as they are.

    jax.eval_shape and friends rebuild a struct dataclass with ShapeDtypeStructs, or with None, for
    leaves. That must stay legal, so constructors are not checked, only functions and methods.
    """
    if isinstance(fn, type) or fn.__qualname__.endswith("__init__"):
        return fn
    return beartype(fn)
