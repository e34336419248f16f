"""Every attention twin against the equation in float64, in value and gradient; and who is chosen."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from minidiff.kernels import attention as kernels
from minidiff.kernels import pallas_attention
from minidiff.kernels.platform import assume

pytestmark = pytest.mark.usefixtures("optimized")

TWINS = {
    "reference": kernels.reference,
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
    q, k, v, slope = (np.asarray(x, np.float64) for x in (q, k, v, slope))
    scale = q.shape[-1] ** -0.5
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * scale
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    value = np.einsum("bhqk,bkhd->bqhd", weights, v)
    to_weights = np.einsum("bqhd,bkhd->bhqk", slope, v)
    to_scores = weights * (to_weights - (weights * to_weights).sum(axis=-1, keepdims=True)) * scale
    to_q = np.einsum("bhqk,bkhd->bqhd", to_scores, k)
    to_k = np.einsum("bhqk,bqhd->bkhd", to_scores, q)
    return value, to_q, to_k, np.einsum("bhqk,bqhd->bkhd", weights, slope)


def value_and_gradients(twin, q, k, v, slope):
    def weighted(q, k, v):
        out = twin(q, k, v)
        return (out.astype(jnp.float32) * slope).sum(), out

    grad = jax.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True)
    (_, value), gradients = jax.jit(grad)(q, k, v)
    return value, *gradients


def agrees(twin, arrays, mask=None, atol=5e-6):
    """``twin`` takes q, k and v only; ``mask`` is for the equations."""
    found = value_and_gradients(twin, *arrays)
    for one, expected in zip(found, exact(*arrays, mask), strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float32), expected, atol=atol)


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


@pytest.mark.parametrize("twin", [kernels.reference, kernels.batched])
def test_large_scores_do_not_overflow(twin):
    q, k, v, slope = inputs(2, 5, 6, 1, 4)
    agrees(twin, (100 * q, k, v, slope), atol=2e-3)


@pytest.mark.parametrize("twin", [kernels.reference, kernels.batched, TWINS["a query at a time"]])
def test_a_query_that_may_look_nowhere_is_nan_and_alone(twin):
    q, k, v, _ = inputs(1, 3, 4, 1, 2)
    mask = np.ones((1, 1, 3, 4), bool)
    mask[0, 0, 1] = False
    out = np.asarray(jax.jit(twin)(q, k, v, mask))
    assert np.isnan(out[0, 1]).all()
    assert np.isfinite(out[0, [0, 2]]).all()


@pytest.mark.parametrize("twin", [kernels.reference, kernels.batched, TWINS["a query at a time"]])
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
        lambda q, k, v: kernels.reference(2 * q, k, v),
        lambda q, k, v: kernels.reference(q, k, v, jnp.arange(6)[None, None, None, :] > 0),
        lambda q, k, v: kernels.reference(q, jax.lax.stop_gradient(k), v),
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
        twin = kernels.choice(q, q, mask)
    return getattr(twin, "func", twin)


@pytest.mark.parametrize(
    ("where", "q", "twin"),
    [
        ("cpu", shape(128, 16, 4, 24), kernels.reference),
        ("cpu", shape(128, 64, 3, 32), kernels.batched),
        ("cpu", shape(64, 256, 1, 64), kernels.tiled),
        ("cpu", shape(1, 4096, 8, 40), kernels.tiled),
        ("gpu", shape(128, 64, 3, 32), kernels.reference),
        ("gpu", shape(8, 4096, 8, 40), kernels.tiled),
        ("gpu", shape(1, 2048, 8, 64), kernels.reference),
        ("tpu", shape(128, 64, 3, 32), kernels.reference),
        ("tpu", shape(1, 2048, 8, 64), pallas_attention.flash),
        ("tpu", shape(1, 8192, 2, 64), kernels.reference),  # too much for the fast memory
        ("tpu", shape(1, 8192, 2, 64, jnp.bfloat16), pallas_attention.flash),
        ("tpu", shape(8, 8192, 8, 64), kernels.tiled),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_the_choice(where, q, twin):
    assert chosen(where, q) is twin


def test_flash_is_not_chosen_unless_wanted(monkeypatch):
    q = shape(8, 2048, 8, 64)
    assert chosen("tpu", q) is pallas_attention.flash
    with assume("tpu"):
        assert kernels.choice(q, q, None) is not pallas_attention.flash
    monkeypatch.setenv("MINIDIFF_PALLAS", "1")  # this is no TPU
    assert kernels.choice(q, q, None) is not pallas_attention.flash


def test_flash_is_not_chosen_with_a_mask():
    q = shape(1, 2048, 8, 64)
    mask = jax.ShapeDtypeStruct((1, 1, 2048, 2048), bool)
    assert chosen("tpu", q) is not chosen("tpu", q, mask)


def test_cudnn_is_chosen_on_a_real_gpu_only(monkeypatch):
    half, whole = shape(2, 64, 2, 32, jnp.bfloat16), shape(2, 64, 2, 32)
    assert chosen("gpu", half) is (
        kernels.cudnn if jax.default_backend() == "gpu" else kernels.reference
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen("gpu", half) is kernels.cudnn
    odd, mask = shape(2, 63, 2, 32, jnp.bfloat16), jax.ShapeDtypeStruct((1, 1, 63, 63), bool)
    assert chosen("gpu", odd) is kernels.cudnn
    assert chosen("gpu", odd, mask) is kernels.reference
    assert chosen("gpu", whole) is kernels.reference
    assert chosen("gpu", shape(2, 64, 2, 36, jnp.bfloat16)) is kernels.reference


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
def test_cudnn_follows_the_equation():
    arrays = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in inputs(2, 64, 64, 2, 32)]
    q, k, v = (x.astype(jnp.bfloat16) for x in arrays[:3])
    found = value_and_gradients(kernels.cudnn, q, k, v, arrays[3])
    for one, expected in zip(found, exact(*arrays), strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), expected, atol=0.06)


def test_the_operation_is_the_equation():
    mask = make_mask("both", 3, 5, 6)
    agrees(with_mask(kernels.attention, mask), inputs(3, 5, 6, 2, 4), mask)


@pytest.mark.parametrize(("where", "target"), [("gpu", "cuda"), ("tpu", "tpu")])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sizes", [(2, 16, 2, 8), (1, 1536, 2, 64), (1, 16384, 1, 32)], ids=["short", "flash", "tiled"]
)
def test_lowers(where, target, dtype, sizes):
    def loss(q, k, v):
        return kernels.attention(q, k, v).astype(jnp.float32).sum()

    q = shape(*sizes, dtype)
    with assume(where, pallas=True):
        exported = jax.export.export(
            jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))), platforms=[target]
        )(q, q, q)
    assert exported.platforms == (target,)
    flash = where == "tpu" and sizes[1] == 1536
    assert ("tpu_custom_call" in exported.mlir_module()) == flash
