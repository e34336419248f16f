"""What a source is, how one is opened, and how one is made of another.

A source is a pytree whose ``batch(step)`` is a traceable pure function: the same step gives the same
batch, whatever was asked before. Give it to a compiled function as an argument, never by closing
over it. What is too large for memory (``minidiff.data.stream``) cannot be traced and says so;
``drawn`` serves every source. Which there are stands in ``minidiff.data.kinds``.
"""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Int

from minidiff.data.kinds import opener
from minidiff.errors import InputError, one_line
from minidiff.runtime import FEW_RUNS
from minidiff.tokenizer import Tokenizer

SPLITS = ("train", "test")
DEFAULT_SIZE = 16  # what two cores can train
SIZES = range(8, 513)
NAMED_AT_MOST = 3  # images in one line


@runtime_checkable
class Source(Protocol):
    """What training, plots, measures and the command ask; each source answers for itself."""

    traceable: ClassVar[bool]  # whether ``batch`` and ``examples`` can be compiled

    @property
    def name(self) -> str:
        """As ``--data`` writes it."""

    @property
    def batch_size(self) -> int: ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""

    @property
    def count(self) -> int | None:
        """How many examples there are; None: without end."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What label k is called; None where there are no labels, or none with names."""

    @property
    def factors(self) -> Mapping[str, tuple[str, ...]] | None:
        """The names and values of the factors of the pictures, where those are known; else None.

        They are for scenes alone: what the judge and CLIP's exam ask can only be asked there.
        """

    @property
    def problems(self) -> tuple[str, ...]:
        """Remarks made while opening it, each worth a line to the user."""

    def content(self) -> str | None:
        """A digest of the files that it was read from; None of what never changes."""

    def batch(self, step: int | Int[Array, ""]) -> dict[str, Array]:
        """Batch number ``step``, as of ``examples``."""

    def examples(self, indices: Int[Array, " batch"]) -> dict[str, Array]:
        """The examples with these numbers.

        "image" (batch, height, width, channels) float32 in [-1, 1] and, where there are any, "label"
        (batch,), "index" (batch,), "factors" (batch, factors) and "words" (batch, words).
        """

    def captions(self, batch: Mapping[str, Array | np.ndarray]) -> list[str] | None:
        """The captions of a batch of this source, on the host; None if it has none."""

    def sample_captions(self, count: int) -> list[str] | None:
        """Texts for a tokenizer to learn from: all captions, or ``count`` or a few more of many."""

    def uncaptioned(self) -> tuple[str, ...]:
        """The names of examples that have no caption, of those that can be looked at in seconds."""

    def tokenized(self, tokenizer: Tokenizer, context: int | None = None) -> "Source":
        """The source whose batches also hold "ids" (batch, context), what a text encoder reads.

        ``context`` is the longest row, and longer captions are cut; without one, rows are as long as
        the longest caption needs. See ``minidiff.data.tokens``.
        """


def _asked_of_source(name: str) -> property:
    return property(operator.attrgetter(f"source.{name}"))


class Wrapper:
    """Base of a source made of another: a struct dataclass with a field ``source``.

    A subclass says in ``transform`` what becomes of a batch, and states itself what is then another
    (``image_shape``, for one). All else is asked of the source inside. Where that is a stream, the
    batches of a call stand in its place while it trains (``minidiff.data.stream.feed``).
    """

    def transform(self, batch: dict[str, Array]) -> dict[str, Array]:
        """A batch of the source inside as a batch of this one. Traceable."""
        raise NotImplementedError

    name = _asked_of_source("name")
    batch_size = _asked_of_source("batch_size")
    image_shape = _asked_of_source("image_shape")
    count = _asked_of_source("count")
    class_names = _asked_of_source("class_names")
    factors = _asked_of_source("factors")
    problems = _asked_of_source("problems")
    traceable = _asked_of_source("traceable")
    steps = _asked_of_source("steps")  # only what ``feed`` puts there has any
    content = _asked_of_source("content")
    captions = _asked_of_source("captions")
    sample_captions = _asked_of_source("sample_captions")
    uncaptioned = _asked_of_source("uncaptioned")

    def batch(self, step: int | Int[Array, ""]) -> dict[str, Array]:
        """The source's batch, transformed."""
        return self.transform(self.source.batch(step))

    def examples(self, indices: Int[Array, " batch"]) -> dict[str, Array]:
        """The source's examples, transformed."""
        return self.transform(self.source.examples(indices))

    def tokenized(self, tokenizer: Tokenizer, context: int | None = None) -> Source:
        """This source with token ids: they are made of what is inside, and put around it all."""
        inside = self.source.tokenized(tokenizer, context)
        return inside.replace(source=self.replace(source=inside.source))


def open_source(
    spec: str, *, seed: int = 0, split: str = "train", size: int | None = None, batch_size: int = 64
) -> Source:
    """The source that ``spec`` names, written as ``minidiff.data.kinds.SPECS`` tells.

    ``stream:tfds:NAME[:SPLIT]`` is read while it is used, and so is tfds:NAME where it does not
    fit memory.

    Args:
        spec: what ``--data`` was given.
        seed: of the order of the examples, and of the scenes themselves.
        split: "train" or "test"; scenes and tfds have more of their own.
        size: side of the images in pixels, a multiple of 4; None for the default: 16, and for tfds
            the native size.
        batch_size: images in a batch.

    Raises InputError, one line, for whatever cannot be opened.
    """
    if size is not None and (size not in SIZES or size % 4):
        raise InputError(f"size is {size}, it must be a multiple of 4 from 8 to {SIZES[-1]}")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, it must be at least 1")
    try:
        opens, rest = opener(spec)
        return opens(rest, seed=seed, split=split, size=size, batch_size=batch_size)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "minidiff"):  # a fault of ours
            raise
        raise InputError(
            f"data {spec!r} needs the package {package}, which is not installed: "
            f"pip install {package}"
        ) from None


def check_split(name: str, split: str) -> None:
    """InputError unless this is one of the two splits that every source has."""
    if split not in SPLITS:
        raise InputError(f"{name} has no split {split!r}, only {' and '.join(SPLITS)}")


def check_captions(source: Source) -> None:
    """InputError, before the work, where a text encoder would find an image without a caption."""
    if source.sample_captions(1) is None:
        raise InputError(f"{source.name} has no captions: there is no text to learn from")
    if missing := source.uncaptioned():
        raise InputError(
            f"{source.name}: {len(missing)} image(s) without a caption, and here each needs one: "
            f"{first_few(missing)}"
        )


def first_few(names: Sequence[str]) -> str:
    """Some of these names, and how many more there are."""
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(map(one_line, names[:NAMED_AT_MOST])) + more


def known_problems(source: Source) -> list[str]:
    """What can be said against a source without looking at its images, each in one line."""
    problems = list(source.problems)
    if source.count is not None and source.count < source.batch_size:
        problems.append(
            f"{source.count} images are fewer than a batch of {source.batch_size}: "
            "batches repeat images"
        )
    return problems


def drawn(source: Source, step: int, *names: str) -> dict[str, Array | np.ndarray]:
    """The batch of ``step`` of any source, outside of training; with names, only those arrays of it.

    Of a traceable source, what is not named is not computed.
    """
    if source.traceable:
        return _drawn(source, step, names)
    return _named(source.batch(step), names)


@functools.partial(jax.jit, static_argnums=2, compiler_options=FEW_RUNS)
def _drawn(source, step, names):
    return _named(source.batch(step), names)


def _named(batch: dict, names: tuple[str, ...]) -> dict:
    return {name: value for name, value in batch.items() if name in (names or batch)}
