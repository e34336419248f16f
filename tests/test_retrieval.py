"""Nearest neighbours in a plane, where the right answer can be seen."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from minidiff import retrieval
from minidiff.retrieval import TEMPLATES, fill, label_embeddings


def at(*degrees, length=1.0):
    """Vectors of the plane at these angles."""
    angles = np.radians(degrees)
    return jnp.float32(length * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def check_zero_shot(module):
    """Probabilities of each image by hand: exp(scale cos) over the labels."""
    images, labels = at(0, 90, 40, 60, length=7.0), at(0, 90, 180, length=0.1)
    found = module.zero_shot(images, labels, np.log(3.0))
    cosines = np.cos(np.radians([[0, 90, 180], [90, 0, 90], [40, 50, 140], [60, 30, 120]]))
    expected = np.exp(3 * cosines) / np.exp(3 * cosines).sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.argmax(found, axis=1).tolist() == [0, 1, 0, 1]


def check_search(module):
    """The nearest first, by direction alone."""
    items = jnp.concatenate([at(0, 30), at(100, 60, length=50.0), at(-80, length=0.01)])
    indices, cosines = module.search(at(0, 90), items, 3)
    assert indices.tolist() == [[0, 1, 3], [2, 3, 1]]
    expected = np.cos(np.radians([[0, 30, 60], [10, 30, 60]]))
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    everything, _ = module.search(at(0), items, 99)
    assert sorted(everything[0].tolist()) == [0, 1, 2, 3, 4]


def check_arithmetic(module):
    """From 0 to 90 degrees the way leads up and to the left, however long the vectors are."""
    before, after = at(0, length=5.0), at(90, length=0.2)
    direction = module.difference(before, after)
    np.testing.assert_allclose(direction, [-1, 1], atol=1e-6)
    words = at(135, 45, -45, 90)
    plain = module.rank_words(direction, words, centre=False)
    np.testing.assert_allclose(plain, np.cos(np.radians([0, 90, 180, 45])), atol=1e-6)
    # Words in a cone around 0 degrees, the direction along it: centred, what is left decides.
    cone = at(10, -10, 0, length=3.0)
    plain = module.rank_words(jnp.float32([1, 0.1]), cone, centre=False)
    centred = module.rank_words(jnp.float32([0.1, 1]), cone)
    assert np.asarray(plain).min() > 0.9
    assert np.argsort(-np.asarray(centred)).tolist() == [0, 2, 1]
    assert float(centred[1]) < -0.9


def check_labels(module):
    """The mean over the templates of unit vectors, itself of unit length."""
    table = {"a cat": (3.0, 0.0), "cats": (0.0, 0.5), "a dog": (0.0, -1.0), "dogs": (-9.0, 0.0)}

    def encode(texts):
        return jnp.float32([table[text] for text in texts])

    found = module.label_embeddings(encode, ["cat", "dog"], ["a {}", "{}s"])
    np.testing.assert_allclose(found, [[0.5**0.5] * 2, [-(0.5**0.5)] * 2], atol=1e-6)


CHECKS = [check_zero_shot, check_search, check_arithmetic, check_labels]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(retrieval)


@pytest.mark.parametrize(
    ("template", "label", "text"),
    [
        ("a {}", "house", "a house"),
        ("a {}", "orange", "an orange"),
        ("A {}", "Elephant", "An Elephant"),
        ("a picture of a {}", "a house", "a picture of a house"),
        ("a picture of a {}", "an igloo", "a picture of an igloo"),
        ("a picture of a {}", "The sea", "a picture of The sea"),
        ("A {}", "a house", "a house"),
        ("an image of a {}", "cat", "an image of a cat"),
        ("an image of {}", "cats", "an image of cats"),
        ("a {} cat", "orange", "an orange cat"),
        ("data {}", "a cat", "data a cat"),
        ("{}", "a orange", "an orange"),
        ("{} and {}", "cat", "cat and cat"),
        ("a {}", "antelope", "an antelope"),
        ("a {}", "theatre", "a theatre"),
    ],
)
def test_articles_fit(template, label, text):
    assert fill(template, label) == text


def test_every_template_has_a_place():
    assert all(template.count("{}") == 1 for template in TEMPLATES)
    assert len(set(TEMPLATES)) == len(TEMPLATES)


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ([], ["a {}"], "at least one label"),
        (["cat"], [], "at least one label and one template"),
        (["cat"], ["a {}", "a photo"], r"a place \{\} for the label"),
        (["cat", " "], ["a {}"], "empty label"),
    ],
)
def test_labels_that_cannot_be_used(labels, templates, message):
    def encode(texts):
        raise AssertionError("nothing should be encoded")

    with pytest.raises(ValueError, match=message):
        label_embeddings(encode, labels, templates)


def test_one_label_is_always_right():
    np.testing.assert_allclose(retrieval.zero_shot(at(0, 180), at(0), 1.0), 1)


def test_the_gap_between_two_kinds():
    assert float(retrieval.modality_gap(at(0, 0, length=4.0), at(180))) == pytest.approx(2)
    assert float(retrieval.modality_gap(at(0, 180), at(90, -90))) == pytest.approx(0, abs=1e-6)
    assert float(retrieval.modality_gap(at(0), at(60))) == pytest.approx(1, abs=1e-6)


def test_pairs_of_means_cancel_what_they_share():
    """What each man is does not matter, only the step that all of them take."""
    rng = np.random.default_rng(0)
    before = rng.normal(size=(6, 5))
    before /= np.linalg.norm(before, axis=1, keepdims=True)
    mirror = np.eye(5)
    mirror[4, 4] = -1
    found = retrieval.difference(jnp.float32(before), jnp.float32(before @ mirror))
    np.testing.assert_allclose(found, [0, 0, 0, 0, -2 * before[:, 4].mean()], atol=1e-6)


def test_other_lengths_are_refused():
    with pytest.raises(TypeCheckError):
        retrieval.search(at(0), jnp.zeros((3, 5)), 1)
