r"""Attention: twins of ``transformer.attention``, for long and short sequences, and the choice among them.

The scores of all queries with all keys are the trouble: kept for the gradient they fill memory, and
memory is slower than arithmetic everywhere. The twins for long sequences make them in blocks that fit
the cache, use them, and make them once more for the gradient (Rabe and Staats 2021,
https://arxiv.org/abs/2112.05682; Dao et al. 2022, https://arxiv.org/abs/2205.14135). ``mask`` is True
where a query may look at a key; a query that may look at none gets NaN.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from minidiff.kernels import pallas_attention
from minidiff.kernels.pallas_attention import Shaped
from minidiff.kernels.platform import pallas, platform

SHORT = 32 * 32
"""Queries times keys up to which, on a CPU, bringing the heads together costs more than it saves."""
MANY = 2**21
"""Scores in all, from which a CPU's cache holds too few of them to keep them for the gradient."""
TILE = 2**18
"""Scores that a CPU's cache holds: a megabyte."""
MANY_DEVICE, TILE_DEVICE = 2**28, 2**26
"""The same for an accelerator, where only its memory counts: a gigabyte, a quarter of one."""
FLASH = 1024
"""Queries from which a TPU uses the flash kernel, where Pallas kernels are wanted."""


def batched(
    q: Float[Array, "batch queries heads width"],
    k: Float[Array, "batch keys heads width"],
    v: Float[Array, "batch keys heads width"],
    mask: Bool[Array, "#batch #heads #queries #keys"] | None = None,
) -> Float[Array, "batch queries heads width"]:
    """With the heads beside the batch, so that every product is one of plain matrices."""
    q, k, v = (x.swapaxes(1, 2) for x in (q / math.sqrt(q.shape[-1]), k, v))
    scores = jnp.matmul(q, k.swapaxes(2, 3), preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return (jax.nn.softmax(scores, axis=-1).astype(v.dtype) @ v).swapaxes(1, 2)


def tiled(
    q: Float[Array, "batch queries heads width"],
    k: Float[Array, "batch keys heads width"],
    v: Float[Array, "batch keys heads width"],
    mask: Bool[Array, "#batch #heads #queries #keys"] | None = None,
    tile: int = TILE,
) -> Float[Array, "batch queries heads width"]:
    """The same, ``tile`` scores at a time or a single query's, made anew for the gradient.

    A block is a few examples or, where one example has more scores, a few queries of it.
    """
    a_query = q.shape[2] * k.shape[1]
    examples, queries = tile // (a_query * q.shape[1]), max(1, tile // a_query)
    block = jax.checkpoint(batched, prevent_cse=False)
    if examples == 0:
        block = partial(_over_blocks, block, (1, None, None, 2), queries)
    return _over_blocks(block, (0, 0, 0, 0), max(1, examples), q, k, v, mask)


def _over_blocks(function, axes, size, *arrays):
    """``function`` of ``size`` entries at a time along each array's axis; its result's as the first's.

    An array with no such axis, or with one entry there, goes to every call as it is.
    """

    def varies(x, axis):
        return x is not None and axis is not None and x.shape[axis] > 1

    cut = [varies(x, axis) for x, axis in zip(arrays, axes, strict=True)]
    cut[0] = True

    def one(entries):
        entries = iter(entries)
        return jnp.squeeze(
            function(
                *(
                    jnp.expand_dims(next(entries), axis) if here else x
                    for x, axis, here in zip(arrays, axes, cut, strict=True)
                )
            ),
            axes[0],
        )

    entries = [jnp.moveaxis(x, a, 0) for x, a, here in zip(arrays, axes, cut, strict=True) if here]
    return jnp.moveaxis(jax.lax.map(one, entries, batch_size=size), 0, axes[0])


def cudnn(
    q: Float[Array, "batch queries heads width"],
    k: Float[Array, "batch keys heads width"],
    v: Float[Array, "batch keys heads width"],
    mask: Bool[Array, "#batch #heads #queries #keys"] | None = None,
) -> Float[Array, "batch queries heads width"]:
    """NVIDIA's own flash attention, on a GPU only and in half precision only; raises elsewhere.

    A query that may look at no key gets the mean of the values.
    """
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")


def flash(
    q: Float[Array, "batch queries heads width"],
    k: Float[Array, "batch keys heads width"],
    v: Float[Array, "batch keys heads width"],
    mask: None = None,
) -> Float[Array, "batch queries heads width"]:
    """Our flash attention, on a TPU; it takes no mask."""
    del mask
    return pallas_attention.flash(q, k, v)


def _cudnn_can(q: Shaped, k: Shaped, mask: Shaped | None) -> bool:
    """Whether cuDNN is here and takes these: with a mask it needs even lengths for the gradient."""
    return (
        jax.default_backend() == "gpu"
        and q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[3] % 8 == 0
        and q.shape[3] <= 128
        and (mask is None or (q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0))
    )


def attention_twin(q: Shaped, k: Shaped, v: Shaped, mask: Shaped | None) -> Callable | None:
    """The twin for arrays of these shapes and types on this platform, if there is one."""
    del v  # as k
    where = platform()
    a_head = q.shape[1] * k.shape[1]
    scores = q.shape[0] * q.shape[2] * a_head
    if where == "cpu":
        if scores >= MANY:
            return tiled
        return None if a_head <= SHORT else batched
    if where == "gpu" and _cudnn_can(q, k, mask):
        return cudnn
    if pallas() and mask is None and q.shape[1] >= FLASH and pallas_attention.fits(q, k):
        return flash
    return partial(tiled, tile=TILE_DEVICE) if scores >= MANY_DEVICE else None
