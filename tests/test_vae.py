"""The VAE: its closed forms, its draws, and that it learns."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minidiff.layers import count_parameters
from minidiff.vae import LOG_VARIANCE, VAE, VAEConfig, draw, kl, vae_loss

KEY = jax.random.key(0)
TINY = VAEConfig(
    image_channels=2, latent_channels=3, channels=(4, 8), blocks=1, middle=False, groups=2, patch=2
)
QUICK = {"xla_backend_optimization_level": 0}  # correct is enough here
RNG = np.random.default_rng(0)
IMAGES = jnp.float32(RNG.uniform(-1, 1, size=(4, 8, 8, 2)))


@cache
def tiny():
    return jax.jit(partial(VAE.init, config=TINY), compiler_options=QUICK)(KEY)


def test_kl_f8_has_the_published_parameters():
    vae = jax.eval_shape(partial(VAE.init, config=VAEConfig()), KEY)
    assert count_parameters(vae) == 83_653_863
    assert len(jax.tree.leaves(vae)) == 248
    assert (count_parameters(vae.encoder), count_parameters(vae.decoder)) == (
        34_163_592,
        49_490_179,
    )


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (0.7, -2.0), (-1.5, 0.8)])
def test_kl_is_the_integral(mean, log_variance):
    z = np.linspace(-30, 30, 200_001)
    std = np.exp(log_variance / 2)
    log_p = -0.5 * ((z - mean) / std) ** 2 - np.log(std)
    log_q = -0.5 * z**2
    density = np.exp(log_p) / np.sqrt(2 * np.pi)
    integral = np.trapezoid(density * (log_p - log_q), z)
    found = kl(jnp.full((1, 1), mean, jnp.float32), jnp.full((1, 1), log_variance, jnp.float32))
    np.testing.assert_allclose(found[0], integral, rtol=1e-5, atol=1e-6)


def test_kl_adds_up_over_numbers_and_not_over_images():
    mean, log_variance = jnp.float32(RNG.normal(size=(2, 3, 2, 2, 4)))
    parts = kl(mean.reshape(-1, 1), log_variance.reshape(-1, 1)).reshape(3, -1).sum(1)
    np.testing.assert_allclose(kl(mean, log_variance), parts, rtol=1e-5)


def test_a_draw_has_the_moments_and_its_own_noise():
    mean = jnp.full((4000, 2), 3.0, jnp.float32)
    log_variance = jnp.broadcast_to(jnp.log(jnp.float32([0.25, 4.0])), mean.shape)
    z = np.asarray(draw(KEY, mean, log_variance))
    np.testing.assert_allclose(z.mean(0), 3.0, atol=5 * 2 / np.sqrt(4000))
    np.testing.assert_allclose(z.std(0), [0.5, 2.0], rtol=5 / np.sqrt(2 * 4000))
    np.testing.assert_array_equal(z[:3], draw(KEY, mean[:3], log_variance[:3]))
    assert len(np.unique(z[:, 0])) > 3990  # float32 repeats a few


def test_a_draw_hands_the_gradient_on():
    """d z / d mean = 1 and d z / d log_variance = (z - mean) / 2."""

    def total(mean, log_variance):
        return draw(KEY, mean, log_variance).sum()

    mean, log_variance = jnp.float32([[0.5, -1.0]]), jnp.float32([[-1.0, 0.3]])
    by_mean, by_log = jax.grad(total, (0, 1))(mean, log_variance)
    z = draw(KEY, mean, log_variance)
    np.testing.assert_array_equal(by_mean, 1.0)
    np.testing.assert_allclose(by_log, (z - mean) / 2, rtol=1e-5)


def test_encode_is_the_mode_and_sample_a_draw():
    vae = tiny()
    mean, log_variance = vae.moments(IMAGES)
    assert mean.shape == log_variance.shape == (4, 2, 2, 3)
    np.testing.assert_array_equal(vae.encode(IMAGES), mean)
    np.testing.assert_array_equal(vae.sample(KEY, IMAGES), draw(KEY, mean, log_variance))
    assert vae.decode(mean).shape == IMAGES.shape
    assert mean.dtype == vae.decode(mean).dtype == jnp.float32


def test_the_log_variance_is_kept_within_limits():
    vae = tiny()
    bias = jnp.float32([0, 0, 0, -1e3, 1e3, 0])
    _, log_variance = vae.replace(quant=vae.quant.replace(bias=bias)).moments(IMAGES)
    np.testing.assert_array_equal(log_variance[..., 0], LOG_VARIANCE[0])
    np.testing.assert_array_equal(log_variance[..., 1], LOG_VARIANCE[1])


@pytest.mark.parametrize("quant", [True, False])
def test_an_untrained_encoder_says_the_log_variance_of_its_config(quant):
    config = VAEConfig(**{**vars(TINY), "quant": quant, "log_variance": -5.0})
    vae = jax.eval_shape(partial(VAE.init, config=config), KEY)
    assert (vae.quant is None) is (vae.post_quant is None) is not quant
    vae = jax.jit(partial(VAE.init, config=config), compiler_options=QUICK)(KEY)
    last = vae.quant if quant else vae.encoder.conv_out
    np.testing.assert_array_equal(last.bias, [0, 0, 0, -5, -5, -5])


def test_the_loss_is_its_terms():
    vae, key = tiny(), jax.random.key(3)
    mean, log_variance = vae.moments(IMAGES)
    error = np.asarray(vae.decode(draw(key, mean, log_variance)) - IMAGES, np.float64)
    divergence = np.mean(np.asarray(kl(mean, log_variance), np.float64))
    wanted = 0.3 * np.abs(error).mean() + 0.7 * (error**2).mean() + 0.01 * divergence
    loss, parts = vae_loss(key, vae, IMAGES, kl_weight=0.01, absolute=0.3, squared=0.7)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(parts["kl"], divergence, rtol=1e-5)


def test_it_learns_one_batch():
    import optax

    optimizer = optax.adam(1e-2)

    @partial(jax.jit, compiler_options=QUICK)
    def train(vae, key):
        def step(carry, key):
            vae, state = carry
            loss, gradient = jax.value_and_grad(lambda vae: vae_loss(key, vae, IMAGES)[0])(vae)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(vae, updates), state), loss

        return jax.lax.scan(step, (vae, optimizer.init(vae)), jax.random.split(key, 150))[1]

    loss = np.asarray(train(tiny(), KEY))
    assert loss[-10:].mean() < 0.5 * loss[:3].mean()
