"""The Pallas kernels, interpreted, against their references; and that they lower for accelerators.

That a kernel lowers means that JAX finds every operation and hands a program to the platform's own
compiler. Whether that compiles it, and how fast it is, only the platform can tell.
"""

import contextlib
import warnings
from functools import partial

import hypothesis.strategies as st
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from rounding import assert_within, exact_losses
from rounding import contrastive as may_be_off
from test_kernels_attention import agrees, exact, inputs, make_mask, value_and_gradients

from minidiff import layers
from minidiff.contrastive import contrastive_loss, normalize
from minidiff.kernels import pallas_attention
from minidiff.kernels.pallas_attention import flash
from minidiff.kernels.pallas_contrastive import clip_pallas
from minidiff.kernels.pallas_contrastive import fits as clip_fits
from minidiff.kernels.pallas_group_norm import fits as group_norm_fits
from minidiff.kernels.pallas_group_norm import group_norm_silu
from minidiff.kernels.platform import assume

BLOCK = 16

# Flash attention


@settings(max_examples=4)
@given(
    sizes=st.tuples(*(st.integers(1, most) for most in (2, 40, 40, 2, 20))), causal=st.booleans()
)
@example(sizes=(1, 33, 1, 1, 3), causal=False)
@example(sizes=(1, 17, 35, 2, 5), causal=True)
def test_flash_follows_the_equation(sizes, causal):
    mask = make_mask("causal", *sizes[:3]) if causal else None
    agrees(lambda q, k, v: flash(q, k, v, causal, BLOCK), inputs(*sizes), mask)


