"""Tiny recipes on several devices of one process, for ``test_devices.py``.

    JAX_NUM_CPU_DEVICES=8 python devices_run.py FOLDER MESH ...     # "-" for a single device

A process of its own, since JAX fixes its devices when it starts. Trains ddpm, clip and vae on each mesh in
FOLDER/RECIPE-MESH, each device count going on in a copy of the other's half-way checkpoint too, and
prints one line of JSON: what share of the bytes of a training state each mesh has on its first device.
"""

import json
import shutil
import sys
from pathlib import Path

import minidiff  # noqa: F401  first: it sets XLA's flags  # isort: skip
import jax
import tiny

from minidiff.recipes import clip, ddpm, vae
from minidiff.training.config import override
from minidiff.training.devices import Devices
from minidiff.training.run import Run
from minidiff.training.state import TrainState, make_optimizer, make_train_step
from minidiff.unet import UNet, UNetConfig

STEPS = ["steps=20", "log_every=1", "checkpoint_every=10", "batch_size=16", "picture_every=0"]
RECIPES = {
    "ddpm": (ddpm, [*tiny.SETTINGS, "data=digits", *STEPS]),
    "clip": (clip, [*tiny.CLIP_SETTINGS, *STEPS]),
    "vae": (vae, [*tiny.VAE_SETTINGS, *STEPS]),
}


def train(name, folder, devices):
    recipe, settings = RECIPES[name]
    config = override(recipe.PRESETS["smoke"], settings)
    recipe.run(str(folder), config, devices=devices, progress=False)


def share_of_state(devices):
    """Bytes that a compiled step takes in on one device, beside those of the whole state."""
    optimizer = make_optimizer(10, 1e-3, kind="muon")
    config = UNetConfig(channels=(32, 64), patch=2)

    def begin(key):
        return TrainState.init(UNet.init(key, config), optimizer)

    state = devices.make(begin, jax.random.key(0))
    step = make_train_step(
        lambda key, unet, batch: sum(x.sum() for x in jax.tree.leaves(unet)),
        optimizer,
        devices=devices,
    )
    compiled = step.lower(jax.random.key(0), state, Nothing()).compile()
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    return compiled.memory_analysis().argument_size_in_bytes / whole


@jax.tree_util.register_static
class Nothing:
    """A source of empty batches."""

    def batch(self, step):
        return {}


def main():
    folder, *meshes = sys.argv[1:]
    found = {}
    for mesh in meshes:
        devices = Devices() if mesh == "-" else Devices.parse(mesh)
        for name in RECIPES:
            train(name, Path(folder, f"{name}-{mesh}"), devices)
        found[mesh] = share_of_state(devices)
    for first, then in ((meshes[0], meshes[-1]), (meshes[-1], meshes[0])):
        resumed = Path(folder, f"ddpm-{first}-then-{then}")
        shutil.copytree(Path(folder, f"ddpm-{first}"), resumed)
        Run(resumed).checkpoint(20).unlink()
        train("ddpm", resumed, Devices() if then == "-" else Devices.parse(then))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
