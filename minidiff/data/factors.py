"""What a scene is: the names of its factors, and the record that says everything about one."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

SUBJECTS = ("man", "robot", "cat", "circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
BACKGROUNDS = ("snow", "meadow", "beach", "night", "sunset", "room")
ACCESSORIES = ("none", "hat", "glasses", "scarf")
SIZES = ("small", "large")
POSITIONS = ("left", "middle", "right")
STYLES = ("plain", "striped")

FACTORS = {
    "subject": SUBJECTS,
    "colour": COLOURS,
    "background": BACKGROUNDS,
    "accessory": ACCESSORIES,
    "size": SIZES,
    "position": POSITIONS,
    "style": STYLES,
}


@struct.dataclass
class Scene:
    """One scene (or, with a leading axis on every field, a batch): factors, then jitter.

    The frame is the square [-1, 1] x [-1, 1], x to the right and y upwards; colours are in
    [0, 1]. Factors are indices into the tuples of ``FACTORS``. With ``second`` = 1 another object
    stands at (-x, y) with the same radius and tilt; it wears nothing.
    """

    subject: jax.Array  # () int32
    colour: jax.Array  # () int32
    background: jax.Array  # () int32
    accessory: jax.Array  # () int32
    size: jax.Array  # () int32
    position: jax.Array  # () int32
    style: jax.Array  # () int32
    second: jax.Array  # () int32: 1 if there is a second object, else 0
    second_subject: jax.Array  # () int32
    second_colour: jax.Array  # () int32
    x: jax.Array  # () float32: centre of the (first) object
    y: jax.Array  # () float32
    radius: jax.Array  # () float32: half the object's height, nearly
    tilt: jax.Array  # () float32: radians, anticlockwise
    rgb: jax.Array  # (3,) float32
    second_rgb: jax.Array  # (3,) float32
    horizon: jax.Array  # () float32: height at which the ground meets the sky
    background_shift: jax.Array  # (3,) float32: added to the background's colours


def factors(scene: Scene) -> Int[Array, "*batch 7"]:
    """The factor indices of the first object, in the order of ``FACTORS``."""
    return jnp.stack([getattr(scene, name) for name in FACTORS], axis=-1)
