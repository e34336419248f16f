"""The exam: an encoder that knows everything passes it, one that knows nothing does not."""

import itertools
from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minidiff.contrastive import cosine_similarity
from minidiff.data.captions import MENTION, caption_words, parse_prompt, to_text
from minidiff.data.factors import ACCESSORIES, COLOURS, FACTORS, SUBJECTS, factors
from minidiff.data.scenes import scenes
from minidiff.measure import exam
from minidiff.runtime import FEW_RUNS
from minidiff.trained.encoder import Encoder

PLACES = np.cumsum([0, *(len(values) for values in FACTORS.values())])


class Knowing(Encoder):
    """Sees the factors of a scene and understands its caption: one axis for each value.

    Images are looked up by their pixels among the scenes of a split; ``blind`` sees and reads nothing.
    """

    side = 8

    def __init__(self, blind=False):
        vars(self).update(blind=blind, known={})  # an encoder is frozen

    def show(self, images, values):
        for image, row in zip(np.asarray(images), np.asarray(values), strict=True):
            vector = np.zeros(PLACES[-1] + 1, np.float32)
            vector[PLACES[:-1] + row] = 1
            self.known[image.tobytes()] = vector

    def images(self, images):
        if self.blind:
            return np.ones((len(images), PLACES[-1] + 1), np.float32)
        return np.stack([self.known[image.tobytes()] for image in np.asarray(images)])

    def texts(self, texts):
        if self.blind:
            return np.ones((len(texts), PLACES[-1] + 1), np.float32)
        found = np.zeros((len(texts), PLACES[-1] + 1), np.float32)
        for row, text in zip(found, texts, strict=True):
            for name, value in parse_prompt(text)[0].items():
                f = list(FACTORS).index(name)
                row[PLACES[f] + FACTORS[name].index(value)] = 1
            row[-1] = not row.any()  # a direction that no image has
        return found


def test_draw_gives_the_first_examples():
    drawn = exam.draw(Knowing(), 3, "test", 300)
    assert {len(array) for array in drawn.values()} == {300}
    few = exam.draw(Knowing(), 3, "test", 7)
    np.testing.assert_array_equal(few["words"], drawn["words"][:7])
    expected = factors(scenes(3, "test", jnp.arange(300)))
    assert (np.sort(drawn["factors"], 0) == np.sort(expected, 0)).all()


def test_zero_shot_of_one_that_knows():
    encoder = Knowing()
    for split in ("test", "unseen"):
        drawn = exam.draw(encoder, 0, split, 100)
        encoder.show(drawn["image"], drawn["factors"])
    perfect = {"subject": 1.0, "colour": 1.0, "both": 1.0, "among_64_pairs": 1.0}
    assert exam.zero_shot(encoder, 0, 100) == {"test": perfect, "unseen": perfect}


def test_zero_shot_of_one_that_is_blind():
    for accuracy in exam.zero_shot(Knowing(blind=True), 0, 250).values():
        assert accuracy["subject"] < 0.3
        assert accuracy["colour"] < 0.3
        assert accuracy["among_64_pairs"] <= accuracy["both"] + 0.1 < 0.3


def test_captions_are_distinct():
    drawn = exam.distinct(Knowing(), 0, 100)
    assert len(set(drawn["text"])) == len(drawn["text"]) == len(drawn["image"]) == 100
    assert to_text(drawn["words"]) == list(drawn["text"])
    assert drawn["text"][0] == to_text(exam.draw(Knowing(), 0, "test", 1)["words"])[0]


@cache
def said(count=12_000):
    """How often one scene's captions mention which factors: drawn, and read again."""
    scene = jax.tree.map(lambda x: x[0], scenes(0, "test", jnp.arange(1)))
    keys = jax.random.split(jax.random.key(0), count)
    words = jax.jit(jax.vmap(caption_words, (0, None)))(keys, scene)
    texts = Counter(to_text(words))
    found = Counter()
    for text, times in texts.items():
        found[frozenset(parse_prompt(text)[0])] += times
    return scene, texts, {names: times / count for names, times in found.items()}


def test_ideal_scores_are_the_odds_of_the_grammar():
    """By hand over all 9,216 scenes: p(what is said | scene) / p(what is said)."""
    texts = [
        "a red cat",
        "a man",
        "a small striped blue robot wearing a hat in the snow on the left",
        "an image of a large pink star with glasses",
        "a box in the middle",
    ]
    table = np.array(list(itertools.product(*(range(len(v)) for v in FACTORS.values()))))
    some = np.random.default_rng(0).choice(len(table), 300, replace=False)
    chance = np.ones((len(table), len(texts)))
    for j, text in enumerate(texts):
        asked = parse_prompt(text)[0]
        for f, (name, values) in enumerate(FACTORS.items()):
            often = MENTION[name] * (0.75 if name == "position" else 1)  # of four templates, three
            told = np.array([0.0 if value == "none" else often for value in values])
            right = np.array([value == asked.get(name) for value in values])
            share = np.where(right, told, 0) if name in asked else 1 - told
            chance[:, j] *= share[table[:, f]]
    expected = chance / chance.mean(0)
    found = np.exp(exam.ideal_scores(table, texts))
    np.testing.assert_allclose(found[some], expected[some], rtol=1e-6, atol=1e-12)
    assert (found[:, 0] > 0).sum() == len(table) // 64 * 1  # every red cat, and nothing else


