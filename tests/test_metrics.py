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


# Copies beside their originals


def images(count=3, height=16, width=16, channels=2, seed=0):
    """Smooth ramps and some noise, in [-1, 1]."""
    dice = np.random.default_rng(seed)
    ramp = np.linspace(-0.7, 0.7, width)[None, None, :, None]
    return np.float32(ramp + dice.uniform(-0.3, 0.3, size=(count, height, width, channels)))


def test_psnr_is_told_by_the_error():
    real = images()
    error = np.array([0.2, 0.02, 2.0])[:, None, None, None]
    np.testing.assert_allclose(metrics.psnr(real + error, real), [20, 40, 0], atol=1e-5)
    assert np.isinf(metrics.psnr(real, real)).all()


def test_psnr_is_of_each_image_and_not_of_all():
    made, real = images(seed=1), images()
    apart = [metrics.psnr(made[i : i + 1], real[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(metrics.psnr(made, real), apart)
    assert len(set(apart)) == 3


def ssim_by_windows(x, y):
    """Window by window, with weighted means written out: Wang et al. 2004, equations 13 to 16."""
    away = np.arange(11) - 5
    weights = np.exp(-(away[:, None] ** 2 + away[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            for channel in range(x.shape[2]):
                a = np.float64(x[top : top + 11, left : left + 11, channel])
                b = np.float64(y[top : top + 11, left : left + 11, channel])
                mean_a, mean_b = np.sum(weights * a), np.sum(weights * b)
                variance_a = np.sum(weights * (a - mean_a) ** 2)
                variance_b = np.sum(weights * (b - mean_b) ** 2)
                both = np.sum(weights * (a - mean_a) * (b - mean_b))
                luminance = (2 * mean_a * mean_b + 0.0004) / (mean_a**2 + mean_b**2 + 0.0004)
                found.append(luminance * (2 * both + 0.0036) / (variance_a + variance_b + 0.0036))
    return np.mean(found)


@pytest.mark.parametrize(("height", "width", "channels"), [(11, 11, 1), (13, 16, 3)])
def test_ssim_is_that_of_a_loop_over_windows(height, width, channels):
    real, made = (images(2, height, width, channels, seed) for seed in (0, 1))
    wanted = [ssim_by_windows(x, y) for x, y in zip(made, real, strict=True)]
    np.testing.assert_allclose(metrics.ssim(made, real), wanted, rtol=1e-9)


def test_ssim_of_what_is_alike_and_of_what_is_not():
    real = images()
    np.testing.assert_allclose(metrics.ssim(real, real), 1)
    grey = np.zeros_like(real)  # no structure at all, and nothing to see of it
    assert (metrics.ssim(grey, real) < 0.1).all()
    ripple = real - images(seed=1)
    assert (metrics.ssim(0.5 + ripple, 0.5 - ripple) < 0).all()
    noisy = real + np.float32(0.3) * images(seed=1)
    assert (metrics.ssim(grey, real) < metrics.ssim(noisy, real)).all()


@pytest.mark.parametrize("sides", [(10, 16), (16, 10)])
def test_ssim_wants_room_for_its_window(sides):
    small = images(1, *sides)
    with pytest.raises(ValueError, match="sides of 11 pixels or more"):
        metrics.ssim(small, small)


@pytest.mark.parametrize("axis", [1, 2])
def test_crispness_is_the_height_of_an_edge(axis):
    """Where at least one neighbour in a hundred lies across it."""
    edge = np.full((2, 16, 16, 3), -0.5, np.float32)
    right = (slice(None),) * axis + (slice(8, None),)
    edge[right] = 0.7
    assert metrics.crispness(edge) == pytest.approx(1.2)
    soft = edge.copy()
    soft[(slice(None),) * axis + (slice(7, 9),)] = 0.1
    assert metrics.crispness(soft) == pytest.approx(0.6)
    assert metrics.crispness(np.ones((1, 16, 16, 3), np.float32)) == 0


def test_blur_takes_crispness_away():
    sharp = images(4, seed=2)
    four = [sharp[:, i : 15 + i, j : 15 + j] for i in (0, 1) for j in (0, 1)]
    assert metrics.crispness(np.mean(four, axis=0)) < 0.75 * metrics.crispness(sharp)


def test_crispness_is_of_the_channel_that_differs_most():
    edge = np.zeros((1, 16, 16, 3), np.float32)
    edge[:, 8:, :, 1] = 0.9
    assert metrics.crispness(edge) == pytest.approx(0.9)
