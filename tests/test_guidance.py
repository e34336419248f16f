"""Denoisers that wrap a denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from minidiff.guidance import ClassifierFree, ClipX0, Conditioned, FromV
from minidiff.noising import add_noise, linear_schedule, predict_x0, to_v
from minidiff.sampling import ddim_sample, ddpm_sample

KEY = jax.random.key(0)
SCHEDULE = linear_schedule(50, 1e-3, 0.3)


def test_the_predicted_image_stays_in_range():
    xt = jnp.float32(3 * np.random.default_rng(0).normal(size=(6, 4, 4, 1)))
    t = jnp.array([0, 5, 10, 20, 40, 49])
    clipped = ClipX0(oracles.zero, SCHEDULE, low=-0.5, high=0.25)(xt, t)
    before = predict_x0(SCHEDULE, xt, t, jnp.zeros_like(xt))
    after = predict_x0(SCHEDULE, xt, t, clipped)
    np.testing.assert_allclose(after, np.clip(before, -0.5, 0.25), atol=1e-4)
    assert (before < -0.5).any()
    assert (before > 0.25).any()


def test_a_guess_within_range_is_left_alone():
    denoiser = oracles.ideal(SCHEDULE, 0.3, std=0.1)
    xt, t = jnp.float32(np.random.default_rng(0).normal(size=(8, 5))), jnp.arange(8) * 5 + 10
    found, expected = (oracles.ask(d, xt, t) for d in (ClipX0(denoiser, SCHEDULE), denoiser))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_clipping_keeps_a_bad_denoiser_in_range():
    """A denoiser that sees no noise leaves x_T / sqrt(alpha_bar_T), 70 times as large as noise."""
    kept = ddpm_sample(KEY, ClipX0(oracles.zero, SCHEDULE), SCHEDULE, (4, 8))
    assert float(SCHEDULE.alpha_bar[-1]) < 1 / 60**2
    assert jnp.abs(kept).max() < 1 + 1e-4


def test_a_guided_sampler_is_the_plain_sampler():
    """Where the ideal image is in range anyway, clipping changes no sample."""
    ideal = oracles.ideal(SCHEDULE, 0.3, std=0.0)
    denoiser = ClipX0(ideal, SCHEDULE)
    plain, guided = (ddim_sample(KEY, d, SCHEDULE, (2, 8), steps=10) for d in (ideal, denoiser))
    np.testing.assert_allclose(guided, plain, atol=1e-4)


def test_a_low_precision_denoiser_is_clipped_in_float32():
    def low(xt, t):
        return xt.astype(jnp.bfloat16)

    assert ClipX0(low, SCHEDULE)(jnp.ones((2, 3)), jnp.array([1, 2])).dtype == jnp.float32


def test_a_network_that_predicts_v_becomes_a_denoiser():
    rng = np.random.default_rng(1)
    x0, eps = (jnp.float32(rng.normal(size=(6, 5))) for _ in range(2))
    t = jnp.arange(6) * 7
    v = to_v(SCHEDULE, x0, t, eps)
    xt = add_noise(SCHEDULE, x0, t, eps)
    denoiser = FromV(jax.tree_util.Partial(lambda xt, t: v), SCHEDULE)
    np.testing.assert_allclose(denoiser(xt, t), eps, atol=1e-5)
    # The opposite sign would give back something else.
    wrong = FromV(jax.tree_util.Partial(lambda xt, t: -v), SCHEDULE)
    assert jnp.abs(wrong(xt, t) - eps).max() > 0.1


def told(xt, t, condition):
    """The ideal denoiser of points at ``condition["mean"]``: what a network with a condition is."""
    alpha_bar = SCHEDULE.alpha_bar[t][:, None]
    return (xt - jnp.sqrt(alpha_bar) * condition["mean"][:, None]) / jnp.sqrt(1 - alpha_bar)


def conditions(count):
    return {"mean": jnp.linspace(-1.0, 1.0, count)}, {"mean": jnp.zeros(count)}


def test_scale_0_ignores_the_condition_and_scale_1_obeys_it():
    xt, t = jnp.float32(np.random.default_rng(0).normal(size=(6, 5))), jnp.arange(6) * 7 + 3
    condition, null = conditions(6)
    for scale, expected in ((0.0, null), (1.0, condition)):
        found = ClassifierFree(told, condition, null, scale)(xt, t)
        np.testing.assert_allclose(found, Conditioned(told, expected)(xt, t), atol=1e-5)
    with_it, without = (Conditioned(told, c)(xt, t) for c in (condition, null))
    found = ClassifierFree(told, condition, null, 2.5)(xt, t)
    np.testing.assert_allclose(found, without + 2.5 * (with_it - without), atol=1e-4)


def test_both_guesses_are_one_call():
    asked = []

    def network(xt, t, condition):
        asked.append(xt.shape)
        return told(xt, t, condition)

    condition, null = conditions(3)
    ClassifierFree(network, condition, null)(jnp.ones((3, 2)), jnp.array([1, 2, 3]))
    assert asked == [(6, 2)]


def test_guidance_moves_samples_further_than_the_condition():
    """Points at m: guided by scale s without a null mean, the sample lies at s m."""
    condition, null = conditions(4)
    for scale in (1.0, 2.0):
        guided = ClassifierFree(jax.tree_util.Partial(told), condition, null, scale)
        found = ddim_sample(KEY, guided, SCHEDULE, (4, 3), steps=50)
        expected = np.broadcast_to(scale * np.asarray(condition["mean"])[:, None], (4, 3))
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_network_that_predicts_v_can_be_guided():
    """Guiding v and guiding eps are the same: at one x_t they differ by a fixed rotation."""
    xt, t = jnp.float32(np.random.default_rng(2).normal(size=(4, 5))), jnp.arange(4) * 9 + 3
    condition, null = conditions(4)

    def speed(xt, t, condition):
        eps = told(xt, t, condition)
        return to_v(SCHEDULE, predict_x0(SCHEDULE, xt, t, eps), t, eps)

    outside = ClassifierFree(FromV(speed, SCHEDULE), condition, null, 3.0)(xt, t)
    inside = FromV(ClassifierFree(speed, condition, null, 3.0), SCHEDULE)(xt, t)
    np.testing.assert_allclose(outside, inside, atol=1e-4)
    expected = ClassifierFree(told, condition, null, 3.0)(xt, t)
    np.testing.assert_allclose(outside, expected, atol=1e-4)
