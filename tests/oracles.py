"""What the mathematics must do, known exactly: ideal denoisers, float64 loops, and checks.

Each ``check_*`` takes a module (``minidiff.schedules``, ``noising`` or ``sampling``, or a mutant of one)
and fails by assertion. The tests of the module run them, and test_mutants.py shows that each of
them catches a planted mistake.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from programs import optimized

from minidiff.noising import add_noise
from minidiff.schedules import Schedule, linear_schedule

SHAPE = (8, 2048)  # 16,384 values at the price of eight keys: an ideal denoiser works elementwise
COUNT = math.prod(SHAPE)
KEY = jax.random.key(0)
SIGMAS = 5.0  # how many standard errors a sample may be off: one false alarm in two million


@struct.dataclass
class Ideal:
    """E[eps | x_t] for data drawn evenly from normal modes: the best denoiser there can be."""

    schedule: Schedule
    modes: jax.Array  # (modes,)
    std: float | jax.Array  # of each mode; 0 for points

    def __call__(self, xt, t):
        alpha_bar = self.schedule.alpha_bar[t].reshape(-1, *(1,) * xt.ndim)
        noise = jnp.sqrt(1 - alpha_bar)
        variance = alpha_bar * self.std**2 + noise**2
        modes = self.modes.reshape(*(1,) * xt.ndim, -1)
        offset = xt[..., None] - jnp.sqrt(alpha_bar) * modes
        share = jax.nn.softmax(-jnp.square(offset) / (2 * variance), axis=-1)
        return (share * noise * offset / variance).sum(-1)


def ideal(schedule, *modes, std):
    """One mode is the same as that mode twice: a sampler compiled for two serves both."""
    return Ideal(schedule, jnp.array(np.resize(modes, 2), jnp.float32), std)


@jax.tree_util.Partial
def zero(xt, t):
    """The denoiser that sees no noise anywhere."""
    return jnp.zeros_like(xt)


def scaled(share, xt, t):
    """The best linear guess, for batches of single numbers."""
    return share[t] * xt


ask = jax.jit(lambda denoiser, xt, t: denoiser(xt, t))


def linear_beta(steps, first=1e-4, last=0.02):
    return [first + (last - first) * i / max(steps - 1, 1) for i in range(steps)]


def cosine_beta(steps, offset=0.008):
    def f(i):
        return math.cos((i / steps + offset) / (1 + offset) * math.pi / 2) ** 2

    return [min(1 - f(i + 1) / f(i), 0.999) for i in range(steps)]


def scaled_linear_beta(steps, first=0.00085, last=0.012):
    return [root**2 for root in linear_beta(steps, math.sqrt(first), math.sqrt(last))]


def sigmoid_beta(steps, first=1e-4, last=0.02):
    places = linear_beta(steps, -6.0, 6.0)
    return [first + (last - first) / (1 + math.exp(-place)) for place in places]


def running_product(beta):
    product, products = 1.0, []
    for b in beta:
        product *= 1.0 - b
        products.append(product)
    return np.array(products)


def float64(schedule):
    """beta, alpha_bar, and alpha_bar one step earlier, as float64."""
    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)
    return np.asarray(schedule.beta, np.float64), alpha_bar, np.append(1.0, alpha_bar[:-1])


def assert_mean(values, expected, std):
    """The mean of independent values with this standard deviation."""
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - expected) < SIGMAS * std / math.sqrt(values.size)


def assert_std(values, expected):
    """The spread of independent normal values; its standard error is std / sqrt(2 N)."""
    values = np.asarray(values, np.float64)
    assert abs(values.std() - expected) < SIGMAS * expected / math.sqrt(2 * values.size)


# minidiff.schedules


def check_schedules(m):
    for steps in (1, 2, 10, 1000):
        for schedule, beta in (
            (m.linear_schedule(steps), linear_beta(steps)),
            (m.linear_schedule(steps, 0.01, 0.3), linear_beta(steps, 0.01, 0.3)),
            (m.scaled_linear_schedule(steps), scaled_linear_beta(steps)),
            (m.scaled_linear_schedule(steps, 0.01, 0.3), scaled_linear_beta(steps, 0.01, 0.3)),
            (m.sigmoid_schedule(steps), sigmoid_beta(steps)),
            (m.sigmoid_schedule(steps, 0.01, 0.3), sigmoid_beta(steps, 0.01, 0.3)),
            (m.cosine_schedule(steps), cosine_beta(steps)),
            (m.cosine_schedule(steps, 0.02), cosine_beta(steps, 0.02)),
        ):
            assert schedule.steps == steps
            np.testing.assert_allclose(schedule.beta, beta, rtol=2e-7)
            expected = running_product(beta)  # below 1e-38 float32 has few digits left
            np.testing.assert_allclose(schedule.alpha_bar, expected, rtol=2e-7, atol=1e-38)


def check_flow_schedule(m):
    """At step i the straight path is at (i + 1) / T, but for the last."""
    for steps in (1, 2, 10, 1000, 2048):
        schedule = m.flow_schedule(steps)
        assert schedule.steps == steps
        s = np.array([(i + 1) / steps for i in range(steps - 1)])
        expected = 1 / (1 + (s / (1 - s)) ** 2)
        np.testing.assert_allclose(schedule.alpha_bar[:-1], expected, rtol=2e-7)
        np.testing.assert_allclose(schedule.alpha_bar[-1], 2.0**-24, rtol=2e-7)
        _, alpha_bar, before = float64(schedule)
        np.testing.assert_allclose(schedule.beta, 1 - alpha_bar / before, rtol=1e-5, atol=1e-7)


def check_zero_terminal_snr(m):
    """The root of alpha_bar keeps its shape and its first value; the last is all but 0."""
    for make in (m.cosine_schedule, m.linear_schedule):
        for steps in (10, 1000):
            old, new = make(steps), m.zero_terminal_snr(make(steps))
            root = np.sqrt(np.asarray(old.alpha_bar, np.float64))
            share = (root - root[-1]) / (root[0] - root[-1])  # 1 at the image, 0 at the noise
            expected = (share * root[0]) ** 2
            np.testing.assert_allclose(new.alpha_bar[:-1], expected[:-1], rtol=1e-5)
            # The linear schedule's last step but one keeps 4e-9, and the last must keep less.
            end = 2.0**-24 if expected[-2] > 2.0**-24 else expected[-2] / 4
            np.testing.assert_allclose(new.alpha_bar[-1], end, rtol=1e-5)
            beta, alpha_bar, before = float64(new)
            assert ((beta > 0) & (beta < 1)).all()
            assert (alpha_bar < before).all()
            np.testing.assert_allclose(running_product(beta), alpha_bar, rtol=1e-5, atol=2e-7)


# minidiff.noising


def check_add_noise(m):
    """Equation 4 against numbers worked out in float64."""
    t = np.array([0, 1, 10, 500, 998, 999])
    alpha_bar = running_product(linear_beta(1000))[t][:, None]
    x0, eps = np.random.default_rng(0).normal(size=(2, 6, 5))
    expected = np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps
    xt = m.add_noise(linear_schedule(), jnp.float32(x0), jnp.array(t), jnp.float32(eps))
    np.testing.assert_allclose(xt, expected, atol=2e-6)


def check_jump_is_many_steps(m):
    """add_noise has the very coefficients that T calls of noise_step compose to.

    Row 0 starts at 1 and gets no noise: what is left of the signal. Row j + 1 starts at 0 and gets
    noise 1 at step j alone: what is left of that noise. Independent noises add as squares.
    """
    schedule = linear_schedule(200, 1e-4, 0.1)

    def body(x, t):
        rows = jnp.arange(schedule.steps + 1)
        t_of_rows = jnp.full(rows.shape, t)
        x = m.noise_step(schedule, x, t_of_rows, (rows == t + 1).astype(jnp.float32))
        return x, (x[0], jnp.sqrt(jnp.square(x[1:]).sum()))

    t = jnp.arange(schedule.steps)
    one = jnp.ones(schedule.steps)
    _, (signal, noise) = jax.lax.scan(body, jnp.eye(schedule.steps + 1)[0], t)
    # alpha_bar_0 = 0.9999 is rounded to a multiple of 6e-8, and sqrt(1 - alpha_bar_0) by 1e-6.
    np.testing.assert_allclose(m.add_noise(schedule, one, t, 0 * one), signal, atol=4e-6)
    np.testing.assert_allclose(m.add_noise(schedule, 0 * one, t, one), noise, atol=4e-6)


def check_jump_in_distribution(m):
    """Ten noisy steps of many samples have the mean and the spread of one jump."""
    schedule, x0 = linear_schedule(10, 0.02, 0.3), 2.0

    def body(x, t):
        eps = jax.random.normal(jax.random.fold_in(KEY, t), x.shape)
        return m.noise_step(schedule, x, jnp.full(COUNT, t), eps), None

    walked, _ = jax.lax.scan(body, jnp.full(COUNT, x0), jnp.arange(10))
    last, ones = jnp.array([9]), jnp.ones(1)
    mean = float(m.add_noise(schedule, x0 * ones, last, 0 * ones)[0])
    std = float(m.add_noise(schedule, 0 * ones, last, ones)[0])
    assert_mean(walked, mean, std)
    assert_std(walked, std)


def check_round_trips(m, schedule, x0, t, eps):
    """x0 and eps come back from x_t and the other, and both from x_t and v."""
    xt, v = m.add_noise(schedule, x0, t, eps), m.to_v(schedule, x0, t, eps)
    # One rounding of x_t, of size 6e-8 |x_t|, is divided by the share of what is asked for.
    alpha_bar = m.at(schedule.alpha_bar, t, x0)
    rounding = 3e-7 * (1 + jnp.abs(x0).max() + jnp.abs(eps).max())
    close = partial(np.testing.assert_array_less, strict=False)
    close(jnp.abs(m.predict_x0(schedule, xt, t, eps) - x0) * jnp.sqrt(alpha_bar), rounding)
    close(jnp.abs(m.predict_eps(schedule, xt, t, x0) - eps) * jnp.sqrt(1 - alpha_bar), rounding)
    for found, wanted in zip(m.from_v(schedule, xt, t, v), (x0, eps), strict=True):
        close(jnp.abs(found - wanted), 2 * rounding)


def check_v_of_the_paper(m):
    """At t where signal and noise are cos and sin of an angle, v is the derivative of x_t by it."""
    angle = np.array([0.1, 0.7, 1.5])
    schedule = Schedule(beta=jnp.ones(3) / 2, alpha_bar=jnp.float32(np.cos(angle) ** 2))
    x0, eps = np.array([[1.0, -2.0, 0.5], [0.3, 4.0, -1.0]])
    v = m.to_v(schedule, jnp.float32(x0), jnp.arange(3), jnp.float32(eps))
    np.testing.assert_allclose(v, np.cos(angle) * eps - np.sin(angle) * x0, rtol=2e-6)


def expected_loss(variances):
    """Mean, and standard deviation for one sample, of the squared error of N(0, variances[t])."""
    return np.mean(variances), math.sqrt(3 * np.mean(variances**2) - np.mean(variances) ** 2)


def check_noise_loss(m):
    schedule, count = linear_schedule(), 1 << 17
    normal = jnp.float32(np.random.default_rng(0).normal(size=count))
    _, alpha_bar, _ = float64(schedule)
    jitted = jax.jit(m.noise_loss)

    def loss(denoiser, x0):
        return float(jitted(KEY, denoiser, schedule, x0))

    def knows(x0, xt, t):
        return m.predict_eps(schedule, xt, t, x0)

    images = 0.1 * normal[:4096].reshape(64, 4, 4, 4)
    assert loss(jax.tree_util.Partial(knows, images), images) < 1e-8
    mean, std = expected_loss(np.ones(1000))
    assert abs(loss(zero, normal) - mean) < SIGMAS * std / math.sqrt(count)
    for sigma in (1.0, 0.2):
        # Var(eps | x_t), for x_t and eps are jointly normal.
        signal = alpha_bar * sigma**2
        mean, std = expected_loss(signal / (signal + 1 - alpha_bar))
        found = loss(ideal(schedule, 0.0, std=sigma), sigma * normal)
        assert abs(found - mean) < SIGMAS * std / math.sqrt(count)


def check_single_step_loss(m):
    count = 1 << 17
    normal = jnp.float32(np.random.default_rng(0).normal(size=count))
    loss = jax.jit(m.single_step_loss)

    for schedule, sigma in (
        (linear_schedule(), 1.0),
        (linear_schedule(3, 0.2, 0.6), 0.5),
        (linear_schedule(3, 0.2, 0.6), 0.0),  # a point: at t = 0 the step's noise is all there is
        (linear_schedule(1, 0.2), 0.0),
    ):
        beta, alpha_bar, _ = float64(schedule)
        variance = alpha_bar * sigma**2 + 1 - alpha_bar
        share = jnp.float32(np.sqrt(beta) / variance)  # cov(step's noise, x_t) / var(x_t)
        # What is left is zero at the first step from a point, where rounding makes it -1e-17.
        mean, std = expected_loss(np.maximum(1 - beta / variance, 0))
        denoiser = jax.tree_util.Partial(scaled, share)
        found = float(loss(KEY, denoiser, schedule, sigma * normal))
        assert abs(found - mean) < SIGMAS * std / math.sqrt(count) + 1e-6


# minidiff.sampling


def check_posterior(m):
    """The reverse mean and small variance are those of q(x_{t-1} | x_t, x0), equations 6 and 7."""
    schedule = linear_schedule(50, 1e-3, 0.3)
    beta, alpha_bar, before = float64(schedule)
    t = jnp.arange(50)
    x0, eps = np.random.default_rng(0).normal(size=(2, 50))
    xt = np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps
    mean = np.sqrt(before) * beta * x0 + np.sqrt(1 - beta) * (1 - before) * xt
    found = m.reverse_mean(schedule, jnp.float32(xt), t, jnp.float32(eps))
    np.testing.assert_allclose(found, mean / (1 - alpha_bar), atol=1e-5)
    small = beta * (1 - before) / (1 - alpha_bar)
    np.testing.assert_allclose(m.reverse_variance(schedule, t, "small"), small, rtol=1e-4)
    np.testing.assert_allclose(m.reverse_variance(schedule, t, "large"), beta, rtol=1e-6)


def check_reverse_step_noise(m):
    """Noise 1 moves x by the root of the variance, and not at all at t = 0."""
    schedule = linear_schedule(50, 1e-3, 0.3)
    t, x, one = jnp.arange(50), jnp.zeros((50, 2)), jnp.ones((50, 2))
    for variance in ("large", "small"):
        moved = m.reverse_step(schedule, x, t, x, one, variance)
        std = np.sqrt(np.asarray(m.reverse_variance(schedule, t, variance)))
        std[0] = 0
        np.testing.assert_allclose(moved, np.stack([std, std], 1), rtol=1e-5)


@optimized()
def check_point_mass(m):
    """Data that are one point come back as that point: noise on the last step would show."""
    schedule = linear_schedule()
    denoiser = ideal(schedule, 0.7, std=0.0)
    for sample in (
        m.ddpm_sample,
        partial(m.ddim_sample, steps=10, eta=1.0, spacing="leading"),
    ):
        x = np.asarray(sample(KEY, denoiser, schedule, SHAPE))
        assert x.std() < 1e-5  # with noise on the last step sqrt(beta_0) = 0.01
        assert abs(x.mean() - 0.7) < 1e-5


@optimized()
def check_gaussian(m):
    """Normal data: every step is affine, so mean and spread of the result are known exactly."""
    schedule, mean, std = linear_schedule(), 0.7, 0.2
    beta, alpha_bar, before = float64(schedule)
    small = beta * (1 - before) / (1 - alpha_bar)
    for name, injected in (("large", np.append(0.0, beta[1:])), ("small", small)):
        m1, m2 = 0.0, 1.0  # of pure noise
        for t in reversed(range(1000)):
            # eps = gain (x - sqrt(alpha_bar) mean)
            gain = math.sqrt(1 - alpha_bar[t]) / (alpha_bar[t] * std**2 + 1 - alpha_bar[t])
            pull = beta[t] / math.sqrt(1 - alpha_bar[t]) * gain
            root = math.sqrt(1 - beta[t])
            m1 = (m1 - pull * (m1 - math.sqrt(alpha_bar[t]) * mean)) / root
            m2 = ((1 - pull) / root) ** 2 * m2 + injected[t]
        # What T = 1000 steps cost: the data's own mean and spread are met to half a hundredth.
        assert abs(m1 - mean) < 0.005
        assert abs(math.sqrt(m2) - std) < 0.005
        x = m.ddpm_sample(KEY, ideal(schedule, mean, std=std), schedule, SHAPE, variance=name)
        assert_mean(x, m1, math.sqrt(m2))
        assert_std(x, math.sqrt(m2))


@optimized()
def check_contraction(m):
    """Without injected noise N(0, 1) data shrink, every sample by exactly sqrt(alpha_bar_T)."""
    schedule = linear_schedule()
    denoiser = ideal(schedule, 0.0, std=1.0)
    x, frames = m.ddpm_sample(KEY, denoiser, schedule, (4, 64), inject_noise=False, every=1000)
    expected = math.sqrt(running_product(linear_beta(1000))[-1])
    assert round(expected, 5) == 0.00635
    np.testing.assert_allclose(x, expected * frames.xt[0], rtol=2e-4)


@optimized()
def check_modes(m):
    """Two modes at -1 and 1, each with spread 0.1: what each sampler makes of the spread.

    The spread is the standard deviation of |x|; its standard error is 0.0006. Without injected
    noise the modes are a tenth as wide; DDIM, which injects none either, keeps them.
    """
    schedule = linear_schedule()
    denoiser = ideal(schedule, -1.0, 1.0, std=0.1)
    for sample, expected in (
        (m.ddpm_sample, 0.100),
        (partial(m.ddpm_sample, variance="small"), 0.096),
        (partial(m.ddpm_sample, inject_noise=False), 0.012),
        (partial(m.ddim_sample, steps=1000), 0.099),
    ):
        x = np.asarray(sample(KEY, denoiser, schedule, SHAPE))
        assert abs(np.abs(x).std() - expected) < 0.003
        assert_mean(x > 0, 0.5, 0.5)


def check_ddim_lands_on_the_jump(m):
    """eta = 0 and the true eps: from x_t straight to add_noise at t_next, to x0 itself at -1."""
    schedule = linear_schedule()
    t, t_next = jnp.array([999, 999, 500, 20, 1, 0]), jnp.array([998, 0, 250, -1, 0, -1])
    x0, eps, noise = jnp.float32(np.random.default_rng(0).normal(size=(3, 6, 8)))
    xt = add_noise(schedule, x0, t, eps)
    expected = jnp.where(
        (t_next >= 0)[:, None], add_noise(schedule, x0, jnp.maximum(t_next, 0), eps), x0
    )
    found = m.ddim_step(schedule, xt, t, t_next, eps, noise)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def check_ddim_keeps_the_marginal(m):
    """Any eta: signal and total noise at t_next are add_noise's; eta says how much is fresh."""
    schedule = linear_schedule()
    t, t_next = jnp.array([999, 500, 20, 1]), jnp.array([749, 499, 10, 0])
    _, alpha_bar, _ = float64(schedule)
    now, after = alpha_bar[np.array(t)], alpha_bar[np.array(t_next)]
    sigma = np.sqrt((1 - after) / (1 - now) * (1 - now / after))
    one = jnp.ones(4)
    for eta in (0.0, 0.5, 1.0):

        def response(x0, eps, noise, eta=eta):
            xt = add_noise(schedule, x0 * one, t, eps * one)
            return np.asarray(m.ddim_step(schedule, xt, t, t_next, eps * one, noise * one, eta))

        signal, old, fresh = response(1, 0, 0), response(0, 1, 0), response(0, 0, 1)
        np.testing.assert_allclose(signal, np.sqrt(after), rtol=1e-4)
        np.testing.assert_allclose(fresh, eta * sigma, rtol=2e-3)
        np.testing.assert_allclose(old**2 + fresh**2, 1 - after, rtol=2e-3)


