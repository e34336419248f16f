"""Every layer against a float64 loop that computes what the layer's name says."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minidiff.layers import (
    MLP,
    Attention,
    Conv,
    GroupNorm,
    LayerNorm,
    Linear,
    TransformerBlock,
    attention,
    count_parameters,
    time_embedding,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.float32(RNG.normal(size=shape))


def doubled(*arrays):
    return [np.asarray(x, np.float64) for x in arrays]


def call(layer, *args):
    return jax.jit(lambda layer, *args: layer(*args))(layer, *args)


@pytest.mark.parametrize("lead", [(), (3,), (2, 5)], ids=str)
def test_linear_is_a_matrix_product(lead):
    layer = Linear(weight=normal(4, 6), bias=normal(6))
    x = normal(*lead, 4)
    weight, bias, x64 = doubled(layer.weight, layer.bias, x)
    expected = np.zeros((*lead, 6))
    for where in np.ndindex(*lead):
        for j in range(6):
            expected[where][j] = sum(x64[where][i] * weight[i, j] for i in range(4)) + bias[j]
    np.testing.assert_allclose(call(layer, x), expected, atol=1e-5)
    no_bias = layer.replace(bias=None)
    np.testing.assert_allclose(call(no_bias, x), expected - bias, atol=1e-5)


def conv_loop(x, weight, bias, stride):
    batch, height, width, _ = x.shape
    kernel, pad = weight.shape[0], weight.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = (height + 2 * pad - kernel) // stride + 1
    columns = (width + 2 * pad - kernel) // stride + 1
    out = np.zeros((batch, rows, columns, weight.shape[3]))
    for b, r, c in np.ndindex(batch, rows, columns):
        seen = padded[b, r * stride : r * stride + kernel, c * stride : c * stride + kernel]
        out[b, r, c] = np.tensordot(seen, weight, 3) + bias
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("side", [(4, 6), (5, 7)], ids=str)
def test_conv_slides_a_window(kernel, stride, side):
    layer = Conv(weight=normal(kernel, kernel, 3, 4), bias=normal(4), stride=stride)
    x = normal(2, *side, 3)
    expected = conv_loop(*doubled(x, layer.weight, layer.bias), stride)
    assert expected.shape[1:3] == tuple(-(-n // stride) for n in side)
    np.testing.assert_allclose(call(layer, x), expected, atol=2e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_normalises_every_position(offset):
    layer = LayerNorm(scale=normal(8), shift=normal(8))
    x = normal(2, 3, 8) + offset
    scale, shift, x64 = doubled(layer.scale, layer.shift, x)
    expected = np.zeros(x.shape)
    for where in np.ndindex(2, 3):
        row = x64[where]
        expected[where] = (row - row.mean()) / math.sqrt(row.var() + 1e-5) * scale + shift
    np.testing.assert_allclose(call(layer, x), expected, atol=1e-6 + 3e-6 * offset)


def test_group_norm_is_the_kernel():
    """What it computes is tested in test_kernels.py; here that the layer passes everything on."""
    layer = GroupNorm(scale=normal(6), shift=normal(6), groups=3, eps=0.5)
    x = normal(2, 4, 4, 6)
    scale, shift, x64 = doubled(layer.scale, layer.shift, x)
    groups = x64.reshape(2, 16, 3, 2)
    normed = groups - groups.mean((1, 3), keepdims=True)
    normed /= np.sqrt(groups.var((1, 3), keepdims=True) + 0.5)
    np.testing.assert_allclose(call(layer, x), normed.reshape(x.shape) * scale + shift, atol=1e-5)


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


@pytest.mark.parametrize("width", [4, 6, 32])
def test_time_embedding(width):
    t = np.array([0, 1, 17, 999])
    half = width // 2
    expected = np.zeros((4, width))
    for b, i in np.ndindex(4, half):
        angle = t[b] * 10_000 ** (-i / (half - 1))
        expected[b, i], expected[b, half + i] = math.sin(angle), math.cos(angle)
    np.testing.assert_allclose(time_embedding(jnp.array(t), width), expected, atol=2e-4)
    np.testing.assert_allclose(time_embedding(jnp.float32(t), width), expected, atol=2e-4)


def test_weights_start_with_the_spread_they_promise():
    for weight, std in (
        (Linear.init(KEY, 64, 256, scale=0.1).weight, 0.1 / 8),
        (Conv.init(KEY, 32, 64).weight, 1 / math.sqrt(9 * 32)),
        (Conv.init(KEY, 64, 256, kernel=1, scale=2.0).weight, 2 / 8),
    ):
        assert abs(float(weight.std()) / std - 1) < 5 / math.sqrt(2 * weight.size)
        assert abs(float(weight.mean())) < 5 * std / math.sqrt(weight.size)
    assert Linear.init(KEY, 2, 3, bias=False).bias is None
    assert not Linear.init(KEY, 2, 3).bias.any()
    assert not Conv.init(KEY, 2, 3).bias.any()


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


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="12 channels do not split into 8 groups"):
        GroupNorm.init(12)
    with pytest.raises(ValueError, match="width 10 does not split into 4 heads"):
        Attention.init(KEY, 10, 4)


def test_bfloat16_goes_through():
    for layer, shape in (
        (Linear.init(KEY, 8, 8), (2, 3, 8)),
        (Conv.init(KEY, 8, 8), (2, 4, 4, 8)),
        (GroupNorm.init(8, 4), (2, 4, 4, 8)),
        (LayerNorm.init(8), (2, 3, 8)),
        (TransformerBlock.init(KEY, 8, 2), (2, 3, 8)),
    ):
        x = normal(*shape)
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), layer)
        found = call(low, x.astype(jnp.bfloat16))
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(jnp.float32), call(layer, x), atol=0.1)


def test_count_parameters():
    assert count_parameters(Linear.init(KEY, 3, 5)) == 20
    shapes = jax.eval_shape(lambda: Conv.init(KEY, 3, 5))
    assert count_parameters(shapes) == 3 * 3 * 3 * 5 + 5
