r"""Convolutions of a U-Net, and doubling before one: as they are taught, the twins, and JAX's own.

    python benchmarks/bench_conv.py [--quick] [--turns N] [--cores C] [--out FILE]

Forward, and with both gradients, in float32; on an accelerator larger, in bfloat16. A case is named
batch x height x width, channels in -> out.
"""

from functools import partial

import harness
import jax

from minidiff import layers
from minidiff.kernels import conv, doubled_conv

# (side of a CPU's images, inputs, outputs, kernel, stride)
SHAPES = [
    (16, 32, 32, 3, 1),
    (16, 96, 32, 3, 1),
    (8, 128, 64, 3, 1),
    (16, 32, 32, 3, 2),
    (16, 96, 32, 1, 1),
]
QUICK = SHAPES[:2]
DOUBLED = (8, 64, 64)


def inputs(batch: int, side: int, inputs: int, outputs: int, kernel: int, dtype: str) -> tuple:
    """An image and a kernel that keeps its size."""
    scale = (kernel * kernel * inputs) ** -0.5
    image = harness.normal(0, batch, side, side, inputs, dtype=dtype)
    return image, scale * harness.normal(1, kernel, kernel, inputs, outputs, dtype=dtype)


def lax_conv(x, weight, stride=1):
    """XLA's own convolution, and what autodiff makes of it."""
    zeros = [(weight.shape[0] // 2,) * 2] * 2
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, weight, (stride,) * 2, zeros, dimension_numbers=layout)


def cases(args):
    large = harness.on_accelerator()
    batch, finer, wider = (256, 2, 4) if large else (64, 1, 1)
    settings = {"gradients": True, "dtype": "bfloat16" if large else "float32"}
    dtype = settings["dtype"]
    for side, n, m, kernel, stride in QUICK if args.quick else SHAPES:
        side, n, m = finer * side, wider * n, wider * m
        out = (side - 1) // stride + 1
        names = ["explicit_gradients"]
        if kernel == 3 and stride == 1:
            names.append("winograd")
        functions = harness.twins(layers.conv, conv, *names) | {"jax.lax": lax_conv}
        yield harness.Case(
            f"{batch}x{side}x{side}, {n} -> {m}, {kernel}x{kernel}, stride {stride}",
            {name: partial(_strided, f, stride) for name, f in functions.items()},
            inputs(batch, side, n, m, kernel, dtype),
            flops=2 * batch * out**2 * kernel**2 * n * m,
            **settings,
        )
    side, n, m = finer * DOUBLED[0], wider * DOUBLED[1], wider * DOUBLED[2]
    yield harness.Case(
        f"{batch}x{side}x{side}, {n} -> {m}, doubled, then 3x3",
        harness.twins(layers.doubled_conv, doubled_conv, "four_phases"),
        inputs(batch, side, n, m, 3, dtype),
        flops=2 * batch * (2 * side) ** 2 * 9 * n * m,  # as the reference counts: twins need fewer
        **settings,
    )


def _strided(function, stride, x, weight):
    return function(x, weight) if stride == 1 else function(x, weight, stride)


if __name__ == "__main__":
    harness.main("conv", __doc__, cases)
