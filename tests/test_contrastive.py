"""The contrastive losses: closed forms, NumPy loops, properties, twins, devices and processes."""

import inspect
import json
import math
import os
import socket
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from minidiff import contrastive
from minidiff.errors import InputError
from minidiff.kernels import contrastive as kernels

SCALE = jnp.float32(2.0)
BIAS = jnp.float32(-4.0)
HELPER = Path(__file__).with_name("contrastive_devices.py")


def embeddings(pairs, width=8, seed=0, dtype="float32"):
    """Pairs that are a little alike; lengths far from 1."""
    rng = np.random.default_rng(seed)
    image, other = rng.normal(size=(2, pairs, width))
    return jnp.asarray(3 * image, dtype), jnp.asarray(image + 2 * other, dtype)


def unit(x):
    x = np.asarray(x.astype(jnp.float32), np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def clip_loop(image, text, log_scale):
    logits, total = np.exp(float(log_scale)) * unit(image) @ unit(text).T, 0.0
    for i in range(len(logits)):
        right = np.exp(logits[i, i])
        total -= math.log(right / sum(np.exp(logits[i, j]) for j in range(len(logits))))
        total -= math.log(right / sum(np.exp(logits[j, i]) for j in range(len(logits))))
    return total / (2 * len(logits))


def siglip_loop(image, text, log_scale, bias):
    logits, total = np.exp(float(log_scale)) * unit(image) @ unit(text).T + float(bias), 0.0
    for i in range(len(logits)):
        for j in range(len(logits)):
            z = 1 if i == j else -1
            total -= math.log(1 / (1 + math.exp(-z * logits[i, j])))
    return total / len(logits)


# Checks of a module, which also have to catch the planted mistakes at the end of this file.


def check_normalize(module):
    x = jnp.asarray([[3.0, 4.0], [-1e-3, 0.0], [0.0, 0.0], [1e15, 1e15]])
    root = math.sqrt(0.5)
    expected = [[0.6, 0.8], [-1.0, 0.0], [0.0, 0.0], [root, root]]
    np.testing.assert_allclose(module.normalize(x), expected, rtol=1e-6)
    slope = jax.jit(jax.grad(lambda x: module.normalize(x)[:, 0].sum()))(x)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[0], [0.64 / 5, -0.48 / 5], rtol=1e-6)


def check_clip(module):
    for pairs, log_scale in ((1, 2.0), (3, 0.0), (6, 3.0)):
        image, text = embeddings(pairs)
        found = jax.jit(module.contrastive_loss)(image, text, jnp.float32(log_scale))
        np.testing.assert_allclose(found, clip_loop(image, text, log_scale), rtol=2e-6, atol=1e-7)


def check_siglip(module):
    for pairs, log_scale, bias in ((1, 2.0, 1.0), (3, 0.0, -2.0), (6, 3.0, -10.0)):
        image, text = embeddings(pairs)
        found = jax.jit(module.siglip_loss)(image, text, jnp.float32(log_scale), jnp.float32(bias))
        expected = siglip_loop(image, text, log_scale, bias)
        np.testing.assert_allclose(found, expected, rtol=2e-6)


def check_low_precision(module):
    """Rounded embeddings, but nothing else is rounded; gradients as low as the embeddings."""
    low = embeddings(5, dtype="bfloat16")
    high = [x.astype(jnp.float32) for x in low]
    found = jax.jit(module.cosine_similarity)(*low)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, module.cosine_similarity(*high), atol=1e-6)
    for loss, scalars in (
        (module.contrastive_loss, (SCALE,)),
        (module.siglip_loss, (SCALE, BIAS)),
    ):
        found, gradients = value_and_gradients(loss, (*low, *scalars))
        assert found.dtype == jnp.float32
        assert [g.dtype for g in gradients[:3]] == ["bfloat16", "bfloat16", "float32"]
        np.testing.assert_allclose(found, jax.jit(loss)(*high, *scalars), rtol=1e-6)


