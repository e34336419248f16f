"""Muon against the iteration as its authors write it, one matrix at a time in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidiff.training.muon import COEFFICIENTS, STEPS, orthogonalize, scale_by_muon


def written_out(x):
    """Ten products of the whole matrix rather than two."""
    a, b, c = COEFFICIENTS
    x = np.asarray(x, np.float64)
    x = x / np.linalg.norm(x)
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


def steep(seed, *shape):
    """Random matrices whose columns differ in size by a thousand."""
    key = jax.random.key(seed)
    return jax.random.normal(key, shape) * jnp.logspace(-2, 1, shape[-1])[None, None, :]


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 99),
    st.integers(1, 3),
    st.sampled_from([(2, 5), (5, 2), (7, 7), (90, 10), (1, 9)]),
)
def test_it_is_the_iteration_on_each_matrix(seed, count, sides):
    stack = steep(seed, count, *sides)
    [made] = orthogonalize([stack])
    for one, x in zip(made, stack, strict=True):
        np.testing.assert_allclose(one, written_out(x), atol=2e-4)


def test_singular_values_come_near_one():
    stack = steep(1, 4, 40, 12)
    [made] = orthogonalize([stack])
    values = np.linalg.svd(made, compute_uv=False)
    assert values.max() < 1.3
    assert (values > 0.5).mean() > 0.9
    assert np.ptp(np.log(np.linalg.svd(stack, compute_uv=False))) > 6  # they were not before


def test_stacks_of_one_narrow_side_do_not_mix():
    stacks = [steep(0, 2, 9, 4), steep(1, 1, 4, 9), steep(2, 3, 4, 4), steep(3, 1, 6, 5)]
    together = orthogonalize(stacks)
    for stack, made in zip(stacks, together, strict=True):
        assert made.shape == stack.shape
        np.testing.assert_allclose(made, orthogonalize([stack])[0], atol=1e-5)


def test_zeros_stay_zeros():
    [made] = orthogonalize([jnp.zeros((1, 4, 3))])
    assert not made.any()


@pytest.fixture
def model():
    """Matrices, a stack of them and a convolution; two share a shape."""
    shapes = {"a": (6, 4), "stack": (3, 6, 4), "conv": (3, 3, 2, 4), "wide": (2, 8), "z": (6, 4)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}


def test_every_array_gets_its_own_update(model):
    moves = scale_by_muon(lambda x: x.ndim % 2)
    updates, _ = moves.update(model, moves.init(model))
    for name, gradient in model.items():
        flat = gradient.reshape(-1, *((18, 4) if name == "conv" else gradient.shape[-2:]))
        longer = max(1, flat.shape[2] / flat.shape[1]) ** 0.5
        expected = longer * np.stack([written_out(x) for x in flat])
        assert updates[name].shape == gradient.shape
        np.testing.assert_allclose(updates[name].reshape(flat.shape), expected, atol=2e-4)


def test_momentum_is_nesterovs(model):
    moves = scale_by_muon(lambda x: x.ndim % 2, momentum=0.5)
    state = moves.init(model)
    _, state = moves.update(model, state)
    other = jax.tree.map(jnp.flip, model)
    updates, _ = moves.update(other, state)
    # Sum 0.5 g1 + g2, and once more 0.5 of it ahead of g2.
    ahead = 0.25 * model["a"] + 1.5 * other["a"]
    np.testing.assert_allclose(updates["a"], written_out(ahead), atol=2e-4)
