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
from rounding import FUNCTION, assert_within, exact_losses, rounding
from rounding import contrastive as may_be_off

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
    np.testing.assert_allclose(module.normalize(x), expected, rtol=rounding(3 + 2 * FUNCTION))
    slope = jax.jit(jax.grad(lambda x: module.normalize(x)[:, 0].sum()))(x)
    assert np.isfinite(slope).all()
    # 1 / 5 - 9 / 125: their sizes add up to twice the result and a bit.
    np.testing.assert_allclose(
        slope[0], [0.64 / 5, -0.48 / 5], rtol=rounding(8 + 3 * FUNCTION, condition=3)
    )


def check_clip(module):
    for pairs, log_scale in ((1, 2.0), (3, 0.0), (6, 3.0)):
        image, text = embeddings(pairs)
        expected = clip_loop(image, text, log_scale)
        for loss in (module.contrastive_loss, module.contrastive_loss.reference):
            found = jax.jit(loss)(image, text, jnp.float32(log_scale))
            assert_within(found, expected, may_be_off(pairs, 8, math.exp(log_scale)))


def check_siglip(module):
    for pairs, log_scale, bias in ((1, 2.0, 1.0), (3, 0.0, -2.0), (6, 3.0, -10.0)):
        image, text = embeddings(pairs)
        expected = siglip_loop(image, text, log_scale, bias)
        for loss in (module.siglip_loss, module.siglip_loss.reference):
            found = jax.jit(loss)(image, text, jnp.float32(log_scale), jnp.float32(bias))
            assert_within(found, expected, may_be_off(pairs, 8, math.exp(log_scale)))


def check_low_precision(module):
    """Rounded embeddings, but nothing else is rounded; gradients as low as the embeddings."""
    low = embeddings(5, dtype="bfloat16")
    high = [x.astype(jnp.float32) for x in low]
    found = jax.jit(module.cosine_similarity)(*low)
    assert found.dtype == jnp.float32
    off = rounding(3 * 8 + 2 * FUNCTION)
    np.testing.assert_allclose(found, module.cosine_similarity(*high), atol=2 * off)
    for loss, scalars in (
        (module.contrastive_loss, (SCALE,)),
        (module.siglip_loss, (SCALE, BIAS)),
    ):
        found, gradients = value_and_gradients(loss, (*low, *scalars))
        assert found.dtype == jnp.float32
        assert [g.dtype for g in gradients[:3]] == ["bfloat16", "bfloat16", "float32"]
        assert_within(found, jax.jit(loss)(*high, *scalars), 2 * may_be_off(5, 8, math.exp(SCALE)))


def prepared(pairs, scale=8.0, seed=0):
    """Arguments of the kernels: directions, the images' multiplied by the scale."""
    image, text = (jnp.float32(unit(x)) for x in embeddings(pairs, seed=seed))
    return scale * image, text


def value_and_gradients(loss, args):
    return jax.jit(jax.value_and_grad(loss, tuple(range(len(args)))))(*args)


def check_cross_entropy(module):
    logits = np.random.default_rng(0).normal(size=(3, 5))
    right = [logits[i, label] for i, label in enumerate((4, 0, 2))]
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - right)
    found = module.cross_entropy(jnp.float32(logits), jnp.array([4, 0, 2]))
    assert_within(found, expected, rounding(3 + 5 + 2 * FUNCTION, condition=2))


SHAPES = [(7, 3), (6, 2), (5, 8), (1, 1)]


def exact_of_directions(image, text, *bias):
    """Value and gradients of what a kernel is given, without that by the scale of 1."""
    value, (to_image, to_text, _, *to_bias) = exact_losses(
        image, text, 0.0, *bias, normalised=False
    )
    return value, (to_image, to_text, *to_bias)


