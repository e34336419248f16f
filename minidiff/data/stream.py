"""A data set that does not fit memory, read while it is used, in the order that it would have there.

Nothing of it can be traced: its batches come from the host. ``feed`` lays those of the next call of
a training step into a small pytree, which stands in the stream's place, while Grain's threads
(https://google-grain.readthedocs.io) read what the two calls after it need. Which records those are
follows from (seed, step), so a run is resumed without reading what went before, and each of several
processes reads only its own rows.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int, UInt32

from minidiff.data.arrays import Arrays, encipher, round_keys, to_float
from minidiff.data.records import Records
from minidiff.data.tokens import SAMPLE, GivenTokens, Tokenized, row_length, some_captions
from minidiff.errors import InputError
from minidiff.tokenizer import Tokenizer

AHEAD = 2  # calls that are read in advance, each by a thread of its own
MOST_BYTES = 2**29  # of the images of one call


@struct.dataclass
class Batches:
    """What a stream holds at the steps of one call; ``batch`` is its part of the program."""

    first: Arrays  # () int32, the step that the rows at 0 are for
    arrays: dict[str, Arrays]  # each (steps, batch, ...); images uint8

    @property
    def steps(self) -> int:
        """How many steps it holds the batches of: those of one call."""
        return self.arrays["index"].shape[0]

    def batch(self, step: int | Int[Array, ""]) -> dict[str, Array]:
        """The batch of ``step``, one of those that this was made for. Traceable.

        At any other step the images are no numbers, and so is the loss: never those of another step.
        """
        at = jnp.asarray(step, jnp.int32) - self.first
        batch = {
            name: jax.lax.dynamic_index_in_dim(jnp.asarray(rows), at, keepdims=False)
            for name, rows in self.arrays.items()
        }
        here = (at >= 0) & (at < self.steps)
        return {**batch, "image": jnp.where(here, to_float(batch["image"]), jnp.nan)}


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Records that are read while they are used; no pytree, ``batch`` is for the host alone.

    The batches, their order and ``examples`` are those of an ``ArraySource`` of the same records.
    """

    records: Records
    seed: int
    batch_size: int
    tokenizer: Tokenizer | None = None  # with one, batches hold "ids" (batch, context)
    context: int = 0

    traceable: ClassVar[bool] = False
    factors: ClassVar[None] = None
    problems: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def init(cls, records: Records, *, seed: int = 0, batch_size: int = 64) -> "Stream":
        """Raises InputError for no records, and for a batch size or a seed out of range."""
        if not len(records):
            raise InputError(f"{records.name} has no images")
        if len(records) >= 2**31:
            raise InputError(f"{records.name} has {len(records)} images, more than 2^31 - 1")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, it must be at least 1")
        if not 0 <= seed < 2**32:
            raise InputError(f"seed is {seed}, it must be from 0 to 4294967295")
        return cls(records, seed, batch_size)

    @property
    def name(self) -> str:
        return self.records.name

    @property
    def count(self) -> int:
        return len(self.records)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.records.image_shape

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.records.class_names

    def content(self) -> str:
        """A digest of the data set's version and the sizes of its files."""
        return self.records.digest()

    def batch(self, step: int) -> dict[str, Arrays]:
        """Batch number ``step``, as from ``examples``."""
        return self.examples(self.order(step, 1)[0])

    def examples(self, indices: Sequence[int] | Int[Arrays, " batch"]) -> dict[str, Arrays]:
        """The examples at ``indices``, each from 0 to count - 1, as an ``ArraySource`` has them."""
        found = self._read(np.asarray(indices))
        return {**found, "image": jax.jit(to_float)(found["image"])}  # NumPy rounds otherwise

    def captions(self, batch: Mapping[str, Arrays]) -> list[str] | None:
        """The captions of the examples in a batch, read anew; None if the records have none."""
        return self._captions(np.asarray(batch["index"]))

    def sample_captions(self, count: int) -> list[str] | None:
        """Captions of evenly spaced records: all, if there are few."""
        return self._captions(self._spaced(count))

    def uncaptioned(self) -> tuple[str, ...]:
        """Which of evenly spaced records have no caption; to look at all may take hours."""
        numbers = self._spaced(SAMPLE)
        found = zip(numbers, self._captions(numbers) or [], strict=False)
        return tuple(f"record {number}" for number, caption in found if not caption)

    def tokenized(self, tokenizer: Tokenizer, context: int | None = None) -> Tokenized:
        """This stream, with the token ids of the captions in its batches; longer ones are cut.

        Without ``context`` rows are as long as the longest caption of a sample needs.
        """
        tokens = GivenTokens(row_length(some_captions(self), tokenizer, context))
        told = dataclasses.replace(self, tokenizer=tokenizer, context=tokens.context)
        return Tokenized(told, tokens)

    def _captions(self, indices: np.ndarray) -> list[str] | None:
        if "caption" not in self.records.kinds:
            return None
        return self.records.read(indices.tolist(), "caption")["caption"]

    def _spaced(self, count: int) -> Int[np.ndarray, " n"]:
        """The numbers of evenly spaced records."""
        return np.linspace(0, self.count - 1, min(count, self.count), dtype=np.int64)

    def order(
        self, first: int, steps: int, rows: slice = slice(None)
    ) -> Int[np.ndarray, "steps rows"]:
        """Which example each of the ``rows`` of the batches from step ``first`` on holds."""
        step = first + np.arange(steps, dtype=np.int64)[:, None]
        position = step * self.batch_size + np.arange(self.batch_size)[rows]
        epoch, place = np.divmod(position.ravel(), self.count)
        epochs, of = np.unique(epoch.astype(np.uint32), return_inverse=True)
        keys = np.stack([_round_keys(self.seed, int(epoch)) for epoch in epochs])[of]
        x = encipher(place.astype(np.uint32), keys, self.count)
        while (outside := x >= self.count).any():
            x[outside] = encipher(x[outside], keys[outside], self.count)
        return x.astype(np.int32).reshape(position.shape)

    def calls(
        self, first: int, steps: int, until: int, *, process: int = 0, processes: int = 1
    ) -> Iterator[Batches]:
        """The batches of steps ``first`` to ``until`` - 1, those of ``steps`` steps at a time.

        Process p of P gets the p-th of P equal parts of the rows of every batch. At most AHEAD
        calls are read in advance. Closing the generator ends its threads. Raises InputError where
        the processes do not divide a batch, or a call needs too much memory.
        """
        import grain

        rows = self._rows(process, processes)
        size = (rows.stop - rows.start) * int(np.prod(self.image_shape))
        if steps * size > MOST_BYTES:
            raise InputError(
                f"{steps} steps of {self.name} in one call hold {steps * size / 2**30:.1f} GiB of "
                f"images, and {MOST_BYTES / 2**30:.1f} GiB is the limit: set log_every to "
                f"{max(1, MOST_BYTES // size)} or less, or take smaller batches"
            )
        indices = range(first, until, steps)
        reading = grain.MapDataset.source(_Calls(self, indices, rows)).to_iter_dataset(
            grain.ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD)
        )
        made = iter(reading)
        try:
            for number, arrays in zip(indices, made, strict=True):
                yield Batches(np.int32(number), arrays)
        finally:
            made.close()

    def _rows(self, process: int, processes: int) -> slice:
        if self.batch_size % processes:
            raise InputError(
                f"batch_size={self.batch_size} is not divided by {processes} processes"
            )
        share = self.batch_size // processes
        return slice(process * share, (process + 1) * share)

    def _read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at ``indices``, of any shape, which is that of the results' first axes."""
        kinds = [kind for kind in self.records.kinds if kind != "caption" or self.tokenizer]
        found = self.records.read(indices.ravel().tolist(), *kinds)
        if self.tokenizer:
            found["ids"] = self.tokenizer(found.pop("caption"), self.context)
        found = {name: a.reshape(*indices.shape, *a.shape[1:]) for name, a in found.items()}
        return {**found, "index": indices.astype(np.int32)}