def test_flash_in_half_precision():
    arrays = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in inputs(1, 20, 18, 2, 8)]
    q, k, v = (x.astype(jnp.bfloat16) for x in arrays[:3])
    found = value_and_gradients(lambda *qkv: flash(*qkv, False, BLOCK), q, k, v, arrays[3])
    for one, expected in zip(found, exact(*arrays), strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(one.astype(jnp.float32), expected, atol=0.06)


def test_flash_where_a_padded_key_would_outweigh_all():
    q, k, v, slope = inputs(1, 5, 6, 1, 4)
    agrees(lambda q, k, v: flash(q, k, v, False, BLOCK), (9 + q, k / 9 - 9, v, slope))


# CLIP's loss


def embeddings(pairs, width, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.float32(rng.normal(size=(pairs, width)) * size) for size in (3, 1)]


def exact_clip(image, text):
    """Loss and gradients in float64, of rows as they are."""
    value, (to_image, to_text, _) = exact_losses(image, text, 0.0, normalised=False)
    return value, to_image, to_text


def test_exact_clip_is_what_is_taught():
    """At directions, whose gradients are those of embeddings but for the part along the direction."""
    image, text = (normalize(x) for x in embeddings(7, 5))
    value, gradients = jax.value_and_grad(contrastive_loss.reference, (0, 1))(image, text, 0.0)
    exact, *slopes = exact_clip(image, text)
    across = [
        s - (s * x).sum(1, keepdims=True) * x for s, x in zip(slopes, (image, text), strict=True)
    ]
    assert_within((value, *gradients), (exact, *across), may_be_off(7, 5, 1.0))


@settings(max_examples=4)
@given(pairs=st.integers(1, 40), width=st.integers(1, 20))
@example(pairs=1, width=3)
@example(pairs=33, width=17)
def test_clip_pallas_is_the_reference(pairs, width):
    image, text = embeddings(pairs, width)

    def loss(image, text):
        return 3 * clip_pallas(image, text, BLOCK)

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(image, text)
    expected = [3 * x for x in exact_clip(image, text)]
    for found, right in zip((value, *gradients), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


def test_clip_pallas_where_a_padded_pair_would_outweigh_all():
    image, text = embeddings(6, 4)
    image, text = image / 9 + 9, text / 9 - 9
    assert float((image @ text.T).max()) < -100  # exp(0 - that) is more than float32 holds
    loss = partial(clip_pallas, block=BLOCK)
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(image, text)
    for found, right in zip((value, *gradients), exact_clip(image, text), strict=True):
        np.testing.assert_allclose(found, right, atol=3e-4)


def test_clip_pallas_in_half_precision():
    image, text = (x.astype(jnp.bfloat16) for x in embeddings(20, 8))
    value, gradients = jax.jit(
        jax.value_and_grad(lambda image, text: clip_pallas(image, text, BLOCK), (0, 1))
    )(image, text)
    for found, right in zip((value, *gradients), exact_clip(image, text), strict=True):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(jnp.float32), right, rtol=0.01, atol=1e-4)


# GroupNorm and SiLU


def silu_of_group_norm(x, scale, shift, groups, eps=1e-5):
    return jax.nn.silu(layers.group_norm.reference(x, scale, shift, groups, eps))


def gradients_of(twin, groups, eps=1e-5):
    def weighted(x, scale, shift, slope):
        out = twin(x, scale, shift, groups, eps)
        return (out.astype(jnp.float32) * slope).sum(), out

    return jax.jit(jax.value_and_grad(weighted, (0, 1, 2), has_aux=True))


def normalised(shape, groups, offset=0.0, dtype=jnp.float32, eps=1e-5):
    """Value and gradients of kernel and reference, the reference's in float32."""
    rng = np.random.default_rng(0)
    x, slope = rng.normal(size=(2, *shape)) * 2
    rows = rng.normal(size=(2, shape[-1]))
    low = [jnp.asarray(a, dtype) for a in (x + offset, *rows)]
    high = [a.astype(jnp.float32) for a in low]
    slope = jnp.asarray(slope, dtype).astype(jnp.float32)  # the kernel sees it so rounded
    for twin, arrays in ((group_norm_silu, low), (silu_of_group_norm, high)):
        (_, value), gradients = gradients_of(twin, groups, eps)(*arrays, slope)
        yield value, *gradients


@settings(max_examples=4)
@given(
    batch=st.integers(1, 2),
    side=st.tuples(st.integers(1, 6), st.integers(1, 7)),
    groups=st.integers(1, 5),
    size=st.integers(1, 5),
)
@example(batch=1, side=(3, 5), groups=3, size=4)
@example(batch=2, side=(4, 5), groups=17, size=1)
def test_group_norm_silu_is_the_reference(batch, side, groups, size):
    # One value a group has variance 0, and its slope, 1 / sqrt(eps), shows every rounding.
    for found, expected in zip(
        *normalised((batch, *side, groups * size), groups, eps=0.1), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=3e-5)


def test_group_norm_silu_of_values_far_from_zero():
    for found, expected in zip(*normalised((2, 3, 7, 6), 2, offset=100.0), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_group_norm_silu_in_half_precision():
    found, expected = normalised((2, 4, 4, 8), 4, dtype=jnp.bfloat16)
    for one, right in zip(found, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(one.astype(jnp.float32), right, rtol=0.02, atol=0.02)


def test_a_twin_without_the_silu_is_caught():
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.normal(size=(1, 3, 3, 4)))
    one, other = jnp.ones(4), jnp.zeros(4)
    plain = layers.group_norm.reference(x, one, other, 2)
    assert float(jnp.abs(group_norm_silu(x, one, other, 2) - plain).max()) > 0.1


# The accelerators


def zeros(*shape):
    return lambda dtype: jax.ShapeDtypeStruct(shape, dtype)


KERNELS = {
    "flash": (lambda *qkv: flash(*qkv), [zeros(2, 200, 2, 40)] * 3),
    "causal flash": (lambda *qkv: flash(*qkv, True), [zeros(2, 200, 2, 40)] * 3),
    "clip": (lambda *pair: clip_pallas(*pair), [zeros(200, 40)] * 2),
    "group norm": (
        lambda *arrays: group_norm_silu(*arrays, 4),
        [zeros(2, 9, 9, 48), zeros(48), zeros(48)],
    ),
}
TRITON = "__gpu$xla.gpu.triton"


@contextlib.contextmanager
def some_gpu():
    """What JAX wants told about a GPU that is not here, and that from 0.11 it deprecates Triton."""
    with contextlib.ExitStack() as stack:
        if jax.__version_info__ >= (0, 11):
            from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

            device = AbstractDevice(
                device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu"
            )
            stack.enter_context(use_abstract_mesh(AbstractMesh((), (), abstract_device=device)))
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "The Pallas Triton backend", DeprecationWarning)
        yield


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("target", ["tpu", "cuda"])
@pytest.mark.parametrize("name", KERNELS)
def test_lowers(name, target, dtype):
    kernel, shapes = KERNELS[name]

    def loss(*arrays):
        return kernel(*arrays).astype(jnp.float32).sum()

    step = jax.value_and_grad(loss, argnums=tuple(range(len(shapes))))
    # JAX does not promise to read a stored Triton program later; nothing here is stored.
    unchecked = [jax.export.DisabledSafetyCheck.custom_call(TRITON)]
    here = some_gpu() if target == "cuda" else contextlib.nullcontext()
    with assume("gpu" if target == "cuda" else target, pallas=True), here:
        exported = jax.export.export(jax.jit(step), platforms=[target], disabled_checks=unchecked)(
            *(shape(dtype) for shape in shapes)
        )
    calls = exported.mlir_module().count(f"@{'tpu_custom_call' if target == 'tpu' else TRITON}")
    assert calls == {"flash": 3, "causal flash": 3, "clip": 4, "group norm": 2}[name]


def test_what_fits_in_fast_memory():
    def fits(test, *shapes):
        return test(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))

    assert fits(pallas_attention.fits, *[(1, 2048, 8, 64)] * 2)
    assert not fits(pallas_attention.fits, (1, 16, 8, 64), (1, 8192, 8, 64))
    assert fits(clip_fits, (8192, 128))
    assert not fits(clip_fits, (16384, 128))
    assert fits(group_norm_fits, (64, 32, 32, 128))
    assert not fits(group_norm_fits, (64, 64, 64, 320))
