r"""Group normalisation, alone and with SiLU after it: the reference, the twins, and flax's layer.

    python benchmarks/bench_group_norm.py [--quick] [--turns N] [--cores C] [--out FILE]

Forward, and with all gradients, in float32; on an accelerator larger, with images in bfloat16. A
case is named batch x height x width x channels.
"""

import flax.linen
import harness
import jax

from minidiff import layers
from minidiff.kernels import group_norm, pallas_group_norm

SHAPES = [(64, 16, 16, 32), (64, 16, 16, 96), (64, 8, 8, 128)]
GROUPS, EPS = 8, 1e-5


def flax_layer(x, scale, shift):
    layer = flax.linen.GroupNorm(GROUPS, epsilon=EPS, dtype=x.dtype)
    return layer.apply({"params": {"scale": scale, "bias": shift}}, x)


def contestants(functions: dict, peer) -> dict:
    """Functions of (x, scale, shift) alone."""

    def closed(function):
        return lambda x, scale, shift: function(x, scale, shift, GROUPS, EPS)

    return {name: closed(function) for name, function in functions.items()} | {"flax": peer}


def cases(args):
    large = harness.on_accelerator()
    dtype = "bfloat16" if large else "float32"
    for batch, height, width, channels in SHAPES[:1] if args.quick else SHAPES:
        if large:
            batch, height, width, channels = 256, 2 * height, 2 * width, 4 * channels
        shape = (batch, height, width, channels)
        inputs = (
            harness.normal(0, *shape, dtype=dtype),
            *(harness.normal(seed, channels) for seed in (1, 2)),
        )
        name = "x".join(map(str, shape))
        settings = {"args": inputs, "gradients": True, "dtype": dtype}
        twins = harness.twins(layers.group_norm, group_norm, "two_stage")
        yield harness.Case(name, contestants(twins, flax_layer), **settings)
        functions = {
            "ours": layers.group_norm_silu,
            "reference": lambda *args: jax.nn.silu(layers.group_norm.reference(*args)),
        }
        if large:
            functions["pallas"] = pallas_group_norm.group_norm_silu
        yield harness.Case(
            f"{name}, SiLU",
            contestants(functions, lambda *args: jax.nn.silu(flax_layer(*args))),
            **settings,
        )


if __name__ == "__main__":
    harness.main("group_norm", __doc__, cases)
