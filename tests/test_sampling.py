"""The reverse step and both samplers, against ideal denoisers whose results are known exactly."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jaxtyping import TypeCheckError
from programs import optimized

from minidiff import sampling
from minidiff.guidance import ClipX0
from minidiff.sampling import ddim_sample, ddpm_sample, reverse_step, sample_noise
from minidiff.schedules import cosine_schedule, linear_schedule, respace


def check_a_step_so_long_that_beta_is_1(m):
    """In float32, and 1 - beta would be 0 instead of 2e-9: what is left of the image is kept."""
    far = respace(cosine_schedule(), np.array([99, 999]))
    image = jnp.sqrt(far.alpha_bar[1:])  # without noise, so it must come back at its strength
    mean = m.reverse_mean(far, image, jnp.array([1]), 0 * image)
    np.testing.assert_allclose(mean, jnp.sqrt(far.alpha_bar[:1]), rtol=1e-6)


def check_few_steps_with_small_variance_are_ddim(m):
    """With eta 1, and the same noise."""
    for schedule, settings, close in (
        (linear_schedule(), {"steps": 10}, 1e-5),
        (linear_schedule(), {"steps": 11, "spacing": "leading"}, 1e-5),
        (cosine_schedule(), {"steps": 10}, 3e-4),
    ):
        denoiser = oracles.ideal(schedule, -1.0, 1.0, std=0.1)
        ddpm = m.ddpm_sample(KEY, denoiser, schedule, (4, 16), variance="small", **settings)
        ddim = m.ddim_sample(KEY, denoiser, schedule, (4, 16), eta=1.0, **settings)
        np.testing.assert_allclose(ddpm, ddim, atol=close)


def test_ddim_in_few_steps_is_finite():
    """With eta 1 hardly any old noise is kept in a long step; by rounding less than none was."""
    schedule = cosine_schedule()
    denoiser = oracles.ideal(schedule, -1.0, 1.0, std=0.1)
    for steps in range(1, 9):
        made = sampling.ddim_sample(KEY, denoiser, schedule, (4, 16), steps=steps, eta=1.0)
        assert np.isfinite(made).all(), steps


@optimized()
def check_few_steps_with_large_variance(m):
    """Sigma-hat: from x0 = 0 known for certain, a step leaves sqrt(beta') of the fresh noise.

    What the DDIM paper's table 1 shows (367 against 41 at 10 steps): the noise of the step before the
    last is far more than x should have there, and it is not taken out again.
    """
    schedule = linear_schedule()
    zero = oracles.ideal(schedule, 0.0, std=0.0)
    spread = {}
    for variance in ("large", "small"):
        _, frames = m.ddpm_sample(
            KEY, zero, schedule, oracles.SHAPE, variance=variance, steps=10, every=1
        )
        spread[variance] = np.asarray(frames.xt, np.float64).std((1, 2))
    alpha_bar = oracles.running_product(oracles.linear_beta(1000))[99::100][::-1]
    np.testing.assert_allclose(spread["small"], np.sqrt(1 - alpha_bar), rtol=0.03)
    exact = [1.0]
    for now, after in pairwise(alpha_bar):
        kept = np.sqrt(now / after) * (1 - after) / (1 - now)  # equation 7's share of x_t
        exact.append(np.sqrt((kept * exact[-1]) ** 2 + 1 - now / after))
    np.testing.assert_allclose(spread["large"], exact, rtol=0.03)
    assert exact[-1] > 1.2 * np.sqrt(1 - alpha_bar[-1])


def check_start(m):
    """Noise number 0 given as the start changes nothing; from halfway it is the second half."""
    schedule = linear_schedule(20, 1e-3, 0.3)
    denoiser, shape = oracles.ideal(schedule, -1.0, 1.0, std=0.1), (3, 5)
    noise = m.sample_noise(KEY, shape, 0, 0)
    for sample in (m.ddpm_sample, partial(m.ddim_sample, steps=20)):
        plain, frames = sample(KEY, denoiser, schedule, shape, every=8)
        given, _ = sample(KEY, denoiser, schedule, shape, every=8, start=noise)
        np.testing.assert_allclose(given, plain, atol=1e-6)
        other, _ = sample(KEY, denoiser, schedule, shape, every=8, start=-noise)
        assert jnp.abs(other - plain).max() > 0.1
    assert frames.t[1] == 11
    rest = jax.tree.map(lambda values: values[:12], schedule)
    half = m.ddim_sample(KEY, denoiser, rest, shape, steps=12, start=frames.xt[1])
    np.testing.assert_allclose(half, plain, atol=1e-5)


def check_a_method_with_a_memory(m):
    """Two slopes extrapolated, and looked up twice at first as PLMS does: a loop in float64."""
    schedule, share = linear_schedule(20, 1e-3, 0.3), np.linspace(0.2, 0.9, 20)
    ts, start = np.array([19, 12, 7, 2, 0], np.int32), np.linspace(-2.0, 2.0, 6)

    def step(y, before, here):
        ahead = here.sigma_next - here.sigma
        slope = jax.lax.cond(
            here.i == 0,
            lambda: 0.5 * (here.eps + here.ask(y + ahead * here.eps)),
            lambda: 1.5 * here.eps - 0.5 * before,
        )
        return y + ahead * slope, here.eps

    method = m.Method(step, lambda y, sigma: jnp.zeros_like(y), grown=True)
    denoiser = jax.tree_util.Partial(oracles.scaled, jnp.float32(share))
    walk = jax.jit(lambda start: m.walk(method, KEY, denoiser, schedule, (6,), ts, start, 2))
    found, seen = walk(jnp.float32(start))

    left = oracles.float64(schedule)[1][ts]
    root = np.append(np.sqrt(1 / left), 1.0)  # y over x_t
    sigma = np.append(np.sqrt((1 - left) / left), 0.0)
    y, before, xt = root[0] * start, None, []
    for i, t in enumerate(ts):
        xt.append(y / root[i])
        eps, ahead = share[t] * xt[-1], sigma[i + 1] - sigma[i]
        if before is None:
            slope = 0.5 * (eps + share[ts[1]] * (y + ahead * eps) / root[1])
        else:
            slope = 1.5 * eps - 0.5 * before
        y, before = y + ahead * slope, eps
    np.testing.assert_allclose(found, y, atol=1e-5)
    np.testing.assert_allclose(seen.xt, xt[::2], atol=1e-5)
    np.testing.assert_array_equal(seen.t, ts[::2])


CHECKS = [
    oracles.check_posterior,
    oracles.check_reverse_step_noise,
    oracles.check_point_mass,
    oracles.check_gaussian,
    oracles.check_contraction,
    oracles.check_modes,
    oracles.check_ddim_lands_on_the_jump,
    oracles.check_ddim_keeps_the_marginal,
    oracles.check_ddim_with_eta_1_is_ddpm,
    oracles.check_keys,
    oracles.check_noise_is_fresh,
    oracles.check_trajectory,
    check_a_step_so_long_that_beta_is_1,
    check_few_steps_with_small_variance_are_ddim,
    check_few_steps_with_large_variance,
    check_start,
    check_a_method_with_a_memory,
]
KEY = jax.random.key(0)
SHORT = linear_schedule(6, 0.05, 0.5)
SHAPE = (2, 3)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(sampling)


@pytest.mark.parametrize("steps", [0, -1, 7])
def test_a_number_of_steps_out_of_range_is_refused(steps):
    with pytest.raises(ValueError, match=f"between 1 and 6.*got {steps}"):
        ddim_sample(KEY, oracles.zero, SHORT, SHAPE, steps=steps)
    with pytest.raises(ValueError, match=f"between 1 and 6.*got {steps}"):
        ddpm_sample(KEY, oracles.zero, SHORT, SHAPE, steps=steps)


@pytest.mark.parametrize("variance", ["large", "small"])
def test_ddpm_is_its_steps_one_after_the_other(variance):
    """In a plain loop with the numbered noises; and steps=T is the same as none given."""
    xt = sample_noise(KEY, SHAPE, 0, 0)
    for k, t in enumerate(range(5, -1, -1)):
        ts = jnp.full(SHAPE[0], t)
        xt = reverse_step(SHORT, xt, ts, 0.5 * xt, sample_noise(KEY, SHAPE, 0, k + 1), variance)
    for steps in (None, 6):
        found = ddpm_sample(KEY, half, SHORT, SHAPE, variance=variance, steps=steps)
        np.testing.assert_allclose(found, xt, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sample", [ddpm_sample, ddim_sample])
def test_a_start_of_another_shape_is_refused(sample):
    with pytest.raises(ValueError, match=r"start must be shaped \(2, 3\); got \(1, 3\)"):
        sample(KEY, half, SHORT, SHAPE, steps=3, start=jnp.zeros((1, 3)))


@pytest.mark.parametrize("variance", ["large", "small"])
def test_lowers_for_accelerators(variance):
    def sample(key, schedule, start):
        settings = {"steps": 3, "variance": variance, "start": start}
        return ddpm_sample(key, half, schedule, SHAPE, **settings)

    exported = jax.export.export(jax.jit(sample), platforms=["cuda", "tpu"])
    exported(KEY, SHORT, jnp.zeros(SHAPE))


def shrink(strength, xt, t):
    return strength * xt


def half(xt, t):
    return 0.5 * xt


def test_any_callable_is_a_denoiser():
    """A function, a lambda, a Partial with arrays, a pytree around a function: the same images."""
    denoisers = [
        half,
        lambda xt, t: 0.5 * xt,
        jax.tree_util.Partial(shrink, jnp.float32(0.5)),
        ClipX0(half, SHORT, low=-1e6, high=1e6),
    ]
    results = [ddpm_sample(KEY, denoiser, SHORT, SHAPE) for denoiser in denoisers]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-5)
    assert results[0].shape == SHAPE
    assert results[0].dtype == jnp.float32


def test_a_sampler_compiles_once_for_all_keys_and_weights():
    traces = []

    def counted(strength, xt, t):
        traces.append(xt.shape)
        return strength * xt

    def sample(seed, strength, **settings):
        denoiser = jax.tree_util.Partial(counted, jnp.float32(strength))
        return ddim_sample(jax.random.key(seed), denoiser, SHORT, SHAPE, steps=3, **settings)

    a = sample(0, 0.5)
    once = len(traces)
    b, c = sample(1, 0.5), sample(0, 0.6)
    assert len(traces) == once
    assert not np.allclose(a, b)
    assert not np.allclose(a, c)
    d = sample(0, 0.5, eta=0.3)
    once = len(traces)
    e = sample(0, 0.5, eta=0.9)
    assert len(traces) == once
    assert not np.allclose(d, e)

    def plain(xt, t):
        traces.append(xt.shape)
        return 0.5 * xt

    ddpm_sample(jax.random.key(0), plain, SHORT, SHAPE)
    once = len(traces)
    ddpm_sample(jax.random.key(1), plain, SHORT, list(SHAPE))
    assert len(traces) == once


def test_a_low_precision_denoiser_samples_in_float32():
    def low(xt, t):
        return (0.5 * xt).astype(jnp.bfloat16)

    exact = ddpm_sample(KEY, half, SHORT, SHAPE)
    found = ddpm_sample(KEY, low, SHORT, SHAPE)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, atol=0.05)


def test_what_a_sampler_does_not_know_is_refused():
    # Without the tests' own checks of annotations a ValueError says the same.
    with pytest.raises((ValueError, TypeCheckError), match="medium"):
        ddpm_sample(KEY, oracles.zero, SHORT, SHAPE, variance="medium")
    with pytest.raises((ValueError, TypeCheckError), match="sideways"):
        ddim_sample(KEY, oracles.zero, SHORT, SHAPE, steps=2, spacing="sideways")
    with pytest.raises(TypeError, match="etaa"):
        ddim_sample(KEY, oracles.zero, SHORT, SHAPE, etaa=1.0)


def test_samplers_can_be_differentiated():
    """Gradients reach the denoiser's own arrays: what guidance and distillation stand on."""

    def brightness(strength):
        denoiser = jax.tree_util.Partial(shrink, strength)
        return ddim_sample(KEY, denoiser, SHORT, SHAPE, steps=3).sum()

    value, slope = jax.value_and_grad(brightness)(jnp.float32(0.5))
    step = 1e-2
    estimate = (brightness(jnp.float32(0.5 + step)) - brightness(jnp.float32(0.5 - step))) / (
        2 * step
    )
    assert jnp.isfinite(value)
    assert float(slope) == pytest.approx(float(estimate), rel=0.02)


@optimized()
def test_who_is_good_at_few_steps_and_who_is_ruinous():
    """The ordering of the DDIM paper's Table 1 (Song et al. 2020), whose spacing is leading.

    Exactly, for data N(0.7, 0.2^2) and the ideal denoiser: the samples are normal, and what counts is
    how far their mean and spread are off (Wasserstein's distance). At 10 steps eta 0 is best and the
    large variance, their sigma-hat, worst; at 100 that has caught up with eta 0, and eta 1 is last.
    """
    schedule = linear_schedule()
    denoiser = oracles.ideal(schedule, 0.7, std=0.2)

    def distance(sample, steps, **settings):
        settings |= {"steps": steps, "spacing": "leading"}
        made = np.asarray(sample(KEY, denoiser, schedule, oracles.SHAPE, **settings), np.float64)
        return np.hypot(made.mean() - 0.7, made.std() - 0.2)

    found = {
        steps: {
            "eta 0": distance(ddim_sample, steps, eta=0.0),
            "eta 1": distance(ddim_sample, steps, eta=1.0),
            "large": distance(ddpm_sample, steps),
        }
        for steps in (10, 100)
    }
    few, many = found[10], found[100]
    assert few["eta 0"] < few["eta 1"] < few["large"] / 1.3, few
    assert max(many["eta 0"], many["large"]) < many["eta 1"] / 1.5, many
    assert max(many.values()) < min(few.values()) / 2, found