def test_the_grammar_says_things_as_often_as_that():
    """Monte Carlo: the share of captions that mention just these factors."""
    scene, texts, shares = said()
    row = np.asarray(factors(scene))[None]
    names = list(FACTORS)
    dressed = ACCESSORIES[int(row[0, names.index("accessory")])] != "none"
    for mentioned in sorted(shares, key=shares.get)[-6:]:
        expected = 1.0
        for name in names:
            often = MENTION[name] * (0.75 if name == "position" else 1)
            often *= dressed if name == "accessory" else 1
            expected *= often if name in mentioned else 1 - often
        assert abs(shares[mentioned] - expected) < 5 * (expected / 12_000) ** 0.5, mentioned
    assert np.isfinite(exam.ideal_scores(row, list(texts)[:50])).all()


def test_the_chance_of_the_first_by_hand():
    score = np.array([[3.0, 1, 1], [2, 2, 0], [5, 5, 5]])
    assert exam.chance_of_first(score) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    impossible = np.array([[-np.inf, 0], [1, 0]])
    assert exam.chance_of_first(impossible) == 0


def test_nobody_beats_the_ceiling():
    encoder = Knowing()
    drawn = exam.draw(encoder, 0, "test", 2 * 100)
    encoder.show(drawn["image"], drawn["factors"])
    found = exam.retrieval(encoder, 0, 100)
    blind = exam.retrieval(Knowing(blind=True), 0, 100)
    for way, right in found.items():
        assert 0.5 < right["R@1"] <= right["R@5"] <= right["R@10"] <= 1
        assert right["R@1"] <= right["ceiling of R@1"] + 0.1  # that is an expectation
        assert 0.8 < right["ceiling of R@1"] <= 1
        assert blind[way] | {"ceiling of R@1": 0} == dict.fromkeys(right, 0)


def test_the_men_differ_in_their_hats_alone():
    bare, hat = exam.dressed(0, 5)
    before, after = np.array(factors(bare)), np.array(factors(hat))
    accessory = list(FACTORS).index("accessory")
    assert (before[:, 0] == SUBJECTS.index("man")).all()
    assert (before[:, accessory] == ACCESSORIES.index("none")).all()
    assert (after[:, accessory] == ACCESSORIES.index("hat")).all()
    after[:, accessory] = 0
    np.testing.assert_array_equal(before, after)
    images = exam.draw_dressed(Knowing(), 0, 5)
    assert all((a != b).any() for a, b in zip(*images, strict=True))


def test_hat_is_the_first_word_for_one_that_knows():
    encoder = Knowing()
    for scene, images in zip(exam.dressed(0, 5), exam.draw_dressed(encoder, 0, 5), strict=True):
        encoder.show(images, factors(scene))
    found = exam.hat_arithmetic(encoder, 0)
    assert found["ranks"] == found["ranks_uncentred"] == [1] * 5
    assert set(found["mean_direction"][:2]) == {"hat", "cap"}
    assert len(found["mean_direction"]) == 5
    blind = exam.hat_arithmetic(Knowing(blind=True), 0)
    assert min(blind["ranks"]) > 2


def test_binding_of_one_that_hears_the_first_colour():
    """Captions hold the same words: one that knows first subject and first colour is right."""
    encoder = Knowing()
    # Compiled, as the exam does it: pixels are looked up, and must agree to the last bit.
    draw = jax.jit(scenes, static_argnums=1, compiler_options=FEW_RUNS)
    drawn = draw(0, "two", jnp.arange(50))
    encoder.show(exam.pictures(encoder, drawn), factors(drawn))
    assert exam.binding(encoder, 0, 50) == 1
    assert exam.binding(Knowing(blind=True), 0, 50) < 1
    swapped = exam.swapped(exam.swapped(drawn))
    assert (swapped.colour == drawn.colour).all()
    assert (exam.swapped(drawn).colour == drawn.second_colour).all()


def test_labels_are_directions_of_their_own():
    for labels, names in (
        (exam.subject_labels(Knowing()), SUBJECTS),
        (exam.colour_labels(Knowing()), COLOURS),
    ):
        score = np.asarray(cosine_similarity(labels, labels))
        assert score.shape == (len(names), len(names))
        assert (score.argmax(1) == np.arange(len(names))).all()
