"""Every layer against a float64 loop that computes what the layer's name says."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounding import rounding

from minidiff.layers import (
    Conv,
    GroupNorm,
    LayerNorm,
    Linear,
    count_parameters,
    depth_to_space,
    space_to_depth,
    time_embedding,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.float32(RNG.normal(size=shape))


def doubled(*arrays):
    return [np.asarray(x, np.float64) for x in arrays]


def assert_sums(found, expected, sizes, terms):
    """Sums of so many terms, within what adding them in any order may cost; ``sizes`` of |terms|."""
    assert found.shape == expected.shape
    assert (np.abs(np.asarray(found, np.float64) - expected) <= rounding(terms) * sizes).all()


call = jax.jit(lambda layer, *args: layer(*args))  # one function, so that a shape is compiled once


@pytest.mark.parametrize("lead", [(), (3,), (2, 5)], ids=str)
def test_linear_is_a_matrix_product(lead):
    layer = Linear(weight=normal(4, 6), bias=normal(6))
    x = normal(*lead, 4)
    weight, bias, x64 = doubled(layer.weight, layer.bias, x)
    expected = np.zeros((*lead, 6))
    for where in np.ndindex(*lead):
        for j in range(6):
            expected[where][j] = sum(x64[where][i] * weight[i, j] for i in range(4)) + bias[j]
    sizes = np.abs(x64) @ np.abs(weight) + np.abs(bias)
    assert_sums(call(layer, x), expected, sizes, 5)
    no_bias = layer.replace(bias=None)
    assert_sums(call(no_bias, x), expected - bias, sizes, 4)


def conv_loop(x, weight, bias, stride, padding=None):
    batch, height, width, _ = x.shape
    kernel = weight.shape[0]
    padding = padding or (kernel // 2, kernel // 2)
    padded = np.pad(x, ((0, 0), padding, padding, (0, 0)))
    rows = (height + sum(padding) - kernel) // stride + 1
    columns = (width + sum(padding) - kernel) // stride + 1
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
    arrays = doubled(x, layer.weight, layer.bias)
    expected, sizes = conv_loop(*arrays, stride), conv_loop(*map(np.abs, arrays), stride)
    assert expected.shape[1:3] == tuple(-(-n // stride) for n in side)
    assert_sums(call(layer, x), expected, sizes, 3 * kernel**2 + 1)


@pytest.mark.parametrize("padding", [(0, 1), (1, 0), (0, 0), (2, 1)], ids=str)
def test_conv_has_its_zeros_where_it_is_told(padding):
    init = Conv.init(KEY, 3, 4, stride=2, padding=padding)
    layer = init.replace(weight=normal(3, 3, 3, 4), bias=normal(4))
    x = normal(2, 4, 7, 3)
    arrays = doubled(x, layer.weight, layer.bias)
    expected, sizes = (conv_loop(*a, 2, padding) for a in (arrays, [*map(np.abs, arrays)]))
    assert_sums(call(layer, x), expected, sizes, 3 * 9 + 1)


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


@pytest.mark.parametrize("width", [4, 6, 32])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("cos_first", [False, True])
def test_time_embedding(width, shift, cos_first):
    t = np.array([0, 1, 17, 999])
    half = width // 2
    expected = np.zeros((4, width))
    for b, i in np.ndindex(4, half):
        angle = t[b] * 10_000 ** (-i / (half - shift))
        waves = (math.cos, math.sin) if cos_first else (math.sin, math.cos)
        expected[b, i], expected[b, half + i] = (wave(angle) for wave in waves)
    settings = {"frequency_shift": shift, "cos_first": cos_first}
    for times in (jnp.array(t), jnp.float32(t)):
        np.testing.assert_allclose(time_embedding(times, width, **settings), expected, atol=2e-4)
    if shift == 1 and not cos_first:
        np.testing.assert_allclose(time_embedding(jnp.array(t), width), expected, atol=2e-4)


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


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="12 channels do not split into 8 groups"):
        GroupNorm.init(12)


def test_bfloat16_goes_through():
    for layer, shape in (
        (Linear.init(KEY, 8, 8), (2, 3, 8)),
        (Conv.init(KEY, 8, 8), (2, 4, 4, 8)),
        (GroupNorm.init(8, 4), (2, 4, 4, 8)),
        (LayerNorm.init(8), (2, 3, 8)),
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


@pytest.mark.parametrize("side", [(1, 1), (3, 5)], ids=str)
def test_a_doubled_conv_sees_each_pixel_four_times(side):
    layer = Conv(weight=normal(3, 3, 3, 4), bias=normal(4))
    x = normal(2, *side, 3)
    x64, weight, bias = doubled(x, layer.weight, layer.bias)
    arrays = x64.repeat(2, axis=1).repeat(2, axis=2), weight, bias
    expected, sizes = conv_loop(*arrays, 1), conv_loop(*map(np.abs, arrays), 1)
    found = jax.jit(lambda layer, x: layer.doubled(x))(layer, x)
    assert_sums(found, expected, sizes, 4 + 3 * 9 + 1)  # a twin adds up to four weights first


def test_space_to_depth_reads_squares_row_by_row():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    folded = np.asarray(space_to_depth(x, 2))
    assert folded.shape == (2, 2, 3, 12)
    for b, r, c in np.ndindex(2, 2, 3):
        square = np.asarray(x)[b, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]
        np.testing.assert_array_equal(folded[b, r, c], square.ravel())
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, 2), 2), x)
