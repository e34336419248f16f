"""The blocks of a U-Net: what they see, what they leave alone, and a slow copy of a transformer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import towers

from minidiff.blocks import ContextBlock, ResBlock, SpatialAttention, SpatialTransformer

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
call = jax.jit(
    lambda block, *args: block(*args), compiler_options={"xla_backend_optimization_level": 0}
)


def normal(*shape):
    return jnp.float32(RNG.normal(size=shape))


def shuffled(x, order):
    """The positions of images in another order."""
    return x.reshape(len(x), -1, x.shape[-1])[:, order].reshape(x.shape)


# What every block is given: images of 8 channels, a time of 6 numbers, a text of 5 states of 7.
X, TIME, TEXT = normal(2, 3, 4, 8), normal(2, 6), normal(2, 5, 7)
ORDER = RNG.permutation(12)


def attention():
    return towers.shaken(SpatialAttention.init(KEY, 8, 2, 4))


def transformer():
    return towers.shaken(SpatialTransformer.init(KEY, 8, 2, 4, 7))


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (ResBlock.init(KEY, 8, 8, 6, 4), (TIME,)),
        (SpatialAttention.init(KEY, 8, 2, 4), (None,)),
        (SpatialTransformer.init(KEY, 8, 2, 4, 7), (TEXT,)),
    ],
    ids=["ResBlock", "SpatialAttention", "SpatialTransformer"],
)
def test_a_block_starts_near_the_identity(block, told):
    moved = np.abs(np.asarray(call(block, X, *told) - X)).max()
    assert 0 < moved < 0.02


def test_a_block_with_other_channels_starts_as_its_shortcut():
    block = ResBlock.init(KEY, 8, 12, 6, 4)
    found, shortcut = call(block, X, TIME), call(block.shortcut, X)
    np.testing.assert_allclose(found, shortcut, atol=0.02)
    assert found.shape == (2, 3, 4, 12)


def test_a_res_block_is_told_the_time():
    block = towers.shaken(ResBlock.init(KEY, 8, 8, 6, 4))
    moved = np.abs(np.asarray(call(block, X, TIME.at[0, 2].add(1.0)) - call(block, X, TIME)))
    assert moved[0].max() > 1e-3
    assert moved[1].max() == 0


def test_a_res_block_is_the_sum_of_its_parts():
    block = towers.shaken(ResBlock.init(KEY, 8, 12, 6, 4))
    time = call(block.time, jax.nn.silu(TIME))
    h = call(block.conv1, jax.nn.silu(call(block.norm1, X))) + time[:, None, None]
    h = call(block.conv2, jax.nn.silu(call(block.norm2, h)))
    np.testing.assert_allclose(call(block, X, TIME), h + call(block.shortcut, X), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "text"), [(attention, None), (transformer, TEXT)], ids=["attention", "transformer"]
)
def test_attention_does_not_know_where_a_position_is(make, text):
    block = make()
    straight = call(block, X, text)
    found = call(block, shuffled(X, ORDER), text)
    np.testing.assert_allclose(found, shuffled(straight, ORDER), atol=1e-5)
    assert np.abs(np.asarray(found - straight)).max() > 1e-2


def test_a_text_has_no_order_but_matters():
    """A text model tells its states where they stand; the U-Net does not ask."""
    block = transformer()
    straight = call(block, X, TEXT)
    np.testing.assert_allclose(call(block, X, TEXT[:, ::-1]), straight, atol=1e-5)
    other = np.abs(np.asarray(call(block, X, TEXT.at[0, 3].add(1.0)) - straight))
    assert other[0].max((0, 1)).min() > 1e-4  # every channel
    assert other[0].max(2).min() > 1e-4  # every position
    assert other[1].max() == 0  # and not the other sample


def test_a_state_twice_is_a_state_with_twice_the_say():
    """Attention is a mean: a text said twice over says the same."""
    block = transformer()
    twice = jnp.concatenate([TEXT, TEXT], axis=1)
    np.testing.assert_allclose(call(block, X, twice), call(block, X, TEXT), atol=1e-5)


def cross_loop(w, x, context, heads):
    """Attention of x to a context in float64, one query at a time."""
    q = towers.linear(towers.within(w, "query"), x)
    k, v = (towers.linear(towers.within(w, name), context) for name in ("key", "value"))
    out, size = np.zeros(x.shape), x.shape[2] // heads
    for b, h, i in np.ndindex(x.shape[0], heads, x.shape[1]):
        part = slice(h * size, (h + 1) * size)
        shares = np.exp(k[b, :, part] @ q[b, i, part] / np.sqrt(size))
        out[b, i, part] = shares / shares.sum() @ v[b, :, part]
    return towers.linear(towers.within(w, "out"), out)


def test_a_spatial_transformer_in_float64():
    block = transformer()
    w, x, text = towers.arrays(block), np.float64(X), np.float64(TEXT)
    groups = x.reshape(2, 12, 4, 2)
    mean, var = (f(groups, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    tokens = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(2, 12, 8)
    tokens = tokens * w["norm.scale"] + w["norm.shift"]
    tokens = towers.linear(towers.within(w, "enter"), tokens)

    inner = towers.within(w, "block")
    normed = [towers.within(inner, f"norm{n}") for n in (1, 2, 3)]
    seen = towers.layer_norm(normed[0], tokens, 1e-5)
    tokens = tokens + cross_loop(towers.within(inner, "attention"), seen, seen, 2)
    seen = towers.layer_norm(normed[1], tokens, 1e-5)
    tokens = tokens + cross_loop(towers.within(inner, "cross"), seen, text, 2)
    seen = towers.layer_norm(normed[2], tokens, 1e-5)
    value, gate = np.split(towers.linear(towers.within(inner, "mlp.up"), seen), 2, axis=-1)
    hidden = value * towers.activate(gate, "gelu")
    tokens = tokens + towers.linear(towers.within(inner, "mlp.down"), hidden)

    expected = x + towers.linear(towers.within(w, "leave"), tokens).reshape(x.shape)
    np.testing.assert_allclose(call(block, X, TEXT), expected, atol=2e-5)


def test_queries_keys_and_values_have_no_bias_where_there_is_a_text():
    block = ContextBlock.init(KEY, 8, 2, 7)
    for attention in (block.attention, block.cross):
        assert attention.query.bias is attention.key.bias is attention.value.bias is None
        assert attention.out.bias is not None
    assert block.cross.key.weight.shape == (7, 8)
    assert block.attention.key.weight.shape == (8, 8)


def test_bfloat16_goes_through():
    for block, told in ((attention(), None), (transformer(), TEXT)):
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (block, X, told))
        found = call(*low)
        assert found.dtype == jnp.bfloat16
        exact = call(block, X, told)
        size = float(np.abs(exact).max())
        np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.05 * size)
