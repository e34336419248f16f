"""Is this machine fit, and how long will each preset take on it?"""

import importlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import runtime
from minidiff.data.scenes import SceneSource
from minidiff.noising import cosine_schedule, linear_schedule

PROBE_SECONDS = 3.0
# What `minidiff doctor` measured on the machine whose minutes stand in the recipes.
REFERENCE_GFLOPS = 257.0
SIDE, CHANNELS, BATCH = 16, 64, 32


def speed_probe(seconds: float = PROBE_SECONDS) -> float:
    """Thousand million operations a second in the convolutions of a small U-Net."""
    from minidiff.layers import conv

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


def checks() -> list[tuple[str, bool]]:
    """(what should hold, whether it does) of data and schedules."""
    images = np.asarray(jax.jit(SceneSource(batch_size=64).batch)(0)["image"])
    found = [("scenes are float32 in [-1, 1]", bool(np.abs(images).max() <= 1))]
    found.append(("scenes use the range", bool(images.min() < -0.7 and images.max() > 0.7)))
    for name, schedule in (("linear", linear_schedule()), ("cosine", cosine_schedule())):
        falls = bool((np.diff(np.asarray(schedule.alpha_bar)) < 0).all())
        found.append((f"{name} schedule: alpha_bar falls at every step", falls))
        left = float(schedule.alpha_bar[-1])
        found.append((f"{name} schedule ends in noise (alpha_bar {left:.1e})", left < 1e-3))
    return found


def run() -> None:
    """Print versions, devices and flags, the speed, predicted minutes, and the checks."""
    for name, value in runtime.describe().items():
        print(f"{name}: {value}")
    speed = speed_probe()
    print(f"convolution speed: {speed:.0f} GFLOP/s")
    if jax.default_backend() == "cpu":
        print("predicted minutes on this machine:")
        for name in ("clip", "ddpm", "text_to_image", "judge"):
            minutes = importlib.import_module(f"minidiff.recipes.{name}").MINUTES
            for preset, measured in minutes.items():
                print(f"  {name} {preset}: {measured * REFERENCE_GFLOPS / speed:.1f}")
    for text, holds in checks():
        print(f"{'ok' if holds else 'WRONG'}: {text}")
