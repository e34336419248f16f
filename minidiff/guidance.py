"""Guidance: small pytrees that wrap one denoiser into another.

A guided sampler is the plain sampler given a guided denoiser, so nothing here samples or trains.
"""

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
        self, xt: Float[Array, "batch *shape"], t: Int[Array, "batch"]
    ) -> Float[Array, "batch *shape"]:
        v = self.network(xt, t).astype(jnp.float32)
        return from_v(self.schedule, xt, t, v)[1]


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
