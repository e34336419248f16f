"""Exercises of lesson 02: how alike two vectors are, and a loss that tells pairs from the rest."""

import math

import jax
import jax.numpy as jnp

from minidiff.checks.exercise import Exercise, Wrong, normal, transformed, yours_and_wanted
from minidiff.contrastive import (
    contrastive_loss,
    cosine_similarity,
    cross_entropy,
    normalize,
    siglip_loss,
)


def _embeddings() -> list[tuple]:
    """Vectors of many lengths; two images with three texts, then more than three dimensions."""
    lengths = jnp.array([[0.5], [3.0], [20.0], [1.0], [7.0]])
    return [
        (jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([[4.0, 3.0], [0.0, 2.0], [-5.0, 0.0]])),
        (lengths * normal(0, 5, 6), lengths[::-1] * normal(1, 5, 6)),
    ]


def _lengths(x):
    return jnp.linalg.norm(x, axis=1, keepdims=True)


def _cosines(image_embeddings, text_embeddings):
    image_lengths = jnp.sqrt(jnp.sum(image_embeddings**2, axis=1, keepdims=True))
    text_lengths = jnp.sqrt(jnp.sum(text_embeddings**2, axis=1, keepdims=True))
    return (image_embeddings / image_lengths) @ (text_embeddings / text_lengths).T


cosine_similarity = Exercise(
    name="cosine_similarity",
    task="The cosine of the angle between every image and every text.",
    solution=cosine_similarity,
    cases=_embeddings,
    mistakes={
        "these are plain dot products: divide every vector by its length first": (
            lambda image, text: image @ text.T
        ),
        "the images have length 1, the texts do not yet: divide both": (
            lambda image, text: normalize(image) @ text.T
        ),
        "the texts have length 1, the images do not yet: divide both": (
            lambda image, text: image @ normalize(text).T
        ),
        "divided by the squared lengths: did you forget the square root of the sum of squares?": (
            lambda image, text: (image / _lengths(image) ** 2) @ (text / _lengths(text) ** 2).T
        ),
        "the sum of squares runs over the batch (axis 0): a vector is a row, so sum over axis 1": (
            lambda image, text: (
                (image / jnp.linalg.norm(image, axis=0)[None])
                @ (text / jnp.linalg.norm(text, axis=0)[None]).T
            )
        ),
        "one length for the whole batch: each row has its own, so sum over axis 1, keepdims=True": (
            lambda image, text: (image / jnp.linalg.norm(image)) @ (text / jnp.linalg.norm(text)).T
        ),
        "rows and columns are exchanged: rows are images, columns are texts": (
            lambda image, text: normalize(text) @ normalize(image).T
        ),
        "these are the angles themselves: leave their cosines as they are": (
            lambda image, text: jnp.arccos(jnp.clip(normalize(image) @ normalize(text).T, -1, 1))
        ),
    },
    written=_cosines,
    traced=True,
    hints=(
        "Divide each row by its length: the root of the sum of its squares.",
        "`jnp.sum(x**2, axis=1, keepdims=True)` has shape (rows, 1), so x can be divided by it.",
        "Row times row for all pairs at once is `a @ b.T`, with shape (images, texts).",
    ),
    draw=lambda case, got, wanted: yours_and_wanted(got, wanted, "cosine of images and texts"),
)


def _choices() -> list[tuple]:
    """Four questions with five answers, three with three, and logits as large as a scale of 100."""
    sure = 100 * jnp.array([[0.9, 0.89, -1.0], [1.0, -1.0, 0.0], [-0.2, 0.3, 0.31]])
    return [
        (normal(3, 4, 5), jnp.array([2, 0, 4, 2])),
        (2 * normal(4, 3, 3), jnp.arange(3)),
        (sure, jnp.arange(3)),
    ]


def _right(table, labels):
    return table[jnp.arange(len(labels)), labels]


