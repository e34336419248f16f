"""Exercises of lesson 07: destroying an image, and undoing it when the noise is known."""

import jax.numpy as jnp
import numpy as np

from minidiff.checks.exercise import Exercise, normal, yours_and_wanted
from minidiff.noising import add_noise, at, predict_x0
from minidiff.schedules import Schedule, cosine_schedule, linear_schedule


def _betas() -> list[tuple]:
    drawn = 1 / (2 + np.exp(np.asarray(normal(4, 7), np.float64)))
    return [(np.array([0.1, 0.2, 0.5]),), (np.linspace(1e-4, 0.02, 1000),), (drawn,)]


def _alpha_bar(beta):
    return Schedule.from_beta(beta).alpha_bar


def _left(beta):
    return np.cumprod(1 - beta)


alpha_bar = Exercise(
    name="alpha_bar",
    task="From the variances beta (T,), the share of the image's variance left after each step (T,).",
    solution=_alpha_bar,
    cases=_betas,
    mistakes={
        "this is what is left by one step alone: multiply with all the steps before it": (
            lambda beta: 1 - beta
        ),
        "the betas themselves are multiplied: what each step *keeps* is 1 - beta": np.cumprod,
        "shares are multiplied, not added: two steps that keep half leave a quarter": (
            lambda beta: 1 - np.cumsum(beta)
        ),
        "this is the root of the right answer: alpha_bar is a share of the *variance*": (
            lambda beta: np.sqrt(np.cumprod(1 - beta))
        ),
        "this is alpha_bar *before* each step: step 0 has added noise already": (
            lambda beta: np.append(1.0, np.cumprod(1 - beta)[:-1])
        ),
    },
    written=_left,
    hints=(
        "A step keeps the share 1 - beta of the variance. What do two steps keep?",
        "A running product of an array is `cumprod`.",
    ),
    minutes=3,
)


def _images() -> list[tuple]:
    """Images of a corner-to-corner ramp at five t, and small ones of one channel."""
    t = jnp.array([0, 1, 300, 600, 999])
    line = jnp.linspace(-1, 1, 8)
    ramp = jnp.broadcast_to((line[:, None] * line[None, :])[None, :, :, None], (5, 8, 8, 3))
    grey = normal(1, 3, 4, 2, 1)
    return [
        (linear_schedule(), ramp, t, normal(0, *ramp.shape)),
        (cosine_schedule(10), grey, jnp.array([0, 4, 8]), normal(2, *grey.shape)),
    ]


def _mixed(signal, noise):
    """An ``add_noise`` with other coefficients, given as functions of alpha_bar."""

    def mistake(schedule, x0, t, eps):
        share = at(schedule.alpha_bar, t, x0)
        return signal(share) * x0 + noise(share) * eps

    return mistake


def _of_beta(schedule, x0, t, eps):
    beta = at(schedule.beta, t, x0)
    return jnp.sqrt(1 - beta) * x0 + jnp.sqrt(beta) * eps


def _jumped(schedule, x0, t, eps):
    alpha_bar = at(schedule.alpha_bar, t, x0)
    return jnp.sqrt(alpha_bar) * x0 + jnp.sqrt(1 - alpha_bar) * eps


add_noise = Exercise(
    name="add_noise",
    task="Jump from x0 to x_t at once, given the total noise eps.",
    solution=add_noise,
    cases=_images,
    mistakes={
        "did you forget both square roots? alpha_bar is a share of the variance": _mixed(
            lambda share: share, lambda share: 1 - share
        ),
        "did you forget the square root over 1 - alpha_bar? The noise comes out too weak": _mixed(
            jnp.sqrt, lambda share: 1 - share
        ),
        "did you forget the square root over alpha_bar? The image fades too soon": _mixed(
            lambda share: share, lambda share: jnp.sqrt(1 - share)
        ),
        "signal and noise are exchanged: at t = 0 the image should hardly have changed": _mixed(
            lambda share: jnp.sqrt(1 - share), jnp.sqrt
        ),
        "the roots must be of alpha_bar and of *1 - alpha_bar*, not 1 minus the root": _mixed(
            jnp.sqrt, lambda share: 1 - jnp.sqrt(share)
        ),
        "this is one small step, made of beta: the whole way to t is in alpha_bar": _of_beta,
        "this is the step before: t counts from 0, so use alpha_bar[t]": (
            lambda schedule, x0, t, eps: add_noise.solution(
                schedule, x0, jnp.maximum(t - 1, 0), eps
            )
        ),
    },
    written=_jumped,
    traced=True,
    hints=(
        "Variances add up to one: a share alpha_bar of the image, a share 1 - alpha_bar of noise.",
        "A share of the variance is a square: multiply by its square root.",
        "schedule.alpha_bar[t] has shape (batch,); reshape it to (batch, 1, 1, 1) for images, or "
        "use `noising.at(schedule.alpha_bar, t, x0)`, which fits any shape.",
    ),
    draw=lambda case, got, wanted: yours_and_wanted(got, wanted, "x_t at t = 0, 1, 300, 600, 999"),
)


def _noised() -> list[tuple]:
    return [
        (schedule, add_noise.solution(schedule, x0, t, eps), t, eps)
        for schedule, x0, t, eps in _images()
    ]


def _undone(signal, noise):
    """A ``predict_x0`` with other coefficients, given as functions of alpha_bar."""

    def mistake(schedule, xt, t, eps):
        share = at(schedule.alpha_bar, t, xt)
        return (xt - noise(share) * eps) / signal(share)

    return mistake


def _undid(schedule, xt, t, eps):
    alpha_bar = at(schedule.alpha_bar, t, xt)
    return (xt - jnp.sqrt(1 - alpha_bar) * eps) / jnp.sqrt(alpha_bar)


predict_x0 = Exercise(
    name="predict_x0",
    task="The image that x_t came from, if eps is the total noise in it.",
    solution=predict_x0,
    cases=_noised,
    mistakes={
        "the noise is weighed before it is taken away: by sqrt(1 - alpha_bar)": _undone(
            jnp.sqrt, jnp.ones_like
        ),
        "what is left is a faded image: divide by sqrt(alpha_bar)": _undone(
            jnp.ones_like, lambda share: jnp.sqrt(1 - share)
        ),
        "did you forget the square root over 1 - alpha_bar?": _undone(
            jnp.sqrt, lambda share: 1 - share
        ),
        "did you forget the square root over alpha_bar?": _undone(
            lambda share: share, lambda share: jnp.sqrt(1 - share)
        ),
        "the noise must be taken away, not added": _undone(
            jnp.sqrt, lambda share: -jnp.sqrt(1 - share)
        ),
    },
    written=_undid,
    traced=True,
    hints=(
        "Write down what add_noise does, and solve it for x0.",
        "add_noise made signal * x0 + noise * eps, so `x0 = (xt - noise * eps) / signal`.",
    ),
    level=2,
    # Near pure noise x0 is a small difference of large numbers, divided by sqrt(alpha_bar) = 0.006.
    atol=1e-3,
    draw=lambda case, got, wanted: yours_and_wanted(got, wanted, "x0 from x_t and its noise"),
)
