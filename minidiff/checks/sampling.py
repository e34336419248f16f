"""Exercises of lesson 08: the reverse step piece by piece, and DDIM's other way back."""

import jax.numpy as jnp

from minidiff.checks.exercise import Exercise, normal, yours_and_wanted
from minidiff.noising import add_noise, at, predict_x0, signal_and_noise
from minidiff.sampling import ddim_step, reverse_mean, reverse_step
from minidiff.schedules import cosine_schedule, linear_schedule


def _scene() -> jnp.ndarray:
    """Five images (5, 8, 8, 3): a corner-to-corner ramp."""
    line = jnp.linspace(-1, 1, 8)
    return jnp.broadcast_to((line[:, None] * line[None, :])[None, :, :, None], (5, 8, 8, 3))


def _noisy() -> list[tuple]:
    """(schedule, xt, t, eps) of images under a long schedule, of grey ones under a short."""
    long, short = linear_schedule(), cosine_schedule(10)
    t, early = jnp.array([0, 1, 300, 600, 999]), jnp.array([2, 4, 8])
    eps, other = normal(0, 5, 8, 8, 3), normal(2, 3, 4, 2, 1)
    return [
        (long, add_noise(long, _scene(), t, eps), t, eps),
        (short, add_noise(short, normal(1, 3, 4, 2, 1), early, other), early, other),
    ]


def _mean(taken, kept):
    """A ``reverse_mean`` with other coefficients, given as functions of beta and alpha_bar."""

    def mistake(schedule, xt, t, eps):
        beta, share = at(schedule.beta, t, xt), at(schedule.alpha_bar, t, xt)
        return (xt - taken(beta, share) * eps) / kept(beta, share)

    return mistake


def _right_taken(beta, share):
    return beta / jnp.sqrt(1 - share)


def _right_kept(beta, share):
    return jnp.sqrt(1 - beta)


def _stepped_back(schedule, xt, t, eps):
    beta, alpha_bar = at(schedule.beta, t, xt), at(schedule.alpha_bar, t, xt)
    return (xt - beta / jnp.sqrt(1 - alpha_bar) * eps) / jnp.sqrt(1 - beta)


reverse_mean = Exercise(
    name="reverse_mean",
    task="The mean of x_{t-1}, given x_t and the total noise eps in it.",
    solution=reverse_mean,
    cases=_noisy,
    mistakes={
        "did you forget to divide by sqrt(1 - beta)? Going back, the fading is undone": _mean(
            _right_taken, lambda beta, share: 1.0
        ),
        "did you forget the root in the divisor? The step multiplied by sqrt(1 - beta)": _mean(
            _right_taken, lambda beta, share: 1 - beta
        ),
        "did you forget the root over 1 - alpha_bar, below beta?": _mean(
            lambda beta, share: beta / (1 - share), _right_kept
        ),
        "the noise is weighed by beta over the root of *1 - alpha_bar*, not of alpha_bar": _mean(
            lambda beta, share: beta / jnp.sqrt(share), _right_kept
        ),
        "this takes away all the noise: one step back takes only its own share, beta": _mean(
            lambda beta, share: jnp.sqrt(1 - share), _right_kept
        ),
        "eps is the *total* noise: sqrt(beta) eps would be right if it were the last step's": _mean(
            lambda beta, share: jnp.sqrt(beta), _right_kept
        ),
        "this undoes the fading of the whole way: one step back divides by sqrt(1 - beta)": _mean(
            _right_taken, lambda beta, share: jnp.sqrt(share)
        ),
        "the noise must be taken away, not added": _mean(
            lambda beta, share: -_right_taken(beta, share), _right_kept
        ),
    },
    written=_stepped_back,
    traced=True,
    hints=(
        "Two things happen: a share of the noise is taken out, then the fading of one step undone.",
        "Take out beta / sqrt(1 - alpha_bar) times eps. Divide what is left by sqrt(1 - beta).",
        "`noising.at(schedule.beta, t, xt)` is beta of each image, shaped to multiply xt.",
    ),
    minutes=5,
    draw=lambda case, got, wanted: yours_and_wanted(got, wanted, "the mean of x_{t-1}"),
)


