"""What layers write out against a float64 loop, and each of its twins."""

import inspect
import re
import sys
import types

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from rounding import FUNCTION, rounding

from minidiff import layers
from minidiff.kernels import bias, conv, doubled_conv, group_norm, layer_norm
from minidiff.kernels.platform import assume

pytestmark = pytest.mark.usefixtures("optimized")

TWINS = [layers.group_norm.reference, group_norm.two_stage, group_norm.few_passes]
by_name = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)


def inputs(shape, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * 2 + offset
    return [jnp.float32(a) for a in (x, *rng.normal(size=(2, shape[-1])))]


def normal_and_size(x, eps):
    """Values shifted to mean 0 and scaled to variance 1, and the sizes that roundings are a share of.

    The mean is off by a share of the largest value, and mean and variance both by that of a spread.
    """
    spread = np.sqrt(x.var() + eps)
    normal = (x - x.mean()) / spread
    return normal, (1 + np.abs(normal)) * (np.abs(x).max() / spread + 1)


def loop(x, scale, shift, groups, eps):
    """Group normalisation, and by how much float32 may be off."""
    x, scale, shift = (np.asarray(a, np.float64) for a in (x, scale, shift))
    out, sizes, size = np.zeros(x.shape), np.zeros(x.shape), x.shape[-1] // groups
    for b in range(x.shape[0]):
        for g in range(groups):
            inside = np.s_[b, ..., g * size : (g + 1) * size]
            out[inside], sizes[inside] = normal_and_size(x[inside], eps)
    share = rounding(x[0].size // groups + 2 * FUNCTION)
    return out * scale + shift, share * (sizes * np.abs(scale) + np.abs(shift))


def assert_within(found, expected, off):
    assert found.shape == expected.shape
    assert (np.abs(np.asarray(found, np.float64) - expected) <= off).all()


@by_name
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 3, 5, 6), 3), ((1, 4, 4, 8), 1), ((3, 2, 2, 4), 4), ((2, 7, 6), 2), ((2, 6), 2)],
    ids=str,
)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_value(twin, shape, groups, offset):
    x, scale, shift = inputs(shape, offset)
    found = jax.jit(twin, static_argnums=(3, 4))(x, scale, shift, groups, 1e-5)
    assert_within(found, *loop(x, scale, shift, groups, 1e-5))


@by_name
def test_eps_is_added_to_the_variance(twin):
    x, scale, shift = inputs((1, 2, 2, 4))
    assert_within(jitted(twin)(x, scale, shift, 2, 3.0), *loop(x, scale, shift, 2, 3.0))
    ones = np.ones((1, 2, 2, 4), np.float32)
    assert np.isfinite(jitted(twin)(ones, scale, shift, 2)).all()


@by_name
def test_half_precision_in_and_out_sums_in_float32(twin):
    x, scale, shift = inputs((2, 16, 16, 4), offset=10.0)
    low = jitted(twin)(x.astype(jnp.bfloat16), scale, shift, 2)
    assert low.dtype == jnp.bfloat16
    expected = jitted(twin)(x.astype(jnp.bfloat16).astype(jnp.float32), scale, shift, 2)
    np.testing.assert_allclose(low.astype(jnp.float32), expected, atol=0.03)


def jitted(twin):
    """One program, not one for every operation: compiling is all that these tests wait for."""
    return jax.jit(twin, static_argnums=(3, 4))


def value_and_gradients(twin):
    """(value, gradients of its weighted sum), in one program."""

    def weighted(x, scale, shift, weight, groups):
        out = twin(x, scale, shift, groups)
        return (out * weight).sum(), out

    compiled = jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True), static_argnums=4)

    def results(*args):
        gradients, value = compiled(*args)
        return value, gradients

    return results


REFERENCE_RESULTS = value_and_gradients(layers.group_norm.reference)


@pytest.mark.parametrize("twin", TWINS[1:], ids=lambda twin: twin.__name__)
@settings(max_examples=5)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 5),
    groups=st.integers(1, 3),
    size=st.integers(1, 3),
    offset=st.sampled_from([0.0, 100.0]),
)
def test_twin_agrees_with_the_reference(twin, batch, height, width, groups, size, offset):
    shape = (batch, height, width, groups * size)
    x, scale, shift = inputs(shape, offset, seed=height)
    weight = inputs(shape, seed=width)[0]
    tight = 1e-5 if offset == 0 else 1e-3
    if height * width * size > 1:  # a group of one value has variance 0: all is rounding
        value, found = value_and_gradients(twin)(x, scale, shift, weight, groups)
        wanted, expected = REFERENCE_RESULTS(x, scale, shift, weight, groups)
        np.testing.assert_allclose(value, wanted, atol=5 * tight, rtol=tight)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=20 * tight, rtol=20 * tight)


