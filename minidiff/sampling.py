r"""Reverse sampling: from pure noise to an image, one small step at a time.

Every sampler here sees nothing of the network but ``denoiser(xt, t) -> eps``, runs as one compiled
scan, and gives sample i its own key, so that an image does not depend on its batch.

DDPM (Ho et al. 2020, algorithm 2) removes a little of the predicted noise and *injects fresh noise* at
every step but the last. Leave the fresh noise out and the samples collapse towards blurred averages.
DDIM (Song et al. 2020, https://arxiv.org/abs/2010.02502) with eta = 0 injects none either, yet does not
collapse: it takes a different step, one that keeps the predicted noise in x at its full strength.
"""

from functools import partial, wraps
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, Real

from minidiff.keys import sample_key
from minidiff.noising import Denoiser, Schedule, at, predict_x0, signal_and_noise

Variance = Literal["large", "small"]
Spacing = Literal["leading", "linspace", "trailing"]
Steps = int | tuple[int, ...]  # how many, or which indices, descending


@struct.dataclass
class Trajectory:
    """What a sampler saw on its way, for filmstrips: frames from noise to image."""

    t: jax.Array  # (frames,) the index at which each frame was taken, descending
    xt: jax.Array  # (frames, batch, ...) x_t before the step at that index
    x0: jax.Array  # (frames, batch, ...) the image that the denoiser predicts from it


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

    ``large`` is right for data that fill all space, ``small`` for a single point; the truth lies
    between (Ho et al. 2020, section 3.2). At t = 0 the small one is 0.
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
    """x_{t-1} from x_t: the mean plus fresh noise; at t = 0 no noise is added.

    ``eps`` is the denoiser's guess of the total noise, ``noise`` is standard normal.
    """
    std = jnp.where(t > 0, jnp.sqrt(reverse_variance(schedule, t, variance)), 0.0)
    return reverse_mean(schedule, xt, t, eps) + std.reshape(-1, *(1,) * (xt.ndim - 1)) * noise