@dataclasses.dataclass(frozen=True)
class _Calls:
    """What Grain reads: element k is what the k-th call needs."""

    stream: Stream
    first_steps: range
    rows: slice

    def __len__(self) -> int:
        return len(self.first_steps)

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        stream, step = self.stream, self.first_steps[number]
        return stream._read(stream.order(step, self.first_steps.step, self.rows))


@functools.lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int) -> UInt32[np.ndarray, "6"]:
    return np.asarray(jax.jit(round_keys)(np.uint32(seed), np.uint32(epoch)))


def feed(
    source: object,
    first: int,
    steps: int,
    until: int,
    *,
    process: int = 0,
    processes: int = 1,
    place: Callable[[Batches], Batches] = lambda batches: batches,
) -> Iterator[object]:
    """What each call of a training step gets: ``source``, with its batches where a Stream stands.

    Args:
        source: a pytree; a Stream may be it, or a part of it.
        first: the step that the first call begins with.
        steps: that every call takes.
        until: the step at which the last call ends.
        process, processes: which of how many equal parts of the rows of every batch to read.
        place: brings the process's arrays, each (steps, rows, ...), to the devices.
    """
    streams = [leaf for leaf in jax.tree.leaves(source) if isinstance(leaf, Stream)]
    if not streams:
        for _ in range(first, until, steps):
            yield source
        return
    [stream] = streams
    calls = stream.calls(first, steps, until, process=process, processes=processes)
    try:
        for batches in calls:
            given = place(batches)
            yield jax.tree.map(lambda leaf, given=given: given if leaf is stream else leaf, source)
    finally:
        calls.close()
