"""Procedural captioned pictures: scenes drawn by lot, rendered and described.

Example ``index`` of a split is a pure function of (seed, split, index), traceable in both
numbers, and the renderer is differentiable in every continuous parameter, so a training loop can
draw its data on the device, inside the compiled step.
"""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, Integer

from minidiff.data.captions import MAX_WORDS, VOCABULARY, caption_words, to_text
from minidiff.data.factors import (
    ACCESSORIES,
    BACKGROUNDS,
    COLOURS,
    FACTORS,
    POSITIONS,
    SIZES,
    STYLES,
    SUBJECTS,
    Scene,
    factors,
)
from minidiff.data.pictures import SUBJECT_COLOURS, render, render_batch
from minidiff.data.sources import DEFAULT_SIZE, drawn
from minidiff.data.tokens import Tokenized, WordTokens
from minidiff.errors import InputError
from minidiff.keys import key_of_seed
from minidiff.tokenizer import Tokenizer

__all__ = [
    "ACCESSORIES",
    "BACKGROUNDS",
    "COLOURS",
    "FACTORS",
    "MAX_WORDS",
    "POSITIONS",
    "SIZES",
    "SPLITS",
    "STYLES",
    "SUBJECTS",
    "UNSEEN_PAIRS",
    "Scene",
    "SceneSource",
    "draw_scene",
    "factors",
    "render",
    "render_batch",
    "scene",
    "scenes",
]

SPLITS = ("train", "test", "unseen", "pairs", "two")

# The (subject, colour) pairs of the split "unseen", which no other split shows as one object: each
# subject once and each colour once.
UNSEEN_PAIRS = tuple((subject, (3 * subject + 5) % 8) for subject in range(len(SUBJECTS)))

RADIUS = np.array((0.56, 0.70), np.float32)  # by size; +- 0.015
CENTRE_X = np.array((-0.27, 0.0, 0.27), np.float32)  # by position; +- 0.02

_COUNTS = np.array([len(names) for names in FACTORS.values()], np.int32)
_UNSEEN_COLOUR = np.array([colour for _, colour in UNSEEN_PAIRS], np.int32)  # by subject
_UNSEEN_SUBJECT = np.argsort(_UNSEEN_COLOUR).astype(np.int32)  # by colour
# Keeps the scenes' keys apart from those that a training loop folds out of the same seed.
_STREAM = 1_000_000_007
_SUBJECT, _COLOUR, _ACCESSORY, _SIZE, _POSITION = 0, 1, 3, 4, 5


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")


def _choose(u, allowed):
    """The index of an allowed value, each equally likely when u is uniform in [0, 1)."""
    rank = jnp.floor(u * jnp.sum(allowed, dtype=jnp.float32))
    return jnp.argmax(jnp.cumsum(allowed, dtype=jnp.float32) > rank).astype(jnp.int32)


def _change_one(u, values):
    """Give one factor, drawn at random, another value, such that the pair stays a seen one."""
    which = jnp.floor(u[0] * len(FACTORS)).astype(jnp.int32)
    choices = jnp.arange(_COUNTS.max())
    allowed = (choices < jnp.asarray(_COUNTS)[which]) & (choices != values[which])
    allowed &= (which != _SUBJECT) | (choices != jnp.asarray(_UNSEEN_SUBJECT)[values[_COLOUR]])
    allowed &= (which != _COLOUR) | (choices != jnp.asarray(_UNSEEN_COLOUR)[values[_SUBJECT]])
    return values.at[which].set(_choose(u[1], allowed))


def draw_scene(
    key: jax.Array, split: str = "train", changed: Bool[Array, ""] | bool = False
) -> Scene:
    """A random scene of the split.

    `changed` matters to the split "pairs" alone: the same key with and without it gives two scenes
    that differ in one factor, and share every jitter.
    """
    _check_split(split)
    # One draw for everything: a scene is drawn in every training step, and this compiles quickly.
    u = jax.random.uniform(key, (len(FACTORS) + 5 + 14,), jnp.float32)
    u, choice, jitter = u[: len(FACTORS)], u[len(FACTORS) : -14], 2.0 * u[-14:] - 1.0
    unseen_colour = jnp.asarray(_UNSEEN_COLOUR)
    every_colour = jnp.arange(len(COLOURS))

    values = jnp.floor(u * _COUNTS.astype(np.float32)).astype(jnp.int32)
    forbidden = unseen_colour[values[_SUBJECT]]
    allowed = (every_colour == forbidden) if split == "unseen" else (every_colour != forbidden)
    values = values.at[_COLOUR].set(_choose(u[_COLOUR], allowed))
    if split == "pairs":
        values = jnp.where(changed, _change_one(choice[:2], values), values)
    if split == "two":
        side = jnp.where(choice[2] < 0.5, 0, 2)
        values = values.at[_ACCESSORY].set(0).at[_SIZE].set(0).at[_POSITION].set(side)
    subject, colour, background, accessory, size, position, style = values

    second_subject = _choose(choice[3], jnp.arange(len(SUBJECTS)) != subject)
    allowed = (every_colour != unseen_colour[second_subject]) & (every_colour != colour)
    second_colour = _choose(choice[4], allowed)

    colours = jnp.asarray(SUBJECT_COLOURS)
    x, radius = jnp.asarray(CENTRE_X)[position], jnp.asarray(RADIUS)[size]
    if split == "two":
        x, radius = 0.5 * (position.astype(jnp.float32) - 1.0), 0.44
    return Scene(
        subject=subject,
        colour=colour,
        background=background,
        accessory=accessory,
        size=size,
        position=position,
        style=style,
        second=jnp.int32(split == "two"),
        second_subject=second_subject,
        second_colour=second_colour,
        x=x + 0.02 * jitter[0],
        y=-0.14 + 0.03 * jitter[1],
        radius=radius + 0.015 * jitter[2],
        tilt=0.08 * jitter[3],
        rgb=colours[colour] + 0.04 * jitter[4:7],
        second_rgb=colours[second_colour] + 0.04 * jitter[7:10],
        horizon=-0.30 + 0.06 * jitter[10],
        background_shift=0.03 * jitter[11:14],
    )