def check_clip_twin(module):
    for pairs, chunk in SHAPES:
        args, blocks = prepared(pairs), -(-pairs // chunk)
        found = value_and_gradients(lambda *args: module.clip_chunked(*args, chunk), args)  # noqa: B023
        assert_within(found, exact_of_directions(*args), may_be_off(pairs, 8, 8.0, blocks))


def check_siglip_twin(module):
    for pairs, chunk in SHAPES:
        args, share = (*prepared(pairs), BIAS), may_be_off(pairs, 8, 8.0)
        expected = exact_of_directions(*args)
        twin = lambda *args: module.siglip_chunked(*args, chunk)  # noqa: B023, E731
        assert_within(value_and_gradients(twin, args), expected, share)
        assert_within(jax.jit(twin)(*args), expected[0], share)


def check_clip_far_apart(module):
    """Scale 100: a column's sum, if kept relative to anything but its maximum, under- or overflows.

    All images look the same way and the texts the other way, then later rows turn round.
    """
    text = jnp.eye(6)
    image = 100 * jnp.concatenate([-text[:3] - text[3:], text[3:]])
    expected = exact_of_directions(image, text)
    found = value_and_gradients(lambda *args: module.clip_chunked(*args, 2), (image, text))
    assert np.isfinite(expected[0])
    assert_within(found, expected, may_be_off(6, 6, 100.0, blocks=3))


CHECKS = {
    contrastive: [
        check_normalize,
        check_cross_entropy,
        check_clip,
        check_siglip,
        check_low_precision,
    ],
    kernels: [check_clip_twin, check_siglip_twin, check_clip_far_apart],
}


@pytest.mark.parametrize(
    ("module", "check"),
    [(module, check) for module, checks in CHECKS.items() for check in checks],
    ids=lambda x: x.__name__,
)
def test_of_a_module(module, check):
    check(module)


def in_blocks(name, chunk):
    """A loss of embeddings as the module's, with blocks of another size."""
    twin = {"contrastive_loss": kernels.clip, "siglip_loss": kernels.siglip}[name]

    def loss(image, text, log_scale, *bias):
        return twin(*contrastive.scaled_pairs(image, text, log_scale), *bias, chunk)

    return loss


@pytest.mark.parametrize("pairs", [1, 2, 50])
def test_identical_embeddings_give_log_n(pairs):
    same = jnp.ones((pairs, 4))
    for log_scale in (0.0, contrastive.LOG_SCALE_INIT, contrastive.LOG_SCALE_MAX):
        loss = in_blocks("contrastive_loss", 16)(same, 2 * same, log_scale)
        # Whatever the scale: the logits are rounded all alike, and what is left is a sum of ones.
        size = math.exp(log_scale)  # of the logits, which have to cancel
        off = rounding(2 * pairs + 4 * FUNCTION, condition=size + math.log(pairs))
        np.testing.assert_allclose(loss, math.log(pairs), atol=off)
    logit = 10 - 10  # the scale and the bias that SigLIP starts with
    expected = math.log1p(math.exp(-logit)) + (pairs - 1) * math.log1p(math.exp(logit))
    start = contrastive.SIGLIP_LOG_SCALE_INIT, contrastive.SIGLIP_BIAS_INIT
    loss = in_blocks("siglip_loss", 16)(same, 2 * same, *map(jnp.float32, start))
    off = may_be_off(pairs, 4, 10.0)
    np.testing.assert_allclose(loss, expected, rtol=off)


def test_found_pairs_give_nothing_and_swapped_pairs_much():
    apart = jnp.eye(4)
    loss = partial(contrastive.contrastive_loss, log_scale=contrastive.LOG_SCALE_MAX)
    assert 0 <= loss(apart, apart) < 1e-6
    np.testing.assert_allclose(loss(apart, jnp.roll(apart, 1, axis=0)), 100, rtol=1e-5)


@settings(max_examples=10)
@given(order=st.permutations(range(7)), stretch=st.floats(0.01, 100))
def test_order_of_pairs_and_lengths_do_not_matter(order, stretch):
    order, (image, text) = jnp.asarray(order), embeddings(7)
    off = 2 * may_be_off(7, 8, math.exp(SCALE), blocks=3)
    for name, scalars in (("contrastive_loss", [SCALE]), ("siglip_loss", [SCALE, BIAS])):
        loss = in_blocks(name, 3)
        expected = loss(image, text, *scalars)
        found = loss(stretch * image[order], text[order], *scalars)
        assert_within(found, expected, off)
        assert_within(loss(text, image, *scalars), expected, off)
        one_side = loss(image[order], text, *scalars)
        assert (list(order) == list(range(7))) == bool(jnp.allclose(one_side, expected, rtol=1e-4))


def test_cosine_similarity():
    image = jnp.asarray([[2.0, 0.0], [1.0, 1.0]])
    text = jnp.asarray([[0.0, 3.0], [5.0, 0.0], [-1.0, 0.0]])
    root = math.sqrt(0.5)
    found = contrastive.cosine_similarity(image, text)
    off = rounding(3 * 2 + 2 * FUNCTION)
    np.testing.assert_allclose(found, [[0, 1, -1], [root, root, -root]], atol=off)


def test_clamp():
    for log_scale, expected in ((-1.0, 0.0), (2.5, 2.5), (9.0, math.log(100))):
        assert float(contrastive.clamp_log_scale(jnp.float32(log_scale))) == pytest.approx(expected)
    start = contrastive.LOG_SCALE_INIT, contrastive.SIGLIP_LOG_SCALE_INIT
    np.testing.assert_allclose(np.exp(start), (1 / 0.07, 10))


@pytest.mark.parametrize(("pairs", "chunk", "dtype"), [(70, 16, "float32"), (17, 512, "bfloat16")])
def test_whole_losses_do_not_depend_on_the_chunk(pairs, chunk, dtype):
    """Value and gradients by the embeddings and every scalar, in float64 and as the module has them."""
    args = (*embeddings(pairs, width=16, dtype=dtype), SCALE, BIAS)
    off = may_be_off(pairs, 16, math.exp(SCALE), blocks=-(-pairs // chunk))
    low = (
        off if dtype == "float32" else off + 2**-8
    )  # a gradient is rounded to the embeddings' type
    for name, count in (("contrastive_loss", 3), ("siglip_loss", 4)):
        value, gradients = exact_losses(*args[:count])
        for loss in (in_blocks(name, chunk), getattr(contrastive, name).reference):
            found, slopes = value_and_gradients(loss, args[:count])
            assert [slope.dtype for slope in slopes[:2]] == [dtype, dtype]
            assert_within((found, slopes[2:]), (value, gradients[2:]), off)
            assert_within(slopes[:2], gradients[:2], low)


@pytest.mark.parametrize("loss", ["contrastive_loss", "siglip_loss"])
def test_memory_is_a_tenth(loss):
    """Compiled and not run: XLA's own account of what value and gradient need."""
    shape, scalar = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16_384, 64), ()))
    args = (shape, shape, scalar) if loss == "contrastive_loss" else (shape, shape, scalar, scalar)

    def memory(function):
        compiled = jax.jit(jax.value_and_grad(function, (0, 1))).lower(*args).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    dense = memory(getattr(contrastive, loss).reference)
    assert dense >= 4 * 16_384**2
    assert memory(getattr(contrastive, loss)) <= dense / 10


