"""What ``--data`` understands, opened by one function (``minidiff.data.describe`` looks inside).

A source is a pytree with static ``name``, ``batch_size`` and ``image_shape``. Its ``batch(step)``
is a traceable pure function that returns a dict with "image" (batch, height, width, channels)
float32 in [-1, 1] and, where there are any, "label" (batch,), "factors" and "words". The same step
gives the same batch, whatever was asked before. Give a source to a compiled function as an
argument, never by closing over it. What is too large for memory is a ``Stream`` instead, which
cannot be traced: ``drawn`` serves every source.
"""

import functools
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Int

from minidiff.data.arrays import ArraySource, Facts
from minidiff.data.stream import Stream
from minidiff.errors import InputError
from minidiff.runtime import FEW_RUNS

SPECS = "scenes, digits, tfds:NAME, tfds:NAME:SPLIT, stream:tfds:NAME or folder:PATH"
SPLITS = ("train", "test")
DEFAULT_SIZE = 16  # what two cores can train
SIZES = range(8, 513)
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_TEST_FRACTION = 0.2


@runtime_checkable
class Source(Protocol):
    """What training, plots and the command ask of a source."""

    @property
    def name(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def image_shape(self) -> tuple[int, int, int]: ...
    def batch(self, step: int | Int[Array, ""]) -> dict[str, Array]: ...
    def examples(self, indices: Int[Array, " batch"]) -> dict[str, Array]: ...


def open_source(
    spec: str, *, seed: int = 0, split: str = "train", size: int | None = None, batch_size: int = 64
) -> Source:
    """The source that ``spec`` names: scenes, digits, tfds:NAME[:SPLIT] or folder:PATH.

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
    stream = spec.startswith("stream:tfds:")
    kind, _, rest = spec.removeprefix("stream:" if stream else "").partition(":")
    if spec == "scenes":
        from minidiff.data.scenes import SceneSource

        return SceneSource(
            seed=np.uint32(seed), split=split, size=size or DEFAULT_SIZE, batch_size=batch_size
        )
    if kind == "tfds" and ".." in rest:  # as a part of a path it leads out of the data's folder
        raise InputError(f"unknown data {spec!r}: want tfds:NAME, without two dots")
    if kind == "tfds" and rest:
        from minidiff.data.prepared import prepared_source

        settings = {"seed": seed, "size": size, "batch_size": batch_size}
        try:
            return prepared_source(rest, split=split, stream=stream, **settings)
        except (InputError, OSError, MemoryError):
            raise
        except Exception as error:  # TFDS raises nearly anything when fed damaged files
            raise InputError(f"{spec} cannot be read: {type(error).__name__}: {error}") from error
    if spec != "digits" and not (kind == "folder" and rest):
        raise InputError(f"unknown data {spec!r}: choose {SPECS}")
    if split not in SPLITS:
        raise InputError(f"{kind} has no split {split!r}, only {' and '.join(SPLITS)}")
    settings = {"seed": seed, "split": split, "size": size or DEFAULT_SIZE}
    if spec == "digits":
        return digits_source(**settings, batch_size=batch_size)
    from minidiff.data.folder import folder_source

    return folder_source(rest, **settings, batch_size=batch_size)


def digits_source(*, seed: int, split: str, size: int, batch_size: int) -> ArraySource:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, enlarged to ``size`` (bilinear).

    A fifth of them, the same in every run, is the "test" split.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    first_test = round(len(order) * (1 - DIGITS_TEST_FRACTION))
    chosen = order[first_test:] if split == "test" else order[:first_test]

    grey = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)  # 17 shades, 0 to 16
    if size != grey.shape[1]:
        bilinear = Image.Resampling.BILINEAR
        grey = np.stack(
            [np.asarray(Image.fromarray(x).resize((size,) * 2, bilinear)) for x in grey]
        )
    labels = digits.target[chosen]
    facts = Facts(
        captions=tuple(f"the digit {DIGIT_NAMES[label]}" for label in labels),
        class_names=DIGIT_NAMES,
    )
    return ArraySource.init(
        "digits", grey[..., None], labels, seed=seed, batch_size=batch_size, facts=facts
    )


def captions_of(source: Source, batch: dict[str, Array | np.ndarray]) -> list[str] | None:
    """The captions of a batch of this source, as strings on the host; None if it has none."""
    if "words" in batch:
        return source.captions(batch["words"])
    if isinstance(source, Stream):
        return source.captions(batch["index"])
    if source.facts.captions is None:
        return None
    return [source.facts.captions[i] for i in np.asarray(batch["index"])]


def drawn(source: Source, step: int, *names: str) -> dict[str, Array | np.ndarray]:
    """The batch of ``step`` of any source, outside of training; with names, only those arrays of it.

    Of a compiled source, what is not named is not computed.
    """
    if isinstance(source, Stream):
        return _named(source.batch(step), names)
    return _drawn(source, step, names)


@functools.partial(jax.jit, static_argnums=2, compiler_options=FEW_RUNS)
def _drawn(source, step, names):
    return _named(source.batch(step), names)


def _named(batch: dict, names: tuple[str, ...]) -> dict:
    return {name: value for name, value in batch.items() if name in (names or batch)}
