r"""Forward noising: how an image is destroyed, and the loss of a network that learns to undo it.

One step of the forward process keeps a little less of the image and adds a little noise:

    x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) * noise.

A hundred such steps are one jump, because sums of Gaussians are Gaussian:

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,   alpha_bar_t = prod_{s<=t} (1 - beta_s).

``eps`` is the *total* noise from x_0 to x_t, and it is what the network learns to predict (Ho et al.
2020, https://arxiv.org/abs/2006.11239, equations 2, 4 and 14). Index t is 0-based: the paper's t + 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from minidiff.schedules import Schedule

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]
"""Any pytree that is called as ``denoiser(xt, t)`` and returns its guess of eps, shaped like xt."""


def at(values: Float[Array, " T"], t: Int[Array, " batch"], x: jax.Array) -> jax.Array:
    """values[t], shaped (batch, 1, ..., 1) so that it multiplies a batch shaped like x."""
    return values[t].reshape(-1, *(1,) * (x.ndim - 1))


def signal_and_noise(
    schedule: Schedule, t: Int[Array, " batch"], x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    r"""sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), shaped to multiply x."""
    alpha_bar = at(schedule.alpha_bar, t, x)
    return jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar)


def add_noise(
    schedule: Schedule,
    x0: Float[Array, " batch *shape"],
    t: Int[Array, " batch"],
    eps: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    r"""Jump from x0 to x_t at once: sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps (equation 4)."""
    signal, noise = signal_and_noise(schedule, t, x0)
    return signal * x0 + noise * eps


def noise_step(
    schedule: Schedule,
    x: Float[Array, " batch *shape"],
    t: Int[Array, " batch"],
    eps: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    r"""One small step: sqrt(1 - beta_t) x + sqrt(beta_t) eps (equation 2)."""
    beta = at(schedule.beta, t, x)
    return jnp.sqrt(1 - beta) * x + jnp.sqrt(beta) * eps


def predict_x0(
    schedule: Schedule,
    xt: Float[Array, " batch *shape"],
    t: Int[Array, " batch"],
    eps: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    """The image that x_t came from, if eps is the total noise: ``add_noise`` solved for x0."""
    signal, noise = signal_and_noise(schedule, t, xt)
    return (xt - noise * eps) / signal


def predict_eps(
    schedule: Schedule,
    xt: Float[Array, " batch *shape"],
    t: Int[Array, " batch"],
    x0: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    """The total noise in x_t, if x0 is the image: ``add_noise`` solved for eps."""
    signal, noise = signal_and_noise(schedule, t, xt)
    return (xt - signal * x0) / noise


def to_v(
    schedule: Schedule,
    x0: Float[Array, " batch *shape"],
    t: Int[Array, " batch"],
    eps: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    r"""v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x0 (Salimans and Ho 2022, section 4)."""
    signal, noise = signal_and_noise(schedule, t, x0)
    return signal * eps - noise * x0


def from_v(
    schedule: Schedule,
    xt: Float[Array, " batch *shape"],
    t: Int[Array, " batch"],
    v: Float[Array, " batch *shape"],
) -> tuple[Float[Array, " batch *shape"], Float[Array, " batch *shape"]]:
    r"""(x0, eps) from v: (x_t, v) is (x0, eps) turned by an angle, so turn it back."""
    signal, noise = signal_and_noise(schedule, t, xt)
    return signal * xt - noise * v, noise * xt + signal * v


def uniform_steps(key: Key[Array, ""], batch: int, steps: int) -> Int[Array, " {batch}"]:
    """Indices 0 .. steps - 1, each uniform, together spread evenly: less noise in the gradient.

    One shared random offset to an even grid (Kingma et al. 2021, appendix I.1).
    """
    return jnp.minimum((_even_places(key, batch) * steps).astype(jnp.int32), steps - 1)


def logit_normal_steps(
    key: Key[Array, ""], batch: int, steps: int, mean: float = -0.5, std: float = 1.0
) -> Int[Array, " {batch}"]:
    """Indices 0 .. steps - 1 such that logit(t / steps) is normal: mostly the middle of the way.

    Near pure noise there is nothing to see, near the image nothing to decide; where the drawing
    takes shape lies between (Esser et al. 2024, section 3.1). Drawn evenly, as ``uniform_steps``.
    """
    places = jnp.clip(_even_places(key, batch), 1e-4, 1 - 1e-4)
    normal = jax.scipy.special.ndtri(places)
    return jnp.minimum((jax.nn.sigmoid(mean + std * normal) * steps).astype(jnp.int32), steps - 1)


def _even_places(key, batch: int) -> jax.Array:
    """An even grid on [0, 1), shifted by one random offset."""
    return (
        jnp.arange(batch, dtype=jnp.float32) / batch + jax.random.uniform(key, (), jnp.float32)
    ) % 1.0


def noise_loss(
    key: Key[Array, ""],
    denoiser: Denoiser,
    schedule: Schedule,
    x0: Float[Array, " batch *shape"],
    weight: Float[Array, " T"] | None = None,
    draw_steps: Callable[[jax.Array, int, int], jax.Array] = uniform_steps,
) -> Float[Array, ""]:
    """Mean squared error on the *total* noise at uniform t (equation 14, L_simple).

    ``weight`` multiplies the error of step t: 1 / alpha_bar makes it the error on v, which asks for
    the picture where there is hardly anything but noise; all ones is the paper's choice.
    ``draw_steps(key, batch, T)`` draws each image's t.
    """
    t_key, eps_key = jax.random.split(key)
    t = draw_steps(t_key, x0.shape[0], schedule.steps)
    eps = jax.random.normal(eps_key, x0.shape, jnp.float32)
    error = jnp.square(denoiser(add_noise(schedule, x0, t, eps), t).astype(jnp.float32) - eps)
    return jnp.mean(error if weight is None else at(weight, t, x0) * error)


def single_step_loss(
    key: Key[Array, ""], denoiser: Denoiser, schedule: Schedule, x0: Float[Array, " batch *shape"]
) -> Float[Array, ""]:
    """For comparison only: mean squared error on the noise of the *last* small step.

    That noise is a sliver of x_t and nearly independent of it, so there is almost nothing to learn:
    the loss stays near 1 except at the first few t.
    """
    t_key, before_key, eps_key = jax.random.split(key, 3)
    t = jax.random.randint(t_key, x0.shape[:1], 0, schedule.steps, jnp.int32)
    noised = add_noise(
        schedule, x0, jnp.maximum(t - 1, 0), jax.random.normal(before_key, x0.shape, jnp.float32)
    )
    is_first = (t == 0).reshape(-1, *(1,) * (x0.ndim - 1))  # nothing comes before step 0 but x0
    eps = jax.random.normal(eps_key, x0.shape, jnp.float32)
    xt = noise_step(schedule, jnp.where(is_first, x0, noised), t, eps)
    error = denoiser(xt, t).astype(jnp.float32) - eps
    return jnp.mean(jnp.square(error))