def check_ddim_with_eta_1_is_ddpm(m):
    """Over all steps, with the same noise at each: the same numbers."""
    schedule = linear_schedule(200, 1e-3, 0.1)
    denoiser = ideal(schedule, -1.0, 1.0, std=0.1)
    ddpm, a = m.ddpm_sample(KEY, denoiser, schedule, (4, 64), variance="small", every=10)
    ddim, b = m.ddim_sample(KEY, denoiser, schedule, (4, 64), steps=200, eta=1.0, every=10)
    np.testing.assert_array_equal(a.t, b.t)
    np.testing.assert_allclose(a.xt, b.xt, atol=2e-3)
    np.testing.assert_allclose(ddpm, ddim, atol=2e-3)


def check_keys(m):
    """Sample i is the same at any batch size, and unlike its neighbours; keys matter."""
    schedule = linear_schedule(20, 1e-3, 0.3)
    denoiser = ideal(schedule, -1.0, 1.0, std=0.1)
    many = np.asarray(m.ddpm_sample(KEY, denoiser, schedule, (16, 3, 3, 1)))
    one = np.asarray(m.ddpm_sample(KEY, denoiser, schedule, (1, 3, 3, 1)))
    np.testing.assert_allclose(one[0], many[0], atol=1e-5)
    apart = np.abs(many[:, None] - many[None, :]).max((2, 3, 4)) + np.eye(16)
    assert apart.min() > 1e-3
    other = np.asarray(m.ddpm_sample(jax.random.key(7), denoiser, schedule, (1, 3, 3, 1)))
    assert np.abs(other - one).max() > 1e-3
    fifth = m.ddpm_sample(KEY, denoiser, schedule, (1, 3, 3, 1), first=5)
    np.testing.assert_allclose(fifth[0], many[5], atol=1e-5)


