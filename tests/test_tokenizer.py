"""The tokenizer: the real CLIP's ids on nasty texts, merges counted by hand, files good and bad."""

import contextlib
import functools
import gzip
import html
import importlib.util
import json
import pickle
import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import ftfy
import hypothesis.strategies as st
import numpy as np
import pytest
import regex
from hypothesis import given

from minidiff import tokenizer as text_module
from minidiff import vocabulary
from minidiff.errors import InputError
from minidiff.tokenizer import BASE, END, START, Tokenizer, join, real_clip_tokenizer, spell, words

GOLDEN = json.loads((Path(__file__).parent / "golden/tokenizer/nasty.json").read_text())
CASES = GOLDEN["cases"]
PAPER = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
CAPTIONS = [
    "A photo of a cat.",
    "the cat's hat",
    "a hat, a cat: hats & cats",
    "übergroße Katze",
] * 3


def golden_tokenizer():
    """The merges of the real CLIP that its tokenizer used on these texts, under their own ids."""
    return Tokenizer(GOLDEN["vocabulary"], tuple(tuple(m.split()) for m in GOLDEN["merges"]))


@functools.cache
def toy():
    return Tokenizer.learn(CAPTIONS, 600)


def wrong(tokenizer):
    """Texts of which the tokenizer does not make the real ids."""
    rows = tokenizer([case["text"] for case in CASES], GOLDEN["context"])
    return [
        case["text"]
        for case, row in zip(CASES, rows, strict=True)
        if tokenizer.encode(case["text"]) != case["ids"] or row.tolist() != case["row"]
    ]


# The real CLIP


def test_the_ids_are_those_of_the_real_clip():
    assert len(CASES) > 40
    assert golden_tokenizer().size == 49_408  # rows of an embedding, though most ids are left out
    assert wrong(golden_tokenizer()) == []


@pytest.mark.skipif(not importlib.util.find_spec("open_clip"), reason="no open_clip_torch here")
def test_the_ids_of_the_whole_vocabulary_are_those_of_the_real_clip():
    tokenizer = real_clip_tokenizer()
    assert (tokenizer.start, tokenizer.end, tokenizer.size) == (49_406, 49_407, 49_408)
    assert len(tokenizer.merges) == 48_894
    assert GOLDEN["vocabulary"].items() <= tokenizer.vocabulary.items()
    assert wrong(tokenizer) == []


def loose(pattern):
    return regex.compile(pattern, regex.IGNORECASE)


def same(value):
    return value


PATTERN = text_module.WORD.pattern


@pytest.mark.parametrize(
    ("place", "mistake"),
    [
        ("ftfy.fix_text", same),
        ("ftfy.fix_text", functools.partial(ftfy.fix_text, unescape_html=False)),
        ("html.unescape", same),
        ("spell", lambda word: [*spell(word)[:-1], spell(word)[-1].removesuffix("</w>")]),
        ("join", lambda symbols, pair: join(symbols[::-1], pair[::-1])[::-1]),
        ("WORD", regex.compile(PATTERN)),
        ("WORD", loose(PATTERN.replace(r"\p{N}|", r"\p{N}+|", 1))),
        ("WORD", loose(PATTERN.replace("'(?:[stmd]|re|ve|ll)|", ""))),
        ("WORD", loose(PATTERN.replace(r"<\|(?:start|end)oftext\|>|", ""))),
        ("WORD", loose(PATTERN.replace(r"\p{L}+", "[a-z]+"))),
    ],
)
def test_a_mistake_is_seen_in_the_ids(monkeypatch, place, mistake):
    monkeypatch.setattr(f"minidiff.tokenizer.{place}", mistake)
    # A symbol that the real one never makes, or text that has no bytes, is seen as well.
    with contextlib.suppress(KeyError, UnicodeEncodeError):
        assert wrong(golden_tokenizer())


def test_one_merge_missing_or_out_of_order_is_seen():
    tokenizer = golden_tokenizer()
    for merges in (tokenizer.merges[:-1], tokenizer.merges[1:], tokenizer.merges[::-1]):
        assert wrong(Tokenizer(tokenizer.vocabulary, merges))


# Learning


