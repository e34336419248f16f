r"""Objectives: what a network may predict in place of the noise, and what its errors weigh.

x_t holds two unknowns, x0 and eps, in known shares; whoever is told one more mixture of them knows
both. So a network may predict eps, x0, v (``noising.to_v``) or the velocity of a flow, and all of
them become the same denoiser (``guidance.FromX0``, ``FromV``, ``FromVelocity``). What differs is
which steps the squared error makes much of, and that is a weight for each step: every weight here
multiplies the squared error on *eps*, as ``noising.noise_loss(weight=...)`` takes it.

    target      eps's error over the target's     weight on eps
    eps         1                                 1
    x0          sqrt(snr)                         1 / snr
    v           sqrt(alpha_bar)                   1 / alpha_bar
    velocity    1 - s                             (1 + 1 / sqrt(snr))^2

A flow (Lipman et al. 2022, https://arxiv.org/abs/2210.02747) is the same family of noisings in
other units: its x_s = (1 - s) x0 + s eps is x_t divided by sqrt(alpha_bar) + sqrt(1 - alpha_bar). Its
network predicts the slope of that straight path, dx_s / ds = eps - x0, where v is the slope of the
arc, and a step uniform in s is another schedule (``noising.flow_schedule``).
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minidiff.noising import Schedule, signal_and_noise

Objective = Literal["eps", "x0", "v", "velocity"]


def flow_time(schedule: Schedule) -> Float[Array, " T"]:
    r"""s of each step: sqrt(1 - alpha_bar) / (sqrt(alpha_bar) + sqrt(1 - alpha_bar)), in (0, 1)."""
    signal, noise = jnp.sqrt(schedule.alpha_bar), jnp.sqrt(1 - schedule.alpha_bar)
    return noise / (signal + noise)


def to_velocity(
    x0: Float[Array, " batch *shape"], eps: Float[Array, " batch *shape"]
) -> Float[Array, " batch *shape"]:
    """u = eps - x0: where a flow moves to at every s on its straight way from image to noise."""
    return eps - x0


def from_velocity(
    schedule: Schedule,
    xt: Float[Array, " batch *shape"],
    t: Int[Array, " batch"],
    u: Float[Array, " batch *shape"],
) -> tuple[Float[Array, " batch *shape"], Float[Array, " batch *shape"]]:
    r"""(x0, eps) from u: x_s = (1 - s) x0 + s eps is s away from one and 1 - s from the other."""
    signal, noise = signal_and_noise(schedule, t, xt)
    s, xs = noise / (signal + noise), xt / (signal + noise)
    return xs - s * u, xs + (1 - s) * u


def signal_to_noise(schedule: Schedule) -> Float[Array, " T"]:
    """snr = alpha_bar / (1 - alpha_bar) of each step."""
    return schedule.alpha_bar / (1 - schedule.alpha_bar)


def objective_weight(schedule: Schedule, objective: Objective) -> Float[Array, " T"]:
    r"""The weight that makes the squared error on eps the squared error on another target.

    x_t is known, so an error d in eps is one of another size in the target. From
    x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, x0 is off by d / sqrt(snr). From
    eps = sqrt(1 - alpha_bar) x_t + sqrt(alpha_bar) v, v is off by d / sqrt(alpha_bar). From
    eps = x_s + (1 - s) u, u is off by d / (1 - s) = d (1 + 1 / sqrt(snr)).

    ValueError unless the objective is eps, x0, v or velocity.
    """
    snr = signal_to_noise(schedule)
    if objective == "eps":
        return jnp.ones_like(snr)
    if objective == "x0":
        return 1 / snr
    if objective == "v":
        return 1 / schedule.alpha_bar
    if objective == "velocity":
        return jnp.square(1 + 1 / jnp.sqrt(snr))
    raise ValueError(f"objective must be eps, x0, v or velocity; got {objective!r}")


def min_snr_weight(schedule: Schedule, gamma: float | Float[Array, ""] = 5.0) -> Float[Array, " T"]:
    r"""min(snr, gamma) / snr: the error on x0 weighed by snr, but by gamma at most.

    Plain eps weighs the error on x0 by snr, so the last touches, where snr is in the thousands,
    drown the rest (Hang et al. 2023, https://arxiv.org/abs/2303.09556, section 3.4). Written for
    eps it is the same whatever the network predicts: theirs for v, min(snr, gamma) / (snr + 1), is
    this one times alpha_bar, since the squared error on v is that on eps divided by alpha_bar.
    """
    snr = signal_to_noise(schedule)
    return jnp.minimum(snr, gamma) / snr
