r"""Flash attention as Pallas kernels: the scores never leave the chip.

Dao et al. 2022, https://arxiv.org/abs/2205.14135, as improved by Dao 2023,
https://arxiv.org/abs/2307.08691. Each program of the forward kernel owns a block of queries and walks
over the keys, with a running maximum and sum of each row (Milakov and Gimelshein 2018,
https://arxiv.org/abs/1805.02867). Kept for the gradient are the result and each row's log-sum-exp. The
backward pass makes the scores anew, once in programs that own a block of queries, once in programs
that own a block of keys, so that no two programs add to the same place.

On a TPU a program holds all keys of one head in its fast memory: see ``fits``. Elsewhere than on a
TPU or a GPU the kernels run in Pallas's interpreter, which is for tests.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from minidiff.kernels.platform import platform

BLOCK = 128
"""Rows that a program owns, and that it walks over at a time: the width of a TPU's registers."""
FAST_MEMORY = 8 * 2**20
"""Bytes of a TPU core's fast memory that we ask for: half of what the smallest has."""


Shaped = jax.Array | jax.ShapeDtypeStruct  # what has a shape and a type of numbers


def settings(warps: int = 4) -> dict:
    """How ``pallas_call`` runs here. On a GPU it is to use Triton, which JAX 0.11 deprecates."""
    if platform() == "gpu":
        from jax.experimental.pallas import triton

        return {"compiler_params": triton.CompilerParams(num_warps=warps, num_stages=2)}
    return {"interpret": platform() == "cpu"}


def fits(q: Shaped, k: Shaped) -> bool:
    """Whether a TPU's fast memory holds what the kernels keep there, twice: the next is on its way."""
    longest, width = max(q.shape[1], k.shape[1]), max(q.shape[3], 128)
    return 2 * 2 * longest * width * q.dtype.itemsize <= FAST_MEMORY


def padded(x: jax.Array, rows: int, columns: int = 1) -> jax.Array:
    """x with zeros after the last two axes, up to multiples of ``rows`` and ``columns``."""
    more = [(0, -size % to) for size, to in zip(x.shape[-2:], (rows, columns), strict=True)]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + more)


def power_of_two(width: int) -> int:
    """The least power of two from 16 on that is not below ``width``: what Triton can multiply."""
    return max(16, 1 << (width - 1).bit_length())


def dot(a: jax.Array, b: jax.Array, inner: tuple[int, int] = (1, 0), **how) -> jax.Array:
    """The product of two blocks, summed over these axes in float32."""
    axes = (((inner[0],), (inner[1],)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32, **how)


def place(block: tuple[int, int], row: int | jax.Array, column: int | jax.Array):
    """Row and column number of each entry of a block that begins at ``row``, ``column``."""
    iota = partial(jax.lax.broadcasted_iota, jnp.int32, block)
    return row + iota(0), column + iota(1)


def at(i: int | jax.Array, block: int):
    """The slice that is block number i."""
    return pl.ds(pl.multiple_of(i * block, block), block)


def _seen(query, key, keys, causal):
    """Whether a query looks at a key: not past the last real one, and not ahead if ``causal``."""
    return (key < keys) & (key <= query) if causal else key < keys


def _last(block, keys, causal):
    """How many blocks of keys this program's queries look at."""
    blocks = pl.cdiv(keys, block)
    return jnp.minimum(blocks, pl.program_id(1) + 1) if causal else blocks


def _forward_kernel(q, k, v, out, lse, *, keys, causal, scale):
    block, width = q.shape
    first = pl.program_id(1) * block
    query = q[...]

    def step(i, carry):
        top, total, result = carry
        here = at(i, block)
        scores = dot(query, k[here, :], (1, 1)) * scale
        seen = _seen(*place(scores.shape, first, i * block), keys, causal)
        scores = jnp.where(seen, scores, -jnp.inf)
        # Finite from the first block on: every query looks at key 0.
        new_top = jnp.maximum(top, scores.max(axis=1, keepdims=True))
        weights, shrink = jnp.exp(scores - new_top), jnp.exp(top - new_top)
        total = total * shrink + weights.sum(axis=1, keepdims=True)
        result = result * shrink + dot(weights.astype(v.dtype), v[here, :])
        return new_top, total, result

    column = jnp.zeros((block, 1), jnp.float32)
    start = column - jnp.inf, column, jnp.zeros((block, width), jnp.float32)
    top, total, result = jax.lax.fori_loop(0, _last(block, keys, causal), step, start)
    out[...] = (result / total).astype(out.dtype)
    lse[...] = top + jnp.log(total)


def _to_queries_kernel(q, k, v, gradient, lse, delta, to_q, *, keys, causal, scale):
    block, width = q.shape
    first = pl.program_id(1) * block
    query, slope = q[...], gradient[...]

    def step(i, result):
        here = at(i, block)
        key = k[here, :]
        scores = dot(query, key, (1, 1)) * scale
        seen = _seen(*place(scores.shape, first, i * block), keys, causal)
        weights = jnp.where(seen, jnp.exp(scores - lse[...]), 0.0)
        error = weights * (dot(slope, v[here, :], (1, 1)) - delta[...])
        return result + dot(error.astype(key.dtype), key)

    start = jnp.zeros((block, width), jnp.float32)
    result = jax.lax.fori_loop(0, _last(block, keys, causal), step, start)
    to_q[...] = (result * scale).astype(to_q.dtype)


def _to_keys_kernel(q, k, v, gradient, lse, delta, to_k, to_v, *, keys, causal, scale):
    """All is transposed here, keys by queries: lse and delta are rows."""
    block, width = k.shape
    first = pl.program_id(1) * block
    key, value = k[...], v[...]

    def step(i, carry):
        sum_k, sum_v = carry
        here = at(i, block)
        query, slope = q[here, :], gradient[here, :]
        scores = dot(key, query, (1, 1)) * scale
        its_key, its_query = place(scores.shape, first, i * block)
        seen = _seen(its_query, its_key, keys, causal)
        weights = jnp.where(seen, jnp.exp(scores - lse[:, here]), 0.0)
        error = weights * (dot(value, slope, (1, 1)) - delta[:, here])
        sum_k += dot(error.astype(query.dtype), query)
        sum_v += dot(weights.astype(slope.dtype), slope)
        return sum_k, sum_v

    start = (jnp.zeros((block, width), jnp.float32),) * 2
    begin = pl.program_id(1) if causal else 0  # earlier queries do not look at these keys
    sum_k, sum_v = jax.lax.fori_loop(begin, q.shape[0] // block, step, start)
    to_k[...], to_v[...] = (sum_k * scale).astype(to_k.dtype), sum_v.astype(to_v.dtype)


def _mine(x, block):
    """A program's own rows of an array (batch * heads, rows, width)."""
    return pl.BlockSpec((None, block, x.shape[2]), lambda b, i: (b, i, 0))


def _whole(x):
    """All rows, the same for every program of a head."""
    return pl.BlockSpec((None, *x.shape[1:]), lambda b, i: (b, 0, 0))


def _heads_first(x, block):
    """(batch, tokens, heads, width) -> (batch * heads, tokens, width), padded."""
    x = x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])
    return padded(x, block, power_of_two(x.shape[2]))


