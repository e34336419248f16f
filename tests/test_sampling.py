"""The reverse step and both samplers, against ideal denoisers whose results are known exactly."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from jaxtyping import TypeCheckError

from minidiff import sampling
from minidiff.guidance import ClipX0
from minidiff.noising import linear_schedule
from minidiff.sampling import ddim_sample, ddpm_sample, timesteps

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
]
KEY = jax.random.key(0)
SHORT = linear_schedule(6, 0.05, 0.5)
SHAPE = (2, 3)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(sampling)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("trailing", [999, 749, 499, 249]),
        ("leading", [750, 500, 250, 0]),
        ("linspace", [999, 666, 333, 0]),
    ],
)
def test_spacings_are_as_documented(spacing, expected):
    assert timesteps(1000, 4, spacing).tolist() == expected


@given(st.data())
def test_timesteps_descend_within_the_schedule(data):
    total = data.draw(st.integers(1, 2000))
    steps = data.draw(st.integers(1, total))
    for spacing in ("trailing", "leading", "linspace"):
        ts = timesteps(total, steps, spacing)
        assert len(ts) == steps
        assert (np.diff(ts) < 0).all()
        assert 0 <= ts[-1] <= ts[0] < total
        if spacing != "leading":
            assert ts[0] == total - 1  # from pure noise
        if spacing == "leading" or (spacing == "linspace" and steps > 1):
            assert ts[-1] == 0
        if steps == total:
            assert ts.tolist() == list(range(total))[::-1]


@pytest.mark.parametrize("steps", [0, -1, 7])
def test_a_number_of_steps_out_of_range_is_refused(steps):
    with pytest.raises(ValueError, match=f"between 1 and 6.*got {steps}"):
        timesteps(6, steps)
    with pytest.raises(ValueError, match=f"between 1 and 6.*got {steps}"):
        ddim_sample(KEY, oracles.zero, SHORT, SHAPE, steps=steps)


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
