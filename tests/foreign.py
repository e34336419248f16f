"""What the tests of weights in other libraries' names share."""

import jax
import numpy as np
import pytest

from minidiff.errors import InputError


def complaint(action, *arguments):
    """The one line that an action ends with."""
    with pytest.raises(InputError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(a, b):
    """The same structure, settings, types, shapes and bits."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
