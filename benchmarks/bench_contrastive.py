r"""Contrastive losses: in blocks of rows, and with the whole N x N matrix.

    python benchmarks/bench_contrastive.py [--sizes N ...] [--width D] [--chunk C]
                                           [--quick] [--turns N] [--cores C] [--out FILE]

Value and gradients of CLIP's and SigLIP's loss, in float32:

- ours: in chunks, as ``minidiff.contrastive`` uses it,
- reference: the loss as ``minidiff.contrastive`` writes it, on the whole matrix,
- lean: the whole matrix again, written to be as fast as plain JAX gets, for a fair comparison.

What many devices do is in bench_sharded.py.
"""

import math

import harness
import jax
import jax.numpy as jnp
from turns import at_least

from minidiff.contrastive import contrastive_loss, normalize, scaled_pairs, siglip_loss
from minidiff.kernels import contrastive as kernels
from minidiff.kernels import pallas_contrastive

LOG_SCALE, BIAS = math.log(14.3), -10.0
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


def of_embeddings(loss):
    """A loss of scaled directions, as kernels and lean ones are, as one of embeddings."""
    return lambda image, text, *bias: loss(*scaled_pairs(image, text, LOG_SCALE), *bias)


def cases(args):
    losses = {
        "clip": {
            "ours": of_embeddings(lambda *x: kernels.clip(*x, args.chunk)),
            "reference": lambda *x: contrastive_loss.reference(*x, LOG_SCALE),
            "lean": of_embeddings(lean_clip),
        },
        "siglip": {
            "ours": of_embeddings(lambda *x: kernels.siglip(*x, args.chunk)),
            "reference": lambda *x: siglip_loss.reference(*x[:2], LOG_SCALE, x[2]),
            "lean": of_embeddings(lean_siglip),
        },
    }
    if harness.on_accelerator():
        losses["clip"]["pallas"] = of_embeddings(pallas_contrastive.clip_pallas)
    for loss, contestants in losses.items():
        for pairs in args.sizes or (QUICK if args.quick else SIZES):
            image, other = (harness.normal(seed, pairs, args.width) for seed in (0, 1))
            inputs = (normalize(image), normalize(image + other))
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
