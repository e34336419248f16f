r"""Noise schedules: how much of an image is left after each of T steps, and which steps are visited.

A schedule is beta_t, the variance of the noise that step t adds, for t = 0 .. T - 1, and what follows from
it:

    alpha_bar_t = prod_{s<=t} (1 - beta_s),   the share of the image's variance that is left;
    snr_t = alpha_bar_t / (1 - alpha_bar_t),  signal to noise;
    sigma_t = 1 / sqrt(snr_t),                the noise beside an image of full strength.

First the schedules of the published models, then what makes another schedule of one: ``respace`` for
short samplers, ``truncate`` to begin midway, ``zero_terminal_snr`` to end in nothing but noise. Products
are worked out in float64 and stored in float32. Index t is 0-based: the paper's t + 1.

It is read in lesson 07, and its short walks in lesson 08.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from minidiff.errors import InputError

Spacing = Literal["leading", "linspace", "trailing"]
Steps = int | tuple[int, ...]  # how many, or which indices, descending


@struct.dataclass
class Schedule:
    """How much noise is added at each of T steps."""

    beta: jax.Array  # (T,) variance added by step t, in (0, 1)
    alpha_bar: jax.Array  # (T,) share of the image's variance that is left after step t

    @classmethod
    def from_beta(cls, beta: np.ndarray) -> "Schedule":
        """Products in float64, stored in float32. ValueError unless every beta is in (0, 1)."""
        beta = np.asarray(beta, np.float64)
        if beta.ndim != 1 or not beta.size or not np.all((beta > 0) & (beta < 1)):
            raise ValueError("a schedule needs one or more values of beta, each between 0 and 1")
        alpha_bar = np.cumprod(1 - beta)
        return cls(beta=jnp.float32(beta), alpha_bar=jnp.float32(alpha_bar))

    @classmethod
    def from_alpha_bar(cls, alpha_bar: np.ndarray) -> "Schedule":
        """beta that has these products. ValueError unless they fall, from below 1 to above 0."""
        alpha_bar = np.asarray(alpha_bar, np.float64)
        return cls.from_beta(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]))

    @property
    def steps(self) -> int:
        """T, the number of steps from image to noise."""
        return self.beta.shape[0]


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """Variances rise linearly from ``first`` to ``last`` (Ho et al. 2020, section 4)."""
    return Schedule.from_beta(np.linspace(first, last, steps))


def scaled_linear_schedule(
    steps: int = 1000, first: float = 0.00085, last: float = 0.012
) -> Schedule:
    r"""Roots of the variances rise linearly (Rombach et al. 2022, https://arxiv.org/abs/2112.10752).

    The defaults are Stable Diffusion's, whose last alpha_bar, 0.0047, still shows some of the image.
    """
    return Schedule.from_beta(np.linspace(first**0.5, last**0.5, steps) ** 2)


def sigmoid_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """Variances rise from ``first`` to ``last`` along a sigmoid from -6 to 6 (Xu et al. 2022, GeoDiff)."""
    rise = 1 / (1 + np.exp(-np.linspace(-6, 6, steps)))
    return Schedule.from_beta(first + (last - first) * rise)


def cosine_schedule(steps: int = 1000, offset: float = 0.008) -> Schedule:
    r"""alpha_bar falls as cos^2; beta is capped at 0.999 (Nichol and Dhariwal 2021, equation 17)."""
    time = np.arange(steps + 1) / steps
    alpha_bar = np.cos((time + offset) / (1 + offset) * np.pi / 2) ** 2
    return Schedule.from_beta(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999))


def flow_schedule(steps: int = 1000) -> Schedule:
    r"""A flow's straight path from image to noise at even places s = (t + 1) / T.

    x_s = (1 - s) x0 + s eps (Lipman et al. 2022, https://arxiv.org/abs/2210.02747, example II; Liu
    et al. 2022, https://arxiv.org/abs/2209.03003), made variance preserving:
    alpha_bar = (1 - s)^2 / ((1 - s)^2 + s^2); ``objectives.flow_time`` has s again. At the end s is
    1 - 2^-12 (alpha_bar 2^-24), for x0 cannot be had from a guess of pure noise.

    ValueError unless 1 <= steps <= 2048: float32 cannot tell a smaller first step from none.
    """
    if not 1 <= steps <= 2048:
        raise ValueError(f"steps must be between 1 and 2048; got {steps}")
    s = np.arange(1, steps + 1) / steps
    signal = (1 - s) / np.sqrt((1 - s) ** 2 + s**2)
    return Schedule.from_alpha_bar(_end_near_zero(signal) ** 2)


SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule, "flow": flow_schedule}
"""By the name that recipes know: each makes a schedule of T steps."""


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    r"""The schedule changed so that no image is left at its end, as samplers take for granted.

    sqrt(alpha_bar) is shifted and scaled so that the first stays and the last is 0 (Lin et al.
    2023, https://arxiv.org/abs/2305.08891, algorithm 1). But a guess of eps says nothing of x0
    where alpha_bar is 0, nor may beta be 1: the last alpha_bar is 2^-24 in its place, or a quarter
    of the one before where that is as small already. Train for v, velocity or x0 with it: at its
    end eps is x_t itself, and a network that predicts eps has nothing to learn there.

    ValueError if the schedule has one step only.
    """
    signal = np.sqrt(np.asarray(schedule.alpha_bar, np.float64))
    if signal.size < 2:
        raise ValueError("a schedule of one step has no end apart from its beginning")
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    return Schedule.from_alpha_bar(_end_near_zero(signal) ** 2)


def _end_near_zero(signal: np.ndarray) -> np.ndarray:
    """sqrt(alpha_bar) with a last value as near 0 as float32 can still undo."""
    before, last = np.append(1.0, signal)[-2], 2.0**-12
    return np.append(signal[:-1], last if last < before else before / 2)


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


def truncate(schedule: Schedule, t: int) -> Schedule:
    """The first t + 1 steps: the schedule whose noisiest index is t. InputError if it has no t."""
    if not 0 <= t < schedule.steps:
        raise InputError(f"t must be between 0 and {schedule.steps - 1}; got {t}")
    return jax.tree.map(lambda values: values[: t + 1], schedule)


def sigmas(
    schedule: Schedule, ts: Int[np.ndarray, " steps"], last: int = -1
) -> Float[Array, " sigmas"]:
    """sigma at each index of ts, and at the end that of index ``last``; -1: 0, the image's own."""
    alpha_bar = jnp.append(schedule.alpha_bar, 1.0)[np.append(ts, last)]
    return jnp.sqrt((1 - alpha_bar) / alpha_bar)
