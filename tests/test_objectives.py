"""Flows and weights: round trips, and the error on one target as the weighed error on another."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from jaxtyping import TypeCheckError

from minidiff import objectives
from minidiff.noising import add_noise, noise_loss, to_v
from minidiff.objectives import FromV, FromVelocity, FromX0
from minidiff.schedules import cosine_schedule, flow_schedule, linear_schedule, zero_terminal_snr

SCHEDULE = linear_schedule(50, 1e-3, 0.3)
OBJECTIVES = ("eps", "x0", "v", "velocity")


def drawn(shape=(50, 6)):
    """x0, eps and something to be wrong by, one row for each t of SCHEDULE."""
    return jnp.float32(np.random.default_rng(0).normal(size=(3, *shape)))


def targets(schedule, x0, t, eps):
    return {"eps": eps, "x0": x0, "v": to_v(schedule, x0, t, eps), "velocity": eps - x0}


def check_flow(m):
    """u is the slope of the straight path, which passes x_t at s, and both ends come back."""
    x0, eps, _ = drawn()
    t = jnp.arange(50)
    _, alpha_bar, _ = oracles.float64(SCHEDULE)
    s = np.sqrt(1 - alpha_bar) / (np.sqrt(alpha_bar) + np.sqrt(1 - alpha_bar))
    np.testing.assert_allclose(m.flow_time(SCHEDULE), s, rtol=1e-5)
    xt, u = add_noise(SCHEDULE, x0, t, eps), m.to_velocity(x0, eps)
    on_path = (1 - s)[:, None] * x0 + s[:, None] * eps
    ahead = (0.99 - s)[:, None] * x0 + (s + 0.01)[:, None] * eps
    np.testing.assert_allclose(u, (ahead - on_path) / 0.01, atol=1e-3)
    for found, wanted in zip(m.from_velocity(SCHEDULE, xt, t, u), (x0, eps), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def check_weights(m):
    """At every t the squared error on the target is the weighed one on eps."""
    x0, eps, wrong = drawn()
    t = jnp.arange(50)
    xt = add_noise(SCHEDULE, x0, t, eps)
    right = targets(SCHEDULE, x0, t, eps)
    for objective, wrap in (
        ("eps", lambda network, schedule: network),
        ("x0", FromX0),
        ("v", FromV),
        ("velocity", FromVelocity),
    ):
        said = right[objective] + wrong
        guess = wrap(lambda x, t, said=said: said, SCHEDULE)(xt, t)
        weight = m.objective_weight(SCHEDULE, objective)
        assert weight.shape == (50,)
        weighed = weight[:, None] * jnp.square(guess - eps)
        np.testing.assert_allclose(weighed, jnp.square(wrong), rtol=2e-3, atol=1e-5)


def check_min_snr(m):
    """The paper's three formulas (its section 3.4), each for the error on its own target."""
    for schedule in (SCHEDULE, cosine_schedule(100)):
        _, alpha_bar, _ = oracles.float64(schedule)
        snr = alpha_bar / (1 - alpha_bar)
        for gamma in (1.0, 5.0, 20.0):
            found = np.asarray(m.min_snr_weight(schedule, gamma), np.float64)
            least = np.minimum(snr, gamma)
            np.testing.assert_allclose(found, least / snr, rtol=2e-3)  # eps
            np.testing.assert_allclose(found * snr, least, rtol=2e-3)  # x0: weight over 1 / snr
            np.testing.assert_allclose(found * alpha_bar, least / (snr + 1), rtol=2e-3)  # v
    np.testing.assert_array_equal(
        m.min_snr_weight(SCHEDULE), m.min_snr_weight(SCHEDULE, jnp.float32(5))
    )


def check_other_targets(m):
    """A network that says its target rightly is a denoiser that says eps, whatever the target."""
    x0, eps = jnp.float32(np.random.default_rng(1).normal(size=(2, 50, 5)))
    t = jnp.arange(50)
    xt, v = add_noise(SCHEDULE, x0, t, eps), to_v(SCHEDULE, x0, t, eps)
    _, alpha_bar, _ = oracles.float64(SCHEDULE)
    s = np.sqrt(1 - alpha_bar) / (np.sqrt(alpha_bar) + np.sqrt(1 - alpha_bar))

    def flow(xs, t, x0):
        """The velocity of the path that left x0 and passes xs at s."""
        return (xs - x0) / jnp.float32(s)[t][:, None]

    for denoiser in (
        m.FromV(lambda xt, t, v: v, SCHEDULE),
        m.FromX0(lambda xt, t, v: x0, SCHEDULE),
        m.FromVelocity(lambda xs, t, v: flow(xs, t, x0), SCHEDULE),
    ):
        found = denoiser(xt.astype(jnp.float32), t, v)  # with a condition, which FromV's is v
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, eps, atol=1e-4)