def _steps() -> list[tuple]:
    """With a different t in every row, 0 among them, and once 0 in all."""
    noises = (normal(3, 5, 8, 8, 3), normal(4, 3, 4, 2, 1))
    cases = [(*case, noise) for case, noise in zip(_noisy(), noises, strict=True)]
    schedule, x0, eps = cosine_schedule(10), normal(5, 2, 4, 2, 1), normal(6, 2, 4, 2, 1)
    t = jnp.zeros(2, jnp.int32)
    return [*cases, (schedule, add_noise(schedule, x0, t, eps), t, eps, normal(7, 2, 4, 2, 1))]


def _noised(amount):
    """A ``reverse_step`` that adds ``amount(schedule, t, x)`` times the noise."""

    def mistake(schedule, xt, t, eps, noise):
        mean = reverse_mean.solution(schedule, xt, t, eps)
        return mean + amount(schedule, t, xt) * noise

    return mistake


def _std(schedule, t, x):
    return jnp.sqrt(at(schedule.beta, t, x))


def _but_at_0(amount):
    def chosen(schedule, t, x):
        inside = (t > 0).reshape(-1, *(1,) * (x.ndim - 1))
        return jnp.where(inside, amount(schedule, t, x), 0.0)

    return chosen


def _faded(schedule, t, x):
    beta = at(schedule.beta, t, x)
    return jnp.sqrt(beta / (1 - beta))


def _small(schedule, xt, t, eps, noise):
    return reverse_step.solution(schedule, xt, t, eps, noise, "small")


def _noise_again(schedule, xt, t, eps, noise):
    std = jnp.where(t > 0, jnp.sqrt(schedule.beta[t]), 0.0).reshape(-1, 1, 1, 1)
    return reverse_mean.solution(schedule, xt, t, eps) + std * noise


reverse_step = Exercise(
    name="reverse_step",
    task="x_{t-1} from x_t: the mean, and fresh noise of variance beta_t; none at t = 0.",
    solution=reverse_step,
    cases=_steps,
    mistakes={
        "noise is added at t = 0 too: the last step must end at the image itself": _noised(_std),
        "beta is a *variance*: multiply the noise by its square root": _noised(
            _but_at_0(lambda schedule, t, x: at(schedule.beta, t, x))
        ),
        "beta is a variance (multiply by its root), and at t = 0 no noise is added": _noised(
            lambda schedule, t, x: at(schedule.beta, t, x)
        ),
        "there is no fresh noise in it: this is the mean alone": _noised(
            lambda schedule, t, x: 0.0
        ),
        "each image has its own t: one image at t = 0 must not take the noise from the others": (
            _noised(lambda schedule, t, x: jnp.where((t > 0).all(), _std(schedule, t, x), 0.0))
        ),
        "the fresh noise is added after the division by sqrt(1 - beta), not before": _noised(
            _but_at_0(_faded)
        ),
        "this is as much noise as the whole way has: one step's variance is beta": _noised(
            _but_at_0(lambda schedule, t, x: signal_and_noise(schedule, t, x)[1])
        ),
        "this is the small variance: here the large one, beta itself, is asked for": _small,
    },
    written=_noise_again,
    traced=True,
    hints=(
        "Begin with the mean: your own function, or `sampling.reverse_mean`.",
        "The noise is standard normal, of variance 1. Times a number a, its variance is a squared.",
        "`jnp.where(t > 0, ..., 0.0)` chooses for each image, shape (batch,); then reshape it to "
        "(batch, 1, 1, 1).",
    ),
    level=2,
    minutes=7,
    draw=lambda case, got, wanted: yours_and_wanted(got, wanted, "x_{t-1}"),
)


def _ddim_jump(schedule, xt, t, t_next, eps):
    """``ddim_step`` with eta 0, which needs no noise."""
    return ddim_step(schedule, xt, t, t_next, eps, jnp.zeros_like(xt))


