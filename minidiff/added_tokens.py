"""Texts that are one token each, in front of the byte pairs: ``<cat-toy>``, learned afterwards.

A caption is cut at such texts before anything else is done with it, as the tokenizers library does:
first at those that are looked for as they were written, then, in the cleaned text in lower case, at
the others.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import regex

from minidiff.errors import InputError

Piece = tuple[str | None, int | None]  # a text between, or the id of a token


class AddedToken(NamedTuple):
    """A piece of text that is one token wherever it stands."""

    content: str
    id: int
    normalized: bool = True  # looked for in the cleaned text in lower case, not as it was written
    single_word: bool = False  # only where no letter, digit or _ touches it
    special: bool = False
    lstrip: bool = False  # with the blanks around it, which are no tokens anyway
    rstrip: bool = False


class AddedTokens:
    """All of a tokenizer's. InputError if one has no text, or an id that another token has."""

    def __init__(self, tokens: Iterable[AddedToken], vocabulary: dict[str, int]):
        taken = {i: token for token, i in vocabulary.items()}
        self.exact, self.lower, self.texts = {}, {}, {}
        for token in tokens:
            text, i = token.content, token.id
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"an added token is {text!r}, not a text")
            if type(i) is not int or not 0 <= i < 2**31:
                raise InputError(f"the id of {text!r} is not a whole number from 0 to 2**31 - 1")
            if taken.setdefault(i, text) != text:
                raise InputError(f"{text!r} has the id {i}, and so has {taken[i]!r}")
            if vocabulary.get(text, i) != i:
                raise InputError(f"{text!r} has two ids: {vocabulary[text]} and {i}")
            self.texts[i] = text
            if token.normalized:
                self.lower[_cleaned(text)] = token
            else:
                self.exact[text] = token

    def pieces(self, text: str, clean: Callable[[str], str]) -> Iterator[Piece]:
        """A text cut at the added tokens: cleaned texts between them, and their ids."""
        for piece, i in _split(text, self.exact) if self.exact else [(text, None)]:
            if piece is None:
                yield None, i
            else:
                yield from _split(clean(piece), self.lower)


def _split(text: str, tokens: dict[str, AddedToken]) -> Iterator[Piece]:
    start = 0
    longest = sorted(tokens, key=len, reverse=True)
    for found in regex.finditer("|".join(map(regex.escape, longest)), text) if tokens else ():
        token = tokens[found[0]]
        around = text[: found.start()][-1:] + text[found.end() :][:1]
        if token.single_word and regex.search(r"\w", around):
            continue
        yield text[start : found.start()], None
        yield None, token.id
        start = found.end()
    yield text[start:], None


def _cleaned(text: str) -> str:
    return regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).lower()
