"""Exercises of lesson 05: scaled cosines, the clamp of the scale, how often the pair is first."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from minidiff.checks.exercise import Exercise, integers, normal
from minidiff.clip import CLIP
from minidiff.contrastive import LOG_SCALE_MAX, clamp_log_scale, cosine_similarity, normalize
from minidiff.measure import metrics


@struct.dataclass
class Towers:
    """What ``CLIP.logits`` needs of a CLIP, in two tables: a whole one takes seconds to compile."""

    pixels: jax.Array  # (pixels of an image, embedding)
    tokens: jax.Array  # (vocabulary, embedding)
    log_scale: jax.Array  # ()
    bias: None = None

    def encode_images(self, images: jax.Array) -> jax.Array:
        return images.reshape(len(images), -1) @ self.pixels

    def encode_texts(self, ids: jax.Array) -> jax.Array:
        return self.tokens[ids].sum(axis=1)


def _batches() -> list[tuple]:
    """Three images and four texts, under two temperatures."""
    images, ids = jnp.tanh(normal(0, 3, 4, 4, 3)), jnp.array([[5, 1], [5, 2], [5, 3], [5, 4]])
    tables = normal(1, 4 * 4 * 3, 6), normal(2, 6, 6)
    return [(Towers(*tables, jnp.float32(x)), images, ids) for x in (0.5, math.log(20))]


def _from_embeddings(logits):
    """A ``clip_logits`` made from the embeddings and log_scale."""

    def mistake(clip, images, ids):
        return logits(clip.encode_images(images), clip.encode_texts(ids), clip.log_scale)

    return mistake


def _unit(x, axis):
    return x / jnp.linalg.norm(x, axis=axis, keepdims=True)


def _compared(clip, images, ids):
    image, text = clip.encode_images(images), clip.encode_texts(ids)
    return jnp.exp(clip.log_scale) * normalize(image) @ normalize(text).T


clip_logits = Exercise(
    name="clip_logits",
    task="The scaled cosine of every image with every text: (images, texts).",
    solution=CLIP.logits,
    cases=_batches,
    mistakes={
        "log_scale is a logarithm: multiply by exp(log_scale)": _from_embeddings(
            lambda image, text, log_scale: log_scale * cosine_similarity(image, text)
        ),
        "these are the bare cosines: did you forget the scale?": _from_embeddings(
            lambda image, text, log_scale: cosine_similarity(image, text)
        ),
        "multiply by the scale: what one divides by, the temperature, is 1 over it": (
            _from_embeddings(
                lambda image, text, log_scale: cosine_similarity(image, text) / jnp.exp(log_scale)
            )
        ),
        "the lengths of the embeddings still count: bring each to length 1": _from_embeddings(
            lambda image, text, log_scale: jnp.exp(log_scale) * image @ text.T
        ),
        "each *row* is a vector: take lengths along the last axis, not along the batch": (
            _from_embeddings(
                lambda image, text, log_scale: (
                    jnp.exp(log_scale) * _unit(image, 0) @ _unit(text, 0).T
                )
            )
        ),
        "rows are images and columns are texts: this is the other way round": _from_embeddings(
            lambda image, text, log_scale: jnp.exp(log_scale) * cosine_similarity(text, image)
        ),
        "these are probabilities already: logits are what goes *into* a softmax": (
            lambda clip, images, ids: jax.nn.softmax(CLIP.logits(clip, images, ids), axis=1)
        ),
    },
    written=_compared,
    hints=(
        "Three steps: both embeddings, their cosines, the scale.",
        "clip.encode_images(images) and clip.encode_texts(ids) have rows of the same length; "
        "contrastive.cosine_similarity takes both.",
        "The scale is jnp.exp(clip.log_scale).",
    ),
    minutes=5,
)


def _kept_between(log_scale):
    return jnp.clip(log_scale, 0, jnp.log(100))


clamp_log_scale = Exercise(
    name="clamp_log_scale",
    task="A learned log_scale, kept where the scale is between 1 and 100.",
    solution=clamp_log_scale,
    cases=lambda: [(jnp.float32(x),) for x in (-2.0, 0.5, 2.66, 4.5, 4.7, 120.0, *normal(3, 2))],
    mistakes={
        "this clamps the logarithm at 100: it is the scale that must stay below 100": (
            lambda log_scale: jnp.clip(log_scale, 0, 100)
        ),
        "this is the scale itself: return its logarithm": (
            lambda log_scale: jnp.clip(jnp.exp(log_scale), 1, 100)
        ),
        "there is a lower bound, too: a scale below 1 has a log_scale below 0": (
            lambda log_scale: jnp.minimum(log_scale, LOG_SCALE_MAX)
        ),
        "there is an upper bound, too: a scale of 100": lambda log_scale: jnp.maximum(log_scale, 0),
        "the lower bound is a scale of 1, whose logarithm is 0, not 1": (
            lambda log_scale: jnp.clip(log_scale, 1, LOG_SCALE_MAX)
        ),
        "this is the logarithm to base 10: exp belongs to the natural one, `jnp.log(100)`": (
            lambda log_scale: jnp.clip(log_scale, 0, 2)
        ),
    },
    written=_kept_between,
    hints=(
        "Which numbers does log_scale have where the scale is 1, and where it is 100?",
        "`jnp.clip(x, low, high)` keeps x between two numbers.",
    ),
    minutes=3,
)


def _recall_at_1(similarity, relevant):
    return metrics.recall(similarity, relevant, 1)


def _scores() -> list[tuple]:
    """Similarities with a mistake, with two texts alike, with ties, and of a collapsed encoder."""
    some = np.array([[0.9, 0.1, 0.2, 0.0], [0.7, 0.3, 0.0, 0.1], [0.2, 0.0, 0.8, 0.1],
                     [0.6, 0.0, 0.5, 0.4]])  # fmt: skip
    alike = np.eye(4, dtype=bool)
    alike[0, 3] = alike[3, 0] = True
    tied = np.where(np.eye(3, dtype=bool), 0.5, [[0.5, 0.5, 0.0], [0.1] * 3, [0.2] * 3])
    wide = np.array([[0.1, 0.9, 0.3], [0.4, 0.2, 0.3]])
    return [
        (some, np.eye(4, dtype=bool)),
        (some, alike),
        (some - 2, alike),
        (tied, np.eye(3, dtype=bool)),
        (np.ones((5, 5)), np.eye(5, dtype=bool)),
        (wide, np.array([[False, True, True], [True, False, True]])),
        (
            np.asarray(normal(4, 6, 6)),
            np.eye(6, dtype=bool) | (integers(5, 0, 6, 6, 1) == np.arange(6)),
        ),
    ]


def _with_ties(similarity, relevant):
    best = np.where(relevant, similarity, -np.inf).max(1)
    return np.mean(best >= similarity.max(1))


def _by_argmax(similarity, relevant):
    return np.mean(relevant[np.arange(len(relevant)), similarity.argmax(1)])


def _first(similarity, relevant):
    best = np.where(relevant, similarity, -np.inf).max(axis=1)
    other = np.where(relevant, -np.inf, similarity).max(axis=1)
    return np.mean(best > other)


recall_at_1 = Exercise(
    name="recall_at_1",
    task="The share of rows in which something relevant is above all that is not; a tie is a miss.",
    solution=_recall_at_1,
    cases=_scores,
    mistakes={
        "in a tie argmax takes the first, and luck must not count as found": _by_argmax,
        "a tie is a miss: an encoder to which all things are equal has found nothing": _with_ties,
        "the queries are the rows: the best of each row is asked for, not of each column": (
            lambda similarity, relevant: _recall_at_1(similarity.T, relevant.T)
        ),
        "the diagonal is not all: `relevant` tells what counts as found": (
            lambda similarity, relevant: _recall_at_1(
                similarity, np.arange(similarity.shape[1]) == np.arange(len(similarity))[:, None]
            )
        ),
        "this counts the rows: divide by how many there are": (
            lambda similarity, relevant: len(relevant) * _recall_at_1(similarity, relevant)
        ),
        "not all that is relevant must be above the rest: the best of it is enough": (
            lambda similarity, relevant: np.mean(
                np.where(relevant, similarity, np.inf).min(1)
                > np.where(relevant, -np.inf, similarity).max(1)
            )
        ),
    },
    written=_first,
    hints=(
        "Of each row take two numbers: the best of what is relevant, the best of what is not.",
        "`np.where(relevant, similarity, -np.inf).max(axis=1)` is the best of what is relevant.",
        "A row counts where the first is greater than the second; the share is a mean.",
    ),
    level=2,
    minutes=8,
)
