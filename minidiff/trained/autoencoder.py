"""An autoencoder at work on any number of images: encoded, decoded, drawn from its prior, walked through.

What decodes takes no encoder along: it is not given to the compiled program, and may be absent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from minidiff.vae import VAE, draw

AT_ONCE = 64  # images per call

Images = Float[np.ndarray, "n height width channels"]
Latents = Float[np.ndarray, "n h w latent"]


@jax.jit
def _moments(vae: VAE, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    return vae.moments(images)


@jax.jit
def _decoded(vae: VAE, z: jax.Array) -> jax.Array:
    return vae.decode(z)


def encode(vae: VAE, images: Images) -> tuple[Latents, Latents]:
    """(mean, log variance) of z for each image, unscaled."""
    return _in_parts(lambda x: _moments(vae, x), images)


def decode(vae: VAE, z: Latents) -> Images:
    """The image of each z. Neither ``vae.encoder`` nor ``vae.quant`` is needed."""
    way_back = vae.replace(encoder=None, quant=None)
    return _in_parts(lambda x: (_decoded(way_back, x),), z)[0]


def from_prior(
    key: Key[Array, ""], vae: VAE, count: int, image_shape: tuple[int, int, int]
) -> Images:
    """Images of z drawn from N(0, I): all that a VAE can draw by itself. Image i depends on (key, i)."""
    nothing = jnp.zeros((count, *vae.config.latent_shape(image_shape)), jnp.float32)
    return decode(vae, np.asarray(draw(key, nothing, nothing)))


def between(first: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """``count`` points on the straight line from one array to another, both ends included."""
    way = np.linspace(0, 1, count, dtype=np.float32).reshape(-1, *[1] * first.ndim)
    return (1 - way) * first + way * last


def _in_parts(call: Callable, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """``call`` of AT_ONCE rows at a time, the last ones filled up with zeros: one program for all."""
    x, parts = np.asarray(x, np.float32), []
    for start in range(0, len(x), AT_ONCE):
        some = x[start : start + AT_ONCE]
        filled = np.zeros((AT_ONCE, *x.shape[1:]), np.float32)
        filled[: len(some)] = some
        parts.append([np.asarray(out)[: len(some)] for out in call(jnp.asarray(filled))])
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
