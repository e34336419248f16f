"""Exercises of lesson 03: an image as a sequence of patches, and how they look at one another."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import plot
from minidiff.checks.exercise import Exercise, normal, yours_and_wanted
from minidiff.transformer import attention, attention_weights
from minidiff.vit import patchify


def _pictures() -> list[tuple]:
    """A disc on a ramp, to be looked at; then numbers that are all unlike, higher than wide."""
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, 16), jnp.linspace(-1, 1, 16), indexing="ij")
    disc = jnp.where((x - 0.2) ** 2 + (y + 0.1) ** 2 < 0.4, 1.0, -0.6)
    picture = jnp.stack([disc, x, y], axis=-1)[None]
    return [(picture, 4), (jnp.arange(2 * 6 * 4 * 3.0).reshape(2, 6, 4, 3), 2)]


def _squares(images, patch):
    """(batch, rows of patches, y, columns of patches, x, channels)"""
    b, h, w, c = images.shape
    return images.reshape(b, h // patch, patch, w // patch, patch, c)


def _ordered(*axes):
    """A ``patchify`` with the axes of ``_squares`` in another order."""

    def mistake(images, patch):
        flat = (len(images), -1, patch * patch * images.shape[-1])
        return _squares(images, patch).transpose(axes).reshape(flat)

    return mistake


def _every_pth(images, patch):
    b, h, w, c = images.shape
    x = images.reshape(b, patch, h // patch, patch, w // patch, c)
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(b, -1, patch * patch * c)


def _as_pictures(case, got, wanted):
    """The patches as little squares, laid out row by row."""
    images, patch = case
    grids = []
    for name, patches in (("yours", got), ("wanted", wanted)):
        squares = np.asarray(patches)[0].reshape(-1, patch, patch, images.shape[-1])
        grids.append((name, squares))
    return plot.side_by_side(grids, "patches in their order")


def _cut(images, patch):
    b, h, w, c = images.shape
    squares = images.reshape(b, h // patch, patch, w // patch, patch, c)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


patchify = Exercise(
    name="patchify",
    task="Cut images into squares of patch x patch pixels, row by row, one row of numbers each.",
    solution=patchify,
    cases=_pictures,
    mistakes={
        "these are runs of neighbouring pixels, not squares: split both sides, then transpose": (
            lambda images, patch: images.reshape(len(images), -1, patch * patch * images.shape[-1])
        ),
        "the squares are right, their order is not: row by row, not column by column": (
            _ordered(0, 3, 1, 2, 4, 5)
        ),
        "inside each square x runs before y: the values are in the order (y, x, channel)": (
            _ordered(0, 1, 3, 4, 2, 5)
        ),
        "inside each square the channel comes first: the order of values is (y, x, channel)": (
            _ordered(0, 1, 3, 5, 2, 4)
        ),
        "each patch takes every p-th pixel of the image: split a side into (patches, patch)": (
            _every_pth
        ),
        "rows and columns of patches are still two axes: join them, (batch, patches, values)": (
            lambda images, patch: _ordered(0, 1, 3, 2, 4, 5)(images, patch).reshape(
                len(images),
                images.shape[1] // patch,
                images.shape[2] // patch,
                patch * patch * images.shape[-1],
            )
        ),
    },
    written=_cut,
    hints=(
        "A side of length h is h // patch patches of patch pixels: one axis becomes two.",
        "images.reshape(b, h // patch, patch, w // patch, patch, c), then bring the axes into the "
        "order batch, row of patches, column of patches, y, x, channel.",
        "That order is `.transpose(0, 1, 3, 2, 4, 5)`; a last reshape joins what belongs together.",
    ),
    level=2,
    minutes=8,
    draw=_as_pictures,
)


def _queries() -> list[tuple]:
    """Four tokens and one head; other counts of queries and keys, two heads; then large scores."""
    return [
        (normal(0, 1, 4, 1, 2), normal(1, 1, 4, 1, 2)),
        (normal(2, 2, 3, 2, 5), normal(3, 2, 4, 2, 5)),
        (1000 * normal(4, 1, 3, 1, 4), normal(5, 1, 3, 1, 4)),
    ]


def _scores(q, k):
    return jnp.einsum("bqhd,bkhd->bhqk", q, k)


def _divided(by):
    """An ``attention_weights`` whose scores are divided by something else."""
    return lambda q, k: jax.nn.softmax(_scores(q, k) / by(q, k), axis=-1)


def _root(q):
    return math.sqrt(q.shape[-1])


def _overflowing(q, k):
    exp = jnp.exp(_scores(q, k) / _root(q))
    return exp / exp.sum(axis=-1, keepdims=True)


def _map(case, got, wanted):
    return yours_and_wanted(got[0, 0], wanted[0, 0], "where each query (row) looks")


def _looks(q, k):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    return jax.nn.softmax(scores, axis=-1)


attention_weights = Exercise(
    name="attention_weights",
    task="Where each query looks: softmax(q k^T / sqrt(d)) over the keys, for every head.",
    solution=attention_weights,
    cases=_queries,
    mistakes={
        "exp overflows where scores are large: use jax.nn.softmax, or take the maximum off first": (
            _overflowing
        ),
        "did you forget the root of d? Scores are divided by sqrt(d)": _divided(lambda q, k: 1.0),
        "the scores are divided by d: take its square root": _divided(lambda q, k: q.shape[-1]),
        "multiplied by the root of d: scores of long vectors must become smaller": (
            _divided(lambda q, k: 1 / _root(q))
        ),
        "d is the width of one head, the last axis, not the number of keys": (
            _divided(lambda q, k: math.sqrt(k.shape[1]))
        ),
        "d is the width of one head, the last axis, not of all heads together": (
            _divided(lambda q, k: math.sqrt(q.shape[-1] * q.shape[-2]))
        ),
        "the softmax runs over the queries: a query's weights over the *keys* add up to 1": (
            lambda q, k: jax.nn.softmax(_scores(q, k) / _root(q), axis=-2)
        ),
        "these are the scores: a softmax over the keys makes weights of them": (
            lambda q, k: _scores(q, k) / _root(q)
        ),
        "divided after the softmax: then the weights do not add up to 1": (
            lambda q, k: jax.nn.softmax(_scores(q, k), axis=-1) / _root(q)
        ),
    },
    written=_looks,
    traced=True,
    hints=(
        'The scores of all pairs are `jnp.einsum("bqhd,bkhd->bhqk", q, k)`: letters that are '
        "missing on the right are summed over.",
        "Divide by `math.sqrt(q.shape[-1])`.",
        "`jax.nn.softmax(scores, axis=-1)`: the last axis holds the keys.",
    ),
    level=2,
    minutes=8,
    draw=_map,
)


def _values() -> list[tuple]:
    """The same, with values."""
    return [
        (q, k, normal(seed, *k.shape)) for seed, (q, k) in zip((6, 7, 8), _queries(), strict=True)
    ]


def _mean_of(weights, values):
    return jnp.einsum("bhqk,bkhd->bqhd", weights, values)


def _best_only(q, k, v):
    best = jnp.argmax(_scores(q, k), axis=-1)
    return _mean_of(jax.nn.one_hot(best, k.shape[1]), v)


def _brought(q, k, v):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)


attention = Exercise(
    name="attention",
    task="What each query brings home: the mean of the values, by its weights.",
    solution=attention.reference,
    cases=_values,
    mistakes={
        "the means are of the keys: keys say where to look, values are what is taken": (
            lambda q, k, v: _mean_of(attention_weights.solution(q, k), k)
        ),
        "did you forget the root of d in the weights?": (
            lambda q, k, v: _mean_of(_divided(lambda q, k: 1.0)(q, k), v)
        ),
        "did you forget the softmax? These are sums of the values by raw scores": (
            lambda q, k, v: _mean_of(_scores(q, k) / _root(q), v)
        ),
        "each query takes the best value alone: take the mean of all values, by the weights": (
            _best_only
        ),
        "all values count the same here: weigh them": (
            lambda q, k, v: jnp.broadcast_to(v.mean(axis=1, keepdims=True), q.shape)
        ),
        "all heads' values are added up: head h of the weights goes with head h of the values": (
            lambda q, k, v: jnp.einsum("bhqk,bkgd->bqhd", attention_weights.solution(q, k), v)
        ),
        "heads come before queries: the result has the axes of q, (batch, query, head, d)": (
            lambda q, k, v: _mean_of(attention_weights.solution(q, k), v).swapaxes(1, 2)
        ),
    },
    written=_brought,
    traced=True,
    hints=(
        "The weights are `transformer.attention_weights(q, k)`: (batch, head, query, key).",
        "Multiply weight and value of each key, and sum over the keys.",
        '`jnp.einsum("bhqk,bkhd->bqhd", weights, v)`',
    ),
    minutes=5,
)