def _surprise(logits, labels):
    total = jax.nn.logsumexp(logits, axis=1)
    return jnp.mean(total - logits[jnp.arange(len(labels)), labels])


cross_entropy = Exercise(
    name="cross_entropy",
    task="The mean over rows of minus the log of the probability of the right answer.",
    solution=cross_entropy,
    cases=_choices,
    mistakes={
        "exp overflows at logits of 100: take each row's maximum away first, or use logsumexp": (
            lambda logits, labels: (
                -jnp.mean(jnp.log(_right(jnp.exp(logits), labels) / jnp.exp(logits).sum(axis=1)))
            )
        ),
        "the softmax underflows at logits of 100: its small probabilities become 0, and their log "
        "infinite. Use jax.nn.log_softmax, or logsumexp less the logit": (
            lambda logits, labels: -jnp.mean(jnp.log(_right(jax.nn.softmax(logits), labels)))
        ),
        "the small number in the log hides small probabilities: jax.nn.log_softmax needs none": (
            lambda logits, labels: -jnp.mean(jnp.log(_right(jax.nn.softmax(logits), labels) + 1e-8))
        ),
        "the labels are not used: this takes the diagonal, the answer i of question i": (
            lambda logits, labels: -jnp.mean(jnp.diag(jax.nn.log_softmax(logits)))
        ),
        "this is the mean of the *best* answer's cost: the right one is labels[i]": (
            lambda logits, labels: -jnp.mean(jax.nn.log_softmax(logits).max(axis=1))
        ),
        "this is the log of the mean: take the log of each probability first, then the mean": (
            lambda logits, labels: -jnp.log(jnp.mean(_right(jax.nn.softmax(logits), labels)))
        ),
        "did you forget the minus? A log of a probability is negative, a loss is not": (
            lambda logits, labels: jnp.mean(_right(jax.nn.log_softmax(logits), labels))
        ),
        "did you forget the log? This is minus the mean probability": (
            lambda logits, labels: -jnp.mean(_right(jax.nn.softmax(logits), labels))
        ),
        "logits are not probabilities: a softmax along each row makes them so": (
            lambda logits, labels: -jnp.mean(_right(logits, labels))
        ),
        "this is the sum over the rows: take their mean": (
            lambda logits, labels: -jnp.sum(_right(jax.nn.log_softmax(logits), labels))
        ),
        "the softmax runs down the columns: a question is a row, so axis=1": (
            lambda logits, labels: -jnp.mean(_right(jax.nn.log_softmax(logits, axis=0), labels))
        ),
        "the softmax runs over the whole matrix: every row is a question of its own": (
            lambda logits, labels: jax.nn.logsumexp(logits) - jnp.mean(_right(logits, labels))
        ),
        "`[:, labels]` takes every label for every row: row i has the one label labels[i]": (
            lambda logits, labels: -jnp.mean(jax.nn.log_softmax(logits)[:, labels])
        ),
        "the mean is over all answers: only the right one counts in each row": (
            lambda logits, labels: -jnp.mean(jax.nn.log_softmax(logits))
        ),
    },
    written=_surprise,
    traced=True,
    hints=(
        "-log(exp(a) / (exp(a) + exp(b))) is log(exp(a) + exp(b)) - a.",
        "`jax.nn.logsumexp(logits, axis=1)` is the first part, without overflow.",
        "The right logits are `logits[jnp.arange(len(labels)), labels]`.",
    ),
    level=2,
)


def _pairs() -> list[tuple]:
    """Pairs at three scales; the last all alike, where the loss is log 5."""
    return [
        (normal(5, 4, 3), normal(6, 4, 3), math.log(10)),
        (3 * normal(7, 6, 2), 0.2 * normal(8, 6, 2), 0.5),
        (jnp.ones((5, 4)), jnp.ones((5, 4)), math.log(100)),
    ]


def _logits(image, text, log_scale):
    return jnp.exp(log_scale) * normalize(image) @ normalize(text).T