def prepared(pairs, scale=8.0, seed=0):
    """Arguments of the kernels: directions, the images' multiplied by the scale."""
    image, text = (jnp.float32(unit(x)) for x in embeddings(pairs, seed=seed))
    return scale * image, text


def value_and_gradients(loss, args):
    return jax.jit(jax.value_and_grad(loss, tuple(range(len(args)))))(*args)


def assert_close(found, expected, tight=2e-6):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        a, b = (np.asarray(x.astype(jnp.float32)) for x in (a, b))
        assert np.abs(a - b).max() <= tight * np.abs(b).max() + 1e-9


def check_cross_entropy(module):
    logits = np.random.default_rng(0).normal(size=(3, 5))
    right = [logits[i, label] for i, label in enumerate((4, 0, 2))]
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - right)
    found = module.cross_entropy(jnp.float32(logits), jnp.array([4, 0, 2]))
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def check_clip_reference(module):
    image, text = prepared(6)
    expected = clip_loop(image, text, math.log(8.0))
    np.testing.assert_allclose(jax.jit(module.clip_reference)(image, text), expected, rtol=2e-6)


def check_siglip_reference(module):
    image, text = prepared(6)
    expected = siglip_loop(image, text, math.log(8.0), BIAS)
    np.testing.assert_allclose(
        jax.jit(module.siglip_reference)(image, text, BIAS), expected, rtol=2e-6
    )


SHAPES = [(7, 3), (6, 2), (5, 8), (1, 1)]


def check_clip_twin(module):
    for pairs, chunk in SHAPES:
        args = prepared(pairs)
        expected = value_and_gradients(kernels.clip_reference, args)
        found = value_and_gradients(lambda *args: module.clip_chunked(*args, chunk), args)  # noqa: B023
        assert_close(found, expected)


def check_siglip_twin(module):
    for pairs, chunk in SHAPES:
        args = (*prepared(pairs), BIAS)
        expected = value_and_gradients(kernels.siglip_reference, args)
        twin = lambda *args: module.siglip_chunked(*args, chunk)  # noqa: B023, E731
        assert_close(value_and_gradients(twin, args), expected)
        np.testing.assert_allclose(jax.jit(twin)(*args), expected[0], rtol=2e-6)


def check_clip_far_apart(module):
    """Scale 100: a column's sum, if kept relative to anything but its maximum, under- or overflows.

    All images look the same way and the texts the other way, then later rows turn round.
    """
    text = jnp.eye(6)
    image = 100 * jnp.concatenate([-text[:3] - text[3:], text[3:]])
    expected = value_and_gradients(kernels.clip_reference, (image, text))
    found = value_and_gradients(lambda *args: module.clip_chunked(*args, 2), (image, text))
    assert np.isfinite(expected[0])
    assert_close(found, expected)


CHECKS = {
    contrastive: [check_normalize, check_clip, check_siglip, check_low_precision],
    kernels: [
        check_cross_entropy,
        check_clip_reference,
        check_siglip_reference,
        check_clip_twin,
        check_siglip_twin,
        check_clip_far_apart,
    ],
}


@pytest.mark.parametrize(
    ("module", "check"),
    [(module, check) for module, checks in CHECKS.items() for check in checks],
    ids=lambda x: x.__name__,
)
def test_of_a_module(module, check):
    check(module)


@pytest.mark.parametrize("pairs", [1, 2, 50])
def test_identical_embeddings_give_log_n(pairs):
    same = jnp.ones((pairs, 4))
    for log_scale in (0.0, contrastive.LOG_SCALE_INIT, contrastive.LOG_SCALE_MAX):
        loss = contrastive.contrastive_loss(same, 2 * same, log_scale, chunk=16)
        np.testing.assert_allclose(loss, math.log(pairs), rtol=1e-6, atol=1e-6)
    logit = 10 - 10  # the scale and the bias that SigLIP starts with
    expected = math.log1p(math.exp(-logit)) + (pairs - 1) * math.log1p(math.exp(logit))
    start = contrastive.SIGLIP_LOG_SCALE_INIT, contrastive.SIGLIP_BIAS_INIT
    loss = contrastive.siglip_loss(same, 2 * same, *start, chunk=16)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_found_pairs_give_nothing_and_swapped_pairs_much():
    apart = jnp.eye(4)
    loss = partial(contrastive.contrastive_loss, log_scale=contrastive.LOG_SCALE_MAX)
    assert 0 <= loss(apart, apart) < 1e-6
    np.testing.assert_allclose(loss(apart, jnp.roll(apart, 1, axis=0)), 100, rtol=1e-5)


