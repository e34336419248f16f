r"""Contrastive losses: in blocks of rows, and with the whole N x N matrix.

    python benchmarks/bench_contrastive.py [--sizes N ...] [--width D] [--chunk C]
                                           [--quick] [--turns N] [--cores C] [--out FILE]

Value and gradients of CLIP's and SigLIP's loss, in float32:

- ours: in chunks, as ``minidiff.contrastive`` uses it,
- reference: the readable loss on the whole matrix,
- lean: the whole matrix again, written to be as fast as plain JAX gets, for a fair comparison.

What many devices do is in bench_sharded.py.
"""

import harness
import jax
import jax.numpy as jnp
from turns import at_least

from minidiff.contrastive import normalize
from minidiff.kernels import contrastive as kernels
from minidiff.kernels import pallas_contrastive

SCALE, BIAS = 14.3, -10.0
SIZES, QUICK = (1024, 4096, 16_384), (4096,)
TOLERANCE = 1e-5  # float32 sums of 16,384 terms differ by 1e-6 of the largest


def options(parser) -> None:
    parser.add_argument("--sizes", type=at_least(1), nargs="+", help="pairs, N")
    parser.add_argument("--width", type=at_least(1), default=64, help="of an embedding")
    parser.add_argument("--chunk", type=at_least(1), default=kernels.CHUNK, help="rows at a time")


def lean_clip(image, text):
    logits = kernels.matmul(image, text.T)
    both = jax.nn.logsumexp(logits, axis=0) + jax.nn.logsumexp(logits, axis=1)
    return jnp.mean(both / 2 - jnp.sum(image * text, axis=1))


def lean_siglip(image, text, bias):
    logits = kernels.matmul(image, text.T) + bias
    pairs = jnp.sum(image * text, axis=1) + bias  # softplus(-x) = softplus(x) - x
    return jnp.mean(jax.nn.softplus(logits).sum(axis=1) - pairs)


def cases(args):
    losses = {
        "clip": {
            "ours": lambda *x: kernels.clip(*x, args.chunk),
            "reference": kernels.clip_reference,
            "lean": lean_clip,
        },
        "siglip": {
            "ours": lambda *x: kernels.siglip(*x, args.chunk),
            "reference": kernels.siglip_reference,
            "lean": lean_siglip,
        },
    }
    if harness.on_accelerator():
        losses["clip"]["pallas"] = pallas_contrastive.clip_pallas
    for loss, contestants in losses.items():
        for pairs in args.sizes or (QUICK if args.quick else SIZES):
            image, other = (harness.normal(seed, pairs, args.width) for seed in (0, 1))
            inputs = (SCALE * normalize(image), normalize(image + other))
            chunk = f", chunk {args.chunk}" * (args.chunk != kernels.CHUNK)
            yield harness.Case(
                f"{loss}, N {pairs}, width {args.width}{chunk}",
                contestants,
                inputs if loss == "clip" else (*inputs, jnp.float32(BIAS)),
                gradients=True,
                forward=False,
                flops=2 * pairs**2 * args.width,  # of the dense one: chunks compute it twice
                tolerance=TOLERANCE,
            )


if __name__ == "__main__":
    harness.main("contrastive", __doc__, cases, options)
