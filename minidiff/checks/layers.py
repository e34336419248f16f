"""Exercises of lesson 00: one step of gradient descent, a key for each block, a norm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minidiff.checks.exercise import SEED, Exercise, normal
from minidiff.keys import key_of_seed
from minidiff.layers import LayerNorm, Linear

# One step of gradient descent -----------------------------------------------------------------------


def _lines() -> list[tuple]:
    params = {"weight": normal(0, 3, 2), "bias": normal(1, 2)}
    one = {"weight": jnp.array([[0.5]]), "bias": jnp.array([0.25])}
    return [
        (params, normal(2, 8, 3), normal(3, 8, 2), 0.1),
        (one, normal(4, 5, 1), normal(5, 5, 1), 0.02),
    ]


def _mean_square(params, x, y):
    return jnp.mean((Linear(**params)(x) - y) ** 2)


def _descent_step(params, x, y, rate):
    return optax.apply_updates(
        params, jax.tree.map(lambda g: -rate * g, jax.grad(_mean_square)(params, x, y))
    )


def _stepped(update, loss=_mean_square):
    """A ``descent_step`` with another update of each array, or down another loss."""

    def mistake(params, x, y, rate):
        slope = jax.grad(loss)(params, x, y)
        return jax.tree.map(lambda p, g: update(p, g, rate), params, slope)

    return mistake


def _down(p, g, rate):
    return p - rate * g


def _weight_only(params, x, y, rate):
    return {**_descent_step(params, x, y, rate), "bias": params["bias"]}


def _one_after_the_other(params, x, y, rate):
    """The weight moves first, and the bias is told the slope at the new weight."""
    for name in ("weight", "bias"):
        slope = jax.grad(_mean_square)(params, x, y)
        params = {**params, name: params[name] - rate * slope[name]}
    return params


def _descended(params, x, y, rate):
    def loss(params):
        return jnp.mean((x @ params["weight"] + params["bias"] - y) ** 2)

    slopes = jax.grad(loss)(params)
    return {name: params[name] - rate * slopes[name] for name in params}


descent_step = Exercise(
    name="descent_step",
    task="The parameters after one step of gradient descent on the mean squared error of a line.",
    solution=_descent_step,
    cases=_lines,
    mistakes={
        "the gradient points uphill: take the step against it": _stepped(lambda p, g, r: p + r * g),
        "did you forget the rate? A whole gradient is too long a step": _stepped(
            lambda p, g, r: p - g
        ),
        "the bias has not moved: every array of the tree takes a step": _weight_only,
        "these are the gradients: the answer is the parameters after the step": _stepped(
            lambda p, g, r: g
        ),
        "these are the steps: take them away from the parameters": _stepped(lambda p, g, r: r * g),
        "these are the steps, downhill: add the parameters": _stepped(lambda p, g, r: -r * g),
        "the step is the gradient times the rate: it is divided by the rate": _stepped(
            lambda p, g, r: p - g / r
        ),
        "the parameters are multiplied with the rate as well: only the gradient is": _stepped(
            lambda p, g, r: r * (p - g)
        ),
        "the loss is the *mean* of the squares over all numbers, not their sum": _stepped(
            _down, lambda params, x, y: jnp.sum((Linear(**params)(x) - y) ** 2)
        ),
        "the loss is the mean of the *squared* errors, not of their absolute values": _stepped(
            _down, lambda params, x, y: jnp.mean(jnp.abs(Linear(**params)(x) - y))
        ),
        "one gradient, taken before anything moves, serves weight and bias": _one_after_the_other,
    },
    written=_descended,
    hints=(
        "First write a function loss(params): a number, the mean of (x @ weight + bias - y) ** 2.",
        "jax.grad(loss)(params) is a dict with the same keys: the slope in each number.",
        "jax.tree.map(lambda p, g: p - rate * g, params, slopes) makes all the new arrays.",
    ),
    level=2,
    minutes=8,
)


# A key for each block -------------------------------------------------------------------------------


def _keys() -> list[tuple]:
    seeds = 0, 7 + 100 * SEED.get()
    return [(key_of_seed(seeds[0]), 3, 4), (key_of_seed(seeds[1]), 5, 2)]


def _block_weights(key, blocks, width):
    one = jax.vmap(lambda k: Linear.init(k, width, width).weight)
    return one(jax.random.split(key, blocks))


def _drawn_from(keys):
    """A ``block_weights`` whose blocks take the keys that ``keys(key, blocks)`` lists."""

    def mistake(key, blocks, width):
        return jnp.stack([Linear.init(k, width, width).weight for k in keys(key, blocks)])

    return mistake


def _chained(key, blocks):
    for _ in range(blocks):
        key, fresh = jax.random.split(key)
        yield fresh


def _whole(key, blocks, width):
    return jax.random.normal(key, (blocks, width, width), jnp.float32) / np.sqrt(width)


def _blocks(key, blocks, width):
    keys = jax.random.split(key, blocks)
    return jnp.stack([Linear.init(k, width, width).weight for k in keys])


block_weights = Exercise(
    name="block_weights",
    task="The weights of several Linear layers, each from its own key, stacked along a first axis.",
    solution=_block_weights,
    cases=_keys,
    mistakes={
        "all blocks are equal: the same key draws the same numbers, so give each its own": (
            _drawn_from(lambda key, blocks: [key] * blocks)
        ),
        "all blocks are equal: the key was split, but every block took the same part": (
            _drawn_from(lambda key, blocks: [jax.random.split(key, blocks)[0]] * blocks)
        ),
        "the key that was given is not used: every network would start the same": (
            _drawn_from(lambda key, blocks: [key_of_seed(i) for i in range(blocks)])
        ),
        "good keys, but others than asked for: jax.random.split(key, blocks) makes them all at once": (
            _drawn_from(_chained)
        ),
        "one draw for all is random enough, but asked for is Linear.init with a key for each": _whole,
        "did you forget Linear.init? It divides by the root of the width": (
            lambda key, blocks, width: jnp.stack(
                [
                    jax.random.normal(k, (width, width), jnp.float32)
                    for k in jax.random.split(key, blocks)
                ]
            )
        ),
    },
    written=_blocks,
    hints=(
        "jax.random.split(key, blocks) is an array of that many keys.",
        "Write the function for one key: Linear.init(key, width, width).weight.",
        "jax.vmap of that function takes all the keys and stacks what comes out.",
    ),
    level=2,
    minutes=5,
)


# A norm ---------------------------------------------------------------------------------------------


def _activations() -> list[tuple]:
    """Numbers far from zero, one row of equal numbers; and a large eps, so that its place shows."""
    x = (3 * normal(0, 4, 8) + 2).at[1].set(5.0)  # eight: their mean is 5, without rounding
    return [
        (x, normal(1, 8), normal(2, 8), 1e-5),
        (0.5 * normal(3, 2, 3, 8) - 1, normal(4, 8), normal(5, 8), 0.5),
    ]


def _layer_norm(x, scale, shift, eps):
    return LayerNorm(scale, shift, eps)(x)


def _normed(
    *,
    axis: int | None = -1,
    ddof: int = 0,
    centred: bool = True,
    divisor=lambda variance, eps: np.sqrt(variance + eps),
    finished=lambda normed, scale, shift: normed * scale + shift,
):
    """A ``layer_norm`` that does one thing otherwise, in NumPy."""

    def mistake(x, scale, shift, eps):
        x, scale, shift = (np.asarray(a, np.float64) for a in (x, scale, shift))
        mean, variance = x.mean(axis, keepdims=True), x.var(axis, ddof=ddof, keepdims=True)
        with np.errstate(all="ignore"):
            normed = (x - mean * centred) / divisor(variance, eps)
        return finished(normed, scale, shift)

    return mistake


def _row_by_row(x, scale, shift, eps):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + eps) * scale + shift


layer_norm = Exercise(
    name="layer_norm",
    task="Normalise the last axis of x (..., width), then scale and shift it.",
    solution=_layer_norm,
    cases=_activations,
    mistakes={
        "mean and variance are over the examples: each row is normalised by itself, on the last axis": (
            _normed(axis=0)
        ),
        "one mean for the whole array: each row has its own, on the last axis with keepdims=True": (
            _normed(axis=None)
        ),
        "this divides by the variance: its square root is the size of the numbers": _normed(
            divisor=lambda variance, eps: variance + eps
        ),
        "eps belongs under the root, beside the variance": _normed(
            divisor=lambda variance, eps: np.sqrt(variance) + eps
        ),
        "did you forget eps? A row of equal numbers has variance 0": _normed(
            divisor=lambda variance, eps: np.sqrt(variance)
        ),
        "the variance is the mean of the squares: divide by the width, not by the width less one": (
            _normed(ddof=1)
        ),
        "the mean has not been taken away": _normed(centred=False),
        "did you forget scale and shift? They come last": _normed(
            finished=lambda normed, scale, shift: normed
        ),
        "scale first, then shift": _normed(
            finished=lambda normed, scale, shift: (normed + shift) * scale
        ),
    },
    written=_row_by_row,
    hints=(
        "Take the mean of each row away, then divide by the root of the mean square of what is left.",
        "x.mean(axis=-1, keepdims=True) has shape (..., 1), which fits x again.",
        "(x - mean) / jnp.sqrt(variance + eps) * scale + shift",
    ),
    minutes=5,
)