@settings(max_examples=10)
@given(order=st.permutations(range(7)), stretch=st.floats(0.01, 100))
def test_order_of_pairs_and_lengths_do_not_matter(order, stretch):
    order, (image, text) = jnp.asarray(order), embeddings(7)
    for loss, scalars in (
        (contrastive.contrastive_loss, [SCALE]),
        (contrastive.siglip_loss, [SCALE, BIAS]),
    ):
        expected = loss(image, text, *scalars, chunk=3)
        found = loss(stretch * image[order], text[order], *scalars, chunk=3)
        np.testing.assert_allclose(found, expected, rtol=3e-6)
        np.testing.assert_allclose(loss(text, image, *scalars), expected, rtol=3e-6)
        one_side = loss(image[order], text, *scalars, chunk=3)
        assert (list(order) == list(range(7))) == bool(jnp.allclose(one_side, expected, rtol=1e-4))


def test_cosine_similarity():
    image = jnp.asarray([[2.0, 0.0], [1.0, 1.0]])
    text = jnp.asarray([[0.0, 3.0], [5.0, 0.0], [-1.0, 0.0]])
    root = math.sqrt(0.5)
    found = contrastive.cosine_similarity(image, text)
    np.testing.assert_allclose(found, [[0, 1, -1], [root, root, -root]], atol=1e-6)


def test_clamp():
    for log_scale, expected in ((-1.0, 0.0), (2.5, 2.5), (9.0, math.log(100))):
        assert float(contrastive.clamp_log_scale(jnp.float32(log_scale))) == pytest.approx(expected)
    start = contrastive.LOG_SCALE_INIT, contrastive.SIGLIP_LOG_SCALE_INIT
    np.testing.assert_allclose(np.exp(start), (1 / 0.07, 10))


@pytest.mark.parametrize(("pairs", "chunk", "dtype"), [(70, 16, "float32"), (17, 512, "bfloat16")])
def test_whole_losses_do_not_depend_on_the_chunk(pairs, chunk, dtype):
    """Value and gradients by the embeddings and every scalar, against the references."""
    args = (*embeddings(pairs, width=16, dtype=dtype), SCALE, BIAS)
    normalize = contrastive.normalize

    def clip(image, text, log_scale):
        return kernels.clip_reference(jnp.exp(log_scale) * normalize(image), normalize(text))

    def siglip(image, text, log_scale, bias):
        image = jnp.exp(log_scale) * normalize(image)
        return kernels.siglip_reference(image, normalize(text), bias)

    tight = 4e-6 if dtype == "float32" else 2**-7  # a bfloat16 gradient may round the other way
    for dense, chunked, count in (
        (clip, contrastive.contrastive_loss, 3),
        (siglip, contrastive.siglip_loss, 4),
    ):
        found = value_and_gradients(partial(chunked, chunk=chunk), args[:count])
        expected = value_and_gradients(dense, args[:count])
        assert_close((found[0], found[1][2:]), (expected[0], expected[1][2:]), 4e-6)
        assert_close(found[1][:2], expected[1][:2], tight)


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_memory_is_a_tenth(loss):
    """Compiled and not run: XLA's own account of what value and gradient need."""
    shape = jax.ShapeDtypeStruct((16_384, 64), jnp.float32)
    args = (shape, shape) if loss == "clip" else (shape, shape, jax.ShapeDtypeStruct((), "float32"))

    def memory(function):
        compiled = jax.jit(jax.value_and_grad(function, (0, 1))).lower(*args).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    dense = memory(getattr(kernels, f"{loss}_reference"))
    assert dense >= 4 * 16_384**2
    assert memory(getattr(kernels, loss)) <= dense / 10