def test_merges_of_the_papers_example_counted_by_hand():
    """low 5, lower 2, newest 6, widest 3; at equal counts the alphabetically first pair."""
    assert Tokenizer.learn(PAPER, 1000).merges == (
        ("e", "s"),  # 9, as many as s t</w>
        ("es", "t</w>"),  # 9
        ("l", "o"),  # 7
        ("e", "w"),  # 6, as n e and w est</w>
        ("ew", "est</w>"),  # 6, as n ew
        ("n", "ewest</w>"),  # 6
        ("lo", "w</w>"),  # 5
        ("d", "est</w>"),  # 3, as i d and w i
        ("i", "dest</w>"),  # 3, as w i
        ("w", "idest</w>"),  # 3
        ("e", "r</w>"),  # 2, as lo w and w e
        ("lo", "w"),  # 2, as w er</w>
        ("low", "er</w>"),  # 2
    )


def test_ids_are_in_the_order_of_clip():
    tokenizer = Tokenizer.learn(PAPER, 512 + 3 + 2)
    assert list(tokenizer.vocabulary.values()) == list(range(517))
    assert list(tokenizer.vocabulary)[512:] == ["es", "est</w>", "lo", START, END]
    assert (tokenizer.start, tokenizer.end, tokenizer.size) == (515, 516, 517)
    real = GOLDEN["vocabulary"]
    assert {token: real[token] for token in BASE} == {t: tokenizer.vocabulary[t] for t in BASE}
    assert tokenizer.encode("lowest") == [514, real["w"], 513]


@pytest.mark.parametrize(("size", "merges"), [(514, 0), (515, 1), (520, 6), (527, 13), (9999, 13)])
def test_learning_stops_at_the_size_or_when_no_pair_occurs_twice(size, merges):
    tokenizer = Tokenizer.learn(PAPER, size)
    assert len(tokenizer.merges) == merges
    assert tokenizer.size == 514 + merges


def slow_learner(captions, most):
    """The paper's algorithm: count everything anew for every merge."""
    spelled = [spell(word) for caption in captions for word in words(caption)]
    merges = []
    while len(merges) < most:
        count = Counter(pair for symbols in spelled for pair in pairwise(symbols))
        best = min(count, key=lambda pair: (-count[pair], pair), default=None)
        if best is None or count[best] < 2:
            break
        spelled = [join(symbols, best) for symbols in spelled]
        if best not in merges:  # one that comes back, where another merge made its half again
            merges.append(best)
    return tuple(merges)


@given(st.lists(st.text("abé ", max_size=12), max_size=12), st.integers(0, 40))
def test_learning_equals_counting_anew(captions, most):
    assert text_module.learn_merges(captions, most) == slow_learner(captions, most)


def test_learning_does_not_depend_on_the_order_of_captions():
    assert Tokenizer.learn(CAPTIONS[::-1], 600) == toy()
    assert Tokenizer.learn(iter(CAPTIONS), 600) == toy()


def test_special_tokens_are_not_learned_from():
    assert Tokenizer.learn([START + END] * 9, 600).merges == ()


@pytest.mark.parametrize(("captions", "size"), [(CAPTIONS, 513), (CAPTIONS, 0), ("a cat", 600)])
def test_what_cannot_be_learned(captions, size):
    with pytest.raises(InputError, match="list of captions and has 514 tokens or more"):
        Tokenizer.learn(captions, size)


# Encoding and decoding


def is_plain(text):
    return not re.search(r"<\|\w+\|>", text, re.IGNORECASE)


@given(st.text() | st.text("aAéß'&;lt#3 <>|_\u0308\u200d猫🐈", max_size=30))
def test_decoding_gives_the_cleaned_words_back(text):
    cleaned = html.unescape(html.unescape(ftfy.fix_text(text))).lower()
    assert is_plain(cleaned)
    for tokenizer in (toy(), golden_tokenizer()):
        decoded = tokenizer.decode(tokenizer.encode(text))
        assert decoded == " ".join(words(text))
        assert decoded.replace(" ", "") == "".join(cleaned.split())


@given(st.text("acht'os ", max_size=30))
def test_encoding_applies_the_merges_one_after_the_other(text):
    """The other way to read the paper: each merge in turn, everywhere."""
    ids = []
    for word in words(text):
        symbols = spell(word)
        for pair in toy().merges:
            symbols = join(symbols, pair)
        ids += [toy().vocabulary[symbol] for symbol in symbols]
    assert toy().encode(text) == ids


