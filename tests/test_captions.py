"""The caption grammar: what it says is true, well formed, and understood again."""

from itertools import pairwise

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from minidiff.data import captions
from minidiff.data.captions import MAX_WORDS, VOCABULARY, parse_prompt, to_text
from minidiff.data.scenes import FACTORS, SPLITS, scenes


@jax.jit
def _describe(seed, drawn):
    keys = jax.random.split(jax.random.key(seed), drawn.subject.shape[0])
    return jax.vmap(captions.caption_words)(keys, drawn)


full = jax.jit(jax.vmap(captions.full_caption_words))
draw = jax.jit(scenes, static_argnums=1)


def example(split, seed=0, count=256):
    drawn = draw(seed, split, jnp.arange(count))
    return drawn, np.asarray(_describe(seed, drawn))


def truth(drawn, i):
    return {name: names[int(getattr(drawn, name)[i])] for name, names in FACTORS.items()}


def test_the_vocabulary_is_small_and_lower_case():
    assert 50 <= len(VOCABULARY) <= 70
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert all(word.isalpha() and word.islower() for word in VOCABULARY)


@pytest.mark.parametrize("split", SPLITS)
def test_words_stand_left_aligned_and_fit(split):
    drawn, random = example(split)
    for words in (random, np.asarray(full(drawn))):
        assert words.shape == (256, MAX_WORDS)
        assert words.dtype == np.int32
        assert words.min() >= -1
        assert words.max() < len(VOCABULARY)
        present = words >= 0
        assert (present[:, :-1] >= present[:, 1:]).all()
        assert present.sum(1).min() >= 2


def test_the_longest_captions_are_not_cut():
    """No caption ends within a phrase, though some fill every place."""
    lengths = []
    for split in SPLITS:
        _, words = example(split, count=4096)
        lengths += (words >= 0).sum(1).tolist()
        last = {text.split()[-1] for text in to_text(words)}
        assert not last & {"a", "an", "the", "of", "in", "on", "at", "with", "wearing", "and", "to"}
        if split == "two":
            nouns = {w for ps in captions.PHRASES["subject"].values() for w in ps}
            assert all(sum(w in nouns for w in t.split()) == 2 for t in to_text(words))
    assert max(lengths) == MAX_WORDS


@given(seed=st.integers(0, 2**31 - 1), split=st.sampled_from(SPLITS))
def test_whatever_is_mentioned_is_true(seed, split):
    drawn, words = example(split, seed)
    for i, text in enumerate(to_text(words)):
        said, unknown = parse_prompt(text)
        facts = truth(drawn, i)
        assert unknown == []
        assert said["subject"] == facts["subject"]
        assert {name: facts[name] for name in said} == said, text


def test_every_attribute_is_mentioned_at_times_and_left_out_at_times():
    _, words = example("train", count=4096)
    said = [parse_prompt(text)[0] for text in to_text(words)]
    shares = {name: np.mean([name in one for one in said]) for name in FACTORS}
    assert shares.pop("subject") == 1.0
    assert shares.pop("colour") > 0.85
    assert all(0.2 < share < 0.85 for share in shares.values()), shares


def test_every_word_is_used():
    used = set()
    for split in ("train", "two"):
        used |= set(np.unique(example(split, count=4096)[1]))
    assert used == {-1, *range(len(VOCABULARY))}


def test_the_full_caption_says_everything():
    drawn = example("test")[0]
    for i, text in enumerate(to_text(full(drawn))):
        facts = truth(drawn, i)
        if facts["accessory"] == "none":
            del facts["accessory"]
        assert parse_prompt(text) == (facts, [])


def test_full_captions_read_well():
    drawn = jax.tree.map(lambda x: x[:1], example("train")[0])

    def caption(second=0, second_subject="square", second_colour="blue", **values):
        chosen = {name: FACTORS[name].index(value) for name, value in values.items()}
        chosen |= {
            "second": second,
            "second_subject": FACTORS["subject"].index(second_subject),
            "second_colour": FACTORS["colour"].index(second_colour),
        }
        scene = drawn.replace(**{name: jnp.full(1, v, jnp.int32) for name, v in chosen.items()})
        return to_text(full(scene)[0])

    cat = {"subject": "cat", "colour": "red", "background": "snow", "accessory": "hat"}
    rest = {"size": "small", "position": "left", "style": "striped"}
    expected = "a small striped red cat wearing a hat in the snow on the left"
    assert caption(**cat, **rest) == expected
    bare = rest | {"background": "night", "accessory": "none"}
    assert caption(subject="circle", colour="orange", **bare, second=1) == (
        "an orange circle to the left of a blue square at night"
    )
    assert caption(subject="circle", colour="pink", **bare, second=1, second_colour="orange") == (
        "a pink circle to the left of an orange square at night"
    )


def test_articles_agree():
    for split in ("train", "two"):
        for text in to_text(example(split, count=4096)[1]):
            words = text.split()
            for article, following in pairwise(words):
                if article in ("a", "an"):
                    assert (article == "an") == (following[0] in "aeiou"), text


def test_two_objects_are_both_named_where_they_stand():
    drawn, words = example("two")
    subjects = captions.PHRASES["subject"]
    colour_of = {word: c for c, names in captions.PHRASES["colour"].items() for word in names}
    relations = set()
    for i, text in enumerate(to_text(words)):
        nouns = [w for w in text.split() if any(w in names for names in subjects.values())]
        colours = [w for w in text.split() if w in colour_of]
        assert len(colours) in (0, 2)
        for word, index in zip(colours, (drawn.colour[i], drawn.second_colour[i]), strict=False):
            assert colour_of[word] == FACTORS["colour"][int(index)]
        for noun, index in zip(nouns, (drawn.subject[i], drawn.second_subject[i]), strict=True):
            assert noun in subjects[FACTORS["subject"][int(index)]]
        if "to the left of" in text:
            assert drawn.x[i] < 0
        relations |= {r for r in captions.RELATIONS if f" {r} " in f" {text} "}
    assert relations == set(captions.RELATIONS)


@pytest.mark.parametrize(
    ("prompt", "said", "unknown"),
    [
        ("A Kitty wearing a cap!", {"subject": "cat", "accessory": "hat"}, []),
        (
            "big turquoise android, indoors",
            {"size": "large", "colour": "cyan", "subject": "robot", "background": "room"},
            [],
        ),
        (
            "a dog with spectacles in the center",
            {"accessory": "glasses", "position": "middle"},
            ["dog"],
        ),
        ("a man without a hat", {"subject": "man", "accessory": "hat"}, ["without"]),
        ("", {}, []),
    ],
)
def test_prompts_are_understood(prompt, said, unknown):
    assert parse_prompt(prompt) == (said, unknown)


def test_the_random_caption_is_a_function_of_its_key():
    drawn = example("train")[0]
    first, again, other = _describe(7, drawn), _describe(7, drawn), _describe(8, drawn)
    assert np.array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any(1).mean() > 0.8


def test_text_of_one_and_of_many():
    words = example("train")[1]
    assert to_text(words[0]) == to_text(words)[0]
    assert to_text(np.full(16, -1)) == ""