@by_name
def test_gradient_is_the_slope(twin):
    x, scale, shift = inputs((1, 2, 3, 4))
    weight = inputs((1, 2, 3, 4), seed=1)[0]
    gradient = value_and_gradients(twin)(x, scale, shift, weight, 2)[1][0]
    x64 = np.asarray(x, np.float64)
    for where in [(0, 0, 0, 0), (0, 1, 2, 3), (0, 0, 1, 2)]:
        step = np.zeros(x.shape)
        step[where] = 1e-5
        up, down = (
            loop(x64 + s, scale, shift, 2, 1e-5)[0] * np.asarray(weight) for s in (step, -step)
        )
        slope = (up.sum() - down.sum()) / 2e-5
        assert float(gradient[where]) == pytest.approx(slope, abs=1e-4)


def silu_reference(x, scale, shift, groups):
    return jax.nn.silu(layers.group_norm.reference(x, scale, shift, groups))


def with_silu(twin):
    return lambda x, scale, shift, groups: twin(x, scale, shift, groups, silu=True)


@pytest.mark.parametrize("twin", TWINS[1:], ids=lambda twin: twin.__name__)
@settings(max_examples=5)
@given(
    batch=st.integers(1, 3),
    space=st.integers(2, 40),
    groups=st.integers(1, 3),
    size=st.integers(2, 5),
)
def test_twin_with_silu_agrees_with_the_reference(twin, batch, space, groups, size):
    x, scale, shift = inputs((batch, space, groups * size), offset=1.0, seed=space)
    weight = inputs(x.shape, seed=size)[0]
    value, found = value_and_gradients(with_silu(twin))(x, scale, shift, weight, groups)
    wanted, expected = value_and_gradients(silu_reference)(x, scale, shift, weight, groups)
    np.testing.assert_allclose(value, wanted, atol=1e-5)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("device", ["cpu", "gpu"])  # a TPU's kernel: tests/test_kernels_pallas.py
def test_the_choice_is_the_reference_on_every_platform(device):
    x, scale, shift = inputs((2, 3, 4, 6))
    with assume(device):
        plain, silu = (
            choice(x, scale, shift, 3) for choice in (layers.group_norm, layers.group_norm_silu)
        )
    expected = jitted(layers.group_norm.reference)(x, scale, shift, 3)
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    expected = jax.jit(silu_reference, static_argnums=3)(x, scale, shift, 3)
    np.testing.assert_allclose(silu, expected, atol=1e-5)


# Bias


@pytest.mark.parametrize("each", [False, True], ids=["for all", "for each example"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 3), (5, 2)], ids=str)
def test_bias_value_and_gradients(shape, each):
    x, weight = (inputs(shape, seed=seed)[0] for seed in (0, 1))
    offset = inputs((shape[0], shape[-1]))[0] if each else inputs(shape)[1]

    def results(add):
        def weighted(x, offset):
            out = add(x, offset)
            return (out * weight).sum(), out

        gradients, out = jax.jit(jax.grad(weighted, (0, 1), has_aux=True))(x, offset)
        return out, *gradients

    for found, expected in zip(
        results(bias.summed_by_products), results(layers.add_bias.reference), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        layers.add_bias.reference(x, offset)[0],
        np.asarray(x)[0] + np.asarray(offset[0] if each else offset),
    )


# Layer normalisation


def row_loop(x, scale, shift, eps):
    x, scale, shift = (np.asarray(a, np.float64) for a in (x, scale, shift))
    rows, sizes = (np.stack(y) for y in zip(*(normal_and_size(row, eps) for row in x), strict=True))
    share = rounding(x.shape[1] + 2 * FUNCTION)
    return rows * scale + shift, share * (sizes * np.abs(scale) + np.abs(shift))


@pytest.mark.parametrize("twin", [layers.layer_norm.reference, layer_norm.own_gradient])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_value(twin, offset):
    x, scale, shift = inputs((5, 37), offset)
    compiled = jax.jit(twin, static_argnums=3)
    assert_within(compiled(x, scale, shift, 1e-2), *row_loop(x, scale, shift, 1e-2))
    low = compiled(x.astype(jnp.bfloat16), scale, shift)
    assert low.dtype == jnp.bfloat16


