"""Whether a training has what it needs, data and memory, told before its folder is made."""

import math
from collections.abc import Callable

import jax

from minidiff import memory
from minidiff.data.sources import Source, check_captions, open_source
from minidiff.keys import key_of_seed
from minidiff.training.config import TrainConfig
from minidiff.training.devices import ONE, Devices

COPIES = 4  # of the weights: model, average, and what AdamW keeps


def training_source(config: TrainConfig, *, captioned: bool = False) -> Source:
    """The source that the settings name (``data``, ``size``, ``seed``, ``batch_size``).

    InputError where it cannot be opened and, if it must be ``captioned``, where a caption is missing.
    """
    source = open_source(
        config.data, seed=config.seed, size=config.size, batch_size=config.batch_size
    )
    if captioned:
        check_captions(source)
    return source


def check_training(
    init: Callable, config: TrainConfig, image_shape: tuple[int, int, int], devices: Devices = ONE
) -> None:
    """InputError if a device's part of the weights of ``init(key)`` or of a batch exceeds its memory.

    A lower bound, from shapes alone: what lies between the layers is not counted.
    """
    weights = memory.tree_bytes(jax.eval_shape(init, key_of_seed(0)))
    memory.require(
        COPIES * weights // devices.parts, "training so many weights", "make the network smaller"
    )
    batch = 4 * config.batch_size * math.prod(image_shape) // devices.count
    what = f"batch_size={config.batch_size} with images of {image_shape[0]} pixels"
    memory.require(batch, what, "set batch_size or size lower")
