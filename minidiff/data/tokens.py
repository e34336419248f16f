"""Captions as rows of token ids, made inside the compiled step.

Text never enters a compiled program: scenes write their captions as word ids, and data sets in
memory have theirs turned into tokens once, beforehand. Both become a table to look up. A stream
turns the captions of a batch into tokens on the host, when it reads them. Which of these it is, each
source knows itself: ``source.tokenized(tokenizer)``.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from minidiff.data.sources import Source, Wrapper
from minidiff.errors import InputError
from minidiff.tokenizer import Tokenizer

SAMPLE = 4096  # captions of an endless source, or of a stream, that a tokenizer learns from


@struct.dataclass
class WordTokens:
    """Token ids of a batch that holds its captions as word ids ("words")."""

    table: jax.Array  # (vocabulary, pieces) token ids of each word, -1 where there is none
    words: int = struct.field(pytree_node=False)  # of the longest caption
    start: int = struct.field(pytree_node=False)
    end: int = struct.field(pytree_node=False)

    @classmethod
    def init(
        cls, vocabulary: Sequence[str], words: int, tokenizer: Tokenizer, context: int | None = None
    ) -> "WordTokens":
        """InputError where ``context`` is less than captions of so many words may need."""
        pieces = [tokenizer.encode(word) for word in vocabulary]
        table = np.full((len(pieces), max(map(len, pieces))), -1, np.int32)
        for row, ids in zip(table, pieces, strict=True):
            row[: len(ids)] = ids
        tokens = cls(jnp.asarray(table), words, tokenizer.start, tokenizer.end)
        if context is not None and context < tokens.context:
            raise InputError(f"context={context}: captions of scenes need {tokens.context} tokens")
        return tokens

    @property
    def context(self) -> int:
        """Tokens of the longest caption, with start and end."""
        return self.words * self.table.shape[1] + 2

    def __call__(self, batch: dict[str, Array]) -> Int[Array, "batch length"]:
        words = batch["words"]
        pieces = jnp.where(words[..., None] >= 0, self.table[words], -1)
        return jax.vmap(self._close)(pieces.reshape(len(words), -1))

    def _close(self, ids: Int[Array, " pieces"]) -> Int[Array, " length"]:
        """Start, the ids without their gaps, end, zeros."""
        present = ids >= 0
        place = jnp.where(present, jnp.cumsum(present), self.context)  # 0 is the start's
        row = jnp.zeros(self.context, jnp.int32).at[0].set(self.start)
        row = row.at[place].set(ids, mode="drop")
        return row.at[present.sum() + 1].set(self.end)


@struct.dataclass
class CaptionTokens:
    """Token ids of a batch that tells which examples it holds ("index")."""

    table: jax.Array  # (examples, length)

    @classmethod
    def init(
        cls, captions: Sequence[str], tokenizer: Tokenizer, context: int | None = None
    ) -> "CaptionTokens":
        """Rows as long as the longest caption needs, or as ``context``, to which they are cut."""
        return cls(jnp.asarray(tokenizer(captions, row_length(captions, tokenizer, context))))

    @property
    def context(self) -> int:
        return self.table.shape[1]

    def __call__(self, batch: dict[str, Array]) -> Int[Array, "batch length"]:
        return self.table[batch["index"]]


@struct.dataclass
class GivenTokens:
    """Token ids that a batch holds already ("ids")."""

    context: int = struct.field(pytree_node=False)

    def __call__(self, batch: dict[str, Array]) -> Int[Array, "batch length"]:
        return batch["ids"]


@struct.dataclass
class Tokenized(Wrapper):
    """A source whose batches hold "ids" beside the images: what a text encoder reads."""

    source: Source  # or, in a call of a training step, what stands in a stream's place
    tokens: WordTokens | CaptionTokens | GivenTokens

    def transform(self, batch: dict[str, Array]) -> dict[str, Array]:
        """The batch with its token ids. Traceable."""
        return {**batch, "ids": self.tokens(batch)}


def row_length(captions: Sequence[str], tokenizer: Tokenizer, context: int | None) -> int:
    """Tokens of the longest caption, with start and end, but no more than ``context``."""
    longest = max(len(tokenizer.encode(text)) for text in captions) + 2
    return min(longest, context or longest)


def some_captions(source: Source) -> list[str]:
    """Captions to learn a tokenizer from: all, or a sample of an endless source's or a stream's.

    InputError if the source has none.
    """
    captions = source.sample_captions(SAMPLE)
    if not captions or not any(captions):
        raise InputError(f"{source.name} has no captions: there is no text to learn from")
    return captions