def _example_keys(seed, split, index):
    """A key for the scene and one for its caption."""
    stream = jax.random.fold_in(key_of_seed(seed), _STREAM + SPLITS.index(split))
    return jax.random.split(jax.random.fold_in(stream, index))


def scene(
    seed: int | Integer[Array, ""] | np.uint32, split: str, index: int | Int[Array, ""]
) -> Scene:
    """Example `index` of a split. In "pairs", examples 2k and 2k + 1 differ in one factor.

    Raises:
        InputError: if there is no such split.
    """
    _check_split(split)
    if split == "pairs":
        key, _ = _example_keys(seed, split, index // 2)
        return draw_scene(key, split, changed=index % 2 == 1)
    key, _ = _example_keys(seed, split, index)
    return draw_scene(key, split)


def scenes(
    seed: int | Integer[Array, ""] | np.uint32, split: str, indices: Int[Array, " batch"]
) -> Scene:
    """The examples with these indices, as one Scene with a leading axis."""
    return jax.vmap(lambda index: scene(seed, split, index))(indices)


@struct.dataclass
class SceneSource:
    """Scenes as a source of batches: a pure function of (seed, split, step).

    The seed is a leaf of the pytree, so one compiled program serves every seed.
    """

    seed: int | jax.Array = np.uint32(0)
    split: str = struct.field(pytree_node=False, default="train")
    size: int = struct.field(pytree_node=False, default=DEFAULT_SIZE)
    batch_size: int = struct.field(pytree_node=False, default=64)

    name: ClassVar[str] = "scenes"
    traceable: ClassVar[bool] = True
    count: ClassVar[None] = None  # they never end
    class_names: ClassVar[None] = None
    factors: ClassVar[Mapping[str, tuple[str, ...]]] = FACTORS
    problems: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        _check_split(self.split)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.size, self.size, 3)

    def content(self) -> None:
        """Nothing is read from a file."""

    def examples(self, indices: Int[Array, " batch"] | np.ndarray) -> dict[str, jax.Array]:
        """The examples with these indices.

        Returns:
            image: (B, size, size, 3) float32 in [-1, 1].
            factors: (B, 7) int32, in the order of `FACTORS`.
            words: (B, 16) int32, a random caption of each; -1 after its last word.
        """
        indices = jnp.asarray(indices)
        drawn = scenes(self.seed, self.split, indices)
        caption_keys = jax.vmap(lambda i: _example_keys(self.seed, self.split, i)[1])(indices)
        return {
            "image": render_batch(drawn, self.size),
            "factors": factors(drawn),
            "words": jax.vmap(caption_words)(caption_keys, drawn),
        }

    def batch(self, step: int | Int[Array, ""]) -> dict[str, jax.Array]:
        """The examples step * batch_size and the batch_size - 1 that follow it."""
        return self.examples(step * self.batch_size + jnp.arange(self.batch_size))

    def captions(self, batch: Mapping[str, Array | np.ndarray]) -> list[str]:
        """The captions of a batch, whose "words" tell them; on the host."""
        return to_text(batch["words"])

    def sample_captions(self, count: int) -> list[str]:
        """The captions of the first batches, ``count`` or a few more, and each word twice beside them.

        Some words are needed for two objects alone.
        """
        steps = -(-count // self.batch_size)
        said = [self.captions(drawn(self, step, "words")) for step in range(steps)]
        return [text for texts in said for text in texts] + 2 * list(VOCABULARY)

    def uncaptioned(self) -> tuple[str, ...]:
        """None: each says something of its scene."""
        return ()

    def tokenized(self, tokenizer: Tokenizer, context: int | None = None) -> Tokenized:
        """This source, with token ids made of words inside the program.

        Captions are never cut: InputError where ``context`` is too short for the longest there can be.
        """
        return Tokenized(self, WordTokens.init(VOCABULARY, MAX_WORDS, tokenizer, context))


def scene_source(
    rest: str = "", *, seed: int, split: str, size: int | None, batch_size: int
) -> SceneSource:
    """The scenes, as ``minidiff.data.sources.open_source`` opens them; ``rest`` is empty."""
    return SceneSource(np.uint32(seed), split, size or DEFAULT_SIZE, batch_size)
