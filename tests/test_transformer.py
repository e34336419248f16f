"""Attention and blocks against float64 loops; what a stack may and may not see."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import towers
from jaxtyping import TypeCheckError

from minidiff import transformer
from minidiff.layers import Linear
from minidiff.transformer import (
    MLP,
    UNROLLED,
    Attention,
    Transformer,
    TransformerBlock,
    attention,
    attention_weights,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.float32(RNG.normal(size=shape))


def doubled(*arrays):
    return [np.asarray(x, np.float64) for x in arrays]


call = jax.jit(lambda layer, *args: layer(*args))  # one function, so that a shape is compiled once


def attention_loop(q, k, v, may_look):
    out = np.zeros(q.shape)
    for b, i, h in np.ndindex(*q.shape[:3]):
        scores = {
            j: q[b, i, h] @ k[b, j, h] / math.sqrt(q.shape[3])
            for j in range(k.shape[1])
            if may_look(i, j)
        }
        total = sum(math.exp(s) for s in scores.values())
        out[b, i, h] = sum(math.exp(s) / total * v[b, j, h] for j, s in scores.items())
    return out


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_a_weighted_mean(causal):
    q, k, v = normal(2, 4, 3, 5), normal(2, 6, 3, 5), normal(2, 6, 3, 5)
    mask = jnp.tril(jnp.ones((4, 6), bool))[None, None] if causal else None
    expected = attention_loop(*doubled(q, k, v), lambda i, j: j <= i or not causal)
    np.testing.assert_allclose(jax.jit(attention)(q, k, v, mask), expected, atol=1e-5)


def test_attention_with_large_scores_stays_finite():
    q, v = 1e4 * jnp.eye(4, 8)[None, :, None], normal(1, 4, 1, 8)
    found = jax.jit(attention)(q, q, v)
    np.testing.assert_allclose(found, v, atol=1e-5)  # each looks at itself alone


def test_a_causal_mask_hides_the_future():
    block = TransformerBlock.init(KEY, 8, 2)
    x, mask = normal(1, 6, 8), jnp.tril(jnp.ones((6, 6), bool))[None, None]
    changed = x.at[0, 3, 0].add(1.0)
    before, after = call(block, x, mask), call(block, changed, mask)
    moved = np.abs(np.asarray(after - before)).max((0, 2))
    np.testing.assert_allclose(moved[:3], 0, atol=1e-6)
    assert (moved[3:] > 1e-4).all()


def test_attention_does_not_know_the_order():
    layer = Attention.init(KEY, 8, 2)
    x, order = normal(2, 6, 8), np.array([3, 1, 5, 0, 4, 2])
    shuffled, straight = call(layer, x[:, order]), call(layer, x)
    np.testing.assert_allclose(shuffled, straight[:, order], atol=1e-6)
    assert np.abs(np.asarray(straight[:, order] - straight)).max() > 1e-2


def test_heads_are_independent():
    """Two heads are the two halves of the width, each attending on its own."""
    layer = Attention.init(KEY, 8, 2)
    x = normal(1, 5, 8)
    q, k, v = (call(part, x) for part in (layer.query, layer.key, layer.value))
    halves = [
        attention(q[..., None, n : n + 4], k[..., None, n : n + 4], v[..., None, n : n + 4])
        for n in (0, 4)
    ]
    expected = call(layer.out, jnp.concatenate(halves, -1)[:, :, 0])
    np.testing.assert_allclose(call(layer, x), expected, atol=1e-5)


def with_context(heads=2):
    """Attention of 6 numbers to 5, with biases, and an image and a text to try it on."""
    layer = towers.shaken(Attention.init(KEY, 6, heads, context=5))
    return layer, normal(2, 4, 6), normal(2, 3, 5)


def look(layer, x, context, mask=None):
    return call(layer, x, mask, context)


def test_attention_to_a_context():
    """Queries of x, keys and values of the context, of another width and length."""
    layer, x, context = with_context()
    w = towers.arrays(layer)
    q, k, v = (
        towers.linear(towers.within(w, name), np.float64(seen)).reshape(2, -1, 2, 3)
        for name, seen in (("query", x), ("key", context), ("value", context))
    )
    for causal in (False, True):
        mask = jnp.tril(jnp.ones((4, 3), bool))[None, None] if causal else None
        mixed = attention_loop(q, k, v, lambda i, j, causal=causal: j <= i or not causal)
        expected = towers.linear(towers.within(w, "out"), mixed.reshape(2, 4, 6))
        np.testing.assert_allclose(look(layer, x, context, mask), expected, atol=1e-5)
    maps = jax.jit(lambda layer, x, c: layer.weights(x, context=c))(layer, x, context)
    towers.is_attention_map(maps, (2, 2, 4, 3))


def test_a_context_has_no_order():
    layer, x, context = with_context()
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(
        look(layer, x, context[:, order]), look(layer, x, context), atol=1e-6
    )


def test_a_sequence_is_its_own_context():
    layer, x = Attention.init(KEY, 6, 2), normal(2, 4, 6)
    np.testing.assert_allclose(look(layer, x, x), call(layer, x), atol=1e-6)


def test_which_biases_attention_has():
    layer = Attention.init(KEY, 6, 2, context=5, bias=False)
    assert layer.query.bias is layer.key.bias is layer.value.bias is None
    assert layer.out.bias.shape == (6,)
    shapes = [part.weight.shape for part in (layer.query, layer.key, layer.value, layer.out)]
    assert shapes == [(6, 6), (5, 6), (5, 6), (6, 6)]
    assert Attention.init(KEY, 6, 2).key.bias.shape == (6,)


def test_geglu():
    """The first half of the hidden layer, times the GELU of the second."""
    layer = towers.shaken(MLP.init(KEY, 4, expand=3, activation="geglu"))
    x = normal(2, 5, 4)
    w = towers.arrays(layer)
    assert w["up.weight"].shape == (4, 24)
    assert w["down.weight"].shape == (12, 4)
    hidden = towers.linear(towers.within(w, "up"), np.float64(x))
    hidden = hidden[..., :12] * towers.activate(hidden[..., 12:], "gelu")
    np.testing.assert_allclose(
        call(layer, x), towers.linear(towers.within(w, "down"), hidden), atol=1e-5
    )


def test_mlp():
    layer = MLP.init(KEY, 4, expand=3)
    x = normal(2, 5, 4)
    up, down, x64 = doubled(layer.up.weight, layer.down.weight, x)
    hidden = x64 @ up
    gelu = hidden * np.vectorize(lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2))))(hidden)
    assert up.shape == (4, 12)
    np.testing.assert_allclose(call(layer, x), gelu @ down, atol=1e-5)


def test_a_transformer_block_adds_to_what_it_is_given():
    block = TransformerBlock.init(KEY, 8, 2, out_scale=0.0)
    x = normal(2, 5, 8)
    np.testing.assert_array_equal(call(block, x), x)
    block = TransformerBlock.init(KEY, 8, 2)
    y = x + call(block.attention, call(block.norm1, x))
    np.testing.assert_allclose(call(block, x), y + call(block.mlp, call(block.norm2, y)), atol=1e-5)


def test_no_two_parts_start_alike():
    weights = {
        name: part.weight
        for name, part in vars(Attention.init(KEY, 8, 2)).items()
        if isinstance(part, Linear)
    }
    assert len(weights) == 4
    for a, first in weights.items():
        for b, second in weights.items():
            assert a == b or not np.allclose(first, second)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="width 10 does not split into 4 heads"):
        Attention.init(KEY, 10, 4)
    with pytest.raises(ValueError, match="'relu': choose from gelu, quick_gelu, geglu"):
        MLP.init(KEY, 8, activation="relu")
    with pytest.raises(TypeCheckError):
        attention(normal(1, 4, 2, 8), normal(1, 4, 2, 8), normal(1, 3, 2, 8))
    with pytest.raises(TypeCheckError):
        Attention.init(KEY, 8, 2, context=5)(normal(1, 4, 8), None, normal(4, 5))


def test_bfloat16_goes_through():
    block, x = TransformerBlock.init(KEY, 8, 2), normal(2, 3, 8)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), block)
    found = call(low, x.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), call(block, x), atol=0.1)


def test_the_softmax_runs_in_float32():
    q = normal(1, 3, 2, 8).astype(jnp.bfloat16)
    assert attention_weights(q, q).dtype == jnp.float32


# The stack


def check_stack(module):
    """A causal stack with either activation is a float64 loop over its parts."""
    for activation in ("gelu", "quick_gelu"):
        stack = module.Transformer.init(KEY, 8, 2, 2, expand=3, activation=activation, eps=0.1)
        stack = towers.shaken(stack)
        x, mask = normal(2, 5, 8), jnp.tril(jnp.ones((5, 5), bool))[None, None]
        expected = towers.blocks(towers.arrays(stack), np.float64(x), 2, activation, 0.1, True)
        found = call(stack, x, mask)
        np.testing.assert_allclose(found, expected, atol=2e-4)


def check_maps(module):
    """Where each query looks is a float64 loop's answer, with a mask and without."""
    q, k = normal(2, 5, 3, 4), normal(2, 6, 3, 4)
    mask = np.arange(6)[None, None, None] <= np.arange(5)[None, None, :, None]
    for seen in (None, mask):
        found = module.attention_weights(q, k, None if seen is None else jnp.asarray(seen))
        for b, h, i in np.ndindex(2, 3, 5):
            scores = np.exp(np.float64(k)[b, :, h] @ np.float64(q)[b, i, h] / 2)
            if seen is not None:
                scores = scores * seen[0, 0, i]
            np.testing.assert_allclose(found[b, h, i], scores / scores.sum(), atol=1e-5)