@pytest.mark.parametrize("loss", ["contrastive_loss", "siglip_loss"])
def test_gradients_lower_for_accelerators(loss):
    args = (*embeddings(70, dtype="bfloat16"), SCALE, BIAS)[
        : 3 if loss == "contrastive_loss" else 4
    ]
    function = in_blocks(loss, 16)
    gradient = jax.jit(jax.value_and_grad(function, tuple(range(len(args)))))
    exported = jax.export.export(gradient, platforms=["cuda", "tpu"])(*args)
    assert exported.platforms == ("cuda", "tpu")
    assert len(exported.out_avals) == 1 + len(args)


@pytest.mark.parametrize("loss", ["contrastive_loss", "siglip_loss"])
def test_bad_input(loss):
    scalars = [0.0] if loss == "contrastive_loss" else [0.0, 0.0]
    image, text = embeddings(3)
    operation = getattr(contrastive, loss)
    for function in (operation, operation.reference):
        with pytest.raises(InputError, match="3 images and 2 texts"):
            function(image, text[:2], *scalars)
        with pytest.raises(InputError, match="0 images"):
            function(image[:0], text[:0], *scalars)
    with pytest.raises(InputError, match="chunk is 0"):
        in_blocks(loss, 0)(image, text, *map(jnp.float32, scalars))


