r"""CLIP's loss as Pallas kernels: the N x N logits are made block by block on the chip, and forgotten.

The loss is symmetric, and so are the kernels. One gives the log-sum-exp of each row of a b^T: called
with the sides exchanged, it gives that of each column. The other gives the gradient with respect to
a: exchanged, that with respect to b. So no two programs write to the same place.

On a TPU a program holds all rows of one side in its fast memory: see ``fits``.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from minidiff.kernels.pallas_attention import (
    BLOCK,
    FAST_MEMORY,
    Shaped,
    at,
    dot,
    padded,
    place,
    power_of_two,
    settings,
)

EXACT = jax.lax.Precision.HIGHEST  # see matmul in contrastive.py


def fits(image: Shaped) -> bool:
    """Whether a TPU's fast memory holds all rows of one side, twice: the next are on their way."""
    pairs, width = image.shape
    return 2 * pairs * max(width, 128) * 4 <= FAST_MEMORY


def _lse_kernel(a, b, lse, *, pairs):
    block, first = a.shape[0], pl.program_id(0) * a.shape[0]
    mine = a[...]

    def step(i, carry):
        top, total = carry
        logits = dot(mine, b[at(i, block), :], (1, 1), precision=EXACT)
        _, column = place(logits.shape, first, i * block)
        logits = jnp.where(column < pairs, logits, -jnp.inf)
        new_top = jnp.maximum(top, logits.max(axis=1, keepdims=True))
        new = jnp.exp(logits - new_top).sum(axis=1, keepdims=True)
        return new_top, total * jnp.exp(top - new_top) + new

    zeros = jnp.zeros((block, 1), jnp.float32)
    steps = b.shape[0] // block
    top, total = jax.lax.fori_loop(0, steps, step, (zeros - jnp.inf, zeros))
    lse[...] = top + jnp.log(total)


def _gradient_kernel(a, b, row, column, to_a, *, pairs):
    block, first = a.shape[0], pl.program_id(0) * a.shape[0]
    mine = a[...]

    def step(i, result):
        here = at(i, block)
        other = b[here, :]
        logits = dot(mine, other, (1, 1), precision=EXACT)
        its_row, its_column = place(logits.shape, first, i * block)
        # Both softmaxes less 1 at the pair: twice N times the gradient of the loss by the logits.
        error = jnp.exp(logits - row[...]) + jnp.exp(logits - column[:, here])
        error = error - jnp.where(its_row == its_column, 2.0, 0.0)
        error = jnp.where(its_column < pairs, error, 0.0)
        return result + dot(error, other, precision=EXACT)

    start = jnp.zeros(a.shape, jnp.float32)
    to_a[...] = jax.lax.fori_loop(0, b.shape[0] // block, step, start)


def _mine(x, block):
    return pl.BlockSpec((block, x.shape[1]), lambda i: (i, 0))


def _whole(x):
    return pl.BlockSpec(x.shape, lambda i: (0, 0))


def _padded(x, block):
    return padded(x.astype(jnp.float32), block, power_of_two(x.shape[1]))


def _lse(a, b, pairs, block):
    lse = jax.ShapeDtypeStruct((len(a), 1), jnp.float32)
    return pl.pallas_call(
        partial(_lse_kernel, pairs=pairs),
        grid=(len(a) // block,),
        in_specs=[_mine(a, block), _whole(b)],
        out_specs=_mine(lse, block),
        out_shape=lse,
        **settings(),
    )(a, b)


def _gradient(a, b, row, column, pairs, block):
    column = column.T
    return pl.pallas_call(
        partial(_gradient_kernel, pairs=pairs),
        grid=(len(a) // block,),
        in_specs=[_mine(a, block), _whole(b), _mine(row, block), _whole(column)],
        out_specs=_mine(a, block),
        out_shape=jax.ShapeDtypeStruct(a.shape, jnp.float32),
        **settings(),
    )(a, b, row, column)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def clip_pallas(
    image: Float[Array, "pairs width"], text: Float[Array, "pairs width"], block: int = BLOCK
) -> Float[Array, ""]:
    """CLIP's loss, a block of the logits at a time, in float32.

    ``image`` comes multiplied by the scale. ``block`` is a power of two from 16 on; on a TPU a
    multiple of 128.
    """
    return _forward(image, text, block)[0]


def _forward(image, text, block):
    pairs = len(image)
    a, b = _padded(image, block), _padded(text, block)
    row, column = _lse(a, b, pairs, block), _lse(b, a, pairs, block)
    right = (a * b).sum(axis=1)
    loss = jnp.mean(((row + column)[:, 0] / 2 - right)[:pairs])
    return loss.astype(image.dtype), (image, text, row, column)


def _backward(block, saved, gradient):
    image, text, row, column = saved
    pairs, width = image.shape
    a, b = _padded(image, block), _padded(text, block)
    to_image = _gradient(a, b, row, column, pairs, block)
    to_text = _gradient(b, a, column, row, pairs, block)
    share = gradient.astype(jnp.float32) / (2 * pairs)
    return tuple((share * x[:pairs, :width]).astype(image.dtype) for x in (to_image, to_text))


clip_pallas.defvjp(_forward, _backward)