def _both(logits):
    """The right way to go on from logits."""
    pairs = jnp.arange(len(logits))
    rows, columns = cross_entropy.solution(logits, pairs), cross_entropy.solution(logits.T, pairs)
    return (rows + columns) / 2


def _without_jax(image, text, log_scale):
    """The right number, but made of something that JAX cannot follow."""
    return float(contrastive_loss.solution(image, text, log_scale))


_NO_SLOPES = "the number is right, but JAX finds no slopes: use jnp in place of np, and no float()"
_WRONG_SLOPES = "the number is right, the slopes are not: is a part hidden by stop_gradient?"


def _slopes(candidate):
    image, text, log_scale = _pairs()[0]
    try:
        found = transformed(candidate, "grad")(image, text, log_scale)
    except Exception:
        raise Wrong(_NO_SLOPES) from None
    wanted = jax.grad(contrastive_loss.solution)(image, text, log_scale)
    if not jnp.allclose(jnp.asarray(found), wanted, rtol=1e-3, atol=1e-5):
        raise Wrong(_WRONG_SLOPES)


def _both_ways(image_embeddings, text_embeddings, log_scale):
    logits = jnp.exp(log_scale) * normalize(image_embeddings) @ normalize(text_embeddings).T
    labels = jnp.arange(len(logits))
    rows = cross_entropy.solution(logits, labels)
    columns = cross_entropy.solution(logits.T, labels)
    return (rows + columns) / 2


contrastive_loss = Exercise(
    name="contrastive_loss",
    task="CLIP's loss: each image chooses among the texts, each text among the images.",
    solution=contrastive_loss,
    cases=_pairs,
    mistakes={
        "only the images choose: add the cross-entropy of the transposed logits, and halve": (
            lambda image, text, log_scale: cross_entropy.solution(
                _logits(image, text, log_scale), jnp.arange(len(image))
            )
        ),
        "only the texts choose: add the cross-entropy of the rows, and halve": (
            lambda image, text, log_scale: cross_entropy.solution(
                _logits(image, text, log_scale).T, jnp.arange(len(image))
            )
        ),
        "both directions are there; take their mean, not their sum": (
            lambda image, text, log_scale: 2 * _both(_logits(image, text, log_scale))
        ),
        "did you forget to normalise? Dot products of vectors of any length are not cosines": (
            lambda image, text, log_scale: _both(jnp.exp(log_scale) * image @ text.T)
        ),
        "did you forget the scale? The cosines are multiplied by exp(log_scale)": (
            lambda image, text, log_scale: _both(_logits(image, text, 0.0))
        ),
        "log_scale is a logarithm: multiply by exp(log_scale)": (
            lambda image, text, log_scale: _both(log_scale * _logits(image, text, 0.0))
        ),
        "multiply by exp(log_scale): dividing is for a temperature, which is 1 over the scale": (
            lambda image, text, log_scale: _both(_logits(image, text, -log_scale))
        ),
        "every row's label is 0 here: the right text of image i is text i, jnp.arange(N)": (
            lambda image, text, log_scale: (
                sum(
                    cross_entropy.solution(logits, jnp.zeros(len(image), int))
                    for logits in (
                        _logits(image, text, log_scale),
                        _logits(image, text, log_scale).T,
                    )
                )
                / 2
            )
        ),
        "this is SigLIP's loss without a bias: here each row and each column is one softmax": (
            lambda image, text, log_scale: siglip_loss(image, text, log_scale, 0.0)
        ),
        _NO_SLOPES: _without_jax,
        _WRONG_SLOPES: lambda image, text, log_scale: contrastive_loss.solution(
            jax.lax.stop_gradient(image), text, log_scale
        ),
    },
    written=_both_ways,
    hints=(
        "logits = exp(log_scale) * cosine_similarity(image_embeddings, text_embeddings)",
        "The right answer of row i is i: labels = jnp.arange(N). Columns are rows of logits.T.",
        "(cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2",
    ),
    level=2,
    minutes=8,
    also=_slopes,
)
