"""Denoisers that wrap a denoiser."""

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from rounding import FUNCTION, rounding

from minidiff import guidance
from minidiff.errors import InputError
from minidiff.guidance import (
    ClassifierFree,
    ClipGuided,
    ClipX0,
    Conditioned,
    DynamicThreshold,
    Inpaint,
    drop_condition,
)
from minidiff.noising import add_noise, predict_x0, to_v
from minidiff.objectives import FromV, FromVelocity
from minidiff.sampling import ddim_sample, ddpm_sample, sample_noise
from minidiff.schedules import cosine_schedule, flow_schedule, linear_schedule
from minidiff.solvers import ode_sample

pytestmark = pytest.mark.usefixtures("optimized")  # bounds of a few roundings

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


def conditional(xt, t, condition):
    """The ideal denoiser of points at ``condition["mean"]``: what a network with a condition is."""
    alpha_bar = SCHEDULE.alpha_bar[t][:, None]
    return (xt - jnp.sqrt(alpha_bar) * condition["mean"][:, None]) / jnp.sqrt(1 - alpha_bar)


def conditions(count):
    return {"mean": jnp.linspace(-1.0, 1.0, count)}, {"mean": jnp.zeros(count)}


def test_scale_0_ignores_the_condition_and_scale_1_obeys_it():
    xt, t = jnp.float32(np.random.default_rng(0).normal(size=(6, 5))), jnp.arange(6) * 7 + 3
    condition, null = conditions(6)
    for scale, expected in ((0.0, null), (1.0, condition)):
        found = ClassifierFree(conditional, condition, null, scale)(xt, t)
        np.testing.assert_allclose(found, Conditioned(conditional, expected)(xt, t), atol=1e-5)
    with_it, without = (Conditioned(conditional, c)(xt, t) for c in (condition, null))
    found = ClassifierFree(conditional, condition, null, 2.5)(xt, t)
    np.testing.assert_allclose(found, without + 2.5 * (with_it - without), atol=1e-4)


def test_both_guesses_are_one_call():
    asked = []

    def network(xt, t, condition):
        asked.append(xt.shape)
        return conditional(xt, t, condition)

    condition, null = conditions(3)
    ClassifierFree(network, condition, null)(jnp.ones((3, 2)), jnp.array([1, 2, 3]))
    assert asked == [(6, 2)]


def test_guidance_moves_samples_further_than_the_condition():
    """Points at m: guided by scale s without a null mean, the sample lies at s m."""
    condition, null = conditions(4)
    for scale in (1.0, 2.0):
        guided = ClassifierFree(jax.tree_util.Partial(conditional), condition, null, scale)
        found = ddim_sample(KEY, guided, SCHEDULE, (4, 3), steps=50)
        expected = np.broadcast_to(scale * np.asarray(condition["mean"])[:, None], (4, 3))
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_network_that_predicts_v_can_be_guided():
    """Guiding v and guiding eps are the same: at one x_t they differ by a fixed rotation."""
    xt, t = jnp.float32(np.random.default_rng(2).normal(size=(4, 5))), jnp.arange(4) * 9 + 3
    condition, null = conditions(4)

    def speed(xt, t, condition):
        eps = conditional(xt, t, condition)
        return to_v(SCHEDULE, predict_x0(SCHEDULE, xt, t, eps), t, eps)

    outside = ClassifierFree(FromV(speed, SCHEDULE), condition, null, 3.0)(xt, t)
    inside = FromV(ClassifierFree(speed, condition, null, 3.0), SCHEDULE)(xt, t)
    np.testing.assert_allclose(outside, inside, atol=1e-4)
    expected = ClassifierFree(conditional, condition, null, 3.0)(xt, t)
    np.testing.assert_allclose(outside, expected, atol=1e-4)


