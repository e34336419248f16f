"""The two towers: their sizes, what fits them, and that every part is used."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minidiff.autoencoder import AutoencoderConfig, Decoder, Encoder
from minidiff.layers import count_parameters

KEY = jax.random.key(0)
TINY = AutoencoderConfig(
    image_channels=2, latent_channels=3, channels=(4, 8), blocks=1, attention=(0,), groups=2
)
QUICK = {"xla_backend_optimization_level": 0}  # correct is enough here


def shapes(kind, config, *more):
    return jax.eval_shape(lambda key: kind.init(key, config, *more), KEY)


# Encoder and decoder of the published autoencoders, without the 1 x 1 convolutions beside z: the
# numbers of those are 8 x 8 + 8 and 4 x 4 + 4 for kl-f8, and so on.
PUBLISHED = {
    "kl-f4": ({"channels": (128, 256, 512), "latent_channels": 3}, 6, 55_312_063 - 42 - 12),
    "kl-f8": ({}, 8, 83_653_863 - 72 - 20),
    "kl-f16": (
        {"channels": (128, 128, 256, 256, 512), "latent_channels": 16, "attention": (4,)},
        32,
        69_610_963 - 1056 - 272,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_towers_have_as_many_parameters(name):
    settings, outputs, numbers = PUBLISHED[name]
    config = AutoencoderConfig(**settings)
    towers = shapes(Encoder, config, outputs), shapes(Decoder, config)
    assert sum(map(count_parameters, towers)) == numbers


@pytest.mark.parametrize(
    ("settings", "image", "latent"),
    [
        ({}, (8, 8, 2), (4, 4, 3)),
        ({}, (6, 10, 2), (3, 5, 3)),  # neither square nor a power of two
        ({"patch": 2}, (8, 12, 2), (2, 3, 3)),
        ({"channels": (4, 4, 8)}, (8, 8, 2), (2, 2, 3)),
        ({"middle": False}, (8, 8, 2), (4, 4, 3)),
        ({"middle_attention": False}, (8, 8, 2), (4, 4, 3)),
        ({"decoder_channels": (8, 6), "blocks": 2}, (8, 8, 2), (4, 4, 3)),
    ],
)
def test_there_and_back_in_shape(settings, image, latent):
    config = dataclasses.replace(TINY, **settings)
    assert config.latent_shape(image) == latent
    x = jax.ShapeDtypeStruct((5, *image), jnp.float32)
    z = jax.eval_shape(lambda key, x: Encoder.init(key, config, 3)(x), KEY, x)
    assert z.shape == (5, *latent)
    assert jax.eval_shape(lambda key, z: Decoder.init(key, config)(z), KEY, z).shape == x.shape


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((7, 8, 2), "7 x 8 cannot be encoded: both sides must be multiples of 2"),
        ((8, 9, 2), "8 x 9 cannot"),
        ((0, 8, 2), "0 x 8 cannot"),
        ((8, 8, 3), "images have 2 channels here, not 3"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(shape, complaint):
    encoder = shapes(Encoder, TINY, 3)
    with pytest.raises(ValueError, match=complaint):
        jax.eval_shape(Encoder.__call__, encoder, jax.ShapeDtypeStruct((1, *shape), jnp.float32))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"attention": (2,)}, r"attention at \[2\]: levels are 0 to 1"),
        ({"decoder_channels": (8,)}, "must be as many as channels"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        dataclasses.replace(TINY, **settings)


def test_every_parameter_gets_a_gradient():
    @partial(jax.jit, compiler_options=QUICK)
    def gradient(key, x):
        towers = Encoder.init(key, TINY, 3), Decoder.init(key, TINY)
        # Blocks begin as shortcuts, so that some last layers would hide what stands before them.
        towers = jax.tree.map(lambda w: w + 0.1, towers)

        def loss(towers):
            encoder, decoder = towers
            return jnp.mean(jnp.square(decoder(encoder(x)) - x))

        return jax.grad(loss)(towers)

    x = jnp.float32(np.random.default_rng(0).uniform(-1, 1, size=(2, 4, 4, 2)))
    found = jax.tree_util.tree_leaves_with_path(gradient(KEY, x))
    # A softmax does not see what is added to every key alike.
    idle = [jax.tree_util.keystr(path) for path, g in found if not np.abs(g).max() > 0]
    assert [name for name in idle if not name.endswith(".key.bias")] == []