@pytest.mark.parametrize("loss", ["contrastive_loss", "siglip_loss"])
def test_gradients_lower_for_accelerators(loss):
    args = (*embeddings(70, dtype="bfloat16"), SCALE, BIAS)[
        : 3 if loss == "contrastive_loss" else 4
    ]
    function = partial(getattr(contrastive, loss), chunk=16)
    gradient = jax.jit(jax.value_and_grad(function, tuple(range(len(args)))))
    exported = jax.export.export(gradient, platforms=["cuda", "tpu"])(*args)
    assert exported.platforms == ("cuda", "tpu")
    assert len(exported.out_avals) == 1 + len(args)


@pytest.mark.parametrize("loss", ["contrastive_loss", "siglip_loss"])
def test_bad_input(loss):
    scalars = [0.0] if loss == "contrastive_loss" else [0.0, 0.0]
    image, text = embeddings(3)
    function = getattr(contrastive, loss)
    with pytest.raises(InputError, match="3 images and 2 texts"):
        function(image, text[:2], *scalars)
    with pytest.raises(InputError, match="0 images"):
        function(image[:0], text[:0], *scalars)
    with pytest.raises(InputError, match="chunk is 0"):
        function(image, text, *scalars, chunk=0)


def test_a_mesh_of_one_device():
    image, text = embeddings(5)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    shard = partial(jax.shard_map, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P())
    clip = shard(lambda *pair: contrastive.sharded_contrastive_loss(*pair, SCALE, "data"))
    siglip = shard(lambda *pair: contrastive.ring_siglip_loss(*pair, SCALE, BIAS, "data"))
    clip, siglip = jax.jit(clip), jax.jit(siglip)
    expected = contrastive.contrastive_loss(image, text, SCALE)
    np.testing.assert_allclose(clip(image, text), expected, rtol=2e-6)
    expected = contrastive.siglip_loss(image, text, SCALE, BIAS)
    np.testing.assert_allclose(siglip(image, text), expected, rtol=2e-6)


