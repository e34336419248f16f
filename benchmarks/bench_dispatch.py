r"""What a call costs: one training step per call against several scanned ones, and many arrays.

    python benchmarks/bench_dispatch.py [--quick] [--turns N] [--cores C] [--out FILE]

- The step of the recipe ``ddpm``, data drawn inside it: K calls of one step (reference) against one
  call of K steps (ours, what training does), for a network so small that the call itself matters
  and for one where it should not.
- One call that adds 1 to the same numbers, held in 1, 144 or 592 arrays.
"""

import dataclasses

import harness
import jax
import numpy as np

from minidiff.data.sources import open_source
from minidiff.recipes.ddpm import PRESETS, make_loss
from minidiff.training.state import TrainState, make_optimizer, make_train_step
from minidiff.unet import UNet

STEPS = 8
TINY = {"channels": (8,), "attention": (), "batch_size": 4, "size": 8}
NUMBERS, ARRAYS = 5328, (1, 144, 592)  # NUMBERS is a multiple of each


def settings(name: str):
    """A preset of the recipe, or "tiny", with an optimizer that compiles quickly."""
    changes = {"optimizer": "adamw", "learning_rate": 1e-3}
    if name == "tiny":
        return dataclasses.replace(PRESETS["smoke"], **changes, **TINY)
    return dataclasses.replace(PRESETS[name], **changes)


def stepper(config, steps: int, calls: int) -> harness.Contestant:
    """``calls`` calls, each of ``steps`` steps, on a state of its own."""
    source = open_source("scenes", size=config.size, batch_size=config.batch_size)
    unet_config = config.unet(source.image_shape)
    optimizer = make_optimizer(10_000, config.learning_rate)
    train_step = make_train_step(make_loss(config), optimizer, dtype=config.dtype, steps=steps)
    start = jax.jit(lambda key: TrainState.init(UNet.init(key, unet_config), optimizer))
    state = start(jax.random.key(0))

    def step(state, key, source):
        return train_step(key, state, source)[0]

    return harness.carrying(step, state, jax.random.key(1), source, calls=calls)


def split(count: int) -> harness.Contestant:
    """NUMBERS zeros in ``count`` arrays, to each of which a call adds 1."""
    state = [np.zeros(NUMBERS // count, np.float32) for _ in range(count)]
    return harness.carrying(lambda arrays: [x + 1 for x in arrays], state)


def cases(args):
    networks = ["tiny"]
    if not args.quick:
        networks.append("gpu" if harness.on_accelerator() else "cpu")
    for name in networks:
        config = settings(name)
        yield harness.Case(
            f"{STEPS} training steps, {name} U-Net",
            {
                "ours": stepper(config, STEPS, 1),
                "reference": stepper(config, 1, STEPS),
            },
            items=STEPS,
            same=lambda state: state.model,
            tolerance=1e-2,  # of the largest weight: AdamW makes rounding of tiny gradients large
        )
    yield harness.Case(
        f"add 1 to {NUMBERS} numbers",
        {("ours" if n == 144 else f"{n} array{'s' * (n > 1)}"): split(n) for n in ARRAYS},
        reference="1 array",
        same=lambda arrays: np.concatenate(arrays),
    )


if __name__ == "__main__":
    harness.main("dispatch", __doc__, cases)