def check_depth_keeps_the_spread(module):
    """What the branches add shrinks with the depth: half a hundred layers stay within bounds."""
    stack = jax.jit(lambda: module.Transformer.init(KEY, 16, 48, 2))()
    for layer in (stack.blocks.attention.out, stack.blocks.mlp.down):
        outputs, inputs = layer.weight.shape[2], layer.weight.shape[1]
        assert outputs == 16
        spread = float(layer.weight.std()) * math.sqrt(inputs)
        assert abs(spread * math.sqrt(2 * 48) - 1) < 0.05


CHECKS = [check_stack, check_maps, check_depth_keeps_the_spread]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(transformer)


@pytest.mark.parametrize("layers", [1, UNROLLED + 1])
def test_written_out_or_looped_over_it_is_one_block_after_another(layers):
    stack, x = Transformer.init(KEY, 4, layers, 2), normal(1, 3, 4)
    assert stack.layers == layers
    y = x
    one = jax.jit(lambda block, y: block(y))
    for i in range(layers):
        y = one(stack.block(i), y)
    np.testing.assert_allclose(call(stack, x), y, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_the_stages_end_in_what_the_call_gives(causal):
    stack, x = Transformer.init(KEY, 8, 2, 2), normal(2, 5, 8)
    mask = jnp.tril(jnp.ones((5, 5), bool))[None, None] if causal else None
    stages = jax.jit(lambda stack, x, mask: stack.stages(x, mask))(stack, x, mask)
    assert sorted(stages) == ["attention.0", "attention.1", "blocks.0", "blocks.1"]
    np.testing.assert_allclose(stages["blocks.1"], call(stack, x, mask), atol=1e-6)
    for i in range(2):
        towers.is_attention_map(stages[f"attention.{i}"], (2, 2, 5, 5), causal)


def test_no_two_layers_start_alike():
    weight = Transformer.init(KEY, 8, 3, 2).blocks.mlp.up.weight
    assert weight.shape == (3, 8, 32)
    assert not np.allclose(weight[0], weight[1])
    assert not np.allclose(weight[1], weight[2])