def check_interval(m):
    """Per sample: guided from first to last, inclusive, and obedient elsewhere."""
    xt, t = jnp.float32(np.random.default_rng(0).normal(size=(6, 5))), jnp.arange(6) * 9 + 3
    condition, null = conditions(6)
    obedient = m.Conditioned(conditional, condition)(xt, t)
    guided = m.ClassifierFree(conditional, condition, null, 3.0)(xt, t)
    far = np.abs(np.asarray(guided - obedient)).max(axis=1) > 1e-2
    assert far.all()
    for first, last, inside in (
        (0, None, [True] * 6),
        (12, None, [False, True, True, True, True, True]),
        (0, 30, [True, True, True, True, False, False]),
        (12, 39, [False, True, True, True, True, False]),
        (13, 38, [False, False, True, True, False, False]),
        (40, 20, [False] * 6),
    ):
        some = m.ClassifierFree(conditional, condition, null, 3.0, first, last)
        expected = jnp.where(jnp.array(inside)[:, None], guided, obedient)
        np.testing.assert_allclose(some(xt, t), expected, atol=1e-5)


def check_inpaint(m):
    """The known pixels come out as they are, by any sampler; the others are the denoiser's."""
    known = jnp.linspace(-1.0, 1.0, 16).reshape(4, 4, 1)
    mask = np.zeros((4, 4, 1))
    mask[:3, 1:] = 1
    schedule = cosine_schedule(100)
    point = oracles.ideal(schedule, 0.7, std=0.0)
    for sample in (
        ddpm_sample,
        partial(ddim_sample, steps=10, eta=0.5),
        partial(ode_sample, method="heun", steps=10, spacing="linspace"),
        partial(ode_sample, method="dpm++", steps=10),
    ):
        x = sample(KEY, m.Inpaint(point, schedule, known, jnp.array(mask)), schedule, (2, 4, 4, 1))
        expected = np.broadcast_to(np.where(mask, known, 0.7), x.shape)
        np.testing.assert_allclose(x, expected, atol=1e-4)


WIDTH = jnp.linspace(-1.0, 2.0, 5)


@jax.tree_util.Partial
def linear(x0):
    return x0 @ WIDTH


@jax.tree_util.Partial
def quadratic(x0):
    return -jnp.square(x0 - 0.4).sum(axis=1)


def check_clip_guided(m):
    """Normal data and a linear score: the guided denoiser is the ideal one of the tilted data.

    N(mean, std^2) times exp(scale w x0) is N(mean + scale std^2 w, std^2). Around the denoiser, and
    for a quadratic score, the formulas are worked out by hand, and so is what roundings cost: near
    noise x0 is a small difference, divided by a small signal.
    """
    mean, std, scale = 0.3, 0.5, 0.7
    xt, t = np.float32(np.random.default_rng(0).normal(size=(50, 5))), jnp.arange(50)
    signal, noise = (a[:, None] for a in root_of_alpha_bar(SCHEDULE))
    variance = signal**2 * std**2 + noise**2
    ideal = oracles.ideal(SCHEDULE, mean, std=std)
    plain = noise * (xt - signal * mean) / variance
    x0 = mean + signal * std**2 / variance * (xt - signal * mean)
    jacobian = {True: signal * std**2 / variance, False: 1 / signal}
    pull = {"linear": np.asarray(WIDTH, np.float64)[None], "quadratic": -2 * (x0 - 0.4)}
    curve = {"linear": 0, "quadratic": 2}
    # Sizes of what is added: in eps, in x0 = (xt - noise eps) / signal, and in its derivative.
    size = noise * (np.abs(xt) + signal * mean) / variance
    size_x0 = (np.abs(xt) + noise * size) / signal
    size_jacobian = {True: 2 / signal, False: 1 / signal}

    def check(guided, through, name, expected):
        of_pull = size_jacobian[through] * np.abs(pull[name])
        of_pull += jacobian[through] * curve[name] * size_x0
        off = rounding(4 * FUNCTION) * (size + scale * noise * of_pull)
        np.testing.assert_array_less(
            np.abs(oracles.ask(guided, jnp.asarray(xt), t) - expected), off
        )

    for through in (True, False):
        for name, score in (("linear", linear), ("quadratic", quadratic)):
            guided = m.ClipGuided(ideal, SCHEDULE, score, scale, through, limit=None)
            expected = plain - scale * noise * jacobian[through] * pull[name]
            check(guided, through, name, expected)
    tilted = mean + scale * std**2 * pull["linear"]
    guided = m.ClipGuided(ideal, SCHEDULE, linear, scale, True, limit=None)
    check(guided, True, "linear", noise * (xt - signal * tilted) / variance)