def check_by_name(m):
    """Each objective by its name is the wrapper of that name, and eps the network itself."""
    x0, eps, _ = drawn()
    t = jnp.arange(50)
    xt = add_noise(SCHEDULE, x0, t, eps)
    assert tuple(m.OBJECTIVES) == OBJECTIVES
    for objective, said in targets(SCHEDULE, x0, t, eps).items():
        denoiser = m.as_denoiser(objective, lambda xt, t, said: said, SCHEDULE)
        np.testing.assert_allclose(denoiser(xt, t, said), eps, atol=1e-4)
    with pytest.raises(ValueError, match="one of eps, x0, v, velocity; got 'score'"):
        m.as_denoiser("score", network, SCHEDULE)


CHECKS = [check_flow, check_weights, check_min_snr, check_other_targets, check_by_name]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(objectives)


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


@pytest.mark.parametrize("make", [cosine_schedule, flow_schedule])
@settings(max_examples=10)
@given(data=st.data())
def test_velocities_round_trip(make, data):
    schedule = make(1000)
    t = jnp.array(data.draw(st.lists(st.integers(0, 999), min_size=4, max_size=4)), jnp.int32)
    seed, scale = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0.01, 1.0, 100.0]))
    x0, eps = jnp.float32(np.random.default_rng(seed).normal(size=(2, 4, 3)))
    x0 = scale * x0
    xt = add_noise(schedule, x0, t, eps)
    found = objectives.from_velocity(schedule, xt, t, objectives.to_velocity(x0, eps))
    rounding = 1e-6 * float(1 + jnp.abs(x0).max() + jnp.abs(eps).max())
    for back, wanted in zip(found, (x0, eps), strict=True):
        np.testing.assert_allclose(back, wanted, atol=rounding)


def network(x, t):
    """Some function of x and t, wrong about everything."""
    return jnp.sin(3 * x + t[:, None]) - 0.2 * x


@pytest.mark.parametrize("t", [0, 10, 30, 49])
@pytest.mark.parametrize(("objective", "wrap"), [("x0", FromX0), ("v", FromV)])
def test_the_weighed_loss_is_the_plain_loss_on_the_target(objective, wrap, t):
    x0, _, _ = drawn((16, 6))
    key = jax.random.key(1)
    weight = objectives.objective_weight(SCHEDULE, objective)

    def at_t(key, batch, steps):
        return jnp.full(batch, t)

    found = noise_loss(key, wrap(network, SCHEDULE), SCHEDULE, x0, weight, at_t)
    eps = jax.random.normal(jax.random.split(key)[1], x0.shape)
    ts = jnp.full(16, t)
    said = network(add_noise(SCHEDULE, x0, ts, eps), ts)
    expected = jnp.mean(jnp.square(said - targets(SCHEDULE, x0, ts, eps)[objective]))
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.parametrize("t", [0, 10, 30, 49])
def test_the_weighed_loss_of_a_flow_is_flow_matching(t):
    """Its own formula: x_s on the straight line from image to noise, u their difference."""
    x0, _, _ = drawn((16, 6))
    key, schedule = jax.random.key(1), flow_schedule(50)
    weight = objectives.objective_weight(schedule, "velocity")

    def at_t(key, batch, steps):
        return jnp.full(batch, t)

    found = noise_loss(key, FromVelocity(network, schedule), schedule, x0, weight, at_t)
    eps = jax.random.normal(jax.random.split(key)[1], x0.shape)
    s = (t + 1) / 50 if t < 49 else 1 - 2.0**-12
    u = network((1 - s) * x0 + s * eps, jnp.full(16, t))
    np.testing.assert_allclose(found, jnp.mean(jnp.square(u - (eps - x0))), rtol=5e-3)


@pytest.mark.parametrize("make", [cosine_schedule, flow_schedule, linear_schedule])
def test_weights_are_finite_where_hardly_an_image_is_left(make):
    schedule = zero_terminal_snr(make(1000))
    for objective in OBJECTIVES:
        weight = np.asarray(objectives.objective_weight(schedule, objective))
        assert np.isfinite(weight).all()
        assert (weight > 0).all()
    least = np.asarray(objectives.min_snr_weight(schedule))
    assert least.max() == 1
    assert (np.diff(least) >= 0).all()


def test_an_unknown_objective_is_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        objectives.objective_weight(SCHEDULE, "score")