def _heads_last(x, like):
    """The way back, to the shape of ``like``."""
    batch, tokens, heads, width = like.shape
    return x[:, :tokens, :width].reshape(batch, heads, tokens, width).swapaxes(1, 2)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def flash(
    q: Float[Array, "batch queries heads width"],
    k: Float[Array, "batch keys heads width"],
    v: Float[Array, "batch keys heads width"],
    causal: bool = False,
    block: int = BLOCK,
) -> Float[Array, "batch queries heads width"]:
    """Attention of every query to every key or, if ``causal``, of query i to keys 0 to i.

    ``block`` is a power of two from 16 on; on a TPU a multiple of 128.
    """
    return _forward(q, k, v, causal, block)[0]


def _forward(q, k, v, causal, block):
    scale = 1 / math.sqrt(q.shape[3])
    queries, keys, values = (_heads_first(x, block) for x in (q, k, v))
    lse = jax.ShapeDtypeStruct((*queries.shape[:2], 1), jnp.float32)
    out, lse = pl.pallas_call(
        partial(_forward_kernel, keys=k.shape[1], causal=causal, scale=scale),
        grid=(len(queries), queries.shape[1] // block),
        in_specs=[_mine(queries, block), _whole(keys), _whole(values)],
        out_specs=[_mine(queries, block), _mine(lse, block)],
        out_shape=[jax.ShapeDtypeStruct(queries.shape, v.dtype), lse],
        **settings(),
    )(queries, keys, values)
    out = _heads_last(out, q)
    return out, (q, k, v, out, lse)


def _backward(causal, block, saved, gradient):
    q, k, v, out, lse = saved
    static = {"keys": k.shape[1], "causal": causal, "scale": 1 / math.sqrt(q.shape[3])}
    queries, keys, values, out, slope = (_heads_first(x, block) for x in (q, k, v, out, gradient))
    delta = (slope.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=2, keepdims=True)
    to_q = pl.pallas_call(
        partial(_to_queries_kernel, **static),
        grid=(len(queries), queries.shape[1] // block),
        in_specs=[
            _mine(queries, block),
            *map(_whole, (keys, values)),
            *(_mine(x, block) for x in (slope, lse, delta)),
        ],
        out_specs=_mine(queries, block),
        out_shape=jax.ShapeDtypeStruct(queries.shape, q.dtype),
        **settings(),
    )(queries, keys, values, slope, lse, delta)
    rows = [x.swapaxes(1, 2) for x in (lse, delta)]
    to_k, to_v = pl.pallas_call(
        partial(_to_keys_kernel, **static),
        grid=(len(keys), keys.shape[1] // block),
        in_specs=[
            _whole(queries),
            *(_mine(x, block) for x in (keys, values)),
            *map(_whole, (slope, *rows)),
        ],
        out_specs=[_mine(keys, block), _mine(values, block)],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (keys, values)],
        **settings(),
    )(queries, keys, values, slope, *rows)
    return _heads_last(to_q, q), _heads_last(to_k, k), _heads_last(to_v, v)


flash.defvjp(_forward, _backward)
