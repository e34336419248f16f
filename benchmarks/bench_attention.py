r"""Attention: the reference, the twins, JAX's own and flax's.

    python benchmarks/bench_attention.py [--quick] [--turns N] [--cores C] [--out FILE]

Forward, and with the gradients to queries, keys and values, in float32; on an accelerator larger, in
bfloat16, with the Pallas kernel. A case is named batch x tokens x heads x width.
"""

import flax.linen
import harness
import jax
import jax.numpy as jnp

from minidiff import transformer
from minidiff.kernels import attention, pallas_attention

# CLIP's towers, the middle of a U-Net, and a sequence whose matrix of weights is large.
SHAPES = [((128, 64, 3, 32), False), ((128, 64, 3, 32), True), ((64, 16, 1, 64), False)]
LONG = [((2, 4096, 1, 64), False), ((2, 4096, 1, 64), True)]
ON_ACCELERATOR = [
    ((256, 77, 8, 64), True),
    ((64, 256, 8, 64), False),
    ((4, 4096, 8, 64), False),
    ((4, 4096, 8, 64), True),
]


def contestants(tokens: int, causal: bool) -> dict:
    """Functions of (q, k, v)."""
    mask = jnp.tril(jnp.ones((1, 1, tokens, tokens), bool)) if causal else None
    names = ["batched", "tiled"]
    if jax.default_backend() == "gpu":
        names.append("cudnn")

    def masked(function):
        return lambda q, k, v: function(q, k, v, mask)

    twins = harness.twins(transformer.attention, attention, *names)
    found = {name: masked(twin) for name, twin in twins.items()}
    if harness.on_accelerator():  # elsewhere it would be interpreted
        found["pallas"] = lambda q, k, v: pallas_attention.flash(q, k, v, causal)
    return found | {
        "jax.nn": lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=causal),
        "flax": lambda q, k, v: flax.linen.dot_product_attention(q, k, v, mask=mask),
    }


def cases(args):
    large = harness.on_accelerator()
    dtype = "bfloat16" if large else "float32"
    shapes = ON_ACCELERATOR if large else SHAPES + LONG
    for shape, causal in shapes[::3] if args.quick else shapes:
        batch, tokens, heads, width = shape
        yield harness.Case(
            f"{'x'.join(map(str, shape))}{', causal' * causal}",
            contestants(tokens, causal),
            tuple(harness.normal(seed, *shape, dtype=dtype) for seed in range(3)),
            gradients=True,
            forward=not args.quick,
            flops=4
            * batch
            * heads
            * tokens**2
            * width,  # two products, half of it in vain if causal
            dtype=dtype,
        )


if __name__ == "__main__":
    harness.main("attention", __doc__, cases)
