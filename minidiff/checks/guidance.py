"""Exercises of lesson 10: exaggerate what a condition changes, keep in range, follow a score."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from minidiff.checks.exercise import Exercise, normal
from minidiff.guidance import ClassifierFree, ClipGuided, ClipX0, Conditioned
from minidiff.noising import at, predict_eps, predict_x0, signal_and_noise
from minidiff.schedules import Schedule, cosine_schedule, linear_schedule


@struct.dataclass
class Clouds:
    """The best denoiser there can be for points in clouds, if told how common each cloud is.

    E[eps | x_t], exactly: each cloud's own guess, weighed by how likely x_t came from it (Bayes).
    It is called as a network with text is, and stands for one that has learned everything.
    """

    schedule: Schedule
    middles: jax.Array  # (clouds, 2)
    spread: float | jax.Array  # standard deviation of each

    def __call__(
        self,
        xt: Float[Array, "batch 2"],
        t: Int[Array, " batch"],
        shares: Float[Array, "batch clouds"],
    ) -> Float[Array, "batch 2"]:
        alpha_bar = self.schedule.alpha_bar[t][:, None]
        variance = alpha_bar * self.spread**2 + 1 - alpha_bar
        offset = xt[:, None] - jnp.sqrt(alpha_bar)[:, :, None] * self.middles[None]
        likely = jnp.log(shares) - jnp.sum(offset**2, axis=2) / (2 * variance)
        mean = jnp.sum(jax.nn.softmax(likely, axis=1)[:, :, None] * offset, axis=1)
        return jnp.sqrt(1 - alpha_bar) * mean / variance


@struct.dataclass
class Nearness:
    """A score: how near a point is to another one."""

    target: jax.Array  # (2,)

    def __call__(self, x0: Float[Array, "batch 2"]) -> Float[Array, " batch"]:
        return -jnp.sum((x0 - self.target[None]) ** 2, axis=1)


@struct.dataclass
class Always:
    """A denoiser with one answer."""

    eps: jax.Array

    def __call__(
        self, xt: Float[Array, " batch *shape"], t: Int[Array, " batch"]
    ) -> Float[Array, " batch *shape"]:
        return self.eps


def _clouds(schedule: Schedule) -> Clouds:
    return Clouds(schedule, jnp.array([[0.0, 1.0], [1.0, -0.5], [-1.0, -0.5]]), 0.4)


def _prompted() -> list[tuple]:
    network, t = _clouds(cosine_schedule()), jnp.array([50, 300, 500, 700, 900])
    condition, null = jnp.eye(3)[jnp.array([0, 1, 2, 0, 1])], jnp.full((5, 3), 1 / 3)
    return [
        (network, normal(seed, 5, 2), t, condition, null, scale)
        for seed, scale in enumerate((0.0, 1.0, 3.0))
    ]


def _classifier_free(network, xt, t, condition, null, scale):
    return ClassifierFree(network, condition, null, scale)(xt, t)


def _mixed(mix):
    """A ``classifier_free`` that mixes the two guesses otherwise."""

    def mistake(network, xt, t, condition, null, scale):
        return mix(network(xt, t, condition), network(xt, t, null), scale)

    return mistake


def _asked_twice(network, xt, t, condition, null, scale):
    told, untold = network(xt, t, condition), network(xt, t, null)
    return untold + scale * (told - untold)


classifier_free = Exercise(
    name="classifier_free",
    task="The guided guess of the noise, from a conditional guess and an unconditional one.",
    solution=_classifier_free,
    cases=_prompted,
    mistakes={
        "the two guesses are exchanged: this leads away from the prompt as the scale grows": _mixed(
            lambda given, without, scale: given + scale * (without - given)
        ),
        "this is another paper's scale, one less than ours: start from the unconditional "
        "guess, so that scale 1 is the conditional one": _mixed(
            lambda given, without, scale: given + scale * (given - without)
        ),
        "where is the unconditional guess? The conditional one alone was multiplied by the scale": _mixed(
            lambda given, without, scale: scale * given
        ),
        "this is only what the condition changes: add it to the unconditional guess": _mixed(
            lambda given, without, scale: scale * (given - without)
        ),
        "the scale does nothing here: it multiplies conditional - unconditional": _mixed(
            lambda given, without, scale: given
        ),
        "a sum of both guesses is too much noise: their weights must add up to 1": _mixed(
            lambda given, without, scale: without + scale * given
        ),
    },
    written=_asked_twice,
    traced=True,
    hints=(
        "Ask twice: network(xt, t, condition) and network(xt, t, null).",
        "The difference of the two is what the condition changes.",
        "Scale 0 must give the unconditional guess and scale 1 the conditional one: start from the "
        "unconditional one and add the difference `scale` times.",
    ),
)


def _beyond() -> list[tuple]:
    """Guesses of eps that imply images far outside of [-1, 1], and some that do not."""
    t = jnp.array([20, 200, 400, 600, 800])
    return [(linear_schedule(), normal(20, 5, 6, 6, 3), t, normal(21, 5, 6, 6, 3))]


def _clip_x0(schedule, xt, t, eps):
    return ClipX0(Always(eps), schedule)(xt, t)


def _kept(change, back=predict_eps):
    """A ``clip_x0`` with another change of the image, or another way back from it to eps."""

    def mistake(schedule, xt, t, eps):
        return back(schedule, xt, t, change(predict_x0(schedule, xt, t, eps)))

    return mistake


def _within(x0):
    return jnp.clip(x0, -1, 1)


def _unfaded(schedule, xt, t, x0):
    return (xt - x0) / signal_and_noise(schedule, t, xt)[1]


def _undivided(schedule, xt, t, x0):
    return xt - signal_and_noise(schedule, t, xt)[0] * x0


def _cut_off(schedule, xt, t, eps):
    signal, noise = signal_and_noise(schedule, t, xt)
    x0 = (xt - noise * eps) / signal
    kept = jnp.clip(x0, -1, 1)
    return (xt - signal * kept) / noise


clip_x0 = Exercise(
    name="clip_x0",
    task="The guess of the noise, corrected so that the image it implies stays in [-1, 1].",
    solution=_clip_x0,
    cases=_beyond,
    mistakes={
        "this is the clipped image: a denoiser must return the noise that belongs to it": _kept(
            _within, lambda schedule, xt, t, x0: x0
        ),
        "the noise was clipped: it is the *image* that must stay in [-1, 1]": (
            lambda schedule, xt, t, eps: jnp.clip(eps, -1, 1)
        ),
        "images here lie in [-1, 1], not in [0, 1]": _kept(lambda x0: jnp.clip(x0, 0, 1)),
        "the whole image was divided by its largest value: clip each number by itself": _kept(
            lambda x0: x0 / jnp.maximum(jnp.abs(x0).max(axis=(1, 2, 3), keepdims=True), 1)
        ),
        "on the way back the image is faded: take sqrt(alpha_bar) x0 away from x_t": _kept(
            _within, _unfaded
        ),
        "on the way back, did you forget to divide by sqrt(1 - alpha_bar)?": _kept(
            _within, _undivided
        ),
        "nothing was changed: this is eps as it came": lambda schedule, xt, t, eps: eps,
        "this is the image that the guess implies: clip it, and go back to the noise": _kept(
            lambda x0: x0, lambda schedule, xt, t, x0: x0
        ),
        "x_t was clipped: it is noisy, and only the image without noise lies in [-1, 1]": (
            lambda schedule, xt, t, eps: _within(xt)
        ),
        "tanh bends numbers that are in range: jnp.clip leaves them": _kept(jnp.tanh),
    },
    written=_cut_off,
    traced=True,
    hints=(
        "noising.predict_x0(schedule, xt, t, eps) is the image that the guess implies.",
        "jnp.clip keeps it in range.",
        "noising.predict_eps(schedule, xt, t, x0) is the way back from an image to the noise.",
    ),
    level=2,
    # Near the image the way back divides by little: rounding grows.
    rtol=1e-3,
    atol=1e-3,
)


def _scored() -> list[tuple]:
    schedule, t = cosine_schedule(), jnp.array([50, 300, 500, 700, 900])
    unconditional = Conditioned(_clouds(schedule), jnp.full((5, 3), 1 / 3))
    score = Nearness(jnp.array([0.5, 1.5]))
    return [
        (unconditional, score, schedule, normal(30 + i, 5, 2), t, 0.5 * (i + 1)) for i in range(2)
    ]


def _score_guided(denoiser, score, schedule, xt, t, scale):
    return ClipGuided(denoiser, schedule, score, scale, limit=None)(xt, t)


def _pushed(sign=-1.0, of="x0", to="xt", around=False, power=1, eps_times=lambda noise: 1.0):
    """A ``score_guided`` with something else in the place of each part."""

    def mistake(denoiser, score, schedule, xt, t, scale):
        eps = denoiser(xt, t)

        def judged(x):
            if of == "xt" or to == "x0":
                return score(x).sum()
            return score(predict_x0(schedule, x, t, eps if around else denoiser(x, t))).sum()

        gradient = jax.grad(judged)(predict_x0(schedule, xt, t, eps) if to == "x0" else xt)
        noise = jnp.sqrt(1 - at(schedule.alpha_bar, t, xt)) ** power
        return eps_times(noise) * eps + sign * scale * noise * gradient

    return mistake


def _followed(denoiser, score, schedule, xt, t, scale):
    def judged(x):
        return score(predict_x0(schedule, x, t, denoiser(x, t))).sum()

    slope = jax.grad(judged)(xt)
    return denoiser(xt, t) - scale * jnp.sqrt(1 - at(schedule.alpha_bar, t, xt)) * slope


score_guided = Exercise(
    name="score_guided",
    task="The guess of the noise, pushed so that the image it implies scores higher.",
    solution=_score_guided,
    cases=_scored,
    mistakes={
        "the sign: this leads to a *lower* score, for what is called noise is taken away": _pushed(
            sign=1.0
        ),
        "did you forget sqrt(1 - alpha_bar) in front of the gradient?": _pushed(power=0),
        "sqrt(1 - alpha_bar), not 1 - alpha_bar, stands in front of the gradient": _pushed(power=2),
        "this is the gradient to x0: differentiate to x_t, through predict_x0 and the denoiser": (
            _pushed(to="x0")
        ),
        "eps depends on x_t as well: ask the denoiser *inside* the function you differentiate": (
            _pushed(around=True)
        ),
        "the noisy x_t was scored: score the image that it implies": _pushed(of="xt"),
        "this is the push alone: add the guess of the denoiser": _pushed(eps_times=jnp.zeros_like),
        "sqrt(1 - alpha_bar) belongs to the gradient alone: the guess of eps stays as it is": _pushed(
            eps_times=lambda noise: noise
        ),
    },
    written=_followed,
    traced=True,
    hints=(
        "Write a function of xt alone: ask the denoiser, predict x0, return score(x0).sum().",
        "jax.grad of that function, called with xt, is the gradient, shaped like xt.",
        "eps - scale * sqrt(1 - alpha_bar) * gradient; `noising.signal_and_noise(schedule, t, xt)` "
        "returns both roots in the right shape.",
    ),
    level=3,
    minutes=10,
)