def _jumps() -> list[tuple]:
    after = (jnp.array([-1, 0, 100, 599, 749]), jnp.array([0, 1, 5]))
    return [
        (schedule, xt, t, t_next, eps)
        for (schedule, xt, t, eps), t_next in zip(_noisy(), after, strict=True)
    ]


def _mixed(signal, noise, last=1.0):
    """A ``ddim_jump`` that mixes by other functions of alpha_bar now and after.

    ``last`` is taken for alpha_bar at t_next = -1; none: what the array has at its end.
    """

    def mistake(schedule, xt, t, t_next, eps):
        shares = schedule.alpha_bar if last is None else jnp.append(schedule.alpha_bar, last)
        now, after = at(schedule.alpha_bar, t, xt), at(shares, t_next, xt)
        return signal(now, after) * predict_x0(schedule, xt, t, eps) + noise(now, after) * eps

    return mistake


def _signal(now, after):
    return jnp.sqrt(after)


def _noise(now, after):
    return jnp.sqrt(1 - after)


def _ddpm_mean(schedule, xt, t, t_next, eps):
    return reverse_mean.solution(schedule, xt, t, eps)


def _mixed_anew(schedule, xt, t, t_next, eps):
    alpha_bar = at(schedule.alpha_bar, t, xt)
    after = jnp.where(t_next >= 0, schedule.alpha_bar[t_next], 1.0).reshape(-1, 1, 1, 1)
    x0 = (xt - jnp.sqrt(1 - alpha_bar) * eps) / jnp.sqrt(alpha_bar)
    return jnp.sqrt(after) * x0 + jnp.sqrt(1 - after) * eps


ddim_jump = Exercise(
    name="ddim_jump",
    task="DDIM's step with eta = 0 from t to the earlier t_next; t_next = -1 is the image itself.",
    solution=_ddim_jump,
    cases=_jumps,
    mistakes={
        "alpha_bar[-1] is the *last* entry of an array: at t_next = -1 alpha_bar is 1": _mixed(
            _signal, _noise, last=None
        ),
        "this is DDPM's mean: DDIM takes x0 and eps apart and mixes them anew for t_next": _ddpm_mean,
        "the noise that x has at t_next is missing: add sqrt(1 - alpha_bar[t_next]) eps": _mixed(
            _signal, lambda now, after: 0.0
        ),
        "this is the foreseen x0: it must be noised again, as much as t_next has": _mixed(
            lambda now, after: 1.0, lambda now, after: 0.0
        ),
        "did you forget the root over 1 - alpha_bar[t_next]?": _mixed(
            _signal, lambda now, after: 1 - after
        ),
        "did you forget the root over alpha_bar[t_next]?": _mixed(lambda now, after: after, _noise),
        "each image has its own t_next: one at -1 must not decide for the others": (
            lambda schedule, xt, t, t_next, eps: jnp.where(
                (t_next == -1).any(),
                predict_x0(schedule, xt, t, eps),
                _ddim_jump(schedule, xt, t, jnp.maximum(t_next, 0), eps),
            )
        ),
        "at t_next = -1 this uses alpha_bar[0]: it is 1 there, the image itself": (
            lambda schedule, xt, t, t_next, eps: _ddim_jump(
                schedule, xt, t, jnp.maximum(t_next, 0), eps
            )
        ),
        "the image is mixed for t_next, but the noise for t: both belong to t_next": _mixed(
            _signal, lambda now, after: jnp.sqrt(1 - now)
        ),
    },
    written=_mixed_anew,
    traced=True,
    hints=(
        "Which image does x_t come from, if eps is its noise? Lesson 07 has the function.",
        "Then it is the jump of lesson 07, to t_next, with that image and the same eps.",
        "`jnp.where(t_next >= 0, schedule.alpha_bar[t_next], 1.0)` is right at t_next = -1 too.",
    ),
    level=2,
    minutes=7,
    # Near pure noise x0 is a small difference of large numbers, divided by sqrt(alpha_bar) = 0.006.
    atol=1e-4,
    draw=lambda case, got, wanted: yours_and_wanted(got, wanted, "x at t_next"),
)
