"""Every attention twin against the equation in float64, in value and gradient; and who is chosen."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from rounding import FUNCTION, rounding

from minidiff.kernels import attention as kernels
from minidiff.kernels.platform import assume
from minidiff.transformer import attention

pytestmark = pytest.mark.usefixtures("optimized")

TWINS = {
    "reference": attention.reference,
    "batched": kernels.batched,
    "a query at a time": partial(kernels.tiled, tile=1),
    "some queries at a time": partial(kernels.tiled, tile=20),
    "some examples at a time": partial(kernels.tiled, tile=150),
}


def inputs(batch, queries, keys, heads, width, seed=0):
    """Queries, keys, values, and a slope for each number of the result."""
    rng = np.random.default_rng(seed)
    lengths = queries, keys, keys, queries
    return [jnp.float32(rng.normal(size=(batch, n, heads, width))) for n in lengths]


def make_mask(kind, batch, queries, keys):
    causal = np.arange(keys)[None, None, None, :] <= np.arange(queries)[None, None, :, None]
    length = 1 + np.arange(batch) % keys
    padding = np.arange(keys)[None, None, None, :] < length[:, None, None, None]
    masks = {"none": None, "causal": causal, "padding": padding, "both": causal & padding}
    return masks[kind]


def exact(q, k, v, slope, mask=None):
    """(value, gradients of (value * slope).sum() to q, k and v), by the equations, in float64."""
    return [result for result, _ in exact_and_size(q, k, v, slope, mask)]


def exact_and_size(q, k, v, slope, mask=None):
    """The same, each with the sizes that its sums add up, of which roundings are a share."""
    q, k, v, slope = (np.asarray(x, np.float64) for x in (q, k, v, slope))
    scale = q.shape[-1] ** -0.5
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * scale
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)

    def results(q, k, v, slope, less):
        to_weights = np.einsum("bqhd,bkhd->bhqk", slope, v)
        mean = (weights * to_weights).sum(axis=-1, keepdims=True)
        to_scores = weights * (to_weights - less * mean) * scale
        return (
            np.einsum("bhqk,bkhd->bqhd", weights, v),
            np.einsum("bhqk,bkhd->bqhd", to_scores, k),
            np.einsum("bhqk,bqhd->bkhd", to_scores, q),
            np.einsum("bhqk,bqhd->bkhd", weights, slope),
        )

    sizes = results(*map(np.abs, (q, k, v, slope)), less=-1)
    return list(zip(results(q, k, v, slope, less=1), sizes, strict=True))


def value_and_gradients(twin, q, k, v, slope):
    def weighted(q, k, v):
        out = twin(q, k, v)
        return (out.astype(jnp.float32) * slope).sum(), out

    grad = jax.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True)
    (_, value), gradients = jax.jit(grad)(q, k, v)
    return value, *gradients


def agrees(twin, arrays, mask=None):
    """``twin`` takes q, k and v only; ``mask`` is for the equations.

    A weight is an exponential divided by others: it is off by twice what a score is, and its gradient
    by twice that.
    """
    q, k = (np.abs(np.asarray(x, np.float64)) for x in arrays[:2])
    width, terms = q.shape[-1], q.shape[1] + k.shape[1] + 2 * q.shape[-1]
    largest = np.einsum("bqhd,bkhd->bhqk", q, k).max() * width**-0.5
    share = 4 * rounding(width + 2, condition=largest) + rounding(terms + 8 * FUNCTION)
    found = value_and_gradients(twin, *arrays)
    for one, (expected, size) in zip(found, exact_and_size(*arrays, mask), strict=True):
        assert (np.abs(np.asarray(one, np.float64) - expected) <= share * size).all()


def with_mask(twin, mask):
    return twin if mask is None else partial(twin, mask=jnp.asarray(mask))


@pytest.mark.parametrize("twin", TWINS.values(), ids=list(TWINS))
@settings(max_examples=4)
@given(
    sizes=st.tuples(*(st.integers(1, most) for most in (3, 9, 9, 3, 5))),
    kind=st.sampled_from(["none", "causal", "padding", "both"]),
)
def test_twins_follow_the_equation(twin, sizes, kind):
    mask = make_mask(kind, *sizes[:3])
    agrees(with_mask(twin, mask), inputs(*sizes), mask)


@pytest.mark.parametrize("twin", TWINS.values(), ids=list(TWINS))
def test_one_example_of_one_query_and_one_key(twin):
    agrees(twin, inputs(1, 1, 1, 1, 3))


def test_a_mask_of_every_head():
    mask = np.repeat(make_mask("both", 3, 7, 5), 2, axis=1)
    mask[:, 1, :, 1:] = False
    agrees(with_mask(partial(kernels.tiled, tile=20), mask), inputs(3, 7, 5, 2, 4), mask)


@pytest.mark.parametrize("twin", [attention.reference, kernels.batched])
def test_large_scores_do_not_overflow(twin):
    q, k, v, slope = inputs(2, 5, 6, 1, 4)
    agrees(twin, (100 * q, k, v, slope))


@pytest.mark.parametrize("twin", [attention.reference, kernels.batched, TWINS["a query at a time"]])
def test_a_query_that_may_look_nowhere_is_nan_and_alone(twin):
    q, k, v, _ = inputs(1, 3, 4, 1, 2)
    mask = np.ones((1, 1, 3, 4), bool)
    mask[0, 0, 1] = False
    out = np.asarray(jax.jit(twin)(q, k, v, mask))
    assert np.isnan(out[0, 1]).all()
    assert np.isfinite(out[0, [0, 2]]).all()


@pytest.mark.parametrize("twin", [attention.reference, kernels.batched, TWINS["a query at a time"]])
def test_half_precision_in_and_out(twin):
    arrays = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in inputs(2, 9, 7, 2, 8)]
    q, k, v = (x.astype(jnp.bfloat16) for x in arrays[:3])
    found = value_and_gradients(twin, q, k, v, arrays[3])
    for one, expected in zip(found, exact(*arrays), strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(one.astype(jnp.float32), expected, atol=0.06)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda q, k, v: attention.reference(2 * q, k, v),
        lambda q, k, v: attention.reference(q, k, v, jnp.arange(6)[None, None, None, :] > 0),
        lambda q, k, v: attention.reference(q, jax.lax.stop_gradient(k), v),
        lambda q, k, v: kernels.tiled(q[::-1], k, v, tile=20),
    ],
    ids=["the scale", "the mask", "a gradient", "the order"],
)
def test_planted_mistakes_are_caught(wrong):
    with pytest.raises(AssertionError):
        agrees(wrong, inputs(2, 7, 6, 2, 3))


def temporary_bytes(twin):
    shape = jax.ShapeDtypeStruct((4, 256, 1, 8), jnp.float32)
    grad = jax.jit(jax.grad(lambda q, k, v: twin(q, k, v).sum(), argnums=(0, 1, 2)))
    return grad.lower(shape, shape, shape).compile().memory_analysis().temp_size_in_bytes


def test_tiled_never_holds_all_scores():
    scores = 4 * 4 * 256 * 256
    assert temporary_bytes(kernels.batched) > scores
    assert temporary_bytes(partial(kernels.tiled, tile=2**12)) < scores / 3


# The choice


def shape(batch, tokens, heads, width, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((batch, tokens, heads, width), dtype)


def chosen(where, q, mask=None):
    with assume(where, pallas=True):
        twin = kernels.attention_twin(q, q, q, mask)
    return getattr(twin, "func", twin)


@pytest.mark.parametrize(
    ("where", "q", "twin"),
    [
        ("cpu", shape(128, 16, 4, 24), None),
        ("cpu", shape(128, 64, 3, 32), kernels.batched),
        ("cpu", shape(64, 256, 1, 64), kernels.tiled),
        ("cpu", shape(1, 4096, 8, 40), kernels.tiled),
        ("gpu", shape(128, 64, 3, 32), None),
        ("gpu", shape(8, 4096, 8, 40), kernels.tiled),
        ("gpu", shape(1, 2048, 8, 64), None),
        ("tpu", shape(128, 64, 3, 32), None),
        ("tpu", shape(1, 2048, 8, 64), kernels.flash),
        ("tpu", shape(1, 8192, 2, 64), None),  # too much for the fast memory
        ("tpu", shape(1, 8192, 2, 64, jnp.bfloat16), kernels.flash),
        ("tpu", shape(8, 8192, 8, 64), kernels.tiled),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_the_choice(where, q, twin):
    assert chosen(where, q) is twin


def test_flash_is_not_chosen_unless_wanted(monkeypatch):
    q = shape(8, 2048, 8, 64)
    assert chosen("tpu", q) is kernels.flash
    with assume("tpu"):
        assert kernels.attention_twin(q, q, q, None) is not kernels.flash
    monkeypatch.setenv("MINIDIFF_PALLAS", "1")  # this is no TPU
    assert kernels.attention_twin(q, q, q, None) is not kernels.flash


def test_flash_is_not_chosen_with_a_mask():
    q = shape(1, 2048, 8, 64)
    mask = jax.ShapeDtypeStruct((1, 1, 2048, 2048), bool)
    assert chosen("tpu", q) is not chosen("tpu", q, mask)


def test_cudnn_is_chosen_on_a_real_gpu_only(monkeypatch):
    half, whole = shape(2, 64, 2, 32, jnp.bfloat16), shape(2, 64, 2, 32)
    assert chosen("gpu", half) is (kernels.cudnn if jax.default_backend() == "gpu" else None)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen("gpu", half) is kernels.cudnn
    odd, mask = shape(2, 63, 2, 32, jnp.bfloat16), jax.ShapeDtypeStruct((1, 1, 63, 63), bool)
    assert chosen("gpu", odd) is kernels.cudnn
    assert chosen("gpu", odd, mask) is None
    assert chosen("gpu", whole) is None
    assert chosen("gpu", shape(2, 64, 2, 36, jnp.bfloat16)) is None


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
def test_cudnn_follows_the_equation():
    arrays = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in inputs(2, 64, 64, 2, 32)]
    q, k, v = (x.astype(jnp.bfloat16) for x in arrays[:3])
    found = value_and_gradients(kernels.cudnn, q, k, v, arrays[3])
    for one, expected in zip(found, exact(*arrays), strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), expected, atol=0.06)


def test_the_operation_is_the_equation():
    mask = make_mask("both", 3, 5, 6)
    agrees(with_mask(attention, mask), inputs(3, 5, 6, 2, 4), mask)


@pytest.mark.parametrize(("where", "target"), [("gpu", "cuda"), ("tpu", "tpu")])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sizes", [(2, 16, 2, 8), (1, 1536, 2, 64), (1, 16384, 1, 32)], ids=["short", "flash", "tiled"]
)
def test_lowers(where, target, dtype, sizes):
    def loss(q, k, v):
        return attention(q, k, v).astype(jnp.float32).sum()

    q = shape(*sizes, dtype)
    with assume(where, pallas=True):
        exported = jax.export.export(
            jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))), platforms=[target]
        )(q, q, q)
    assert exported.platforms == (target,)
    flash = where == "tpu" and sizes[1] == 1536
    assert ("tpu_custom_call" in exported.mlir_module()) == flash
