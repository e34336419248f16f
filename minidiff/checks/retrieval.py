"""Exercises of lesson 06: classify with sentences, search, and name a difference."""

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import plot
from minidiff.checks.exercise import Exercise, normal
from minidiff.contrastive import cosine_similarity, normalize
from minidiff.retrieval import difference, search, zero_shot


def _embedded() -> list[tuple]:
    """Embeddings of any length, as towers give them."""
    return [
        (3 * normal(0, 5, 8), normal(1, 4, 8), 2.0),
        (normal(2, 3, 16), 5 * normal(3, 6, 16), 0.7),
    ]


def _scaled(images, labels, log_scale):
    return jnp.exp(log_scale) * cosine_similarity(images, labels)


def _chosen(image_embeddings, labels, log_scale):
    cosines = normalize(image_embeddings) @ normalize(labels).T
    return jax.nn.softmax(jnp.exp(log_scale) * cosines, axis=1)


zero_shot = Exercise(
    name="zero_shot",
    task="The probability of each label (labels, embedding) for each image (images, embedding).",
    solution=zero_shot,
    cases=_embedded,
    mistakes={
        "each column adds up to 1: an image must choose among labels, so a row must": (
            lambda images, labels, log_scale: jax.nn.softmax(_scaled(images, labels, log_scale), 0)
        ),
        "cosines are multiplied by exp(log_scale), not by log_scale": (
            lambda images, labels, log_scale: jax.nn.softmax(
                log_scale * cosine_similarity(images, labels), axis=1
            )
        ),
        "did you forget the scale? Cosines alone are too near to each other for a clear choice": (
            lambda images, labels, log_scale: jax.nn.softmax(
                cosine_similarity(images, labels), axis=1
            )
        ),
        "lengths count here: only directions should, so make every embedding one long": (
            lambda images, labels, log_scale: jax.nn.softmax(
                jnp.exp(log_scale) * images @ labels.T, axis=1
            )
        ),
        "these are scaled cosines: a softmax along each row makes probabilities of them": _scaled,
        "the cosines were divided by the scale: multiply, so that differences grow": (
            lambda images, labels, log_scale: jax.nn.softmax(
                cosine_similarity(images, labels) / jnp.exp(log_scale), axis=1
            )
        ),
    },
    written=_chosen,
    hints=(
        "First the cosines, a row for each image and a column for each label.",
        "Multiply them by jnp.exp(log_scale).",
        "jax.nn.softmax(..., axis=1) makes each row positive, adding up to 1.",
    ),
    draw=lambda case, got, wanted: plot.similarity_matrices(
        [("yours", np.asarray(got)), ("wanted", np.asarray(wanted))],
        "a row for each image, a column for each label",
    ),
)


def _library() -> list[tuple]:
    return [
        (2 * normal(4, 3, 8), normal(5, 7, 8) * jnp.arange(1.0, 8.0)[:, None], 4),
        (normal(6, 2, 5), normal(7, 3, 5), 10),  # more than there are
    ]


def _sorted(score, count, sign=-1):
    indices = np.argsort(sign * np.asarray(score), axis=1)[:, :count]
    return indices, np.take_along_axis(np.asarray(score), indices, axis=1)


def _values_unsorted(queries, items, count):
    cosines = cosine_similarity(queries, items)
    return _sorted(cosines, count)[0], cosines[:, :count]


def _ranks(queries, items, count):
    order = np.argsort(-np.asarray(cosine_similarity(queries, items)), axis=1)
    ranks = np.argsort(order, axis=1)[:, :count]
    return ranks, search.solution(queries, items, count)[1]


def _found(queries, items, count):
    cosines = cosine_similarity(queries, items)
    indices = jnp.argsort(-cosines, axis=1)[:, :count]
    return indices, jnp.take_along_axis(cosines, indices, axis=1)


search = Exercise(
    name="search",
    task="(indices, cosines) of the count items nearest to each query, nearest first.",
    solution=search,
    cases=_library,
    mistakes={
        "these are the farthest: a sort puts small cosines first, the nearest have large ones": (
            lambda queries, items, count: _sorted(cosine_similarity(queries, items), count, 1)
        ),
        "a long vector wins here whatever its direction: compare by the cosine": (
            lambda queries, items, count: _sorted(queries @ items.T, count)
        ),
        "the cosines are not those of the items found: take them at the indices": _values_unsorted,
        "these are the places of the items in the order, not the items: sort only once": _ranks,
        "the two results are exchanged: indices come first": (
            lambda queries, items, count: search.solution(queries, items, count)[::-1]
        ),
        "here items look for queries: there must be a row for each query": (
            lambda queries, items, count: search.solution(items, queries, count)
        ),
    },
    written=_found,
    hints=(
        "cosine_similarity(queries, items) has a row for each query.",
        "jnp.argsort sorts upwards: sort the negative cosines and keep the first `count` columns.",
        "jnp.take_along_axis(cosines, indices, axis=1) are the cosines at those places; "
        "jax.lax.top_k does it all.",
    ),
)


def _groups() -> list[tuple]:
    shared = 2.0 + normal(8, 1, 6)
    lengths = jnp.array([1.0, 4.0, 0.5, 2.0, 3.0])[:, None]
    before = lengths[:3] * (shared + 0.1 * normal(9, 3, 6))
    after = lengths * (shared + 0.1 * normal(10, 5, 6) + jnp.eye(6)[2:3])
    return [(before, after), (normal(11, 1, 4), 3 * normal(12, 2, 4))]


def _between(before, after):
    return normalize(after).mean(axis=0) - normalize(before).mean(axis=0)


difference = Exercise(
    name="difference",
    task="The direction (embedding,) from the images before (n, embedding) to those after.",
    solution=difference,
    cases=_groups,
    mistakes={
        "this points back: the hat is what `after` has and `before` has not": (
            lambda before, after: difference.solution(after, before)
        ),
        "long embeddings weigh more than short ones here: normalize each first": (
            lambda before, after: after.mean(0) - before.mean(0)
        ),
        "each embedding is made one long before the mean is taken, not the mean afterwards": (
            lambda before, after: normalize(after.mean(0)) - normalize(before.mean(0))
        ),
        "a sum grows with the number of images: take the mean": (
            lambda before, after: normalize(after).sum(0) - normalize(before).sum(0)
        ),
        "the direction is right, but it was made one long: its length says how much changed": (
            lambda before, after: normalize(difference.solution(before, after))
        ),
    },
    written=_between,
    hints=(
        "`normalize(x)` makes every row one long.",
        "The mean over axis 0 is the middle of a set of images.",
        "What is added is the middle of `after` minus the middle of `before`.",
    ),
    level=1,
    minutes=3,
)