def check_limit(m):
    """What is too long is cut, in the same direction, sample by sample; the rest is untouched."""
    schedule = linear_schedule(50, 1e-3, 0.1)  # the derivative of x0 keeps few digits near noise
    xt, t = jnp.float32(np.random.default_rng(0).normal(size=(50, 5))), jnp.arange(50)
    signal, noise = (a[:, None] for a in root_of_alpha_bar(schedule))
    ideal = oracles.ideal(schedule, 0.3, std=0.5)
    plain = oracles.ask(ideal, xt, t)
    for through, scale, limit in ((True, 2.0, 0.5), (False, 0.1, 0.1), (False, 0.5, 1.0)):
        free, cut = (
            np.asarray(
                oracles.ask(m.ClipGuided(ideal, schedule, quadratic, scale, through, most), xt, t)
                - plain
            )
            for most in (None, limit)
        )
        size = np.sqrt(np.mean(free**2, axis=1, keepdims=True))
        expected = free * np.minimum(1, limit * signal / size)
        np.testing.assert_allclose(cut, expected, rtol=1e-2, atol=1e-4)
        long = size[:, 0] > limit * signal[:, 0]
        assert 3 < long.sum() < 47, long.sum()
        x0 = predict_x0(schedule, xt, t, plain + cut) - predict_x0(schedule, xt, t, plain)
        moved = np.sqrt(np.mean(np.square(x0), axis=1))
        np.testing.assert_allclose(moved[long], limit * noise[long, 0], rtol=1e-2, atol=1e-4)


def root_of_alpha_bar(schedule):
    _, alpha_bar, _ = oracles.float64(schedule)
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def check_dynamic_threshold(m):
    """Against NumPy, sample by sample; samples within [-1, 1] keep their size."""
    sizes = np.array([0.2, 0.9, 1.5, 8.0])[:, None, None]
    x0 = jnp.float32(np.random.default_rng(0).uniform(-1, 1, size=(4, 20, 10)) * sizes)
    t = jnp.array([5, 20, 10, 30])
    eps = jnp.float32(np.random.default_rng(1).normal(size=x0.shape))
    xt = add_noise(SCHEDULE, x0, t, eps)
    for percentile in (0.995, 0.8):
        denoiser = m.DynamicThreshold(lambda xt, t: eps, SCHEDULE, percentile)
        found = predict_x0(SCHEDULE, xt, t, denoiser(xt, t))
        for one, seen in zip(np.asarray(x0), found, strict=True):
            s = max(1.0, np.quantile(np.abs(one), percentile))
            np.testing.assert_allclose(seen, np.clip(one, -s, s) / s, atol=1e-4)


