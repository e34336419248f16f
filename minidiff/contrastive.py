r"""Contrastive losses: pull an image and its own caption together, push all other pairs apart.

Two networks, one for images and one for texts, each answer with a vector, an *embedding*. Only its
direction counts: how well an image and a text fit is the cosine of the angle between them. In a
batch of N images with their N captions, the similarities of all images (rows) to all texts (columns)
are an N x N matrix, whose diagonal holds the true pairs. CLIP (Radford et al. 2021,
https://arxiv.org/abs/2103.00020, figure 3) asks two multiple-choice questions: which of the N texts
belongs to this image, and which of the N images to this text? With s the similarities,

    logits = exp(log_scale) s
    loss = 1/2 (cross-entropy of the rows + cross-entropy of the columns).

A cosine lies in [-1, 1], too narrow for a confident softmax, so a learned scale widens it.

SigLIP (Zhai et al. 2023, https://arxiv.org/abs/2303.15343, equation 1) asks N^2 yes-or-no questions
instead: are this image and this text a pair? No answer depends on the rest of the batch.

    loss = -1/N sum_ij log sigmoid(z_ij (exp(log_scale) s_ij + bias)),   z_ij = 1 if i = j, else -1.

Everything here runs in float32, whatever the embeddings come in. The losses are written out on the
whole N x N matrix. ``faster_by`` puts twins in their place that give the same numbers and never hold
it (minidiff/kernels/contrastive.py); ``contrastive_loss.reference`` is the one written here.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from minidiff.errors import InputError
from minidiff.kernels.choice import faster_by
from minidiff.kernels.contrastive import clip, matmul, siglip

LOG_SCALE_INIT = math.log(1 / 0.07)
"""Where CLIP's log_scale starts: similarities are multiplied by 14.3."""
LOG_SCALE_MAX = math.log(100)
"""Above a scale of 100 training became unstable (Radford et al. 2021, section 2.5)."""
SIGLIP_LOG_SCALE_INIT = math.log(10)
"""Where SigLIP's log_scale starts."""
SIGLIP_BIAS_INIT = -10.0
"""Where SigLIP's bias starts: every pair is taken for a wrong one, as N - 1 of N are."""

Scalar = Float[Array, ""] | float
Arrays = jax.Array | np.ndarray  # embeddings may come from the host


def normalize(x: Float[Arrays, "*batch width"]) -> Float[Array, "*batch width"]:
    """Scale the last axis to length 1, in float32; zeros, which have no direction, stay zeros."""
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # Not x / max(length, tiny): the root has an infinite slope at 0, and the gradient would be NaN.
    return x / jnp.sqrt(jnp.where(square > 1e-30, square, 1.0))


def cosine_similarity(
    image_embeddings: Float[Arrays, "images width"], text_embeddings: Float[Arrays, "texts width"]
) -> Float[Array, "images texts"]:
    """Cosine of the angle between every image and every text, in [-1, 1]."""
    return matmul(normalize(image_embeddings), normalize(text_embeddings).T)


def clamp_log_scale(log_scale: Float[Array, ""]) -> Float[Array, ""]:
    """Keep a learned log_scale in [0, ln 100]; to be done after every step of the optimizer."""
    return jnp.clip(log_scale, 0.0, LOG_SCALE_MAX)


def cross_entropy(
    logits: Float[Array, "rows answers"], labels: Int[Array, " rows"]
) -> Float[Array, ""]:
    """Mean over rows of -log softmax(row)[label]: what the right answers were given."""
    right = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - right)


def pair_logits(
    image_embeddings: Float[Array, "images width"],
    text_embeddings: Float[Array, "texts width"],
    log_scale: Scalar,
) -> Float[Array, "pairs pairs"]:
    """exp(log_scale) s, the true pairs on the diagonal. InputError unless these are pairs."""
    _check_pairs(image_embeddings, text_embeddings)
    return _scale(log_scale) * cosine_similarity(image_embeddings, text_embeddings)


def scaled_pairs(
    image_embeddings: Float[Array, "images width"],
    text_embeddings: Float[Array, "texts width"],
    log_scale: Scalar,
) -> tuple[Float[Array, "pairs width"], Float[Array, "pairs width"]]:
    """The same for who makes no matrix: directions, the images' multiplied by exp(log_scale)."""
    _check_pairs(image_embeddings, text_embeddings)
    return _scale(log_scale) * normalize(image_embeddings), normalize(text_embeddings)


def _scale(log_scale):
    return jnp.exp(jnp.asarray(log_scale, jnp.float32))


def _check_pairs(image_embeddings, text_embeddings):
    images, texts = len(image_embeddings), len(text_embeddings)
    if images != texts or not images:
        raise InputError(f"a contrastive loss needs pairs, not {images} images and {texts} texts")