def test_encoding_is_the_same_at_every_call():
    once = [toy().encode(case["text"]) for case in CASES]
    assert [toy().encode(case["text"]) for case in CASES] == once
    again = Tokenizer(toy().vocabulary, toy().merges)
    assert [again.encode(case["text"]) for case in CASES[::-1]] == once[::-1]


def test_joining_goes_from_left_to_right():
    assert join(list("aaaaa"), ("a", "a")) == ["aa", "aa", "a"]
    assert join(list("abcab"), ("a", "b")) == ["ab", "c", "ab"]
    assert join(["a"], ("a", "b")) == ["a"]


def test_every_byte_has_a_symbol():
    assert len(BASE) == len(set(BASE)) == 512
    assert [BASE[i] for i in (0, 93, 94, 187, 188, 220, 255)] == list("!~¡ÿĀĠŃ")  # as GPT-2 has it
    assert all(symbol.isprintable() and not symbol.isspace() for symbol in BASE)
    alone = Tokenizer.learn([], 514)
    for byte in range(256):
        inside = alone.vocabulary[text_module.SYMBOL_OF[byte]]
        assert alone.decode([inside]) == bytes([byte]).decode(errors="replace").strip(" ")
    every = "".join(chr(i) for i in (*range(33, 127), *range(0x100, 0x180), 0x732B, 0x1F408))
    assert alone.decode(alone.encode(every)).replace(" ", "") == "".join(words(every))


def test_special_tokens_and_padding_are_not_decoded():
    ids = toy()("a cat & a hat", 30)[0]
    assert toy().decode(ids) == toy().decode(ids.tolist()) == "a cat & a hat"
    assert toy().decode(toy()("a cat", 30, pad=toy().end)[0]) == "a cat"
    assert toy().decode([]) == ""


def test_a_letter_that_was_cut_shows():
    alone = Tokenizer.learn([], 514)
    assert alone.decode(alone.encode("a 猫")[:-1]) == "a \ufffd"


@pytest.mark.parametrize("ids", [[1, 600], [-1]])
def test_unknown_ids(ids):
    with pytest.raises(InputError, match=f"no token {ids[-1]} in a vocabulary of {toy().size}"):
        toy().decode(ids)


# Rows


def test_a_row_is_start_ids_end_and_zeros():
    rows = toy()(["a cat", "", "a hat, a cat"])
    assert rows.shape == (3, 77)
    assert rows.dtype == np.int32
    for row, text in zip(rows, ["a cat", "", "a hat, a cat"], strict=True):
        filled = [toy().start, *toy().encode(text), toy().end]
        assert row.tolist() == filled + [0] * (77 - len(filled))
    assert np.array_equal(toy()("a cat"), rows[:1])
    assert np.array_equal(toy()(np.array(["a cat", ""])), rows[:2])
    assert toy()([], 5).shape == (0, 5)


def test_padding_changes_only_what_stands_behind_the_end():
    rows, padded = toy()(["a cat", ""], 9), toy()(["a cat", ""], 9, pad=toy().end)
    assert np.array_equal(rows, np.where(rows, padded, 0))
    assert (padded[rows == 0] == toy().end).all()


