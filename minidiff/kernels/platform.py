"""For which platform a kernel is chosen: the one JAX runs on, unless a test says otherwise."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_assumed: ContextVar[tuple[str, bool] | None] = ContextVar("assumed", default=None)


def platform() -> str:
    """ "cpu", "gpu" or "tpu". Asked while a program is traced, so the choice costs nothing later."""
    assumed = _assumed.get()
    return assumed[0] if assumed else jax.default_backend()


def pallas() -> bool:
    """Whether this is a TPU and our Pallas kernels are wanted: MINIDIFF_PALLAS=1 in the environment.

    They are not chosen by themselves, for they have been tested in Pallas's interpreter alone.
    """
    assumed = _assumed.get()
    wanted = assumed[1] if assumed else os.environ.get("MINIDIFF_PALLAS") == "1"
    return wanted and platform() == "tpu"


@contextmanager
def assume(name: str, *, pallas: bool = False) -> Iterator[None]:
    """Choose kernels as if JAX ran on ``name``: to lower a program for a device that is not here.

    JAX knows nothing of it: a function that was traced before keeps what was chosen then. Trace a
    function of your own, such as a new lambda.
    """
    token = _assumed.set((name, pallas))
    try:
        yield
    finally:
        _assumed.reset(token)
