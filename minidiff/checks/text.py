"""Exercises of lesson 04: a sentence becomes tokens, and the tokens one vector."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from minidiff.checks.exercise import Exercise, integers, normal
from minidiff.plot.text import matrices
from minidiff.text import TextConfig, TextTransformer
from minidiff.tokenizer import join


def _words() -> list[tuple]:
    """Words in symbols, and the pair to join."""
    return [
        (["c", "a", "t</w>"], ("c", "a")),
        (["b", "a", "n", "a", "n", "a</w>"], ("a", "n")),
        (["n", "a", "n", "a"], ("a", "n")),
        (["a", "a", "a", "h</w>"], ("a", "a")),
        (["he", "a", "d", "b", "a", "e", "a</w>"], ("e", "a")),
        (["h", "a", "t</w>"], ("c", "a")),
        (["abc"[i] for i in integers(2, 0, 3, 30)], ("a", "b")),
    ]


def _only_the_first(symbols, pair):
    for i in range(len(symbols) - 1):
        if (symbols[i], symbols[i + 1]) == pair:
            return [*symbols[:i], "".join(pair), *symbols[i + 2 :]]
    return symbols


def _without_skipping(symbols, pair):
    starts = [(a, b) == pair for a, b in zip(symbols, [*symbols[1:], ""], strict=True)]
    return ["".join(pair) if start else s for s, start in zip(symbols, starts, strict=True)]


def _either_order(symbols, pair):
    joined = []
    for symbol in symbols:
        if joined and {joined[-1], symbol} == set(pair):
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def _from_the_right(symbols, pair):
    joined = []
    for symbol in reversed(symbols):
        if joined and (symbol, joined[0]) == pair:
            joined[0] = symbol + joined[0]
        else:
            joined.insert(0, symbol)
    return joined


def _merged(symbols, pair):
    joined = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


merge_pair = Exercise(
    name="merge_pair",
    task="Join every occurrence of a pair of symbols, from left to right, and return the new list.",
    solution=join,
    cases=_words,
    mistakes={
        "only the first occurrence is joined: go on to the end of the word": _only_the_first,
        "the second symbol of the pair is still there: skip it once it is joined": (
            _without_skipping
        ),
        "a pair has an order: (a, n) is not (n, a)": _either_order,
        "a pair must be two whole symbols: replacing text also joins the end of a longer one": (
            lambda symbols, pair: " ".join(symbols).replace(" ".join(pair), "".join(pair)).split()
        ),
        "this goes from right to left: of three equal symbols the first two are joined": (
            _from_the_right
        ),
        "the pair is gone: put the joined symbol in its place": (
            lambda symbols, pair: [s for s in join(symbols, pair) if s != "".join(pair)]
        ),
    },
    written=_merged,
    hints=(
        "Build a new list, one symbol at a time, and look at its last symbol.",
        "If (last symbol so far, next symbol) is the pair, lengthen the last symbol by the next. "
        "Otherwise append the next.",
        "`if joined and (joined[-1], symbol) == pair: joined[-1] += symbol`, else "
        "`joined.append(symbol)`.",
    ),
    level=2,
    minutes=8,
)


def _causal_mask(length):
    return TextTransformer.mask(jnp.zeros((1, length), int))[0, 0]


def _added(length):
    return np.where(np.tri(length) == 1, 0.0, -np.inf)


def _before(length):
    place = jnp.arange(length)
    return place[:, None] >= place[None, :]


causal_mask = Exercise(
    name="causal_mask",
    task="True where a token (row) may look at a token (column): at itself and what came before.",
    solution=_causal_mask,
    cases=lambda: [(7,), (3,), (1,), (int(integers(3, 2, 12)),)],
    mistakes={
        "this is the other triangle: row i is the token that looks, column j what it looks at": (
            lambda length: np.triu(np.ones((length, length), bool))
        ),
        "a token may look at itself too: here the first one has nothing at all to look at": (
            lambda length: np.tri(length, k=-1) == 1
        ),
        "True and False are exchanged: True is where a token *may* look": (
            lambda length: np.tri(length) == 0
        ),
        "nothing is hidden: the first token must not see the second": (
            lambda length: np.ones((length, length), bool)
        ),
        "this is a mask to be added to the scores: here True stands where looking is allowed": (
            _added
        ),
        "a token may look at everything before it, not only at its neighbour": (
            lambda length: (np.tri(length) - np.tri(length, k=-2)) == 1
        ),
    },
    written=_before,
    hints=(
        "Token i may look at token j if j <= i.",
        "`jnp.tril` keeps the lower triangle of a matrix, diagonal included; or compare "
        "`jnp.arange(length)` as a column with itself as a row.",
    ),
    minutes=3,
    draw=lambda case, got, wanted: matrices(
        [("yours", np.clip(np.asarray(got, float), -1, 1)), ("wanted", np.asarray(wanted, float))]
    ),
)


def _pool_at_end(states, ids, end):
    """The module's method, of which ``pool`` needs nothing but the id of the end token."""
    return TextTransformer.pool(SimpleNamespace(config=TextConfig(end=end)), states, ids)


