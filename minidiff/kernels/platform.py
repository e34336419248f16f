"""For which platform a kernel is chosen: the one JAX runs on, unless a test says otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_assumed: ContextVar[str | None] = ContextVar("assumed", default=None)


def platform() -> str:
    """ "cpu", "gpu" or "tpu". Asked while a program is traced, so the choice costs nothing later."""
    return _assumed.get() or jax.default_backend()


@contextmanager
def assume(name: str) -> Iterator[None]:
    """Choose kernels as if JAX ran on ``name``: to lower a program for a device that is not here.

    JAX knows nothing of it: a function that was traced before keeps what was chosen then. Trace a
    function of your own, such as a new lambda.
    """
    token = _assumed.set(name)
    try:
        yield
    finally:
        _assumed.reset(token)
