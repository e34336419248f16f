"""Denoisers that wrap a denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from minidiff.guidance import ClipX0, FromV
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