def test_a_mesh_of_one_device():
    image, text = embeddings(5)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    shard = partial(jax.shard_map, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P())
    clip = shard(lambda *pair: contrastive.sharded_contrastive_loss(*pair, SCALE, "data"))
    siglip = shard(lambda *pair: contrastive.ring_siglip_loss(*pair, SCALE, BIAS, "data"))
    clip, siglip = jax.jit(clip), jax.jit(siglip)
    off = may_be_off(5, 8, math.exp(SCALE))
    assert_within(clip(image, text), exact_losses(image, text, SCALE)[0], off)
    assert_within(siglip(image, text), exact_losses(image, text, SCALE, BIAS)[0], off)


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
    assert all(found["within"].values()), found["errors"]
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
        assert all(each["within"].values()), each["errors"]


ROWS_AND_COLUMNS = "(cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2"
DIRECTIONS = "return _scale(log_scale) * normalize(image_embeddings), normalize(text_embeddings)"
MUTANTS = {
    # name: (module, what stands there, the mistake, the check that catches it)
    "images not normalised": (
        contrastive,
        DIRECTIONS,
        DIRECTIONS.replace("normalize(image_embeddings)", "image_embeddings.astype(jnp.float32)"),
        check_clip,
    ),
    "texts not normalised": (
        contrastive,
        DIRECTIONS,
        DIRECTIONS.replace("normalize(text_embeddings)", "text_embeddings.astype(jnp.float32)"),
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
        "jnp.exp(jnp.asarray(log_scale, jnp.float32))",
        "jnp.asarray(log_scale, jnp.float32)",
        check_clip,
    ),
    "divided by the scale": (
        contrastive,
        "return jnp.exp(",
        "return 1 / jnp.exp(",
        check_clip,
    ),
    "low precision kept": (contrastive, "x = x.astype(jnp.float32)", "pass", check_low_precision),
    "bias forgotten": (
        contrastive,
        " + jnp.asarray(bias, jnp.float32)\n",
        "\n",
        check_siglip,
    ),
    "twin is given no bias": (
        contrastive,
        "log_scale), jnp.asarray(bias, jnp.float32)",
        "log_scale), jnp.float32(0)",
        check_siglip,
    ),
    "no symmetric half": (
        contrastive,
        ROWS_AND_COLUMNS,
        "cross_entropy(logits, pairs)",
        check_clip,
    ),
    "halves added": (
        contrastive,
        ROWS_AND_COLUMNS,
        ROWS_AND_COLUMNS.removesuffix(" / 2"),
        check_clip,
    ),
    "softmax over the wrong axis": (
        contrastive,
        "logsumexp(logits, axis=1) - right)",
        "logsumexp(logits, axis=0).mean() - right)",
        check_cross_entropy,
    ),
    "labels along the wrong axis": (
        contrastive,
        "labels[:, None], axis=1",
        "labels[:, None], axis=0",
        check_clip,
    ),
    "mean of all terms": (
        contrastive,
        "jnp.mean(jnp.sum(jax.nn.log_sigmoid(z * logits), axis=1))",
        "jnp.mean(jax.nn.log_sigmoid(z * logits))",
        check_siglip,
    ),
    "z upside down": (
        contrastive,
        "jax.nn.log_sigmoid(z * logits)",
        "jax.nn.log_sigmoid(-z * logits)",
        check_siglip,
    ),
    "twin: z upside down where no gradient is wanted": (
        kernels,
        "softplus(jnp.where(is_pair, -logits, logits))",
        "softplus(jnp.where(is_pair, logits, -logits))",
        check_siglip_twin,
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
