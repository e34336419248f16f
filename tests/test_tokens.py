"""Token ids made inside a program are those of the tokenizer outside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minidiff.data.arrays import ArraySource, Facts
from minidiff.data.captions import MAX_WORDS, VOCABULARY
from minidiff.data.scenes import SceneSource
from minidiff.data.sources import open_source
from minidiff.data.tokens import Tokenized, some_captions
from minidiff.errors import InputError
from minidiff.text import Tokenizer

LETTERS = Tokenizer.from_merges(())
TEXTS = ("a red cat", "", "two dogs, " * 9, "naïve café", "a red cat")


def learned(source, size):
    return Tokenizer.learn(some_captions(source), size)


def in_memory(captions=TEXTS, batch_size=7):
    pixels = np.zeros((len(TEXTS), 8, 8, 1), np.uint8)
    facts = Facts(captions=captions)
    return ArraySource.init("memory", pixels, batch_size=batch_size, facts=facts)


@jax.jit
def drawn(source, step):
    return source.batch(step)


@functools.cache
def some_scenes(split):
    return drawn(SceneSource(split=split, size=8, batch_size=64), 3)


@functools.cache
def scene_captions():
    return some_captions(SceneSource(size=8))


@pytest.mark.parametrize("split", ["train", "two"])
@pytest.mark.parametrize("size", [514, 600, 1024])
def test_scenes(split, size):
    """By tokenizers that split every word, some words and none."""
    source, batch = SceneSource(split=split, size=8, batch_size=64), some_scenes(split)
    tokenizer = Tokenizer.learn(scene_captions(), size)
    tokens = source.tokenized(tokenizer).tokens
    ids = jax.jit(lambda tokens, words: tokens({"words": words}))(tokens, batch["words"])
    assert ids.shape == (64, tokens.context)
    np.testing.assert_array_equal(ids, tokenizer(source.captions(batch), tokens.context))


def test_a_tokenized_source_is_the_source_and_its_ids():
    source = SceneSource(size=8, batch_size=64)
    tokens = source.tokenized(LETTERS).tokens
    batch = drawn(Tokenized(source, tokens), 3)
    assert set(batch) == {*some_scenes("train"), "ids"}
    np.testing.assert_array_equal(batch["words"], some_scenes("train")["words"])
    np.testing.assert_array_equal(batch["ids"], tokens(some_scenes("train")))


def test_the_longest_caption_and_none_at_all():
    source = SceneSource(size=8, batch_size=2)
    tokens = source.tokenized(LETTERS).tokens
    words = np.full((2, MAX_WORDS), -1, np.int32)
    words[0] = np.argmax((np.asarray(tokens.table) >= 0).sum(1))  # the longest word throughout
    row, empty = np.asarray(tokens({"words": jnp.asarray(words)}))
    assert (row[0], row[-1]) == (LETTERS.start, LETTERS.end)
    assert len(row) == tokens.context == MAX_WORDS * tokens.table.shape[1] + 2
    assert empty.tolist() == [LETTERS.start, LETTERS.end] + [0] * (tokens.context - 2)


def test_scenes_are_never_cut():
    source = SceneSource(size=8)
    needed = source.tokenized(LETTERS).tokens.context
    assert source.tokenized(LETTERS, needed).tokens.context == needed
    with pytest.raises(InputError, match=f"context={needed - 1}: .* need {needed} tokens"):
        source.tokenized(LETTERS, needed - 1)


@pytest.mark.parametrize("context", [None, 5, 12, 500])
def test_captions_in_memory(context):
    source = in_memory()
    tokens = source.tokenized(LETTERS, context).tokens
    longest = max(len(LETTERS.encode(text)) for text in TEXTS) + 2
    assert tokens.context == min(longest, context or longest)
    for step in (0, 1):
        batch = drawn(Tokenized(source, tokens), step)
        texts = source.captions(batch)
        np.testing.assert_array_equal(batch["ids"], LETTERS(texts, tokens.context))
        assert (np.asarray(batch["ids"]) == LETTERS.end).any(1).all()  # cut rows keep their end
    assert {text for step in range(3) for text in source.captions(drawn(source, step))} == set(
        TEXTS
    )


def test_digits_have_captions():
    source = open_source("digits", size=8, batch_size=16)
    tokenizer = learned(source, 1024)
    batch = drawn(source.tokenized(tokenizer), 0)
    digits = [
        tokenizer.decode([i for i in row if i not in (tokenizer.start, tokenizer.end, 0)]).strip()
        for row in np.asarray(batch["ids"])
    ]
    assert digits == source.captions(batch)


def test_what_a_tokenizer_learns_from():
    assert some_captions(in_memory()) == list(TEXTS)
    told = some_captions(SceneSource(size=8, batch_size=1024))
    assert 4096 <= len(told) < 5000
    assert set(" ".join(told).split()) == set(VOCABULARY)  # words of two objects among them
    for captions in (None, ("",) * len(TEXTS)):
        with pytest.raises(InputError, match="memory has no captions"):
            some_captions(in_memory(captions))
