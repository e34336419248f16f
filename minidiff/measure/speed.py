"""How fast this machine is, against the one whose minutes stand in the recipes."""

import time

import jax
import jax.numpy as jnp

from minidiff.layers import conv

PROBE_SECONDS = 3.0
# What `minidiff doctor` measured on the machine whose minutes stand in the recipes.
REFERENCE_GFLOPS = 257.0
SIDE, CHANNELS, BATCH = 16, 64, 32


def speed_probe(seconds: float = PROBE_SECONDS) -> float:
    """Thousand million operations a second in the convolutions of a small U-Net."""
    x = jnp.ones((BATCH, SIDE, SIDE, CHANNELS))
    weight = jnp.full((3, 3, CHANNELS, CHANNELS), 1e-3)
    run = jax.jit(jax.grad(lambda weight: jnp.mean(jnp.square(conv(x, weight)))))
    run(weight).block_until_ready()
    best, until = float("inf"), time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        run(weight).block_until_ready()
        best = min(best, time.perf_counter() - began)
    # Forward, and the gradient to the kernel: two convolutions of two operations per product.
    return 2 * 2 * BATCH * SIDE**2 * 9 * CHANNELS**2 / best / 1e9
