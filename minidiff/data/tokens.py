"""Captions as rows of token ids, made inside the compiled step.

Text never enters a compiled program: scenes write their captions as word ids, and data sets in
memory have theirs turned into tokens once, beforehand. Both become a table to look up. A stream
turns the captions of a batch into tokens on the host, when it reads them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from minidiff.data.captions import MAX_WORDS, VOCABULARY
from minidiff.data.sources import Source
from minidiff.data.stream import Batches, Stream
from minidiff.errors import InputError
from minidiff.runtime import FEW_RUNS
from minidiff.text import Tokenizer

SAMPLE = 4096  # captions of an endless source, or of a stream, that a tokenizer learns from


@struct.dataclass
class WordTokens:
    """Token ids of a batch that holds its captions as word ids ("words")."""

    table: jax.Array  # (words, pieces) token ids of each word, -1 where there is none
    start: int = struct.field(pytree_node=False)
    end: int = struct.field(pytree_node=False)

    @property
    def context(self) -> int:
        """Tokens of the longest caption, with start and end."""
        return MAX_WORDS * self.table.shape[1] + 2

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
class Tokenized:
    """A source whose batches hold "ids" beside the images: what a text encoder reads."""

    source: Source | Batches
    tokens: WordTokens | CaptionTokens | GivenTokens

    def batch(self, step: int | Int[Array, ""]) -> dict[str, Array]:
        """The source's batch with its token ids. Traceable."""
        batch = self.source.batch(step)
        return {**batch, "ids": self.tokens(batch)}


def some_captions(source: Source) -> list[str]:
    """Captions to learn a tokenizer from: all, or a sample of an endless source's or a stream's.

    InputError if the source has none.
    """
    if source.name == "scenes":
        steps = -(-SAMPLE // source.batch_size)
        draw = jax.jit(lambda source, step: source.batch(step)["words"], compiler_options=FEW_RUNS)
        texts = [text for step in range(steps) for text in source.captions(draw(source, step))]
        return texts + 2 * list(VOCABULARY)  # some words are needed for two objects alone
    captions = _sample(source) if isinstance(source, Stream) else source.facts.captions
    if not captions or not any(captions):
        raise InputError(f"{source.name} has no captions: there is no text to learn from")
    return list(captions)


def _sample(stream: Stream) -> list[str] | None:
    """Captions of evenly spaced records: all, if there are few."""
    chosen = np.linspace(0, stream.count - 1, min(SAMPLE, stream.count), dtype=np.int64)
    return stream.captions(chosen)


def tokenized(source: Source, tokenizer: Tokenizer, context: int | None = None) -> Tokenized:
    """The source with the token ids of its captions; ``context`` as of ``tokens_of``.

    Without one, rows of a stream are as long as the longest caption of a sample needs.
    """
    if not isinstance(source, Stream):
        return Tokenized(source, tokens_of(source, tokenizer, context))
    longest = max(len(tokenizer.encode(text)) for text in some_captions(source)) + 2
    tokens = GivenTokens(min(longest, context or longest))
    return Tokenized(source.with_ids(tokenizer, tokens.context), tokens)


def tokens_of(
    source: Source, tokenizer: Tokenizer, context: int | None = None
) -> WordTokens | CaptionTokens:
    """A pytree that turns a batch of this source into token ids; ``context`` is the longest row.

    Without one, it is as long as the longest caption needs. Captions in memory that are longer are
    cut, as the tokenizer cuts them.
    """
    if source.name == "scenes":
        pieces = [tokenizer.encode(word) for word in VOCABULARY]
        table = np.full((len(pieces), max(map(len, pieces))), -1, np.int32)
        for row, ids in zip(table, pieces, strict=True):
            row[: len(ids)] = ids
        tokens = WordTokens(jnp.asarray(table), tokenizer.start, tokenizer.end)
        if context is not None and context < tokens.context:
            raise InputError(f"context={context}: captions of scenes need {tokens.context} tokens")
        return tokens
    captions = source.facts.captions
    longest = max(len(tokenizer.encode(text)) for text in captions) + 2
    return CaptionTokens(jnp.asarray(tokenizer(captions, min(longest, context or longest))))
