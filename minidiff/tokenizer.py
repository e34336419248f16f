r"""From a caption to numbers: the byte-pair tokenizer of CLIP.

Start from the 256 bytes, join the two neighbours that stand together most often into a new symbol,
repeat (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, algorithm 1). A frequent word ends as
one symbol, a rare one as a few, and nothing is unknown. Encoding replays the merges in their order.
CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4) splits lower-case text into
words first, so that no symbol spans two: ``cat</w>`` is one, ``cat`` begins one.
"""

import heapq
import html
import importlib.util
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import SupportsIndex

import ftfy
import numpy as np
import regex
from jaxtyping import Int32

from minidiff import vocabulary as files
from minidiff.added_tokens import AddedToken, AddedTokens
from minidiff.errors import InputError
from minidiff.vocabulary import END, START, Pair

LAST = "</w>"
REAL_MERGES = 49_408 - 2 * 256 - 2  # OpenAI's file lists five times as many; CLIP uses the first
MOST_WORDS = 2**17  # whose ids are remembered

# A word, first match first: special token, English contraction, letters, one digit, anything else.
WORD = regex.compile(
    r"<\|(?:start|end)oftext\|>|'(?:[stmd]|re|ve|ll)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
# Each byte's visible stand-in, so that a vocabulary is a text file: its Latin-1 character if that
# prints, else a letter from U+0100 on.
_HIDDEN = [byte for byte in range(256) if byte == ord(" ") or not chr(byte).isprintable()]
BYTE_OF = {chr(byte): byte for byte in range(256) if byte not in _HIDDEN}
BYTE_OF |= {chr(256 + i): byte for i, byte in enumerate(_HIDDEN)}
SYMBOL_OF = {byte: symbol for symbol, byte in BYTE_OF.items()}
BASE = [*BYTE_OF, *(symbol + LAST for symbol in BYTE_OF)]  # ids 0 to 511, in this order


def check_text(text: object) -> None:
    """InputError if it is no text."""
    if not isinstance(text, str):
        raise InputError(f"a caption is a text, not {type(text).__name__}")


def clean(text: str) -> str:
    """A text mended, its blanks made one, in lower case; InputError if it is no text."""
    check_text(text)
    text = html.unescape(html.unescape(ftfy.fix_text(text)))  # twice, as web pages escape twice
    return " ".join(text.split()).lower()


def words(text: str) -> list[str]:
    """A text cleaned and split as CLIP does; InputError if it is no text."""
    return WORD.findall(clean(text))


def spell(word: str) -> list[str]:
    """The symbols of a word's UTF-8 bytes, the last one marked; a special token is one symbol."""
    if word in (START, END):
        return [word]
    symbols = [SYMBOL_OF[byte] for byte in word.encode()]
    return [*symbols[:-1], symbols[-1] + LAST]


def join(symbols: list[str], pair: Pair) -> list[str]:
    """Every occurrence of the pair, from left to right, made one symbol."""
    joined = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def learn_merges(captions: Iterable[str], most: int) -> tuple[Pair, ...]:
    """At most ``most`` merges, of pairs that occur twice or more; ties go by the alphabet."""
    counts = Counter(word for caption in captions for word in words(caption))
    spelled, total, places = {}, Counter(), defaultdict(set)  # of a pair: how often, in which words

    def respell(word, after):
        before = spelled.get(word, [])
        spelled[word] = after
        for pair in pairwise(before):
            total[pair] -= counts[word]
        for pair in pairwise(after):
            total[pair] += counts[word]
            places[pair].add(word)
        return {*pairwise(before), *pairwise(after)}

    for word in counts:
        respell(word, spell(word))
    heap = [(-n, pair) for pair, n in total.items()]
    heapq.heapify(heap)
    merges = {}  # without values: a set in order
    while heap and len(merges) < most:
        n, best = heapq.heappop(heap)
        if -n == total[best] > 1:  # else rare, or counted before another merge and pushed again
            merges[best] = None
            changed = (respell(word, join(spelled[word], best)) for word in places.pop(best))
            for pair in set().union(*changed):
                heapq.heappush(heap, (-total[pair], pair))
    return tuple(merges)


@dataclass(frozen=True)
class Tokenizer:
    """Captions to ids and back. InputError unless every byte, merge and special token has an id."""

    vocabulary: dict[str, int] = field(repr=False)  # id of each token
    merges: tuple[Pair, ...] = field(repr=False)  # in the order in which they were learned
    added: tuple[AddedToken, ...] = field(default=(), repr=False)  # texts that are one token each
    # Id that fills up a row. Nothing that CLIP says of a text depends on it; what stands behind the
    # end does, and a diffusion model may look at that.
    pad: int = field(default=0, repr=False, compare=False)
    most: int | None = field(default=None, repr=False)  # tokens of a row; none: any number
    start: int = field(init=False)  # id of the token before a text
    end: int = field(init=False)  # id of the token after it
    size: int = field(init=False)  # rows of an embedding of the ids

    def __post_init__(self):
        ids = {i: token for token, i in self.vocabulary.items()}
        if any(type(i) is not int or not 0 <= i < 2**31 for i in ids):
            raise InputError("an id is not a whole number from 0 to 2**31 - 1")
        if len(ids) < len(self.vocabulary) or not set("".join(self.vocabulary)) <= BYTE_OF.keys():
            raise InputError("two tokens have the same id, or one a letter that means no byte")
        for token in (*BASE, START, END, *map("".join, self.merges)):
            if token not in self.vocabulary:
                raise InputError(f"{token!r} (a byte, a merge or a special token) has no id")
        # Frozen, so written past __setattr__; what begins with _ is derived and no field.
        added = AddedTokens(self.added, self.vocabulary)
        size = max(*ids, *added.texts) + 1
        vars(self).update(start=self.vocabulary[START], end=self.vocabulary[END], size=size)
        ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        vars(self).update(_token=ids | added.texts, _rank=ranks, _known={}, _added=added)

    @classmethod
    def from_merges(cls, merges: tuple[Pair, ...]) -> "Tokenizer":
        """CLIP's ids: BASE, the merges (those that make the same symbol share one), start, end."""
        tokens = dict.fromkeys([*BASE, *map("".join, merges), START, END])
        return cls({token: i for i, token in enumerate(tokens)}, merges)

    @classmethod
    def learn(cls, captions: Iterable[str], size: int) -> "Tokenizer":
        """At most ``size`` tokens from captions; fewer if no pair is left that occurs twice."""
        if size < len(BASE) + 2 or isinstance(captions, str):
            raise InputError(
                "a tokenizer learns from a list of captions and has 514 tokens or more"
            )
        return cls.from_merges(learn_merges(captions, size - len(BASE) - 2))

    @classmethod
    def from_bpe(cls, path: Path | str) -> "Tokenizer":
        """From OpenAI's gzipped list of merges, its title line left out. InputError as ``load``."""
        with files.told_in_one_line(path):
            return cls.from_merges(
                files.pairs(files.read_text(path).split("\n")[1 : REAL_MERGES + 1])
            )

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """From vocab.json and merges.txt or, where one is missing, tokenizer.json (Hugging Face).

        With the tokens that were added, and what fills up a row: see ``minidiff.vocabulary``.
        InputError if files are missing, malformed, too large, of another kind, or inconsistent.
        """
        found = files.read_vocabulary(folder)
        with files.told_in_one_line(folder):
            tokenizer = cls(found.table, found.merges, found.added, most=found.most)
            ids = {token: i for i, token in tokenizer._token.items()}
            return replace(tokenizer, pad=0 if found.pad is None else ids[found.pad])

    def save(self, folder: Path | str) -> None:
        """Write vocab.json and merges.txt, which transformers' CLIPTokenizer reads as well.

        And tokenizer_config.json if tokens were added or ``pad`` is not 0.
        """
        pad = self._token.get(self.pad)
        # transformers makes what it pads with a special token: of a mere "!" in a text, too.
        told = pad if self.pad or self.pad in self._added.texts else None
        found = files.Vocabulary(self.vocabulary, self.merges, self.added, told, self.most)
        files.write_vocabulary(Path(folder), found)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start and end."""
        check_text(text)
        ids = []
        for piece, token in self._added.pieces(text, clean):
            found = [] if piece is None else WORD.findall(piece)
            ids += [token] if piece is None else [i for w in found for i in self._encode_word(w)]
        return ids

    def _encode_word(self, word: str) -> list[int]:
        if word in self._known:
            return self._known[word]
        symbols = spell(word)
        while len(symbols) > 1:
            first = min(pairwise(symbols), key=lambda pair: self._rank.get(pair, len(self._rank)))
            if first not in self._rank:
                break
            symbols = join(symbols, first)
        ids = [self.vocabulary[symbol] for symbol in symbols]
        if len(self._known) < MOST_WORDS:
            self._known[word] = ids
        return ids

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The words of a text, a space between, up to the end token; InputError for unknown ids.

        Bytes that are no UTF-8, as where a text was cut within a letter, show as U+FFFD.
        """
        content = b""
        for i in ids:
            if (token := self._token.get(i)) is None:
                raise InputError(f"there is no token {i} in a vocabulary of {self.size}")
            if token == END:  # the rest is padding, whichever id that is made of
                break
            if i in self._added.texts:
                content += f" {token} ".encode()
            elif token != START:
                content += bytes(BYTE_OF[symbol] for symbol in token.removesuffix(LAST))
                content += b" " * token.endswith(LAST)
        return content.decode(errors="replace").strip(" ")

    def __call__(
        self, texts: Iterable[str] | str, context: int = 77, pad: int | None = None
    ) -> Int32[np.ndarray, "texts context"]:
        """Start, ids, end, then ``pad``; a text that is too long is cut, and ends with the end token.

        ``pad``: none for the tokenizer's own. A single text makes one row. InputError if one is no
        text, or if context is below 3.
        """
        rows = self._rows(texts, context)
        ids = np.full((len(rows), context), self.pad if pad is None else pad, np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row[:context]
            ids[i, min(len(row), context) - 1] = self.end
        return ids

    def truncated(self, texts: Iterable[str] | str, context: int = 77) -> list[bool]:
        """Which of the texts a call with this context cuts."""
        return [len(row) > context for row in self._rows(texts, context)]

    def _rows(self, texts: Iterable[str] | str, context: int) -> list[list[int]]:
        if context < 3:
            raise InputError(
                f"a context holds 3 tokens or more (start, a text, end), not {context}"
            )
        texts = texts if isinstance(texts, Iterable) and not isinstance(texts, str) else [texts]
        return [[self.start, *self.encode(text), self.end] for text in texts]


def real_clip_tokenizer() -> Tokenizer:
    """OpenAI's own, from the list of merges in the open_clip_torch package, without importing it."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise InputError('the vocabulary of CLIP is not there: pip install "minidiff[vocab]"')
    return Tokenizer.from_bpe(Path(package.origin).with_name("bpe_simple_vocab_16e6.txt.gz"))