CHECKS = [
    check_interval,
    check_inpaint,
    check_clip_guided,
    check_limit,
    check_dynamic_threshold,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(guidance)


def test_sampling_a_flow_is_its_own_euler_method():
    """DDIM through FromVelocity: x_s moves by the velocity times the step in s."""
    schedule = flow_schedule(20)

    def network(xs, t):
        return jnp.sin(2 * xs) + 0.1 * jnp.float32(t)[:, None]

    denoiser = FromVelocity(jax.tree_util.Partial(network), schedule)
    found = ddim_sample(KEY, denoiser, schedule, (3, 4), steps=20)
    signal, noise = root_of_alpha_bar(schedule)
    s = noise / (signal + noise)
    xs = np.asarray(sample_noise(KEY, (3, 4), 0, 0)) / (signal + noise)[-1]
    for i in reversed(range(20)):
        step = s[i] - (s[i - 1] if i else 0)
        xs = xs - step * (np.sin(2 * xs) + 0.1 * i)
    np.testing.assert_allclose(found, xs, atol=1e-3)


def test_what_is_painted_goes_with_what_is_known():
    """Images of one grey each: the ideal denoiser takes the grey of the unknown from the known."""
    schedule = cosine_schedule(200)

    def one_grey(xt, t):
        """E[eps | x_t] for images whose 32 pixels are all the same number, from N(0, 1)."""
        alpha_bar = schedule.alpha_bar[t][:, None]
        signal, noise = jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar)
        grey = signal * xt.mean(1, keepdims=True) / (alpha_bar + (1 - alpha_bar) / 32)
        return (xt - signal * grey) / noise

    net, mask = jax.tree_util.Partial(one_grey), jnp.arange(32) < 24
    painted = Inpaint(net, schedule, jnp.full(32, 0.8), mask)
    x = np.asarray(ddpm_sample(KEY, painted, schedule, (8, 32), variance="small"))
    np.testing.assert_allclose(x[:, :24], 0.8, atol=1e-4)
    assert np.abs(x[:, 24:] - 0.8).max() < 0.05
    alone = np.asarray(ddpm_sample(KEY, net, schedule, (8, 32), variance="small"))
    assert alone.mean(1).std() > 0.3


def test_a_mask_may_be_truth_values_and_may_blend():
    xt, t = jnp.float32(np.random.default_rng(0).normal(size=(3, 4, 4, 2))), jnp.array([3, 20, 40])
    before = predict_x0(SCHEDULE, xt, t, jnp.zeros_like(xt))
    for mask in (jnp.ones((4, 4, 1), bool), jnp.full((3, 1, 1, 1), 0.25), jnp.float32(0)):
        share = jnp.asarray(mask, jnp.float32)
        eps = Inpaint(oracles.zero, SCHEDULE, jnp.full((4, 4, 2), 0.5), mask)(xt, t)
        expected = before + np.asarray(share) * (0.5 - np.asarray(before))
        np.testing.assert_allclose(predict_x0(SCHEDULE, xt, t, eps), expected, atol=1e-4)


def test_guided_samples_move_to_the_score():
    """Where the guided data are known: their mean and spread, by every step and by few."""
    mean, std, scale = 0.3, 0.5, 0.7
    schedule = linear_schedule(200, 1e-4, 0.1)
    ideal = oracles.ideal(schedule, mean, std=std)
    guided = ClipGuided(ideal, schedule, linear, scale, limit=None)
    x = np.asarray(ddim_sample(KEY, guided, schedule, (2048, 5), steps=100))
    tilted = mean + scale * std**2 * np.asarray(WIDTH)
    np.testing.assert_allclose(x.mean(0), tilted, atol=0.06)  # five standard errors
    np.testing.assert_allclose(x.std(0), std, atol=0.05)


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule], ids=["linear", "cosine"])
def test_a_limited_score_pulls_and_does_not_destroy(make, through):
    """Two modes and a score that asks far too much: what it does must not hang on the schedule.

    Unlimited, only the gradient through an ideal denoiser of a schedule that ends well short of
    noise survives: the cosine schedule's first factor is 20,000, times the rounding of float32.
    """
    schedule = make(1000)
    ideal = oracles.ideal(schedule, -1.0, 1.0, std=0.1)
    score = jax.tree_util.Partial(lambda x0: x0.sum(axis=1))

    def sample(limit):
        guided = ClipGuided(ideal, schedule, score, 100.0, through, limit)
        return np.asarray(ddim_sample(KEY, guided, schedule, (32, 4), steps=50))

    for limit, share in ((jnp.float32(1.0), 0.8), (jnp.float32(2.0), 0.95)):
        x = sample(limit)
        assert (x > 0).mean() > share  # without guidance a half
        assert np.abs(x).max() < 2
    if not through or make is cosine_schedule:
        assert not np.abs(sample(None)).max() < 20