@pytest.mark.parametrize("length", [1, 4, 5, 6, 7, 500])
def test_a_text_that_is_too_long_keeps_its_end(length):
    context, text = 7, "! x " * (length // 2) + "?" * (length % 2)
    ids = toy().encode(text)
    assert len(ids) == length
    row = toy()(text, context)[0].tolist()
    assert row[:6] == [toy().start, *ids, toy().end, *[0] * 7][:6]
    assert row[-1] == (toy().end if length >= 5 else 0)
    assert toy().truncated(text, context) == [length > 5]


def test_which_texts_are_cut():
    assert toy().truncated(["", "! ! !", "! ! ! !"], 5) == [False, False, True]
    assert toy().truncated([]) == []


@pytest.mark.parametrize("context", [2, 0, -5])
def test_too_small_a_context(context):
    for call in (toy(), toy().truncated):
        with pytest.raises(InputError, match=f"3 tokens or more .*, not {context}"):
            call("a cat", context)


def test_what_is_no_text():
    """The tests' type checker would refuse these before the module does: load it without."""
    spec = importlib.util.spec_from_file_location("text_unchecked", text_module.__file__)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.Tokenizer(toy().vocabulary, toy().merges)
    for call in (tokenizer.encode, tokenizer, tokenizer.truncated):
        for bad in (5, None, b"a cat"):
            with pytest.raises(InputError, match=r"a caption is a text, not (int|NoneType|bytes)"):
                call(bad)
    for bad in (["a cat", None], [float("nan")]):
        with pytest.raises(InputError, match=r"a caption is a text, not (NoneType|float)"):
            tokenizer(bad)
        with pytest.raises(InputError, match=r"a caption is a text, not (NoneType|float)"):
            tokenizer.learn(bad, 600)
    del sys.modules[spec.name]


# Files


def test_saved_and_loaded(tmp_path):
    for tokenizer in (toy(), golden_tokenizer(), Tokenizer.learn([], 514)):
        tokenizer.save(tmp_path / "runs" / "tokenizer")
        assert Tokenizer.load(str(tmp_path / "runs" / "tokenizer")) == tokenizer
    assert {path.name for path in tmp_path.rglob("*.*")} == {"vocab.json", "merges.txt"}


def test_the_files_are_as_hugging_face_reads_them(tmp_path):
    Tokenizer.learn(PAPER, 516).save(tmp_path)
    assert (tmp_path / "merges.txt").read_bytes() == b"#version: 0.2\ne s\nes t</w>\n"
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert vocabulary["est</w>"] == 513
    assert len(vocabulary) == 516


@pytest.mark.parametrize("form", [" ".join, list])
def test_the_other_file_of_hugging_face(tmp_path, form):
    model = {"vocab": toy().vocabulary, "merges": [form(pair) for pair in toy().merges]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    assert Tokenizer.load(tmp_path) == toy()
    (tmp_path / "vocab.json").write_text("{}")  # alone it does not count
    assert Tokenizer.load(tmp_path) == toy()
    golden_tokenizer().save(tmp_path)  # together they come first
    assert Tokenizer.load(tmp_path) == golden_tokenizer()


def test_line_ends_and_header_do_not_matter(tmp_path):
    toy().save(tmp_path)
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")
    (tmp_path / "merges.txt").write_bytes("\r\n".join([*lines[1:], ""]).encode())
    assert Tokenizer.load(tmp_path) == toy()


def test_the_list_of_openai(tmp_path):
    """Its first line is a title, and of its merges only the first 48,894 count."""
    letters = [text_module.SYMBOL_OF[byte] for byte in range(256)]
    pairs = [(a, b) for a in letters for b in letters][: text_module.REAL_MERGES + 1000]
    lines = ['"title#version: 0.2', *map(" ".join, pairs), ""]
    (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    tokenizer = Tokenizer.from_bpe(tmp_path / "bpe.txt.gz")
    assert tokenizer.merges == tuple(pairs[:48_894])
    assert (tokenizer.start, tokenizer.end, tokenizer.size) == (49_406, 49_407, 49_408)
    assert tokenizer.vocabulary["".join(pairs[0])] == 512


def test_two_merges_that_make_the_same_symbol_share_its_id():
    merges = (("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"))
    tokenizer = Tokenizer.from_merges(merges)
    assert tokenizer.size == 514 + 3
    assert list(tokenizer.vocabulary)[512:515] == ["ab", "bc", "abc"]


def no_files(folder):
    for path in folder.iterdir():
        path.unlink()


def edit(name, old, new):
    def apply(folder):
        content = (folder / name).read_text(encoding="utf-8")
        assert old in content
        (folder / name).write_text(content.replace(old, new, 1), encoding="utf-8")

    return apply


def write(name, content):
    def apply(folder):
        if name == "tokenizer.json":
            no_files(folder)
        (folder / name).write_bytes(content)

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_files, "No such file"),
        (lambda folder: (folder / "vocab.json").unlink(), "No such file .*vocab.json"),
        (lambda folder: (folder / "merges.txt").unlink(), "No such file .*merges.txt"),
        (write("vocab.json", b""), "Expecting value"),
        (write("vocab.json", b'{"a": 1'), "Expecting ',' delimiter"),
        (write("vocab.json", b"[1, 2]"), "holds no tokenizer"),
        (write("vocab.json", b"{}"), "'!' .* has no id"),
        (write("vocab.json", b"\xff\xfe"), "can't decode"),
        (write("vocab.json", b"[" * 200_000), "recursion"),
        (write("merges.txt", b"#version: 0.2\na b c\n"), "too many values"),
        (write("merges.txt", b"#version: 0.2\nab\n"), "not enough values"),
        (write("merges.txt", b"\x80\n"), "can't decode"),
        (write("merges.txt", b"q x\n"), "'qx' .* has no id"),
        (edit("vocab.json", "endoftext", "fin"), re.escape("'<|endoftext|>' (a byte, a merge or")),
        (edit("vocab.json", '"a": 64', '"a": 65'), "same id"),
        (edit("vocab.json", '"a": 64', '"a": "64"'), "not a whole number"),
        (edit("vocab.json", '"a": 64', '"a": 64.0'), "not a whole number"),
        (edit("vocab.json", '"a": 64', '"a": true'), "same id"),
        (edit("vocab.json", '"a": 64', '"a": [64]'), "holds no tokenizer"),
        (edit("vocab.json", '"a": 64', '"a": -1'), "not a whole number from 0"),
        (edit("vocab.json", '"a": 64', '"a": 2147483648'), "not a whole number from 0"),
        (edit("vocab.json", '"a": 64', '"a": 64, "\u732b": 9999'), "means no byte"),
        (write("tokenizer.json", b"{}"), "model"),
        (write("tokenizer.json", b'{"model": null}'), "holds no tokenizer"),
        (write("tokenizer.json", b'{"model": {"vocab": 1, "merges": []}}'), "holds no tokenizer"),
        (write("tokenizer.json", b'{"model": {"vocab": {}, "merges": [5]}}'), "holds no tokenizer"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, spoil, message):
    toy().save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_larger_than_any_vocabulary_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "MOST_BYTES", 1000)
    toy().save(tmp_path)
    with pytest.raises(InputError, match="larger than 1000 bytes"):
        Tokenizer.load(tmp_path)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"a b\n" * 100_000, mtime=0))
    assert (tmp_path / "bomb.txt.gz").stat().st_size < 1000
    with pytest.raises(InputError, match="larger than 1000 bytes"):
        Tokenizer.from_bpe(tmp_path / "bomb.txt.gz")


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(b"title\na b\n" * 99, mtime=0)[:-9], b""]
)
def test_lists_of_openai_that_cannot_be_read(tmp_path, content):
    (tmp_path / "bpe.txt.gz").write_bytes(content)
    if content:
        with pytest.raises(InputError, match=r"bpe.txt.gz cannot be read"):
            Tokenizer.from_bpe(tmp_path / "bpe.txt.gz")
    corrupt = bytearray(gzip.compress(b"title\na b\nc d\n" * 99, mtime=0))
    corrupt[15] ^= 0xFF
    (tmp_path / "bpe.txt.gz").write_bytes(corrupt)
    with pytest.raises(InputError, match=r"bpe.txt.gz"):
        Tokenizer.from_bpe(tmp_path / "bpe.txt.gz")


def test_without_the_package_of_the_real_vocabulary(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match=re.escape('pip install "minidiff[vocab]"')):
        real_clip_tokenizer()


def test_the_real_vocabulary_is_found_without_importing_its_package(tmp_path, monkeypatch):
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip" / "__init__.py").write_text("raise ImportError('this needs torch')")
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"No such file .*bpe_simple_vocab_16e6.txt.gz"):
        real_clip_tokenizer()
    content = gzip.compress(b"title\nc a\nca t</w>\n", mtime=0)
    (tmp_path / "open_clip" / "bpe_simple_vocab_16e6.txt.gz").write_bytes(content)
    assert real_clip_tokenizer().encode("cat") == [513]


def test_a_tokenizer_is_small_to_show_and_can_be_sent_elsewhere():
    assert repr(toy()) == f"Tokenizer(start={toy().start}, end={toy().end}, size={toy().size})"
    toy().encode("a cat")
    assert pickle.loads(pickle.dumps(toy())) == toy()
