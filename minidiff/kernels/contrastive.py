r"""Contrastive losses: twins that never hold the N x N matrix.

Both losses, written out in minidiff/contrastive.py, look at all N x N logits of N images with N texts.
At N = 16,384 that matrix takes 1 GiB and its gradient another, so it is slow as well as large. The
twins hold ``chunk`` rows at a time and give the same numbers:

- CLIP's needs, for the gradient, the log-sum-exp of every row and every column. The forward pass
  keeps these 2N numbers, the columns' as a running maximum and sum (Milakov and Gimelshein 2018,
  https://arxiv.org/abs/1805.02867); the backward pass computes each block of logits once more.
- SigLIP's is a sum of separate terms, so its gradient needs nothing but the block at hand. When a
  gradient is wanted, the forward pass computes it, and the backward pass only scales it.

``image`` comes multiplied by the scale, so that no twin has to know it: the logits are image text^T.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minidiff.errors import InputError
from minidiff.kernels import pallas_contrastive
from minidiff.kernels.platform import pallas

CHUNK = 512
"""Rows at a time: 8 N CHUNK bytes. On a CPU the time hardly changes from 256 to 2,048."""


def matmul(
    a: Float[Array, "rows inner"], b: Float[Array, "inner columns"]
) -> Float[Array, "rows columns"]:
    """a @ b in full float32; accelerators would round a and b to fewer digits by default.

    A scale of 100 makes an error of 0.004 in a similarity one of 0.4 in a logit.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def over_blocks(step, carry, rows, chunk: int):
    """``jax.lax.scan`` of ``step`` over blocks of ``chunk`` rows, and over what is left of them.

    ``rows`` is a tree of arrays with equally many rows; ``step(carry, block)`` returns the carry and
    a tree of arrays with the block's rows. Returns the last carry and those trees, joined. InputError
    if chunk < 1.
    """
    if chunk < 1:
        raise InputError(f"chunk is {chunk}, but at least one row is needed at a time")
    count = len(jax.tree.leaves(rows)[0])
    whole = count - count % chunk
    outs = []
    if whole:
        blocks = jax.tree.map(lambda x: x[:whole].reshape(-1, chunk, *x.shape[1:]), rows)
        carry, out = jax.lax.scan(step, carry, blocks)
        outs.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out))
    if whole < count:
        carry, out = step(carry, jax.tree.map(lambda x: x[whole:], rows))
        outs.append(out)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outs)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def clip_chunked(
    image: Float[Array, "pairs width"], text: Float[Array, "pairs width"], chunk: int = CHUNK
) -> Float[Array, ""]:
    """CLIP's loss, ``chunk`` rows of the logits at a time."""
    return _clip_forward(image, text, chunk)[0]


def _clip_forward(image, text, chunk):
    pairs = jnp.arange(len(image))

    def step(carry, rows):
        top, total = carry  # of each column so far: its maximum, and the sum of exp(logit - top)
        image, pairs = rows
        logits = matmul(image, text.T)
        new_top = jnp.maximum(top, logits.max(axis=0))
        total = total * jnp.exp(top - new_top) + jnp.exp(logits - new_top[None, :]).sum(axis=0)
        right = jnp.take_along_axis(logits, pairs[:, None], axis=1)[:, 0]
        return (new_top, total), (jax.nn.logsumexp(logits, axis=1), right)

    start = (jnp.full(len(text), -jnp.inf, text.dtype), jnp.zeros(len(text), text.dtype))
    (top, total), (row, right) = over_blocks(step, start, (image, pairs), chunk)
    column = top + jnp.log(total)
    loss = jnp.mean(row - right) / 2 + jnp.mean(column - right) / 2
    return loss, (image, text, row, column)


def _clip_backward(chunk, saved, gradient):
    image, text, row, column = saved
    pairs = jnp.arange(len(image))

    def step(to_text, rows):
        image, row, here = rows
        logits = matmul(image, text.T)
        # Both softmaxes less 1 at the pair: twice N times the gradient of the loss by the logits.
        one = here[:, None] == pairs[None, :]
        by_row, by_column = jnp.exp(logits - row[:, None]), jnp.exp(logits - column[None, :])
        error = by_row + by_column - jnp.where(one, 2.0, 0.0)
        return to_text + matmul(error.T, image), matmul(error, text)

    to_text, to_image = over_blocks(step, jnp.zeros_like(text), (image, row, pairs), chunk)
    share = gradient / (2 * len(image))
    return share * to_image, share * to_text


clip_chunked.defvjp(_clip_forward, _clip_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def siglip_chunked(
    image: Float[Array, "pairs width"],
    text: Float[Array, "pairs width"],
    bias: Float[Array, ""],
    chunk: int = CHUNK,
) -> Float[Array, ""]:
    """SigLIP's loss, ``chunk`` rows of the logits at a time."""
    pairs = jnp.arange(len(image))

    def step(carry, rows):
        image, here = rows
        is_pair = here[:, None] == pairs[None, :]
        logits = matmul(image, text.T) + bias
        return carry, jax.nn.softplus(jnp.where(is_pair, -logits, logits)).sum(axis=1)

    return jnp.mean(over_blocks(step, None, (image, pairs), chunk)[1])


def _siglip_forward(image, text, bias, chunk):
    pairs = jnp.arange(len(image))

    def step(to_text, rows):
        image, here = rows
        logits, is_pair = matmul(image, text.T) + bias, here[:, None] == pairs[None, :]
        # N times the gradient of the loss by the logits: sigmoid(logit), less 1 for a pair.
        wrong = jnp.where(is_pair, -logits, logits)
        error = jax.nn.sigmoid(wrong) * jnp.where(is_pair, -1.0, 1.0)
        out = (jax.nn.softplus(wrong).sum(axis=1), error.sum(axis=1), matmul(error, text))
        return to_text + matmul(error.T, image), out

    to_text, (loss, to_bias, to_image) = over_blocks(
        step, jnp.zeros_like(text), (image, pairs), chunk
    )
    share = 1 / len(image)
    return jnp.mean(loss), (share * to_image, share * to_text, jnp.mean(to_bias))


def _siglip_backward(chunk, saved, gradient):
    return tuple(gradient * each for each in saved)


siglip_chunked.defvjp(_siglip_forward, _siglip_backward)

# Compiled even where the caller does not: JAX would compile the loop anew on every such call.
_compiled_clip = jax.jit(clip_chunked, static_argnums=2)
siglip = jax.jit(siglip_chunked, static_argnums=3)


def clip(
    image: Float[Array, "pairs width"], text: Float[Array, "pairs width"], chunk: int = CHUNK
) -> Float[Array, ""]:
    """CLIP's loss, by the twin for this platform and shape."""
    if pallas() and pallas_contrastive.fits(image):
        return pallas_contrastive.clip_pallas(image, text)
    return _compiled_clip(image, text, chunk)