def timesteps(total: int, steps: Steps, spacing: Spacing = "trailing") -> np.ndarray:
    """The ``steps`` indices, descending, at which a short sampler visits a schedule of ``total`` steps.

    A tuple is the indices themselves. With total = 1000 and steps = 4:

    - ``trailing`` [999, 749, 499, 249]: counts down from the end, so it starts from pure noise
      (Lin et al. 2023, table 2);
    - ``leading`` [750, 500, 250, 0]: multiples of total // steps, the original DDIM code's choice;
    - ``linspace`` [999, 666, 333, 0]: both ends.

    ValueError unless 1 <= steps <= total, or the indices descend from at most total - 1 to at least 0.
    """
    if isinstance(steps, tuple):
        ts = np.array(steps, np.int32)
        if not len(ts) or ts[0] >= total or ts[-1] < 0 or (np.diff(ts) >= 0).any():
            raise ValueError(f"steps must descend within 0 to {total - 1}; got {steps}")
        return ts
    if not 1 <= steps <= total:
        raise ValueError(f"steps must be between 1 and {total}, the schedule's length; got {steps}")
    if spacing == "trailing":
        return np.round(np.arange(total, 0, -total / steps)).astype(np.int32)[:steps] - 1
    if spacing == "leading":
        return (np.arange(steps, dtype=np.int32) * (total // steps))[::-1].copy()
    if spacing == "linspace":
        places = np.linspace(0, total - 1, steps) if steps > 1 else np.array([total - 1])
        return np.round(places[::-1]).astype(np.int32)
    raise ValueError(f"spacing must be trailing, leading or linspace; got {spacing!r}")


def respace(schedule: Schedule, ts: Int[np.ndarray, " steps"]) -> Schedule:
    r"""The schedule that visits only the indices ``ts``, in any order: its index i is the i-th smallest.

    alpha_bar stays what it was at each, and beta_i = 1 - alpha_bar_i / alpha_bar_{i-1} leads from one
    to the next (Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672, section 4). It is worked
    out from the betas in between, for the quotient of float32 near 1 would have few digits left.

    ValueError unless the indices are of the schedule, each once.
    """
    ts = np.unique(found := ts)
    if not 0 < len(found) == len(ts) or ts[0] < 0 or ts[-1] >= schedule.steps:
        raise ValueError(f"ts must be indices below {schedule.steps}, each once; got {found}")
    stretch = np.searchsorted(ts, np.arange(ts[-1] + 1))  # to which new step each old one belongs
    kept = jnp.log1p(-schedule.beta[: ts[-1] + 1])
    kept = jax.ops.segment_sum(kept, stretch, len(ts), indices_are_sorted=True)
    return Schedule(beta=-jnp.expm1(kept), alpha_bar=schedule.alpha_bar[ts])


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


def without_functions(denoiser: object) -> object:
    """A plain function, alone or inside a denoiser that wraps it, as a pytree without arrays."""

    def wrap(leaf):
        return jax.tree_util.Partial(leaf) if callable(leaf) else leaf

    return jax.tree.map(wrap, denoiser)


def compiled_sampler(*static: str):
    """Compile a sampler once per shape and setting: a decorator; ``static`` names its settings."""

    def wrap(function):
        compiled = jax.jit(function, static_argnames=("shape", "every", *static))

        @wraps(function)
        def call(key, denoiser, schedule, shape, *, start=None, **settings):
            shape, denoiser = tuple(shape), without_functions(denoiser)
            if start is not None:
                start = jnp.asarray(start, jnp.float32)
                if start.shape != shape:
                    raise ValueError(f"start must be shaped {shape}; got {start.shape}")
            return compiled(key, denoiser, schedule, shape=shape, start=start, **settings)

        return call

    return wrap


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
    """Ancestral sampling (Ho et al. 2020, algorithm 2), through every step of the schedule or fewer.

    Fewer steps are those of the schedule that ``respace`` leaves. With the small variance that is DDIM
    with eta 1, with the large one the sigma-hat of that paper's table 1: the noise of long steps is
    then far too much.

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
        every: also return the Trajectory, with a frame at each ``every``-th step.
        first: the number of the first sample: draw 64 to 127 with first=64.

    Returns:
        Samples shaped ``shape``; with ``every``, (samples, Trajectory).
    """
    if variance not in ("large", "small"):
        raise ValueError(f"variance must be large or small; got {variance!r}")
    ts, visited = np.arange(schedule.steps, dtype=np.int32)[::-1], schedule
    if steps is not None:
        ts = timesteps(schedule.steps, steps, spacing)
        visited = respace(schedule, ts)
    # Which step of the visited schedule starts at t.
    place = jnp.asarray(np.searchsorted(ts[::-1], np.arange(schedule.steps)), jnp.int32)

    def step(xt, t, t_next, eps, noise):
        del t_next  # the place before this one
        noise = jnp.where(inject_noise, noise, 0.0)
        return reverse_step(visited, xt, place[t], eps, noise, variance)

    return _run(step, key, denoiser, schedule, shape, ts, every, first, start)


@compiled_sampler("steps", "spacing")
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
) -> Float[Array, " batch *shape"] | tuple[Float[Array, " batch *shape"], Trajectory]:
    """Sample in fewer, longer steps (Song et al. 2020).

    Args and result as in ``ddpm_sample``, and
        eta: 0 injects no noise, 1 as much as DDPM.
    """
    ts = timesteps(schedule.steps, steps, spacing)

    def step(xt, t, t_next, eps, noise):
        return ddim_step(schedule, xt, t, t_next, eps, noise, eta)

    return _run(step, key, denoiser, schedule, shape, ts, every, first, start)


def sample_noise(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    first: int | Int[Array, ""],
    k: int | Int[Array, ""],
) -> Float[Array, " batch *shape"]:
    """Standard normal noise number k of samples first, first + 1, ...; number 0 is the start."""
    draw = partial(jax.random.normal, shape=shape[1:], dtype=jnp.float32)
    return jax.vmap(lambda i: draw(sample_key(key, i, k)))(first + jnp.arange(shape[0]))


def _run(step, key, denoiser, schedule, shape, ts, every, first, start):
    """Scan ``step`` over the descending indices ts, from noise drawn at the key of each sample."""
    batch = shape[0]
    draw = partial(sample_noise, key, shape, first)

    def body(carry, this):
        xt, frames = carry
        i, t, t_next = this
        ts, ts_next = jnp.full(batch, t), jnp.full(batch, t_next)
        eps = denoiser(xt, ts).astype(jnp.float32)
        if every:
            frame = jnp.stack([xt, predict_x0(schedule, xt, ts, eps)])
            frames = frames.at[i // every].set(jnp.where(i % every == 0, frame, frames[i // every]))
        return (step(xt, ts, ts_next, eps, draw(i + 1)), frames), None

    count = -(-len(ts) // every) if every else 0
    carry = (draw(0) if start is None else start, jnp.zeros((count, 2, *shape)))
    indices = (jnp.arange(len(ts)), jnp.asarray(ts), jnp.append(jnp.asarray(ts[1:]), -1))
    (x0, frames), _ = jax.lax.scan(body, carry, indices)
    if not every:
        return x0
    return x0, Trajectory(t=jnp.asarray(ts[::every]), xt=frames[:, 0], x0=frames[:, 1])
