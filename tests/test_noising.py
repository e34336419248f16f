"""The jump, the conversions and both losses, against numbers known exactly."""

import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from jaxtyping import TypeCheckError

from minidiff import noising
from minidiff.noising import add_noise, from_v, noise_step, to_v
from minidiff.schedules import (
    Schedule,
    cosine_schedule,
    flow_schedule,
    linear_schedule,
    zero_terminal_snr,
)

noise_loss = jax.jit(noising.noise_loss)
single_step_loss = jax.jit(noising.single_step_loss)

CHECKS = [
    oracles.check_add_noise,
    oracles.check_jump_is_many_steps,
    oracles.check_jump_in_distribution,
    oracles.check_v_of_the_paper,
    oracles.check_noise_loss,
    oracles.check_single_step_loss,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(noising)


def last_step(schedule, std):
    """The best guess of the last step's noise, for N(0, std^2) data."""
    variance = schedule.alpha_bar * std**2 + 1 - schedule.alpha_bar
    share = jnp.sqrt(schedule.beta) / variance
    return jax.tree_util.Partial(oracles.scaled, share)


def to_the_end(steps):
    return zero_terminal_snr(linear_schedule(steps))


@pytest.mark.parametrize("shape", [(), (3,), (4, 4, 3)], ids=str)
@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule, flow_schedule, to_the_end])
@settings(max_examples=10)
@given(data=st.data())
def test_round_trips(make, shape, data):
    schedule = make(1000)
    t = data.draw(st.lists(st.integers(0, 999), min_size=4, max_size=4))
    seed = data.draw(st.integers(0, 2**32 - 1))
    scale = data.draw(st.sampled_from([0.01, 1.0, 100.0]))
    x0, eps = np.random.default_rng(seed).normal(size=(2, 4, *shape)).astype(np.float32)
    t = jnp.array(t, jnp.int32)
    oracles.check_round_trips(noising, schedule, jnp.array(scale * x0), t, jnp.array(eps))


