r"""Fast samplers: the same journey from noise to image as an ordinary differential equation.

Divide x_t by sqrt(alpha_bar_t): what is left is the image plus sigma times the total noise, with

    y = x / sqrt(alpha_bar),   sigma = sqrt((1 - alpha_bar) / alpha_bar),   dy/dsigma = eps(y, sigma).

This is the probability-flow equation (Song et al. 2021, https://arxiv.org/abs/2011.13456) in the
variables of Karras et al. 2022 (https://arxiv.org/abs/2206.00364). The denoiser is the slope, so any
textbook solver is a sampler. Euler's method is DDIM with eta 0, seen from another side; Heun's method
looks at the slope at both ends of a step; DPM-Solver++(2M) remembers the last predicted image instead.
No noise is injected: the starting noise decides the image. Only the ancestral method puts some in.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from minidiff.noising import Denoiser, Schedule, predict_x0
from minidiff.sampling import Spacing, Steps, Trajectory, compiled_sampler, sample_noise, timesteps

Method = Literal["euler", "heun", "dpm++", "ancestral"]
LEAP, FAR = 10.0, 100.0
Scalar = Float[Array, ""] | float


def sigmas(schedule: Schedule, ts: Int[np.ndarray, " steps"]) -> Float[Array, " sigmas"]:
    """sigma at each index of ts, and 0, the image's own, at the end."""
    alpha_bar = schedule.alpha_bar[jnp.asarray(ts)]
    return jnp.append(jnp.sqrt((1 - alpha_bar) / alpha_bar), 0.0)


def euler_step(
    y: Float[Array, " batch *shape"],
    sigma: Scalar,
    sigma_next: Scalar,
    eps: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    """Follow the slope eps from sigma to sigma_next: first order."""
    return y + (sigma_next - sigma) * eps


def heun_step(
    y: Float[Array, " batch *shape"],
    sigma: Scalar,
    sigma_next: Scalar,
    eps: Float[Array, " batch *shape"],
    eps_next: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    """Follow the mean of the slopes at both ends (Karras et al. 2022, algorithm 1): second order.

    ``eps_next`` is the denoiser's guess where ``euler_step`` would arrive.
    """
    return y + (sigma_next - sigma) * 0.5 * (eps + eps_next)


def dpm_solver_step(
    y: Float[Array, " batch *shape"],
    sigma_before: Scalar,
    sigma: Scalar,
    sigma_next: Scalar,
    x0_before: Float[Array, " batch *shape"],
    x0: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    r"""DPM-Solver++(2M) (Lu et al. 2022, https://arxiv.org/abs/2211.01095, algorithm 2).

    In lambda = -ln sigma the equation is linear in the predicted image; that image is extrapolated
    from its last two values to the middle of the step: second order with one call of the denoiser.
    Where sigma_next is 0 the result is x0 itself; with x0_before = x0 the step is Euler's.
    """
    last, now = jnp.log(sigma_before / sigma), jnp.log(sigma / jnp.maximum(sigma_next, 1e-30))
    ratio = jnp.where(last > 0, now / jnp.maximum(2 * last, 1e-30), 0.0)
    guess = jnp.where(sigma_next > 0, x0 + ratio * (x0 - x0_before), x0)
    shrink = sigma_next / sigma
    return shrink * y + (1 - shrink) * guess


def ancestral_step(
    y: Float[Array, " batch *shape"],
    sigma: Scalar,
    sigma_next: Scalar,
    eps: Float[Array, " batch *shape"],
    noise: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    r"""Euler's step beyond sigma_next, to sigma_down, and fresh noise sigma_up to come back to it.

    sigma_down = sigma_next^2 / sigma, and sigma_down^2 + sigma_up^2 = sigma_next^2, so that the fresh
    noise is as much as the reverse of one noising step has (k-diffusion's Euler ancestral, see
    https://github.com/crowsonkb/k-diffusion). It is ``ddim_step`` with eta 1 in other variables.
    """
    shrink = sigma_next / sigma
    down, up = shrink * sigma_next, sigma_next * jnp.sqrt((1 - shrink) * (1 + shrink))
    return euler_step(y, sigma, down, eps) + up * noise


@compiled_sampler("method", "steps", "spacing")
def ode_sample(
    key: Key[Array, ""],
    denoiser: Denoiser,
    schedule: Schedule,
    shape: tuple[int, ...],
    *,
    method: Method = "dpm++",
    steps: Steps = 20,
    spacing: Spacing = "trailing",
    start: Float[Array, " batch *shape"] | None = None,
    every: int | None = None,
    first: int | Int[Array, ""] = 0,
) -> Float[Array, " batch *shape"] | tuple[Float[Array, " batch *shape"], Trajectory]:
    """Sample by solving the probability-flow equation.

    Args and result as in ``sampling.ddim_sample``, and
        method: "euler", "heun", "dpm++", or "ancestral", which is no solver but ``ddim_sample`` with
            eta 1, the same noise included: DDPM under its third name.
        steps: from noise to image. Heun calls the denoiser twice in each but the last.

    The last step, to the image itself, is Euler's in every method, since the slope there is not defined;
    it limits the order of the whole. So is, in Heun's, a step from beyond FAR that divides sigma by more
    than LEAP, such as the first of a short run through the cosine schedule, from sigma 20,000: the mean
    of the slopes at its ends says nothing of what lies between, and follows noise.
    """
    if method not in ("euler", "heun", "dpm++", "ancestral"):
        raise ValueError(f"method must be euler, heun, dpm++ or ancestral; got {method!r}")
    ts = timesteps(schedule.steps, steps, spacing)
    sigma = sigmas(schedule, ts)
    batch = shape[0]
    start = sample_noise(key, shape, first, 0) if start is None else start

    def call(y, sigma, t):
        """What the denoiser says at y: (x_t, eps, x0)."""
        xt, t = y / jnp.sqrt(1 + sigma**2), jnp.full(batch, t)
        eps = denoiser(xt, t).astype(jnp.float32)
        return xt, eps, predict_x0(schedule, xt, t, eps)

    def body(carry, this):
        y, x0_before = carry
        i, t, t_next, before, now, after = this
        xt, eps, x0 = call(y, now, t)
        if method == "dpm++":
            moved = dpm_solver_step(y, before, now, after, x0_before, x0)
        elif method == "ancestral":
            noise = sample_noise(key, shape, first, i + 1)
            moved = ancestral_step(y, now, after, eps, noise)
        else:
            moved = euler_step(y, now, after, eps)
        if method == "heun":

            def correct(moved):
                return heun_step(y, now, after, eps, call(moved, after, t_next)[1])

            sound = (after > 0) & ((now < LEAP * after) | (now < FAR))
            moved = jax.lax.cond(sound, correct, lambda moved: moved, moved)
        return (moved, x0), (xt, x0) if every else None

    # y at the start: divided by sqrt(alpha_bar), which is 1 / sqrt(1 + sigma^2).
    start = start * jnp.sqrt(1 + sigma[0] ** 2)
    indices = (
        jnp.arange(len(ts)),
        jnp.asarray(ts),
        jnp.append(jnp.asarray(ts[1:]), 0),
        jnp.append(sigma[0], sigma[:-2]),  # before the first step: itself, so nothing is remembered
        sigma[:-1],
        sigma[1:],
    )
    (x0, _), frames = jax.lax.scan(body, (start, jnp.zeros(shape)), indices)
    if not every:
        return x0
    return x0, Trajectory(t=jnp.asarray(ts[::every]), xt=frames[0][::every], x0=frames[1][::every])