def start(*args):
    # gRPC would look for a proxy even on the way to this machine itself.
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return subprocess.Popen(
        [sys.executable, str(HELPER), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def answers(processes, patience=240):
    """The JSON that each process ends with, or None and what they said if one fails or hangs."""
    try:
        said = [process.communicate(timeout=patience) for process in processes]
    except subprocess.TimeoutExpired:
        return None, f"no answer in {patience} s"
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    if any(process.returncode for process in processes):
        return None, "\n".join(stderr for _, stderr in said)
    return [json.loads(stdout.splitlines()[-1]) for stdout, _ in said], ""


@pytest.mark.long
def test_sharded_losses_on_eight_devices():
    found, failure = answers([start(8)])
    assert found, failure
    [found] = found
    assert len(found["errors"]) == 4
    assert all(error < 2e-6 for error in found["errors"].values()), found["errors"]
    assert found["platforms"] == [["cuda", "tpu"]] * 2
    # The same comparison sees what would be wrong.
    assert len(found["mistakes"]) == 7
    assert all(error > 1e-2 for error in found["mistakes"].values()), found["mistakes"]


@pytest.mark.long
def test_sharded_losses_on_two_processes():
    for _ in range(3):  # another program may take the free port before it is used
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        found, failure = answers([start(1, address, 2, process) for process in range(2)])
        if found or "address" not in failure.lower():
            break
    assert found, failure
    for each in found:
        assert len(each["errors"]) == 2
        assert all(error < 2e-6 for error in each["errors"].values()), each["errors"]


ROWS_AND_COLUMNS = "(cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2"
MUTANTS = {
    # name: (module, what stands there, the mistake, the check that catches it)
    "images not normalised": (
        contrastive,
        "scale * normalize(image_embeddings)",
        "scale * image_embeddings.astype(jnp.float32)",
        check_clip,
    ),
    "texts not normalised": (
        contrastive,
        "normalize(image_embeddings), normalize(text_embeddings)\n\n",
        "normalize(image_embeddings), text_embeddings.astype(jnp.float32)\n\n",
        check_clip,
    ),
    "normalised by the wrong axis": (contrastive, "axis=-1", "axis=0", check_normalize),
    "squared length": (contrastive, "x / jnp.sqrt(jnp", "x / (jnp", check_normalize),
    "not safe at zero": (
        contrastive,
        "jnp.where(square > 1e-30, square, 1.0)",
        "square",
        check_normalize,
    ),
    "scale not exponentiated": (
        contrastive,
        "jnp.exp(jnp.float32(log_scale))",
        "jnp.float32(log_scale)",
        check_clip,
    ),
    "divided by the scale": (
        contrastive,
        "return scale * norm",
        "return 1 / scale * norm",
        check_clip,
    ),
    "low precision kept": (contrastive, "x = x.astype(jnp.float32)", "pass", check_low_precision),
    "bias forgotten": (contrastive, "jnp.float32(bias)", "jnp.float32(0)", check_siglip),
    "no symmetric half": (
        kernels,
        ROWS_AND_COLUMNS,
        "cross_entropy(logits, pairs)",
        check_clip_reference,
    ),
    "halves added": (
        kernels,
        ROWS_AND_COLUMNS,
        ROWS_AND_COLUMNS.removesuffix(" / 2"),
        check_clip_reference,
    ),
    "softmax over the wrong axis": (
        kernels,
        "logsumexp(logits, axis=1) - right)",
        "logsumexp(logits, axis=0).mean() - right)",
        check_cross_entropy,
    ),
    "labels along the wrong axis": (
        kernels,
        "labels[:, None], axis=1",
        "labels[:, None], axis=0",
        check_clip_reference,
    ),
    "mean of all terms": (
        kernels,
        "jnp.mean(terms.sum(axis=1))",
        "jnp.mean(terms)",
        check_siglip_reference,
    ),
    "z upside down": (
        kernels,
        "softplus(jnp.where(is_pair, -logits, logits))",
        "softplus(jnp.where(is_pair, logits, -logits))",
        check_siglip_reference,
    ),
    "twin: column sums not moved to the new maximum": (
        kernels,
        "total * jnp.exp(top - new_top)",
        "total",
        check_clip_far_apart,
    ),
    "twin: maximum of the block alone": (
        kernels,
        "jnp.maximum(top, logits.max(axis=0))",
        "logits.max(axis=0)",
        check_clip_far_apart,
    ),
    "twin: gradient of the rows only": (
        kernels,
        "by_row + by_column",
        "2 * by_row",
        check_clip_twin,
    ),
    "twin: half of the pairs' pull": (kernels, "one, 2.0, 0.0", "one, 1.0, 0.0", check_clip_twin),
    "twin: every block pairs with the first texts": (
        kernels,
        "one = here[:, None]",
        "one = jnp.arange(len(here))[:, None]",
        check_clip_twin,
    ),
    "twin: texts' gradient of the last block": (
        kernels,
        "return to_text + matmul(error.T, image), matmul(error, text)",
        "return matmul(error.T, image), matmul(error, text)",
        check_clip_twin,
    ),
    "twin: SigLIP's pairs pushed apart": (
        kernels,
        "jnp.where(is_pair, -1.0, 1.0)",
        "jnp.where(is_pair, 1.0, 1.0)",
        check_siglip_twin,
    ),
    "twin: SigLIP's bias per row and column": (
        kernels,
        "jnp.mean(to_bias)",
        "jnp.mean(to_bias) * share",
        check_siglip_twin,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name):
    module, right, wrong, check = MUTANTS[name]
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} must stand exactly once in {module.__name__}"
    mutant = types.ModuleType("mutant")
    exec(compile(source.replace(right, wrong), "mutant", "exec"), mutant.__dict__)
    with pytest.raises(AssertionError):
        check(mutant)
