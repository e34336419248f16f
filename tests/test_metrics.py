"""Metrics against closed forms."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from minidiff.measure import metrics
from minidiff.measure.metrics import (
    accuracy,
    coverage,
    frechet_distance,
    recall,
    squared_distances,
)


def normal(count, features, seed=0):
    return np.random.default_rng(seed).normal(size=(count, features))


def whitened(count=50, features=3, seed=0):
    """Points whose mean is 0 and whose covariance is the identity, exactly."""
    x = normal(count, features, seed)
    x = x - x.mean(axis=0)
    covariance = np.atleast_2d(np.cov(x, rowvar=False))
    return x @ np.linalg.inv(np.linalg.cholesky(covariance)).T


# Frechet distance


def test_a_set_is_at_no_distance_from_itself():
    x = normal(40, 5)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-9)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_a_shift_costs_its_square(shift):
    x = normal(30, 3)
    assert frechet_distance(x, x + shift) == pytest.approx(np.sum(np.square(shift)), abs=1e-8)


@given(st.floats(0, 4), st.floats(0, 4), st.floats(-3, 3))
def test_one_dimension(a, b, shift):
    """(mean_a - mean_b)^2 + (deviation_a - deviation_b)^2."""
    x, y = a * whitened(features=1), b * whitened(30, features=1, seed=1) + shift
    assert frechet_distance(x, y) == pytest.approx(shift**2 + (a - b) ** 2, abs=1e-6)


def test_diagonal_covariances():
    a, b = np.array([1.0, 2.0, 0.5]), np.array([3.0, 2.0, 0.0])
    x, y = whitened() * a, whitened(70, seed=1) * b
    assert frechet_distance(x, y) == pytest.approx(np.sum((a - b) ** 2))


def test_any_covariances_as_by_the_square_root_of_a_matrix():
    x, y = normal(40, 4) @ normal(4, 4, seed=1), normal(50, 4, seed=2) @ normal(4, 4, seed=3)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b).real
    means = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    assert frechet_distance(x, y) == pytest.approx(means + np.trace(a + b - 2 * root))
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y))


def test_fewer_points_than_features():
    x, y = normal(5, 20), normal(6, 20, seed=1)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))


def test_single_precision_far_from_the_origin():
    x = (whitened() + 1000).astype(np.float32)
    assert frechet_distance(x, x + np.float32(1)) == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize("counts", [(1, 10), (10, 1), (0, 0)])
def test_one_point_has_no_covariance(counts):
    with pytest.raises(ValueError, match=f"got {counts[0]} and {counts[1]}"):
        frechet_distance(np.zeros((counts[0], 2)), np.zeros((counts[1], 2)))


# Coverage


def test_squared_distances():
    a, b = normal(5, 3), normal(7, 3, seed=1)
    expected = ((a[:, None] - b[None]) ** 2).sum(-1)
    np.testing.assert_allclose(squared_distances(a, b), expected)
    assert (squared_distances(a + 1e6, a + 1e6) >= 0).all()


def test_coverage_of_the_same_points_is_1():
    x = normal(60, 4)
    assert coverage(x, x) == 1
    assert coverage(x, x[::-1]) == 1


def test_coverage_of_another_draw_is_high():
    assert coverage(normal(300, 2), normal(300, 2, seed=1)) > 0.9


def test_coverage_from_far_away_is_0():
    assert coverage(normal(60, 4), normal(60, 4) + 100) == 0


def test_coverage_by_a_few_points_is_low():
    real = normal(300, 2)
    assert 0 < coverage(real, np.repeat(real[:3], 100, axis=0)) < 0.15


def test_coverage_by_half_of_two_clusters_is_one_half():
    left, right = normal(50, 2), normal(50, 2, seed=1) + 1000
    assert coverage(np.concatenate([left, right]), left) == 0.5


def test_coverage_counts_the_neighbours_it_is_told():
    real = np.arange(10.0)[:, None]  # neighbours at distances 1, 1, 2, 2, ... but at the ends
    made = real + 1.5  # at 0.5 from every point but the first, which it leaves 1.5 away
    assert coverage(real, made, k=1) == 0.9
    assert coverage(real, made, k=2) == 1


def test_coverage_needs_more_points_than_neighbours():
    with pytest.raises(ValueError, match="more than 5 real points; got 5"):
        coverage(normal(5, 2), normal(50, 2))


def test_accuracy():
    true = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    wrong = true.copy()
    wrong[0, 0] = 9
    assert accuracy(true, true).tolist() == [1, 1]
    assert accuracy(wrong, true).tolist() == [0.75, 1]


def check_recall(module):
    """By hand: what stands before the best relevant item, ties included."""
    similarity = np.array([[0.9, 0.5, 0.1], [0.2, 0.2, 0.1], [0.3, 0.8, 0.6], [1.0, 0.0, 0.5]])
    own = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]], bool)
    # Places of the own item: 1; 2, since it ties with another; 2; 3.
    assert [module.recall(similarity, own, k) for k in (1, 2, 3)] == [0.25, 0.75, 1.0]
    several = np.array([[0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]], bool)
    # The best of the relevant ones counts: places 2, 1 (they tie with each other alone), 3, 2.
    assert [module.recall(similarity, several, k) for k in (1, 2, 3)] == [0.25, 0.75, 1.0]


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_a_collapsed_encoder_finds_nothing(value):
    own = np.eye(20, dtype=bool)
    assert [recall(np.full((20, 20), value), own, k) for k in (1, 10, 19)] == [0, 0, 0]
    assert recall(np.full((20, 20), value), own, 20) == 1
    assert recall(np.eye(20), own, 1) == 1


def test_recall():
    check_recall(metrics)


def test_recall_of_noise_is_chance():
    scores, own = normal(2000, 40), np.arange(40)[None] == np.arange(2000)[:, None] % 40
    for k in (1, 5, 10):
        assert abs(recall(scores, own, k) - k / 40) < 5 * (k / 40 / 2000) ** 0.5


def test_recall_does_not_depend_on_the_order_of_items():
    scores, own = normal(50, 30), normal(50, 30, seed=1) > 1
    own[:, 0] = True
    order = np.random.default_rng(2).permutation(30)
    assert recall(scores, own, 3) == recall(scores[:, order], own[:, order], 3)
    assert 0 < recall(scores, own, 1) < 1


def test_recall_needs_something_to_recall():
    with pytest.raises(ValueError, match="every query needs a relevant item"):
        recall(np.zeros((2, 2)), np.array([[True, False], [False, False]]), 1)


@pytest.mark.parametrize("level", [0.0, 0.02, 0.1, 0.3])
def test_noise_level_is_that_of_the_noise(level):
    """On shaded pictures with an edge, which are no noise."""
    dice = np.random.default_rng(0)
    ramp = np.linspace(-1, 1, 16)[None, None, :, None] * np.ones((200, 16, 16, 3))
    ramp[:, :, 8:] *= -1
    noisy = np.float32(ramp + level * dice.normal(size=ramp.shape))
    assert metrics.noise_level(noisy) == pytest.approx(level, rel=0.2, abs=1e-6)
