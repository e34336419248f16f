"""A data set that fits in memory, served as a pure function of (seed, step).

The source is a pytree: give it to a compiled training step as an argument, so that the images stay
on the device and the program does not depend on their values. Nothing is kept between calls: batch
k is the same whatever was asked before, and a run is resumed by knowing its step alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, UInt, UInt8

from minidiff.data.tokens import CaptionTokens, Tokenized
from minidiff.errors import InputError
from minidiff.keys import key_of_seed
from minidiff.tokenizer import Tokenizer

FEISTEL_ROUNDS = 6

Arrays = jax.Array | np.ndarray  # in a compiled program, or on the host


@dataclass(frozen=True)
class Facts:
    """What a source knows about its data on the host: names and remarks, never arrays.

    It travels as static data through ``jax.jit``, so it must be cheap to hash; equality compares
    everything.
    """

    captions: tuple[str, ...] | None = None  # one per image
    class_names: tuple[str, ...] | None = None  # label k is called class_names[k]
    problems: tuple[str, ...] = ()  # remarks made while reading
    uncaptioned: tuple[str, ...] = ()  # names of images without a caption, in this split or others
    content: Callable[[], str] | None = field(default=None, compare=False, repr=False)
    """A digest of the files that it was read from, made when it is asked for."""

    def __hash__(self):
        return hash((self.class_names, self.problems))


@struct.dataclass
class ArraySource:
    """Images in memory; ``batch(step)`` walks through shuffled epochs without replacement."""

    images: jax.Array  # (count, height, width, channels) uint8
    labels: jax.Array | None  # (count,) int32
    seed: jax.Array  # () uint32
    name: str = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)
    facts: Facts = struct.field(pytree_node=False)

    traceable: ClassVar[bool] = True
    factors: ClassVar[None] = None

    @classmethod
    def init(
        cls,
        name: str,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        seed: int = 0,
        batch_size: int = 64,
        facts: Facts = Facts(),
    ) -> "ArraySource":
        """Put uint8 ``images`` (count, height, width, channels) and int ``labels`` on the device.

        Raises InputError for no images, for a batch size or seed out of range, and where
        count x batch_size would leave 32-bit arithmetic.
        """
        count = len(images)
        if count == 0:
            raise InputError(f"{name} has no images")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, it must be at least 1")
        if not 0 <= seed < 2**32:
            raise InputError(f"seed is {seed}, it must be from 0 to 4294967295")
        if (count + 1) * batch_size >= 2**32:
            raise InputError(
                f"{count} images in batches of {batch_size}: their product must be below 2^32"
            )
        return cls(
            images=jnp.asarray(images, jnp.uint8),
            labels=None if labels is None else jnp.asarray(labels, jnp.int32),
            seed=jnp.asarray(seed, jnp.uint32),
            name=name,
            batch_size=batch_size,
            facts=facts,
        )

    @property
    def count(self) -> int:
        return self.images.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.shape[1:]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.facts.class_names

    @property
    def problems(self) -> tuple[str, ...]:
        return self.facts.problems

    def content(self) -> str | None:
        """A digest of the files that it was read from; None if it was not read from any."""
        return self.facts.content and self.facts.content()

    def batch(self, step: int | Int[Array, ""]) -> dict[str, Array]:
        """Batch number ``step``: a dict as from ``examples``. Traceable.

        Element i of batch k is number k * batch_size + i of an endless deck, made of one shuffled
        copy of the data after another. A batch may therefore hold the end of one epoch and the
        start of the next, or several epochs of a small data set.
        """
        # After `count` batches exactly `batch_size` epochs are over. Taking those out first keeps
        # the remaining position within 32 bits for any step.
        rounds, rest = jnp.divmod(jnp.asarray(step, jnp.uint32), jnp.uint32(self.count))
        position = rest * jnp.uint32(self.batch_size) + jnp.arange(self.batch_size, dtype="uint32")
        epoch, place = jnp.divmod(position, jnp.uint32(self.count))
        epoch = epoch + rounds * jnp.uint32(self.batch_size)
        return self.examples(shuffled(self.seed, epoch, place, self.count))

    def examples(self, indices: Int[Array, " batch"] | np.ndarray) -> dict[str, Array]:
        """The examples at ``indices``, each from 0 to count - 1.

        Returns {"image": (batch, height, width, channels) float32 in [-1, 1], "index": (batch,)}
        and, if there are labels, "label": (batch,) int32.
        """
        indices = jnp.asarray(indices, jnp.int32)
        batch = {"image": to_float(self.images[indices]), "index": indices}
        if self.labels is not None:
            batch["label"] = self.labels[indices]
        return batch

    def captions(self, batch: Mapping[str, Arrays]) -> list[str] | None:
        """The captions of the images in a batch, on the host; None if there are none."""
        if self.facts.captions is None:
            return None
        return [self.facts.captions[i] for i in np.asarray(batch["index"])]

    def sample_captions(self, count: int) -> list[str] | None:
        """All captions, however many are asked for."""
        return self.facts.captions and list(self.facts.captions)

    def uncaptioned(self) -> tuple[str, ...]:
        """Images without a caption, of this split or another, as whoever read them says."""
        return self.facts.uncaptioned

    def tokenized(self, tokenizer: Tokenizer, context: int | None = None) -> Tokenized:
        """This source, with its captions as a table of token ids."""
        return Tokenized(self, CaptionTokens.init(self.facts.captions, tokenizer, context))


def to_float(images: UInt8[Arrays, "*shape"]) -> Float[Arrays, "*shape"]:
    """0..255 to float32 in [-1, 1], symmetric about 0 and with exact ends."""
    return (images.astype(np.float32) - 127.5) / 127.5


def shuffled(
    seed: UInt[Array, ""], epoch: UInt[Array, " n"], place: UInt[Array, " n"], count: int
) -> Int[Array, " n"]:
    """Which example lies at ``place`` of the shuffled ``epoch``: in each epoch a bijection.

    Sorting 60,000 random numbers in every step would cost as much as a small network. A Feistel
    cipher is a bijection on 2^(2h) numbers that is computed one number at a time; where the result
    is outside the data, it is enciphered again until it is inside (cycle walking: Black and
    Rogaway, "Ciphers with arbitrary finite domains", 2002): under four turns on average.
    ``minidiff.data.stream`` does the same on the host.
    """
    keys = jax.vmap(round_keys, in_axes=(None, 0))(seed, epoch)

    def walk(x):
        return jnp.where(x < count, x, encipher(x, keys, count))

    inside = jax.lax.while_loop(lambda x: jnp.any(x >= count), walk, encipher(place, keys, count))
    return inside.astype(jnp.int32)


def round_keys(seed: UInt[Array, ""], epoch: UInt[Array, ""]) -> UInt[Array, "6"]:
    """The random numbers that an epoch's order is made of."""
    key = jax.random.fold_in(key_of_seed(seed), epoch)
    return jax.random.bits(key, (FEISTEL_ROUNDS,), jnp.uint32)


def encipher(x: UInt[Arrays, " n"], keys: UInt[Arrays, "n 6"], count: int) -> UInt[Arrays, " n"]:
    """The Feistel cipher on the fewest 2^(2h) numbers that hold ``count``, at least 4. Traceable."""
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    left, right = x >> half, x & mask
    for i in range(FEISTEL_ROUNDS):
        left, right = right, left ^ (_mix(right ^ keys[:, i]) & mask)
    return (left << half) | right


def _mix(x):
    """Spread every bit of a uint32 over all the others (the finalizer of MurmurHash3)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
