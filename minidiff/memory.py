"""What would not fit the memory is told before anything is allocated."""

import math
import os

import jax

from minidiff.errors import InputError


def tree_bytes(tree: object) -> int:
    """Bytes of the arrays, or ShapeDtypeStructs, of a pytree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def available() -> int | None:
    """Bytes of memory that the first device has, the machine itself for a CPU; None if unknown."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def require(needed: int, what: str, remedy: str) -> None:
    """InputError where ``needed`` bytes are more than there is, with what to change."""
    most = available()
    if most is not None and needed > most:
        raise InputError(
            f"{what} takes {needed / 2**30:,.1f} GiB or more, and there are {most / 2**30:,.1f} GiB "
            f"of memory: {remedy}"
        )
