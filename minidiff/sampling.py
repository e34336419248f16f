r"""Reverse sampling: from pure noise to an image, one small step at a time.

Every sampler is one ``walk``: a compiled scan that sees nothing of the network but ``denoiser(xt, t)
-> eps``, and gives sample i its own key, so that an image does not depend on its batch. Samplers differ
in their ``Method``, a step with its memory; more of those are in ``solvers``.

DDPM (Ho et al. 2020, algorithm 2) removes a little of the predicted noise and *injects fresh noise* at
every step but the last. Leave the fresh noise out and the samples collapse towards blurred averages.
DDIM (Song et al. 2020, https://arxiv.org/abs/2010.02502) with eta = 0 injects none either, yet does not
collapse: it takes a different step, one that keeps the predicted noise in x at its full strength.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, Real

from minidiff.compiled import compiled_sampler
from minidiff.keys import sample_key
from minidiff.noising import Denoiser, at, predict_x0, signal_and_noise
from minidiff.schedules import Schedule, Spacing, Steps, respace, sigmas, timesteps

Variance = Literal["large", "small"]


def reverse_mean(
    schedule: Schedule,
    xt: Float[Array, " batch *shape"],
    t: Int[Array, " batch"],
    eps: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    r"""Mean of x_{t-1} given x_t: (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) / sqrt(1 - beta_t).

    Ho et al. 2020, equation 11. 1 - beta_t is alpha_bar_t / alpha_bar_{t-1}, which keeps its digits
    where beta is nearly 1, as it is in long steps.
    """
    beta = at(schedule.beta, t, xt)
    signal, noise = signal_and_noise(schedule, t, xt)
    before = at(jnp.append(schedule.alpha_bar, 1.0), t - 1, xt)  # before step 0 it is 1
    return (xt - beta / noise * eps) * jnp.sqrt(before) / signal


def reverse_variance(
    schedule: Schedule, t: Int[Array, " batch"], variance: Variance = "large"
) -> Float[Array, " batch"]:
    r"""Variance of the fresh noise at step t: beta_t, or beta_t (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t).

    ``large`` is right for data that fill all space, ``small``, which is 0 at t = 0, for a single point;
    the truth lies between (Ho et al. 2020, section 3.2).
    """
    beta = schedule.beta[t]
    if variance == "large":
        return beta
    before = jnp.where(t > 0, schedule.alpha_bar[jnp.maximum(t - 1, 0)], 1.0)
    return beta * (1 - before) / (1 - schedule.alpha_bar[t])


def reverse_step(
    schedule: Schedule,
    xt: Float[Array, " batch *shape"],
    t: Int[Array, " batch"],
    eps: Float[Array, " batch *shape"],
    noise: Float[Array, " batch *shape"],
    variance: Variance = "large",
) -> Float[Array, " batch *shape"]:
    """x_{t-1} from x_t: the mean plus fresh standard normal noise; at t = 0 none is added."""
    std = jnp.where(t > 0, jnp.sqrt(reverse_variance(schedule, t, variance)), 0.0)
    return reverse_mean(schedule, xt, t, eps) + std.reshape(-1, *(1,) * (xt.ndim - 1)) * noise


def ddim_step(
    schedule: Schedule,
    xt: Float[Array, " batch *shape"],
    t: Int[Array, " batch"],
    t_next: Int[Array, " batch"],
    eps: Float[Array, " batch *shape"],
    noise: Float[Array, " batch *shape"],
    eta: float | Real[Array, ""] = 0.0,
) -> Float[Array, " batch *shape"]:
    r"""Jump from t to the earlier index t_next; t_next = -1 is the image itself.

    x0 and eps are what the denoiser says, and x at t_next is mixed from them anew:
    sqrt(a') x0 + sqrt(1 - a' - sigma^2) eps + sigma noise, with a' = alpha_bar at t_next and
    sigma = eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a') (Song et al. 2020, equations 12 and 16).
    eta = 1 over all steps is DDPM with its small variance.
    """
    now = at(schedule.alpha_bar, t, xt)
    # alpha_bar before step 0 is 1: nothing has been destroyed yet.
    after = at(jnp.append(schedule.alpha_bar, 1.0), t_next, xt)
    sigma = eta * jnp.sqrt((1 - after) / (1 - now)) * jnp.sqrt(1 - now / after)
    x0 = predict_x0(schedule, xt, t, eps)
    kept = jnp.sqrt(jnp.maximum(1 - after - sigma**2, 0.0))  # rounding may bring it below 0
    return jnp.sqrt(after) * x0 + kept * eps + sigma * noise


def sample_noise(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    first: int | Int[Array, ""],
    k: int | Int[Array, ""],
) -> Float[Array, " batch *shape"]:
    """Standard normal noise number k of samples first, first + 1, ...; number 0 is the start."""
    draw = partial(jax.random.normal, shape=shape[1:], dtype=jnp.float32)
    return jax.vmap(lambda i: draw(sample_key(key, i, k)))(first + jnp.arange(shape[0]))


class Here(NamedTuple):
    """What a method may look at in its step number i, from index t to the next that is visited."""

    i: Int[Array, ""]  # 0 is at the noise
    t: Int[Array, " batch"]  # all the same
    t_next: Int[Array, " batch"]  # -1 is the image itself
    sigma: Float[Array, ""]  # noise beside an image of full strength at t, as in schedules.sigmas
    sigma_next: Float[Array, ""]  # at t_next; 0 at the image
    eps: Float[Array, " batch *shape"]  # what the denoiser says at t
    x0: Float[Array, " batch *shape"]  # the image that follows from it
    noise: Float[Array, " batch *shape"]  # fresh
    ask: Callable[[jax.Array], jax.Array]  # eps of another x, at t_next


class Method(NamedTuple):
    """A sampler: a step, and what it remembers from one step to the next."""

    step: Callable  # (x, memory, here) -> (x at t_next, memory)
    begin: Callable = lambda x, sigma: None  # (x, sigma) at the first index -> memory, a pytree
    grown: bool = False  # its x is x_t / sqrt(alpha_bar): the image plus sigma times noise
    visits: Callable = lambda ts: ts  # indices -> those of each call of the denoiser


@struct.dataclass
class Trajectory:
    """What a sampler saw on its way, for filmstrips: frames from noise to image."""

    t: jax.Array  # (frames,) the index at which each frame was taken, descending
    xt: jax.Array  # (frames, batch, ...) x_t before the step at that index
    x0: jax.Array  # (frames, batch, ...) the image that the denoiser predicts from it


def walk(method, key, denoiser, schedule, shape, ts, start=None, every=None, first=0, last=-1):
    """Every sampler: at each of the descending indices ``ts`` the denoiser looks, the method steps.

    Noise number 0 is the start, number i + 1 is for step i. All else is as in ``ddim_sample``.
    """
    ts = method.visits(ts)
    draw, sigma = partial(sample_noise, key, shape, first), sigmas(schedule, ts, last)

    def look(x, sigma, t):
        xt = x / jnp.sqrt(1 + sigma**2) if method.grown else x
        return xt, denoiser(xt, t).astype(jnp.float32)

    def body(carry, this):
        x, memory, frames = carry
        i, t, t_next, now, after = this
        t, t_next = jnp.full(shape[0], t), jnp.full(shape[0], t_next)
        xt, eps = look(x, now, t)
        x0 = predict_x0(schedule, xt, t, eps)
        if every:
            frame = jnp.where(i % every == 0, jnp.stack([xt, x0]), frames[i // every])
            frames = frames.at[i // every].set(frame)
        to_next = partial(look, sigma=after, t=jnp.maximum(t_next, 0))
        here = Here(i, t, t_next, now, after, eps, x0, draw(i + 1), lambda x: to_next(x)[1])
        return (*method.step(x, memory, here), frames), None

    x = draw(0) if start is None else start
    x = x * jnp.sqrt(1 + sigma[0] ** 2) if method.grown else x
    frames = jnp.zeros((-(-len(ts) // every) if every else 0, 2, *shape))
    stops = jnp.asarray(np.append(ts, last))
    visits = (jnp.arange(len(ts)), stops[:-1], stops[1:], sigma[:-1], sigma[1:])
    (end, _, frames), _ = jax.lax.scan(body, (x, method.begin(x, sigma[0]), frames), visits)
    end = end / jnp.sqrt(1 + sigma[-1] ** 2) if method.grown and last >= 0 else end
    return (end, Trajectory(jnp.asarray(ts[::every]), frames[:, 0], frames[:, 1])) if every else end


@compiled_sampler("variance", "steps", "spacing")
def ddpm_sample(
    key: Key[Array, ""],
    denoiser: Denoiser,
    schedule: Schedule,
    shape: tuple[int, ...],
    *,
    inject_noise: bool | Bool[Array, ""] = True,
    variance: Variance = "large",
    steps: Steps | None = None,
    spacing: Spacing = "trailing",
    start: Float[Array, " batch *shape"] | None = None,
    every: int | None = None,
    first: int | Int[Array, ""] = 0,
) -> Float[Array, " batch *shape"] | tuple[Float[Array, " batch *shape"], Trajectory]:
    """Samples by Ho et al. 2020, algorithm 2, through every step of the schedule or fewer.

    Fewer are those that ``respace`` leaves: with the small variance DDIM with eta 1, with the large one
    the sigma-hat of that paper's table 1, far too much noise for long steps.

    Args:
        key: sample i starts from, and is disturbed by, noise drawn with fold_in(key, i).
        denoiser: any pytree callable (xt, t) -> eps.
        schedule: the one the denoiser was trained with.
        shape: (batch, ...) of what is drawn.
        inject_noise: False leaves the fresh noise out, to see what it is for.
        variance: of the fresh noise, see ``reverse_variance``.
        steps: how many times the denoiser is called, 1 to T, or at which indices; None is T.
        spacing: which indices are visited if steps are fewer, see ``timesteps``.
        start: x, shaped ``shape``, at the first index visited; None is pure noise.
        every: return (samples, Trajectory), with a frame at each ``every``-th step.
        first: the number of the first sample: draw 64 to 127 with first=64.
    """
    if variance not in ("large", "small"):
        raise ValueError(f"variance must be large or small; got {variance!r}")
    ts, visited = np.arange(schedule.steps, dtype=np.int32)[::-1], schedule
    if steps is not None:
        visited = respace(schedule, ts := timesteps(schedule.steps, steps, spacing))

    def step(xt, memory, here):
        noise = jnp.where(inject_noise, here.noise, 0.0)
        place = jnp.full(shape[0], len(ts) - 1 - here.i)  # of t in the visited schedule
        return reverse_step(visited, xt, place, here.eps, noise, variance), memory

    return walk(Method(step), key, denoiser, schedule, shape, ts, start, every, first)


@compiled_sampler("steps", "spacing", "last")
def ddim_sample(
    key: Key[Array, ""],
    denoiser: Denoiser,
    schedule: Schedule,
    shape: tuple[int, ...],
    *,
    steps: Steps = 50,
    eta: float | Real[Array, ""] = 0.0,
    spacing: Spacing = "trailing",
    start: Float[Array, " batch *shape"] | None = None,
    every: int | None = None,
    first: int | Int[Array, ""] = 0,
    last: int = -1,
) -> Float[Array, " batch *shape"] | tuple[Float[Array, " batch *shape"], Trajectory]:
    """Sample in fewer, longer steps (Song et al. 2020). Args and result are as in ``ddpm_sample``.

    ``eta`` 0 injects no noise, 1 as much as DDPM. It arrives at index ``last``: -1 is the image.
    """
    ts = timesteps(schedule.steps, steps, spacing)

    def step(xt, memory, here):
        return ddim_step(schedule, xt, here.t, here.t_next, here.eps, here.noise, eta), memory

    return walk(Method(step), key, denoiser, schedule, shape, ts, start, every, first, last)
