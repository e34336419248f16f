r"""A variational autoencoder: an image becomes a Gaussian over few numbers, a draw of it an image again.

AutoencoderKL, the one that made Stable Diffusion cheap (Rombach et al. 2022, section 3.1,
https://arxiv.org/abs/2112.10752): 512 x 512 x 3 numbers become 64 x 64 x 4, 48 times fewer. For each
number of z the encoder says a mean and the logarithm of a variance (Kingma and Welling 2013,
https://arxiv.org/abs/1312.6114). The Kullback-Leibler divergence from N(0, I) keeps them from drifting
apart, at so small a weight that z is hardly blurred. ``encode`` gives the mean, ``sample`` draws.
It is read after lesson 09.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from minidiff.autoencoder import AutoencoderConfig, Decoder, Encoder
from minidiff.keys import sample_key
from minidiff.layers import Conv

LOG_VARIANCE = (-30.0, 20.0)  # where the encoder's log variance is kept, as published


@dataclasses.dataclass(frozen=True)
class VAEConfig(AutoencoderConfig):
    """The towers', and whether 1 x 1 convolutions stand on both sides of z, as published."""

    quant: bool = True
    log_variance: float = 0.0  # that an untrained encoder says: -5 begins as nearly no noise
    scale: float = 1.0  # what z is multiplied by where it is diffused: 1 / its standard deviation


@struct.dataclass
class VAE:
    """An autoencoder: ``encode(x) -> z``, ``decode(z) -> x``; images in [-1, 1], z unscaled."""

    encoder: Encoder
    quant: Conv | None
    post_quant: Conv | None
    decoder: Decoder
    config: VAEConfig = struct.field(pytree_node=False)

    @classmethod
    def init(cls, key: Key[Array, ""], config: VAEConfig) -> "VAE":
        """Draw every weight."""
        encoder_key, decoder_key, k1, k2 = jax.random.split(key, 4)
        latent = config.latent_channels
        encoder = Encoder.init(encoder_key, config, 2 * latent)
        start = jnp.concatenate(
            [jnp.zeros(latent, jnp.float32), jnp.full(latent, config.log_variance, jnp.float32)]
        )
        quant = None
        if config.quant:
            quant = Conv.init(k1, 2 * latent, 2 * latent, kernel=1).replace(bias=start)
        else:
            encoder = encoder.replace(conv_out=encoder.conv_out.replace(bias=start))
        return cls(
            encoder=encoder,
            quant=quant,
            post_quant=Conv.init(k2, latent, latent, kernel=1) if config.quant else None,
            decoder=Decoder.init(decoder_key, config),
            config=config,
        )

    def moments(
        self, x: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch h w latent"], Float[Array, "batch h w latent"]]:
        """(mean, log variance) of z, in float32; the log variance within LOG_VARIANCE.

        ValueError where the image's sides are no multiples of ``config.factor``.
        """
        out = self.encoder(x)
        out = out if self.quant is None else self.quant(out)
        mean, log_variance = jnp.split(out.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE)

    def encode(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch h w latent"]:
        """The mode of z: its mean."""
        return self.moments(x)[0]

    def sample(
        self, key: Key[Array, ""], x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch h w latent"]:
        """A draw of z for each image; image i's noise is draw 0 of ``keys.sample_key``."""
        return draw(key, *self.moments(x))

    def decode(
        self, z: Float[Array, "batch h w latent"]
    ) -> Float[Array, "batch height width channels"]:
        """The image of z, in float32 and near [-1, 1]."""
        z = (
            z
            if self.post_quant is None
            else self.post_quant(z.astype(self.post_quant.weight.dtype))
        )
        return self.decoder(z).astype(jnp.float32)


def draw(
    key: Key[Array, ""],
    mean: Float[Array, " batch *shape"],
    log_variance: Float[Array, " batch *shape"],
) -> Float[Array, " batch *shape"]:
    r"""mean + exp(log_variance / 2) noise: the reparametrisation, through which gradients pass."""
    shape = mean.shape[1:]
    noise = jax.vmap(lambda i: jax.random.normal(sample_key(key, i, 0), shape, jnp.float32))(
        jnp.arange(len(mean))
    )
    return mean + jnp.exp(0.5 * log_variance) * noise


def kl(
    mean: Float[Array, " batch *shape"], log_variance: Float[Array, " batch *shape"]
) -> Float[Array, " batch"]:
    r"""KL(N(mean, variance) || N(0, I)) = sum of (mean^2 + variance - 1 - log variance) / 2, in nats.

    Kingma and Welling 2013, appendix B. 0 where z is told nothing.
    """
    terms = jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance
    return 0.5 * terms.reshape(len(mean), -1).sum(axis=1)


def vae_loss(
    key: Key[Array, ""],
    vae: VAE,
    x: Float[Array, "batch height width channels"],
    *,
    kl_weight: float = 1e-6,
    absolute: float = 1.0,
    squared: float = 1.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    r"""Reconstruction of a draw of z, and the divergence from N(0, I); and what to log of it.

    absolute * mean |x - x'| + squared * mean (x - x')^2 + kl_weight * mean over images of the KL in nats.
    An L1 term keeps edges, an L2 term colours. With means over pixels, as here, 1e-6 weighs the KL of a
    64 x 64 image twelve thousand times more than the published sums over pixels do with theirs.
    """
    mean, log_variance = vae.moments(x)
    error = vae.decode(draw(key, mean, log_variance)) - x
    l1, l2 = jnp.mean(jnp.abs(error)), jnp.mean(jnp.square(error))
    divergence = jnp.mean(kl(mean, log_variance))
    loss = absolute * l1 + squared * l2 + kl_weight * divergence
    return loss, {"l1": l1, "l2": l2, "kl": divergence}