def _clip_twin(*_):
    return lambda images, texts, log_scale: clip(*scaled_pairs(images, texts, log_scale))


def _siglip_twin(*_):
    return lambda images, texts, log_scale, bias: siglip(
        *scaled_pairs(images, texts, log_scale), jnp.asarray(bias, jnp.float32)
    )


@faster_by(_clip_twin)
def contrastive_loss(
    image_embeddings: Float[Array, "images width"],
    text_embeddings: Float[Array, "texts width"],
    log_scale: Scalar,
) -> Float[Array, ""]:
    """CLIP's symmetric cross-entropy over all pairs of N images and their N texts.

    Row i of both embeddings is a pair; their lengths do not matter. If all embeddings are the same
    the loss is log N; it falls towards 0 as pairs are found. InputError if images and texts differ
    in number.
    """
    logits = pair_logits(image_embeddings, text_embeddings, log_scale)
    pairs = jnp.arange(len(logits))  # the right answer of row i, and of column i, is i
    return (cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2


@faster_by(_siglip_twin)
def siglip_loss(
    image_embeddings: Float[Array, "images width"],
    text_embeddings: Float[Array, "texts width"],
    log_scale: Scalar,
    bias: Scalar,
) -> Float[Array, ""]:
    """SigLIP's sum of N yes-or-no losses per image, averaged over images.

    Arguments and errors as in ``contrastive_loss``; ``bias`` is added to every logit.
    """
    logits = pair_logits(image_embeddings, text_embeddings, log_scale)
    logits = logits + jnp.asarray(bias, jnp.float32)
    z = 2 * jnp.eye(len(logits)) - 1  # 1 for a pair, -1 for any other image and text
    return -jnp.mean(jnp.sum(jax.nn.log_sigmoid(z * logits), axis=1))


# Many devices. These run inside ``jax.shard_map``: every device has the embeddings of its share of
# the pairs, equally many each, and the losses are over all pairs of all devices. They return that
# global loss, the same number on every device. Its gradient, by ``jax.grad`` around the shard_map or
# inside it (with shard_map's check_vma on, as is its default), is the dense loss's: nothing is left
# for the caller to sum or average, for log_scale and bias neither.


def sharded_contrastive_loss(
    image_embeddings: Float[Array, "images width"],
    text_embeddings: Float[Array, "texts width"],
    log_scale: Scalar,
    axis_name: str,
) -> Float[Array, ""]:
    """``contrastive_loss`` over all devices of a mesh axis, for use inside ``jax.shard_map``.

    Every device gathers all embeddings, which are small beside the networks, and asks its own
    images and its own texts only: with k devices it holds two matrices of N/k x N.
    """
    image, text = scaled_pairs(image_embeddings, text_embeddings, log_scale)
    all_images = jax.lax.all_gather(image, axis_name, tiled=True)
    all_texts = jax.lax.all_gather(text, axis_name, tiled=True)
    pairs = jax.lax.axis_index(axis_name) * len(image) + jnp.arange(len(image))
    to_text = cross_entropy(matmul(image, all_texts.T), pairs)
    to_image = cross_entropy(matmul(text, all_images.T), pairs)
    return jax.lax.pmean((to_text + to_image) / 2, axis_name)


def ring_siglip_loss(
    image_embeddings: Float[Array, "images width"],
    text_embeddings: Float[Array, "texts width"],
    log_scale: Scalar,
    bias: Scalar,
    axis_name: str,
) -> Float[Array, ""]:
    """``siglip_loss`` over all devices of a mesh axis, for use inside ``jax.shard_map``.

    The texts go round in a ring, from device to neighbour, until every image has met every text
    (Zhai et al. 2023, section 3.3). No device ever holds more than one block of N/k x N/k.
    """
    image, text = scaled_pairs(image_embeddings, text_embeddings, log_scale)
    devices = jax.lax.axis_size(axis_name)
    ring = [(i, (i + 1) % devices) for i in range(devices)]

    @jax.checkpoint  # the gradient computes the blocks anew rather than keep all k of them
    def block(image, text, bias, z):
        return -jnp.sum(jax.nn.log_sigmoid(z * (matmul(image, text.T) + bias)), axis=1)

    def step(carry, _):
        text, loss = carry
        text = jax.lax.ppermute(text, axis_name, ring)
        return (text, loss + block(image, text, bias, -1.0)), None

    at_home = block(image, text, bias, 2 * jnp.eye(len(image)) - 1)
    (_, loss), _ = jax.lax.scan(step, (text, at_home), length=devices - 1)
    return jax.lax.pmean(jnp.mean(loss), axis_name)