@settings(max_examples=5)
@given(rows=st.integers(1, 9), width=st.integers(2, 40))
def test_layer_norm_gradients(rows, width):
    x, scale, shift = inputs((rows, width), offset=1.0, seed=width)
    weight = inputs((rows, width), seed=rows)[0]

    def gradients(twin):
        def weighted(*args):
            return (twin(*args) * weight).sum()

        return jax.jit(jax.grad(weighted, (0, 1, 2)))(x, scale, shift)

    for found, expected in zip(
        gradients(layer_norm.own_gradient), gradients(layers.layer_norm.reference), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


# Convolution


def conv_inputs(shape, kernel, stride, zeros, seed=0):
    """An image, a kernel, and a slope for each number of the result."""
    rng = np.random.default_rng(seed)
    before, after = zeros or (kernel // 2,) * 2
    out = [(n + before + after - kernel) // stride + 1 for n in shape]
    shapes = (2, *shape, 3), (kernel, kernel, 3, 4), (2, *out, 4)
    return [jnp.float32(rng.normal(size=shape)) for shape in shapes]


def conv_loops(x, weight, slope, stride, zeros):
    """(value, gradients of (value * slope).sum() to x and to weight), one number at a time.

    Of absolute values it gives the sizes of the sums, of which roundings are a share.
    """
    x, weight, slope = (np.asarray(a, np.float64) for a in (x, weight, slope))
    before = zeros[0] if zeros else weight.shape[0] // 2
    value, to_x, to_weight = np.zeros(slope.shape), np.zeros(x.shape), np.zeros(weight.shape)
    for b, r, c, down, across in np.ndindex(*slope.shape[:3], *weight.shape[:2]):
        row, column = r * stride + down - before, c * stride + across - before
        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
            value[b, r, c] += x[b, row, column] @ weight[down, across]
            to_x[b, row, column] += weight[down, across] @ slope[b, r, c]
            to_weight[down, across] += np.outer(x[b, row, column], slope[b, r, c])
    return value, to_x, to_weight


@pytest.mark.parametrize("twin", [layers.conv.reference, conv.explicit_gradients])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "zeros"),
    [
        ((4, 5), 3, 1, None),
        ((4, 5), 3, 2, None),
        ((3, 2), 1, 1, None),
        ((5, 4), 1, 2, None),
        ((4, 5), 3, 2, (0, 1)),
        ((6, 4), 3, 2, (0, 1)),
        ((5, 4), 3, 2, (1, 0)),
        ((4, 5), 3, 1, (0, 1)),
        ((5, 6), 3, 1, (0, 0)),
        ((6, 7), 3, 3, (2, 1)),
        ((5, 8), 5, 2, (1, 3)),
    ],
)
def test_conv_value_and_gradients(twin, shape, kernel, stride, zeros):
    x, weight, slope = conv_inputs(shape, kernel, stride, zeros)

    def weighted(x, weight):
        out = twin(x, weight, stride, zeros)
        return (out * slope).sum(), out

    (_, value), gradients = jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True))(x, weight)
    results = conv_loops(x, weight, slope, stride, zeros)
    sizes = conv_loops(*map(np.abs, (x, weight, slope)), stride, zeros)
    share = rounding(
        max(4 * kernel**2, slope.size // 4)
    )  # terms of a sum: of x's gradient, weight's
    for found, expected, size in zip((value, *gradients), results, sizes, strict=True):
        assert_within(found, expected, share * size)


@settings(max_examples=6)
@given(
    batch=st.integers(1, 3),
    tiles=st.integers(1, 3),
    width=st.integers(1, 7),
    channels=st.sampled_from([(1, 1), (3, 5), (8, 2)]),
)
def test_half_the_products_give_the_same_convolution(batch, tiles, width, channels):
    rng = np.random.default_rng(width)
    x, weight, slope = (
        jnp.float32(rng.normal(size=shape))
        for shape in (
            (batch, 4 * tiles, width, channels[0]),
            (3, 3, *channels),
            (batch, 4 * tiles, width, channels[1]),
        )
    )

    def weighted(x, weight):
        out = conv.winograd(x, weight)
        return (out * slope).sum(), out

    (_, value), gradients = jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True))(x, weight)
    for found, expected in zip(
        (value, *gradients), conv_loops(x, weight, slope, 1, None), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def products(function, *shapes):
    """How many multiplications the convolutions of a program do."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*shapes).cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("x", "weight", "halved"),
    [
        ((2, 16, 16, 32), (3, 3, 32, 64), True),
        ((2, 16, 16, 32), (3, 3, 32, 3), False),  # few channels
        ((2, 4, 4, 64), (3, 3, 64, 64), False),  # a small image
        ((2, 18, 16, 64), (3, 3, 64, 64), False),  # no whole number of tiles
        ((2, 16, 16, 32), (1, 1, 32, 32), False),
    ],
    ids=str,
)
def test_conv_chooses_by_shape_and_platform(x, weight, halved):
    full = products(conv.explicit_gradients, x, weight)
    assert products(layers.conv, x, weight) < 0.7 * full if halved else True
    with assume("tpu"):
        assert products(lambda *args: layers.conv(*args), x, weight) > 0.9 * full
    if not halved:
        assert products(lambda *args: layers.conv(*args), x, weight) > 0.9 * full


# Doubling and convolving


DOUBLED = [layers.doubled_conv.reference, doubled_conv.four_phases]


def doubled_inputs(side, seed=0, channels=(3, 4)):
    rng = np.random.default_rng(seed)
    shapes = (2, *side, channels[0]), (3, 3, *channels), (2, *(2 * n for n in side), channels[1])
    return [jnp.float32(rng.normal(size=shape)) for shape in shapes]


def doubled_loop(x, weight):
    """Pixel by pixel: what the kernel sees of the image whose every pixel is repeated."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    batch, height, width, _ = x.shape
    out = np.zeros((batch, 2 * height, 2 * width, weight.shape[3]))
    for b, r, c, down, across in np.ndindex(*out.shape[:3], 3, 3):
        row, column = r + down - 1, c + across - 1
        if 0 <= row < 2 * height and 0 <= column < 2 * width:
            out[b, r, c] += x[b, row // 2, column // 2] @ weight[down, across]
    return out


@pytest.mark.parametrize("twin", DOUBLED, ids=lambda twin: twin.__name__)
@pytest.mark.parametrize("side", [(1, 1), (3, 5), (4, 2)], ids=str)
def test_doubled_conv_value(twin, side):
    x, weight, _ = doubled_inputs(side)
    # A twin adds up to four weights first.
    off = rounding(4 + 9 * 3) * doubled_loop(np.abs(x), np.abs(weight))
    assert_within(jax.jit(twin)(x, weight), doubled_loop(x, weight), off)


@pytest.mark.parametrize("side", [(1, 3), (5, 4)], ids=str)
def test_doubled_conv_gradients(side):
    x, weight, slope = doubled_inputs(side, seed=1)

    def gradients(twin):
        return jax.jit(jax.grad(lambda x, w: (twin(x, w) * slope).sum(), argnums=(0, 1)))(x, weight)

    for found, expected in zip(*map(gradients, DOUBLED), strict=True):
        np.testing.assert_allclose(found, expected, atol=5e-5)


def test_doubled_conv_in_half_precision():
    x, weight, _ = (a.astype(jnp.bfloat16) for a in doubled_inputs((4, 4), channels=(8, 8)))
    found = jax.jit(doubled_conv.four_phases)(x, weight)
    assert found.dtype == jnp.bfloat16
    expected = doubled_loop(x.astype(jnp.float32), weight.astype(jnp.float32))
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected, atol=0.02 * np.abs(expected).max()
    )


def test_doubled_conv_inside_a_scan():
    x, weight, _ = doubled_inputs((3, 3))
    weights = jnp.stack([weight] * 2)

    def scanned(weights):
        def body(total, weight):
            return total + layers.doubled_conv(x, weight).sum(), None

        return jax.lax.scan(body, 0.0, weights)[0]

    value, gradient = jax.jit(jax.value_and_grad(scanned))(weights)
    assert float(value) == pytest.approx(2 * doubled_loop(x, weights[0]).sum(), abs=1e-3)
    expected = jax.jit(jax.grad(lambda w: layers.doubled_conv.reference(x, w).sum()))(weights[0])
    np.testing.assert_allclose(gradient, np.stack([expected] * 2), atol=1e-4)


def test_the_chosen_doubled_conv_is_a_twin():
    assert doubled_conv.doubled_conv_twin() in DOUBLED


# Without any of them


def test_the_layers_work_without_their_twins(monkeypatch):
    """The module as it is, but for the lines that put twins in place."""
    source = inspect.getsource(layers)
    assert source.count("\n@faster_by(") == 6
    plain = types.ModuleType("plain")
    monkeypatch.setitem(sys.modules, "plain", plain)  # where dataclasses look themselves up
    exec(re.sub(r"\n@faster_by\(.*", "", source), plain.__dict__)
    x = inputs((1, 2, 2, 4))[0]
    conv, norm = plain.Conv.init(jax.random.key(0), 4, 2), plain.GroupNorm.init(4, 2)
    for found, expected in (
        (conv(x), layers.Conv(conv.weight, conv.bias)(x)),
        (conv.doubled(x), layers.Conv(conv.weight, conv.bias).doubled(x)),
        (norm.silu(x), layers.GroupNorm(norm.scale, norm.shift, 2).silu(x)),
        (plain.LayerNorm.init(4)(x), layers.LayerNorm.init(4)(x)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_operation_takes_arguments_by_name():
    x, scale, shift = inputs((1, 2, 3, 4))
    by_name = layers.group_norm(x, shift=shift, scale=scale, groups=2)
    np.testing.assert_array_equal(by_name, layers.group_norm(x, scale, shift, 2, 1e-5))
    with pytest.raises(TypeError, match="groups"):
        layers.group_norm(x, scale, shift)
