"""Schedules, and what becomes of one, against numbers worked out in float64."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given

from minidiff import schedules
from minidiff.errors import InputError
from minidiff.schedules import (
    SCHEDULES,
    Schedule,
    cosine_schedule,
    flow_schedule,
    linear_schedule,
    respace,
    scaled_linear_schedule,
    sigmoid_schedule,
    timesteps,
    zero_terminal_snr,
)

SHORT = linear_schedule(6, 0.05, 0.5)


def check_respace(m):
    """beta and alpha_bar of the steps that are left, against float64."""
    every, beta = np.arange(1000), np.array(oracles.linear_beta(1000))
    alpha_bar = oracles.running_product(beta)
    same = m.respace(linear_schedule(), every[::-1])
    np.testing.assert_allclose(same.beta, beta, rtol=6e-7)
    np.testing.assert_allclose(same.alpha_bar, alpha_bar, rtol=2e-7)
    for ts in ([999, 749, 499, 249], [0, 1, 5, 6, 7, 400], [3]):
        found, ts = m.respace(linear_schedule(), np.array(ts)), np.sort(ts)
        kept = alpha_bar[ts] / np.append(1.0, alpha_bar[ts][:-1])
        np.testing.assert_allclose(found.beta, 1 - kept, rtol=6e-7)
        np.testing.assert_allclose(found.alpha_bar, alpha_bar[ts], rtol=2e-7)


def check_sigmas(m):
    """1 / sqrt(snr) at each index, and the image's own at the end."""
    for schedule in (linear_schedule(), flow_schedule(), cosine_schedule()):
        ts = np.array([999, 500, 20, 0])
        left = np.asarray(schedule.alpha_bar, np.float64)[ts]
        found = m.sigmas(schedule, ts)
        np.testing.assert_allclose(found, [*np.sqrt((1 - left) / left), 0.0], rtol=1e-4)


def check_truncate(m):
    """The first t + 1 steps, as they were."""
    for t in (0, 3, 5):
        found = m.truncate(SHORT, t)
        assert found.steps == t + 1
        np.testing.assert_array_equal(found.beta, SHORT.beta[: t + 1])
        np.testing.assert_array_equal(found.alpha_bar, SHORT.alpha_bar[: t + 1])
    for t in (-1, 6, 1000):
        with pytest.raises(InputError, match=f"t must be between 0 and 5; got {t}"):
            m.truncate(SHORT, t)


CHECKS = [
    oracles.check_schedules,
    oracles.check_flow_schedule,
    oracles.check_zero_terminal_snr,
    check_respace,
    check_sigmas,
    check_truncate,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(schedules)


@pytest.mark.parametrize("steps", [1, 7, 1000])
@pytest.mark.parametrize("make", [*SCHEDULES.values(), scaled_linear_schedule, sigmoid_schedule])
def test_a_schedule_only_destroys(make, steps):
    schedule = make(steps)
    beta, alpha_bar, before = oracles.float64(schedule)
    assert schedule.beta.dtype == schedule.alpha_bar.dtype == jnp.float32
    assert ((beta > 0) & (beta < 1)).all()
    assert ((alpha_bar > 0) & (alpha_bar < before)).all()


def test_a_thousand_linear_steps_leave_almost_nothing():
    assert float(linear_schedule().alpha_bar[-1]) == pytest.approx(4.0358e-5, rel=1e-4)


def test_stable_diffusion_never_saw_pure_noise():
    assert float(scaled_linear_schedule().alpha_bar[-1]) == pytest.approx(0.00466, rel=1e-3)
    assert float(scaled_linear_schedule().alpha_bar[0]) == pytest.approx(0.99915)


@pytest.mark.parametrize("beta", [[], [0.0], [0.1, 1.0], [-0.1], [[0.1]], [np.nan]])
def test_a_beta_that_is_no_variance_is_refused(beta):
    with pytest.raises(ValueError, match="beta"):
        Schedule.from_beta(np.array(beta))


@pytest.mark.parametrize("alpha_bar", [[], [1.0], [0.5, 0.5], [0.5, 0.6], [0.5, 0.0], [np.nan]])
def test_an_alpha_bar_that_does_not_fall_is_refused(alpha_bar):
    with pytest.raises(ValueError, match="beta"):
        Schedule.from_alpha_bar(np.array(alpha_bar))


def test_a_schedule_is_its_alpha_bar():
    beta, alpha_bar, _ = oracles.float64(linear_schedule())
    found = Schedule.from_alpha_bar(alpha_bar)
    np.testing.assert_allclose(found.alpha_bar, alpha_bar, rtol=1e-7)
    np.testing.assert_allclose(found.beta, beta, atol=2e-7)  # alpha_bar was rounded


@pytest.mark.parametrize("steps", [0, -1, 2049])
def test_a_flow_with_too_many_steps_for_float32_is_refused(steps):
    with pytest.raises(ValueError, match="between 1 and 2048"):
        flow_schedule(steps)


def test_one_step_has_no_terminal():
    with pytest.raises(ValueError, match="one step"):
        zero_terminal_snr(linear_schedule(1))


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


@given(st.data())
def test_a_respaced_schedule_is_a_schedule(data):
    schedule = data.draw(st.sampled_from([linear_schedule(50), cosine_schedule(50)]))
    ts = data.draw(st.lists(st.integers(0, 48), min_size=3, max_size=3, unique=True))
    found = respace(schedule, np.array([*ts, 49]))
    assert found.steps == 4
    assert (found.beta > 0).all()
    _, alpha_bar, before = oracles.float64(found)
    np.testing.assert_allclose(found.beta, 1 - alpha_bar / before, atol=3e-7)


@pytest.mark.parametrize("ts", [[], [6], [-1, 2], [3, 3]])
def test_respacing_to_what_is_not_there_is_refused(ts):
    with pytest.raises(ValueError, match="indices below 6, each once"):
        respace(SHORT, np.array(ts, int))


def test_respacing_can_be_traced():
    ts = timesteps(6, 3)
    found = jax.jit(lambda schedule: respace(schedule, ts))(SHORT)
    np.testing.assert_allclose(found.beta, respace(SHORT, ts).beta, rtol=1e-6)


@pytest.mark.parametrize("steps", [0, -1, 7])
def test_a_number_of_steps_out_of_range_is_refused(steps):
    with pytest.raises(ValueError, match=f"between 1 and 6.*got {steps}"):
        timesteps(6, steps)
