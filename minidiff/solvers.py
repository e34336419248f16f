r"""Fast samplers: the same journey from noise to image as an ordinary differential equation.

Divide x_t by sqrt(alpha_bar_t): what is left is the image plus sigma times the total noise, with

    y = x / sqrt(alpha_bar),   sigma = sqrt((1 - alpha_bar) / alpha_bar),   dy/dsigma = eps(y, sigma).

This is the probability-flow equation (Song et al. 2021, https://arxiv.org/abs/2011.13456) in the
variables of Karras et al. 2022 (https://arxiv.org/abs/2206.00364). The denoiser is the slope, so any
textbook solver is a sampler. Euler's method is DDIM with eta 0, seen from another side; Heun's method
looks at the slope at both ends of a step; DPM-Solver++(2M) remembers the last predicted image instead,
PLMS the last three slopes.
No noise is injected: the starting noise decides the image. Only the ancestral method puts some in.

It is read in lesson 08. A new sampler is a step here, its line in SAMPLERS, and its test.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from minidiff.compiled import compiled_sampler
from minidiff.noising import Denoiser
from minidiff.sampling import Here, Method, Trajectory, ddim_sample, ddpm_sample, walk
from minidiff.schedules import Schedule, Spacing, Steps, timesteps

LEAP, FAR = 10.0, 100.0
# What PLMS makes of the slope and those before it, latest first, in its step 0, 1, 2, 3 and from 4 on.
ADAMS = (
    (1, 0, 0, 0),
    (1 / 2, 1 / 2, 0, 0),
    (3 / 2, -1 / 2, 0, 0),
    (23 / 12, -16 / 12, 5 / 12, 0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
Scalar = Float[Array, ""] | float


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


def euler(y, memory, here: Here):
    """The method of ``euler_step``: DDIM with eta 0."""
    return euler_step(y, here.sigma, here.sigma_next, here.eps), memory


def heun(y, memory, here: Here):
    """The method of ``heun_step``, which calls the denoiser twice, where the second is worth it.

    In the last step it is not, for at the image the slope is not defined; nor in one from beyond FAR that
    divides sigma by more than LEAP, such as the first of a short run through the cosine schedule, from
    sigma 20,000: the mean of the slopes at its ends says nothing of what lies between, and follows noise.
    """
    now, after = here.sigma, here.sigma_next

    def correct(moved):
        return heun_step(y, now, after, here.eps, here.ask(moved))

    moved = euler_step(y, now, after, here.eps)
    return jax.lax.cond(_sound(now, after), correct, lambda moved: moved, moved), memory


def _sound(sigma, sigma_next):
    """Whether the mean of the slopes at both ends of a step is worth more than the first."""
    return (sigma_next > 0) & ((sigma < LEAP * sigma_next) | (sigma < FAR))


def dpm_solver(y, memory, here: Here):
    """The method of ``dpm_solver_step``; it remembers the sigma and the predicted image before."""
    before, x0_before = memory
    moved = dpm_solver_step(y, before, here.sigma, here.sigma_next, x0_before, here.x0)
    return moved, (here.sigma, here.x0)


def _no_image_before(y, sigma):
    """The memory of ``dpm_solver`` before its first step: no time has passed, so it is not used."""
    return sigma, jnp.zeros_like(y)


def ancestral(y, memory, here: Here):
    """The method of ``ancestral_step``: no solver, but ``ddim_sample`` with eta 1, noise and all."""
    return ancestral_step(y, here.sigma, here.sigma_next, here.eps, here.noise), memory


def plms(y, memory, here: Here):
    r"""Pseudo linear multistep (Liu et al. 2022, https://arxiv.org/abs/2202.09778, equation 12).

    Euler's step with a slope extrapolated from the last four, by the rule of Adams and Bashforth:
    fourth order with one call of the denoiser, but it has to get under way. It takes its first step
    twice, the second time with the mean of the slopes at both ends, as and where Heun's method does.
    So n steps call the denoiser n + 1 times (``_second_again``).
    """
    begun, sigma_begun, before = memory
    again = here.i == 1
    shares = jnp.asarray(ADAMS, jnp.float32)[jnp.minimum(here.i, len(ADAMS) - 1)]
    stay = again & ~_sound(sigma_begun, here.sigma)
    shares = jnp.where(stay, jnp.asarray([0, 1, 0, 0], jnp.float32), shares)
    slope = jnp.tensordot(shares, jnp.stack([here.eps, *before]), 1)
    y, sigma = jnp.where(again, begun, y), jnp.where(again, sigma_begun, here.sigma)
    moved = euler_step(y, sigma, here.sigma_next, slope)
    # The slope at the end of the first step is looked at anew after it, and remembered then.
    kept = [jnp.where(again, a, b) for a, b in zip(before, (here.eps, *before[:-1]), strict=True)]
    return moved, (y, sigma, kept)


def _no_slopes_before(y, sigma):
    """The memory of ``plms`` before its first step: nothing of it is used."""
    return y, sigma, [jnp.zeros_like(y)] * (len(ADAMS[0]) - 1)


def _second_again(ts):
    """The indices of a run with the second one twice: what is found there improves the first step."""
    return np.insert(ts, 1, ts[1:2])


@compiled_sampler("method", "steps", "spacing", "last")
def ode_sample(
    key: Key[Array, ""],
    denoiser: Denoiser,
    schedule: Schedule,
    shape: tuple[int, ...],
    *,
    method: str | Method = "dpm++",
    steps: Steps = 20,
    spacing: Spacing = "trailing",
    start: Float[Array, " batch *shape"] | None = None,
    every: int | None = None,
    first: int | Int[Array, ""] = 0,
    last: int = -1,
) -> Float[Array, " batch *shape"] | tuple[Float[Array, " batch *shape"], Trajectory]:
    """Sample by solving the probability-flow equation.

    Args and result as in ``sampling.ddim_sample``, and
        method: one of METHODS, or a Method itself. "ancestral" is no solver: it is DDPM under its
            third name.
        steps: from noise to image. Heun calls the denoiser twice in nearly each, PLMS in the first.

    The last step, to the image itself, is Euler's in every method but PLMS: that limits the order of
    the whole.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
        method = METHODS[method]
    ts = timesteps(schedule.steps, steps, spacing)
    return walk(method, key, denoiser, schedule, shape, ts, start, every, first, last)


SAMPLERS = {
    "ddpm": ddpm_sample,
    "ddim": ddim_sample,
    "euler": partial(ode_sample, method=Method(euler, grown=True)),
    "heun": partial(ode_sample, method=Method(heun, grown=True)),
    "dpm++": partial(ode_sample, method=Method(dpm_solver, _no_image_before, grown=True)),
    "plms": partial(
        ode_sample, method=Method(plms, _no_slopes_before, grown=True, visits=_second_again)
    ),
    "ancestral": partial(ode_sample, method=Method(ancestral, grown=True)),
}
"""Every sampler by name: settings, comparisons and the command line take them from here."""

METHODS = {
    name: sampler.keywords["method"]
    for name, sampler in SAMPLERS.items()
    if isinstance(sampler, partial)
}