def check_noise_is_fresh(m):
    """The noise of every step is standard normal and unrelated to any other.

    A denoiser that answers 0 leaves x_{t-1} = x_t / sqrt(1 - beta) + sqrt(beta) noise, which is
    solved for the noise.
    """
    schedule = linear_schedule(4, 0.2, 0.5)
    _, frames = m.ddpm_sample(KEY, zero, schedule, SHAPE, every=1)
    beta = float64(schedule)[0][::-1]
    xt = np.asarray(frames.xt, np.float64)
    noises = [xt[0]]
    for before, after, b in zip(xt[:-1], xt[1:], beta[:-1], strict=True):
        noises.append((after - before / np.sqrt(1 - b)) / np.sqrt(b))
    for noise in noises:
        assert_mean(noise, 0, 1)
        assert_std(noise, 1)
    related = np.corrcoef(np.stack(noises).reshape(len(noises), -1)) - np.eye(len(noises))
    assert np.abs(related).max() < SIGMAS / math.sqrt(COUNT)


def check_trajectory(m):
    """Frames run from the starting noise to the image, and asking for them changes nothing."""
    schedule = linear_schedule(20, 1e-3, 0.3)
    denoiser, shape = ideal(schedule, -1.0, 1.0, std=0.1), (2, 5)
    for sample, visited in (
        (m.ddpm_sample, list(range(19, -1, -1))),
        (partial(m.ddim_sample, steps=7, spacing="linspace"), [19, 16, 13, 10, 6, 3, 0]),
    ):
        x, frames = sample(KEY, denoiser, schedule, shape, every=3)
        plain = sample(KEY, denoiser, schedule, (7, 5))  # and the batch size changes nothing
        np.testing.assert_allclose(x, plain[:2], atol=1e-5)
        np.testing.assert_array_equal(frames.t, visited[::3])
        assert frames.xt.shape == frames.x0.shape == (len(frames.t), *shape)
        assert jnp.abs(frames.xt[0]).min() > 0
        for t, xt, x0 in zip(frames.t, frames.xt, frames.x0, strict=True):
            ts = jnp.full(shape[0], t)
            again = add_noise(schedule, x0, ts, ask(denoiser, xt, ts))
            np.testing.assert_allclose(again, xt, atol=1e-5)
    assert frames.t[-1] == 0
    np.testing.assert_allclose(frames.x0[-1], x, atol=1e-5)  # the last step is to the image
