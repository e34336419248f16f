r"""How likely a diffusion model holds given images to be, in bits per dimension.

The probability-flow equation of ``solvers``, dy/dsigma = eps(y, sigma), carries the density of images
to that of noise, and back. On the way a density changes as the flow spreads or gathers:

    d log p(y) / d sigma = -div eps(y, sigma),

so the unknown log density of an image is the known one of the noise it is carried to, plus what was lost
on the way (Song et al. 2021, https://arxiv.org/abs/2011.13456, section 4.3). The divergence, the trace
of a matrix of D x D derivatives, is the mean of v^T (d eps / d y) v over random signs v (Hutchinson's
estimator: Grathwohl et al. 2019, https://arxiv.org/abs/1810.01367).

It is read after lesson 08, whose solvers it uses.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from minidiff.compiled import without_functions
from minidiff.noising import Denoiser
from minidiff.sampling import sample_noise
from minidiff.schedules import Schedule
from minidiff.solvers import euler_step, heun_step


def log_spaced(sigma: Float[Array, " T"], steps: int) -> Int[Array, " steps"]:
    """steps + 1 indices, 0 to T - 1, whose sigmas are nearest to a geometric grid; some may repeat."""
    place = jnp.log(sigma)
    grid = jnp.linspace(place[0], place[-1], steps + 1)
    return jnp.argmin(jnp.abs(place[None] - grid[:, None]), axis=1)


def bits_per_dimension(
    key: Key[Array, ""],
    denoiser: Denoiser,
    schedule: Schedule,
    x0: Float[Array, " batch *shape"],
    *,
    steps: int = 100,
    probes: int = 1,
    first: int | Int[Array, ""] = 0,
) -> Float[Array, " batch"]:
    r"""-log2 of the density of each image, per number in it and in units of 8-bit levels.

    What is measured is the density of y = x0 + sigma_0 noise, the image after the first step's noise
    (divided by sqrt(alpha_bar_0)): that little noise takes the place of dequantisation. Images in
    [-1, 1] are 255 levels wide, a level 1 / 127.5, hence -log2 p(y) / D + log2 127.5; 8 bits if nothing
    is known, for even values. At the other end p is taken as N(0, 1 + sigma_T^2), the noise that
    samplers start from: the schedule must end in nearly pure noise.

    Args:
        key: sample i's noise (number 0) and probes come from fold_in(key, i).
        denoiser: any that can be differentiated; if it is guided, the density is of nothing.
        schedule: the one it was trained with.
        x0: images in [-1, 1].
        steps: from image to noise, at most: each goes to another index of the schedule, and there are
            few at small sigma. A step calls the denoiser twice, and its gradient ``probes`` times.
            Twice the steps, a quarter of the error: 100 are good to a hundredth of a bit.
        probes: signs drawn at every sigma. The estimate is unbiased with one, and new ones at
            every step average out; more make it steadier.
        first: the number of the first sample.

    ValueError unless steps and probes are at least 1.
    """
    if min(steps, probes) < 1:
        raise ValueError(f"steps and probes must be at least 1; got {steps} and {probes}")
    denoiser = without_functions(denoiser)
    return _bits_per_dimension(key, denoiser, schedule, x0, steps, probes, first)


@partial(jax.jit, static_argnames=("steps", "probes"))
def _bits_per_dimension(key, denoiser, schedule, x0, steps, probes, first):
    sigma = jnp.sqrt((1 - schedule.alpha_bar) / schedule.alpha_bar)
    ts = log_spaced(sigma, steps)

    def mean(values):
        return values.reshape(len(x0), -1).mean(1)  # per dimension: float32 keeps its digits

    def slope(y, t):
        eps = denoiser(y / jnp.sqrt(1 + sigma[t] ** 2), jnp.full(len(x0), t))
        return eps.astype(jnp.float32)

    def slope_and_divergence(y, t, i):
        """eps, and its divergence per dimension; pulled back, so that any network will do."""
        eps, pull = jax.vjp(partial(slope, t=t), y)

        def estimate(probe):
            noise = sample_noise(key, x0.shape, first, i * probes + probe + 1)
            sign = jnp.where(noise < 0, -1.0, 1.0)
            return mean(sign * pull(sign)[0])

        return eps, jax.lax.map(estimate, jnp.arange(probes)).mean(0)

    def move(i, before, after, y, eps, divergence, lost):
        now, then = sigma[before], sigma[after]
        arrived = euler_step(y, now, then, eps)
        y = heun_step(y, now, then, eps, slope(arrived, after))
        eps, divergence_then = slope_and_divergence(y, after, i)
        # The mean of both ends in log sigma, for at large sigma the divergence is D / sigma.
        ends = now * divergence + then * divergence_then
        return y, eps, divergence_then, lost + 0.5 * jnp.log(then / now) * ends

    def body(carry, this):
        i, before, after = this
        moved = jax.lax.cond(
            after > before, lambda: move(i, before, after, *carry), lambda: carry
        )  # an index that repeats costs nothing
        return moved, None

    y = x0 + sigma[0] * sample_noise(key, x0.shape, first, 0)
    carry = (y, *slope_and_divergence(y, ts[0], 0), jnp.zeros(len(x0)))
    (y, _, _, lost), _ = jax.lax.scan(body, carry, (jnp.arange(1, steps + 1), ts[:-1], ts[1:]))

    variance = 1 + sigma[-1] ** 2
    log_density = -0.5 * mean(y**2 / variance + jnp.log(2 * math.pi * variance)) + lost
    return -log_density / math.log(2) + math.log2(127.5)
