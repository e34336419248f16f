"""Bits per dimension against densities that are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from oracles import KEY, SIGMAS, float64, ideal, zero

from minidiff import likelihood
from minidiff.likelihood import bits_per_dimension, log_spaced
from minidiff.sampling import sample_noise
from minidiff.schedules import Schedule, cosine_schedule, flow_schedule, linear_schedule

SHAPE = (4, 16, 24)


@struct.dataclass
class Correlated:
    """E[eps | x_t] for normal data with a full covariance: the derivative is no diagonal matrix."""

    schedule: Schedule
    covariance: jax.Array  # (size, size)

    def __call__(self, xt, t):
        alpha_bar = self.schedule.alpha_bar[t][:, None, None]
        variance = alpha_bar * self.covariance[None] + (1 - alpha_bar) * jnp.eye(xt.shape[1])[None]
        return jnp.sqrt(1 - alpha_bar[..., 0]) * jnp.linalg.solve(variance, xt[..., None])[..., 0]


def first_sigma(schedule):
    alpha_bar = float64(schedule)[1][0]
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def noised(schedule, x0, first=0):
    """The image whose density is measured, in float64."""
    noise = np.asarray(sample_noise(KEY, x0.shape, first, 0), np.float64)
    return np.asarray(x0, np.float64) + first_sigma(schedule) * noise


def data_and_bits(schedule, modes, std):
    """Images drawn evenly from normal modes, and the bits of each in closed form."""
    rng = np.random.default_rng(0)
    x0 = jnp.float32(rng.choice(modes, SHAPE) + std * rng.normal(size=SHAPE))
    variance = std**2 + first_sigma(schedule) ** 2
    offset = noised(schedule, x0)[..., None] - np.array(modes)
    density = np.exp(-(offset**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return x0, -np.log2(density.mean(-1) / 127.5).mean((1, 2))


def check_gaussian(m):
    """Each image to a hundredth of a bit. With std 1 every x_t is as likely as x0."""
    for schedule, cases in (
        (linear_schedule(), ((0.0, 1.0), (0.7, 0.2), (-0.3, 0.03), (0.5, 3.0), (0.9, 0.005))),
        (cosine_schedule(), ((0.0, 1.0), (0.7, 0.2), (-0.3, 0.03))),
    ):
        for mean, std in cases:
            x0, exact = data_and_bits(schedule, (mean, mean), std)
            found = m.bits_per_dimension(KEY, ideal(schedule, mean, std=std), schedule, x0)
            np.testing.assert_allclose(found, exact, atol=0.01)


def check_mixture(m):
    """Two modes: a flow that parts. The true density, not that of the nearest mode."""
    schedule = linear_schedule()
    for modes, std in (((-1.0, 1.0), 0.1), ((-0.5, 0.7), 0.3)):
        x0, exact = data_and_bits(schedule, modes, std)
        denoiser = ideal(schedule, *modes, std=std)
        found = m.bits_per_dimension(KEY, denoiser, schedule, x0)
        np.testing.assert_allclose(found, exact, atol=0.01)


def check_probes(m):
    """A derivative with all its entries filled: right in the mean, and steadier with more probes."""
    schedule, count, size = linear_schedule(100, 1e-3, 0.2), 256, 8
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(size, size)) / np.sqrt(size)
    covariance = 0.1 * np.eye(size) + mix @ mix.T
    x0 = jnp.float32(rng.multivariate_normal(np.zeros(size), covariance, count))
    y, total = noised(schedule, x0), covariance + first_sigma(schedule) ** 2 * np.eye(size)
    density = -0.5 * (y * np.linalg.solve(total, y.T).T).sum(1)
    density -= 0.5 * np.linalg.slogdet(2 * np.pi * total)[1]
    exact = -density / np.log(2) / size + np.log2(127.5)
    denoiser = Correlated(schedule, jnp.float32(covariance))
    spread = {}
    for probes in (1, 4):
        found = m.bits_per_dimension(KEY, denoiser, schedule, x0, steps=50, probes=probes)
        error = np.asarray(found) - exact
        spread[probes] = error.std()
        assert abs(error.mean()) < SIGMAS * error.std() / np.sqrt(count) + 0.01
    assert 0.4 < spread[4] / spread[1] < 0.65, spread  # about a half


CHECKS = [check_gaussian, check_mixture, check_probes]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(likelihood)


def test_twice_the_steps_leave_a_quarter_of_the_error():
    schedule = linear_schedule()
    x0, exact = data_and_bits(schedule, (0.0, 0.0), 1.0)
    denoiser = ideal(schedule, 0.0, std=1.0)
    found = [bits_per_dimension(KEY, denoiser, schedule, x0, steps=n) for n in (50, 100)]
    long, short = (float(np.mean(np.asarray(bits) - exact)) for bits in found)
    assert 3 < long / short < 5, (long, short)


def test_an_image_unlike_the_data_costs_more():
    schedule = linear_schedule(100, 1e-3, 0.2)
    denoiser = ideal(schedule, 0.3, std=0.2)
    like, unlike = jnp.full((2, 8), 0.3), jnp.full((2, 8), -0.7)
    bits = [bits_per_dimension(KEY, denoiser, schedule, x0, steps=50) for x0 in (like, unlike)]
    assert (bits[0] + 5 < bits[1]).all()


def test_an_image_does_not_depend_on_its_batch():
    schedule = linear_schedule(100, 1e-3, 0.2)
    x0, _ = data_and_bits(schedule, (-1.0, 1.0), 0.1)
    x0 = x0.reshape(-1, 8)[:6]
    denoiser = Correlated(schedule, jnp.eye(8) + 0.5)
    together = bits_per_dimension(KEY, denoiser, schedule, x0, steps=10)
    alone = bits_per_dimension(KEY, denoiser, schedule, x0[4:5], steps=10, first=4)
    assert together.shape == (6,)
    np.testing.assert_allclose(together[4:5], alone, atol=1e-4)


@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule, flow_schedule])
@pytest.mark.parametrize("steps", [1, 30, 5000])
def test_indices_run_from_end_to_end(make, steps):
    _, alpha_bar, _ = float64(make())
    sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
    ts = np.asarray(log_spaced(jnp.float32(sigma), steps))
    assert len(ts) == steps + 1
    assert (ts[0], ts[-1]) == (0, 999)
    assert (np.diff(ts) >= 0).all()
    if steps == 30:
        grid = np.linspace(*np.log(sigma[[0, -1]]), 31)
        off = np.abs(np.log(sigma[ts]) - grid)
        gaps = np.diff(np.log(sigma))
        nearest = np.maximum(gaps[np.maximum(ts - 1, 0)], gaps[np.minimum(ts, 998)]) / 2
        assert (off <= nearest + 1e-4).all()


def test_any_function_will_do_and_a_low_precision_one_is_summed_in_float32():
    def low(xt, t):
        return (0.5 * xt).astype(jnp.bfloat16)

    schedule, x0 = linear_schedule(20, 1e-3, 0.3), jnp.zeros((2, 4))
    exact = bits_per_dimension(KEY, lambda xt, t: 0.5 * xt, schedule, x0, steps=10)
    found = bits_per_dimension(KEY, low, schedule, x0, steps=10)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, atol=0.05)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"probes": 0}])
def test_nothing_to_do_is_refused(wrong):
    with pytest.raises(ValueError, match=r"at least 1; got .*0"):
        bits_per_dimension(KEY, zero, linear_schedule(), jnp.zeros((1, 2)), **wrong)


def test_lowers_for_accelerators():
    def measure(key, schedule, x0):
        denoiser = ideal(schedule, 0.0, std=1.0)
        return bits_per_dimension(key, denoiser, schedule, x0, steps=3, probes=2)

    exported = jax.export.export(jax.jit(measure), platforms=["cuda", "tpu"])
    exported(KEY, linear_schedule(10), jnp.zeros((2, 8)))
