"""Guidance: small pytrees that wrap one denoiser into another.

A guided sampler is the plain sampler given a guided denoiser, so nothing here samples or trains.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from minidiff.noising import Schedule, from_v, predict_eps, predict_x0


@struct.dataclass
class FromV:
    """A denoiser made of a network that predicts v (``noising.to_v``) instead of the noise.

    Near pure noise the guess of eps is nearly x_t whatever the network says, so all that it learns
    there is the picture; near the image v is the noise (Salimans and Ho 2022).
    """

    network: object
    schedule: Schedule

    def __call__(
        self, xt: Float[Array, "batch *shape"], t: Int[Array, "batch"], *condition
    ) -> Float[Array, "batch *shape"]:
        v = self.network(xt, t, *condition).astype(jnp.float32)
        return from_v(self.schedule, xt, t, v)[1]


@struct.dataclass
class Conditioned:
    """A network that is called as (xt, t, condition), told its condition once and for all."""

    network: object
    condition: object  # a pytree whose arrays have the batch in front

    def __call__(
        self, xt: Float[Array, "batch *shape"], t: Int[Array, "batch"]
    ) -> Float[Array, "batch *shape"]:
        return self.network(xt, t, self.condition)


@struct.dataclass
class ClassifierFree:
    r"""eps without the condition, plus ``scale`` times what the condition changes.

    eps = eps(xt, t, null) + scale (eps(xt, t, condition) - eps(xt, t, null)): 0 ignores the
    condition, 1 obeys it, more exaggerates it, at the price of variety (Ho and Salimans 2022,
    https://arxiv.org/abs/2207.12598, equation 6; their w is scale - 1). The network must have been
    trained with the condition now and then replaced by ``null``. Both guesses are one call on a
    batch of twice the size.
    """

    network: object
    condition: object  # a pytree whose arrays have the batch in front
    null: object  # like condition
    scale: float | jax.Array = 3.0

    def __call__(
        self, xt: Float[Array, "batch *shape"], t: Int[Array, "batch"]
    ) -> Float[Array, "batch *shape"]:
        def twice(a, b):
            return jnp.concatenate([a, b])

        both = jax.tree.map(twice, self.condition, self.null)
        eps = self.network(twice(xt, xt), twice(t, t), both).astype(jnp.float32)
        told, untold = jnp.split(eps, 2)
        return untold + self.scale * (told - untold)


@struct.dataclass
class ClipX0:
    """Keep the predicted image inside the range of real ones.

    The image that the noise guess implies is clipped to [low, high], and the guess is corrected to
    match. Near t = T a small error in eps is a huge one in x0; clipping stops it from being carried
    along (the original DDPM code does the same).
    """

    denoiser: object
    schedule: Schedule
    low: float = -1.0
    high: float = 1.0

    def __call__(
        self, xt: Float[Array, "batch *shape"], t: Int[Array, "batch"]
    ) -> Float[Array, "batch *shape"]:
        eps = self.denoiser(xt, t).astype(jnp.float32)
        x0 = jnp.clip(predict_x0(self.schedule, xt, t, eps), self.low, self.high)
        return predict_eps(self.schedule, xt, t, x0)
