"""How the tests compile: quickly, as conftest.py has it, or as a user's programs are compiled."""

import contextlib
import os

import jax

QUICKLY = "JAX_DISABLE_MOST_OPTIMIZATIONS"


@contextlib.contextmanager
def optimized():
    """New programs are compiled as a user's are: for bounds of a few roundings, faster twins, and
    checks that compute for longer than they compile. ``@optimized()`` above a function does too.
    """
    jax.config.update(QUICKLY.lower(), False)
    try:
        yield
    finally:
        jax.config.update(QUICKLY.lower(), QUICKLY in os.environ)
