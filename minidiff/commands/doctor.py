"""Print versions, devices, a speed probe, and minutes per preset here.

Is this machine fit, and how long will each preset take on it?
"""

import argparse

from minidiff import runtime
from minidiff.commands import _found


def arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def checks() -> list[tuple[str, bool]]:
    """(what should hold, whether it does) of data and schedules."""
    import jax
    import numpy as np

    from minidiff.data.scenes import SceneSource
    from minidiff.schedules import cosine_schedule, linear_schedule

    images = np.asarray(jax.jit(SceneSource(batch_size=64).batch)(0)["image"])
    found = [("scenes are float32 in [-1, 1]", bool(np.abs(images).max() <= 1))]
    found.append(("scenes use the range", bool(images.min() < -0.7 and images.max() > 0.7)))
    for name, schedule in (("linear", linear_schedule()), ("cosine", cosine_schedule())):
        falls = bool((np.diff(np.asarray(schedule.alpha_bar)) < 0).all())
        found.append((f"{name} schedule: alpha_bar falls at every step", falls))
        left = float(schedule.alpha_bar[-1])
        found.append((f"{name} schedule ends in noise (alpha_bar {left:.1e})", left < 1e-3))
    return found


def run(args: argparse.Namespace) -> None:
    """Print versions, devices and flags, the speed, predicted minutes, and the checks."""
    for name, value in (machine := runtime.describe()).items():
        print(f"{name}: {value}")
    from minidiff.measure import speed

    gflops = speed.speed_probe()
    print(f"convolution speed: {gflops:.0f} GFLOP/s")
    if machine["backend"] == "cpu":
        print("predicted minutes on this machine:")
        for name in _found.recipes():
            for preset, minutes in _found.recipe(name).MINUTES.items():
                print(f"  {name} {preset}: {minutes * speed.REFERENCE_GFLOPS / gflops:.1f}")
    for text, holds in checks():
        print(f"{'ok' if holds else 'WRONG'}: {text}")