def _rows() -> list[tuple]:
    """Rows that are full, padded with zeros, with end tokens and with ids above the end's."""
    some = jnp.array([[8, 3, 9, 0, 0, 0], [8, 3, 4, 5, 1, 9], [8, 9, 9, 9, 9, 9]])
    other = jnp.array([[5, 12, 3, 6, 11], [5, 1, 6, 0, 0]])
    return [(normal(0, 3, 6, 4), some, 9), (normal(1, 2, 5, 3), other, 6)]


def _at(find):
    """A pooling that reads every row off at the place ``find(ids, end)``."""

    def mistake(states, ids, end):
        return states[jnp.arange(len(ids)), find(ids, end)]

    return mistake


def _first(ids, end):
    return jnp.argmax(ids == end, axis=1)


def _mean_up_to_end(states, ids, end):
    read = jnp.arange(ids.shape[1])[None, :] <= _first(ids, end)[:, None]
    return jnp.sum(states * read[..., None], axis=1) / jnp.sum(read, axis=1)[:, None]


def _read_off(states, ids, end):
    place = jnp.argmax(ids == end, axis=1)
    return states[jnp.arange(len(ids)), place]


pool_at_end = Exercise(
    name="pool_at_end",
    task="Of each row the state of its first end token: (batch, length, width) to (batch, width).",
    solution=_pool_at_end,
    cases=_rows,
    mistakes={
        "this is the last position: in most rows that is padding, and no part of the sentence": (
            _at(lambda ids, end: jnp.full(len(ids), -1))
        ),
        "this is the start token, which has seen nothing but itself": (
            _at(lambda ids, end: jnp.zeros(len(ids), int))
        ),
        "this is the token before the end token: is the count off by one?": (
            _at(lambda ids, end: _first(ids, end) - 1)
        ),
        "the end token need not have the largest id: look for `ids == end`": (
            _at(lambda ids, end: jnp.argmax(ids, axis=1))
        ),
        "where a row is padded with end tokens the first one is meant, not the last": (
            _at(lambda ids, end: ids.shape[1] - 1 - jnp.argmax((ids == end)[:, ::-1], axis=1))
        ),
        "this is the mean over all positions, padding included": (
            lambda states, ids, end: states.mean(axis=1)
        ),
        "this is the mean of all tokens up to the end: take the end token's state alone": (
            _mean_up_to_end
        ),
    },
    written=_read_off,
    hints=(
        "Where is the end token? `ids == end` is True there; `argmax` along a row finds the first.",
        "With `place` of shape (batch,), `states[jnp.arange(len(ids)), place]` takes one state "
        "of each row.",
    ),
    level=2,
    minutes=6,
)
