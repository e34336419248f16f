r"""Objectives: what a network may predict in place of the noise, and what its errors weigh.

x_t holds two unknowns, x0 and eps, in known shares; whoever is told one more mixture of them knows
both. So a network may predict eps, x0, v (``noising.to_v``) or the velocity of a flow, and all of
them become the same denoiser (``FromX0``, ``FromV``, ``FromVelocity``; ``as_denoiser`` by name). What
differs is which steps the squared error makes much of, and that is a weight for each step: every weight
here multiplies the squared error on *eps*, as ``noising.noise_loss(weight=...)`` takes it.

    target      eps's error over the target's     weight on eps
    eps         1                                 1
    x0          sqrt(snr)                         1 / snr
    v           sqrt(alpha_bar)                   1 / alpha_bar
    velocity    1 - s                             (1 + 1 / sqrt(snr))^2

A flow (Lipman et al. 2022, https://arxiv.org/abs/2210.02747) is the same family of noisings in
other units: its x_s = (1 - s) x0 + s eps is x_t divided by sqrt(alpha_bar) + sqrt(1 - alpha_bar). Its
network predicts the slope of that straight path, dx_s / ds = eps - x0, where v is the slope of the
arc, and a step uniform in s is another schedule (``schedules.flow_schedule``).

It is read in lesson 09, whose U-Net predicts v.
"""

from typing import Literal

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from minidiff.noising import from_v, predict_eps, signal_and_noise
from minidiff.schedules import Schedule

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


@struct.dataclass
class FromV:
    """A denoiser made of a network that predicts v (``noising.to_v``) instead of the noise.

    Near pure noise the guess of eps is nearly x_t whatever the network says, so all that it learns
    there is the picture; near the image v is the noise (Salimans and Ho 2022).
    """

    network: object
    schedule: Schedule

    def __call__(
        self, xt: Float[Array, " batch *shape"], t: Int[Array, " batch"], *condition
    ) -> Float[Array, " batch *shape"]:
        v = self.network(xt, t, *condition).astype(jnp.float32)
        return from_v(self.schedule, xt, t, v)[1]


@struct.dataclass
class FromX0:
    """A denoiser made of a network that predicts the image.

    Near pure noise there is no better target; near the image its small errors are divided by the
    little noise there is.
    """

    network: object
    schedule: Schedule

    def __call__(
        self, xt: Float[Array, " batch *shape"], t: Int[Array, " batch"], *condition
    ) -> Float[Array, " batch *shape"]:
        x0 = self.network(xt, t, *condition).astype(jnp.float32)
        return predict_eps(self.schedule, xt, t, x0)


@struct.dataclass
class FromVelocity:
    r"""A denoiser made of a flow: a network that predicts u = eps - x0 at x_s = (1 - s) x0 + s eps.

    A flow is the same family of noisings in other units: x_s is x_t divided by
    sqrt(alpha_bar) + sqrt(1 - alpha_bar), and s is the noise's share of that sum. So a trained flow
    samples with any sampler here and a trained denoiser is a flow (Lipman et al. 2022,
    https://arxiv.org/abs/2210.02747; Liu et al. 2022, https://arxiv.org/abs/2209.03003).
    """

    network: object  # called as (xs, t), with x_s in the flow's own units
    schedule: Schedule

    def __call__(
        self, xt: Float[Array, " batch *shape"], t: Int[Array, " batch"], *condition
    ) -> Float[Array, " batch *shape"]:
        signal, noise = signal_and_noise(self.schedule, t, xt)
        u = self.network(xt / (signal + noise), t, *condition).astype(jnp.float32)
        return from_velocity(self.schedule, xt, t, u)[1]


OBJECTIVES = {
    "eps": lambda network, schedule: network,
    "x0": FromX0,
    "v": FromV,
    "velocity": FromVelocity,
}
"""Each makes a denoiser of a network that predicts this, and the schedule it was trained with."""


def as_denoiser(objective: str, network: object, schedule: Schedule) -> object:
    """A network that predicts ``objective``, as a denoiser: (xt, t) -> eps.

    One with a condition is called as (xt, t, condition), and so is the denoiser.

    ValueError unless the objective is one of OBJECTIVES.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}; got {objective!r}")
    return OBJECTIVES[objective](network, schedule)


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