@pytest.mark.parametrize("limit", [None, 1.0])
@pytest.mark.parametrize("through", [True, False])
def test_scale_0_changes_nothing_and_asks_the_network_once(through, limit):
    asked = []

    def network(xt, t):
        asked.append(xt.shape)
        return jnp.tanh(xt).astype(jnp.bfloat16)

    xt, t = jnp.float32(np.random.default_rng(0).normal(size=(3, 5))), jnp.array([0, 20, 49])
    found = ClipGuided(network, SCHEDULE, quadratic, 0.0, through, limit)(xt, t)
    assert asked == [(3, 5)]
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, network(xt, t).astype(jnp.float32))


def test_around_the_network_nothing_is_differentiated_in_it():
    """A denoiser without a derivative: only the way around it works."""

    @jax.custom_jvp
    def network(xt):
        return jnp.tanh(xt)

    @network.defjvp
    def no_derivative(primals, tangents):
        raise AssertionError("differentiated")

    def denoiser(xt, t):
        return network(xt)

    xt, t = jnp.ones((3, 5)), jnp.array([0, 20, 49])
    ClipGuided(denoiser, SCHEDULE, quadratic, 1.0, through=False)(xt, t)
    with pytest.raises(AssertionError, match="differentiated"):
        ClipGuided(denoiser, SCHEDULE, quadratic, 1.0, through=True)(xt, t)


@pytest.mark.parametrize("share", [0.0, 1.0, 0.3])
def test_a_share_of_the_conditions_is_dropped(share):
    count = 4000
    condition = {"states": jnp.ones((count, 3, 2)), "pooled": jnp.ones((count, 2))}
    null = {"states": jnp.zeros((1, 3, 2)), "pooled": jnp.zeros((1, 2))}
    found = drop_condition(KEY, condition, null, share)
    rows = np.asarray(found["states"]).reshape(count, -1)
    assert (np.ptp(rows, axis=1) == 0).all()  # a text is dropped whole
    np.testing.assert_array_equal(rows[:, 0], found["pooled"][:, 0])  # its states with its vector
    assert abs(1 - rows.mean() - share) < 5 * (share * (1 - share) / count) ** 0.5 + 1e-6


@pytest.mark.parametrize("scale", [-1, -0.5])
def test_a_negative_scale_is_refused(scale):
    with pytest.raises(InputError, match="0 or more"):
        ClassifierFree(conditional, *conditions(2), scale)


def test_an_interval_and_a_scale_may_be_traced():
    xt, t = jnp.ones((4, 5)), jnp.array([3, 20, 30, 45])
    condition, null = conditions(4)

    @jax.jit
    def ask(scale, first, last):
        return ClassifierFree(conditional, condition, null, scale, first, last)(xt, t)

    expected = ClassifierFree(conditional, condition, null, 2.0, 10, 30)(xt, t)
    np.testing.assert_allclose(ask(2.0, 10, 30), expected, atol=1e-5)
    assert ask._cache_size() == 1
    ask(3.0, 0, 49)
    assert ask._cache_size() == 1


@pytest.mark.parametrize("through", [True, False])
def test_guided_samplers_lower_for_accelerators(through):
    schedule, known = flow_schedule(50), jnp.zeros((8, 8, 3))

    def draw(key, weight, mask):
        flow = FromVelocity(jax.tree_util.Partial(lambda w, xs, t: w * xs, weight), schedule)
        score = jax.tree_util.Partial(lambda x0: -jnp.square(x0).sum((1, 2, 3)))
        guided = ClipGuided(flow, schedule, score, 1.0, through)
        painted = Inpaint(DynamicThreshold(guided, schedule), schedule, known, mask)
        return ddim_sample(key, painted, schedule, (2, 8, 8, 3), steps=5)

    exported = jax.export.export(jax.jit(draw), platforms=["cuda", "tpu"])(
        KEY, jnp.float32(0.1), jnp.ones((8, 8, 1))
    )
    assert exported.out_avals[0].shape == (2, 8, 8, 3)