@given(st.integers(0, 999))
def test_v_is_a_turn_by_an_angle(t):
    """(x_t, v) and (x0, eps) have the same length, and the same as each other's inverse."""
    schedule, ts = linear_schedule(), jnp.full(3, t)
    x0, eps = jnp.array([[1.0, 0.0, -2.0], [0.0, 1.0, 3.0]])
    xt, v = add_noise(schedule, x0, ts, eps), to_v(schedule, x0, ts, eps)
    np.testing.assert_allclose(xt**2 + v**2, x0**2 + eps**2, rtol=1e-5)
    for found, wanted in zip(from_v(schedule, xt, ts, v), (x0, eps), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_every_sample_has_its_own_t():
    schedule, t = linear_schedule(), jnp.array([0, 999, 500])
    x0, eps = jnp.float32(np.random.default_rng(0).normal(size=(2, 3, 4, 4, 1)))
    together = add_noise(schedule, x0, t, eps)
    alone = [add_noise(schedule, x0[i, None], t[i, None], eps[i, None])[0] for i in range(3)]
    np.testing.assert_allclose(together, jnp.stack(alone), atol=1e-6)


def test_shapes_that_do_not_match_are_refused():
    schedule, x0 = linear_schedule(), jnp.zeros((2, 3))
    with pytest.raises(TypeCheckError):
        add_noise(schedule, x0, jnp.zeros(3, jnp.int32), x0)
    with pytest.raises(TypeCheckError):
        add_noise(schedule, x0, jnp.zeros(2, jnp.int32), jnp.zeros((2, 4)))


def test_the_walk_remembers_its_displacement_but_not_its_last_step():
    """A random walk of 100 steps of 0.3 from x0 ~ N(0, 1): R^2 that the endpoint explains.

    In units of its own spread the walk is a schedule with beta_k = 0.09 / (1 + 0.09 k): the share
    of the total displacement is 1 - alpha_bar, 0.90, and that of one step beta, 0.009. The two
    losses say the same: a network can learn the one and not the other.
    """
    count, rng = 1 << 15, np.random.default_rng(0)
    x0, steps = rng.normal(size=count), 0.3 * rng.normal(size=(100, count))
    end = x0 + steps.sum(0)
    total, one = (np.corrcoef(end, y)[0, 1] ** 2 for y in (end - x0, steps[-1]))
    # Standard error of a squared correlation: 2 r (1 - r^2) / sqrt(N).
    assert abs(total - 0.90) < 5 * 2 * 0.95 * 0.1 / count**0.5
    assert abs(one - 0.009) < 5 * 2 * 0.095 / count**0.5

    schedule = Schedule.from_beta(0.09 / (1 + 0.09 * np.arange(1, 101)))
    assert 1 - float(schedule.alpha_bar[-1]) == pytest.approx(0.90)
    assert float(schedule.beta[-1]) == pytest.approx(0.009)
    x0 = jnp.float32(x0)
    denoiser = oracles.ideal(schedule, 0.0, std=1.0)
    assert float(noise_loss(jax.random.key(2), denoiser, schedule, x0)) < 0.3
    assert float(single_step_loss(jax.random.key(2), last_step(schedule, 1), schedule, x0)) > 0.96


def test_one_step_is_worth_knowing_only_at_the_first_t():
    """What is left to learn of the last step's noise for N(0, 0.2^2) data: much at t = 0 only."""
    schedule = linear_schedule()
    beta, alpha_bar, _ = oracles.float64(schedule)
    best = 1 - beta / (alpha_bar * 0.2**2 + 1 - alpha_bar)
    assert best[20:].min() > 0.97
    denoiser = oracles.ideal(schedule, 0.0, std=0.2)
    x0 = jnp.float32(0.2 * np.random.default_rng(0).normal(size=1 << 15))
    total = float(noise_loss(jax.random.key(1), denoiser, schedule, x0))
    last = last_step(schedule, 0.2)
    single = float(single_step_loss(jax.random.key(1), last, schedule, x0))
    assert total < 0.1
    assert single > 0.95


def test_the_losses_are_functions_of_the_key():
    schedule, x0 = linear_schedule(), jnp.zeros(1 << 15)
    for loss in (noise_loss, single_step_loss):
        first, again, other = (
            float(loss(jax.random.key(seed), oracles.zero, schedule, x0)) for seed in (0, 0, 1)
        )
        assert first == again != other


def test_noise_step_at_each_t():
    schedule = linear_schedule(3, 0.1, 0.5)
    x, eps = jnp.full(3, 2.0), jnp.full(3, -1.0)
    expected = 2 * np.sqrt([0.9, 0.7, 0.5]) - np.sqrt([0.1, 0.3, 0.5])
    np.testing.assert_allclose(noise_step(schedule, x, jnp.arange(3), eps), expected, rtol=1e-6)


@given(batch=st.integers(1, 70), steps=st.integers(1, 1000), seed=st.integers(0, 99))
def test_steps_of_a_batch_are_spread_evenly(batch, steps, seed):
    t = np.asarray(noising.uniform_steps(jax.random.key(seed), batch, steps))
    assert t.min() >= 0
    assert t.max() < steps
    # Every batch-th part of the schedule is met once, wherever the grid begins.
    met = np.sort(t.astype(np.float64))
    assert np.diff(met).max(initial=0) <= steps / batch + 1


def test_a_weight_of_one_over_alpha_bar_is_the_error_on_v():
    schedule = cosine_schedule(50)
    x0 = jnp.float32(np.random.default_rng(0).normal(size=(16, 4)))

    def silent(xt, t):
        """A network that always says v = 0."""
        return noising.from_v(schedule, xt, t, jnp.zeros_like(xt))[1]

    found = noising.noise_loss(jax.random.key(1), silent, schedule, x0, 1 / schedule.alpha_bar)
    t_key, eps_key = jax.random.split(jax.random.key(1))
    t = noising.uniform_steps(t_key, 16, 50)
    v = noising.to_v(schedule, x0, t, jax.random.normal(eps_key, x0.shape))
    np.testing.assert_allclose(found, jnp.mean(jnp.square(v)), rtol=1e-3)


@settings(max_examples=10)
@given(batch=st.integers(1, 70), steps=st.integers(1, 1000), seed=st.integers(0, 99))
def test_logit_normal_steps_are_indices(batch, steps, seed):
    t = np.asarray(noising.logit_normal_steps(jax.random.key(seed), batch, steps))
    assert t.shape == (batch,)
    assert t.dtype == np.int32
    assert t.min() >= 0
    assert t.max() < steps


@pytest.mark.parametrize(("mean", "std"), [(-0.5, 1.0), (0.0, 2.0), (1.0, 0.5)])
def test_logit_normal_steps_have_a_normal_logit(mean, std):
    """A histogram against the distribution function, and evenly: each part holds its share.

    Of n draws on an even grid every interval holds n times its probability but for one at each end,
    where independent ones would stray by a hundred.
    """
    count, steps = 100_000, 50
    draw = jax.jit(lambda key: noising.logit_normal_steps(key, count, steps, mean, std))
    found = np.bincount(np.asarray(draw(jax.random.key(0))), minlength=steps)
    edges = np.arange(1, steps) / steps
    below = [
        0.5 * (1 + math.erf((math.log(u / (1 - u)) - mean) / std / math.sqrt(2))) for u in edges
    ]
    expected = count * np.diff([0, *below, 1])
    np.testing.assert_allclose(found, expected, atol=12)


def test_logit_normal_steps_of_each_key_are_shifted_as_a_whole():
    draws = [noising.logit_normal_steps(jax.random.key(seed), 256, 1000) for seed in range(3)]
    assert len({tuple(np.asarray(t).tolist()) for t in draws}) == 3
    middle = [np.median(t) for t in draws]
    assert np.ptp(middle) < 5


def test_the_loss_draws_its_steps_as_it_is_told():
    schedule, x0, seen = cosine_schedule(50), jnp.zeros((8, 3)), []

    def all_seven(key, batch, steps):
        seen.append((batch, steps))
        return jnp.full(batch, 7)

    def denoiser(xt, t):
        # With x0 = 0, xt is the noise times the root of 1 - alpha_bar at the t it was told.
        return xt / jnp.sqrt(1 - schedule.alpha_bar[7])

    loss = noising.noise_loss(jax.random.key(0), denoiser, schedule, x0, draw_steps=all_seven)
    assert seen == [(8, 50)]
    assert float(loss) == pytest.approx(0, abs=1e-10)
    uniform = noising.noise_loss(jax.random.key(0), denoiser, schedule, x0)
    assert float(uniform) > 0.01
    weight = jnp.zeros(50).at[7].set(1.0)
    settled = {"weight": weight, "draw_steps": all_seven}
    silent = noising.noise_loss(jax.random.key(0), oracles.zero, schedule, x0, **settled)
    assert 0.3 < float(silent) < 3
