"""What an autoencoder saves, and the multiplications that are counted for it."""

import jax
import jax.numpy as jnp
import pytest

from minidiff.blocks import SpatialAttention
from minidiff.cli import main
from minidiff.layers import Conv
from minidiff.layouts import LAYOUTS
from minidiff.savings import multiply_adds, savings, table
from minidiff.unet import UNetConfig
from minidiff.vae import VAEConfig


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def loop(x, matrices):
    return jax.lax.scan(lambda x, matrix: (jax.jit(jnp.matmul)(x, matrix), None), x, matrices)[0]


CALLS = {
    "product": (jnp.matmul, [floats(3, 4), floats(4, 5)], 3 * 4 * 5),
    "products": (jnp.matmul, [floats(7, 3, 4), floats(7, 4, 5)], 7 * 3 * 4 * 5),
    "loop": (loop, [floats(2, 3), floats(6, 3, 3)], 6 * 2 * 3 * 3),
    "no product": (jnp.multiply, [floats(3, 4), floats(3, 4)], 0),
}


@pytest.mark.parametrize("name", CALLS)
def test_multiply_adds_by_hand(name):
    function, inputs, wanted = CALLS[name]
    assert multiply_adds(function, *inputs) == wanted
    assert multiply_adds(jax.jit(function), *inputs) == wanted


@pytest.mark.parametrize(
    ("kernel", "stride", "places"), [(3, 1, 8 * 6), (1, 1, 8 * 6), (3, 2, 4 * 3)]
)
def test_multiply_adds_of_a_convolution(kernel, stride, places):
    conv = jax.eval_shape(
        lambda key: Conv.init(key, 2, 5, kernel=kernel, stride=stride), jax.random.key(0)
    )
    assert multiply_adds(Conv.__call__, conv, floats(1, 8, 6, 2)) == places * kernel**2 * 2 * 5


def test_all_of_attention_grows_with_the_square():
    """Four linear layers of a position, and two products with every other."""
    block = jax.eval_shape(lambda key: SpatialAttention.init(key, 8, 1, 2, 1e-5), jax.random.key(0))
    for side in (2, 4):
        n = side**2
        found = multiply_adds(SpatialAttention.__call__, block, floats(1, side, side, 8))
        assert found == 4 * n * 8 * 8 + 2 * n * n * 8


def test_stable_diffusion_saves_48_times_the_numbers():
    rows = {what: both for what, *both in savings(VAEConfig(), 512, UNetConfig(channels=(8, 8)))}
    assert rows["numbers"] == [512 * 512 * 3, 64 * 64 * 4]
    assert rows["positions"] == [512**2, 64**2]
    assert rows["pairs that attention compares"] == [512**4, 64**4]
    assert rows["bytes of their scores, float32"] == [2**38, 2**26]
    pixels, latents = rows["multiply-adds of a step"]
    assert pixels > 64 * latents * 0.99  # convolutions by positions, attention by pairs


def test_ours_has_the_same_ratios(capsys):
    assert main(["describe", "compact-f8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {line.split("  ")[0]: line.split()[-3:] for line in lines[-5:]}
    assert told["numbers"] == ["12,288", "256", "48"]
    assert told["positions"] == ["4,096", "64", "64"]
    assert told["pairs that attention compares"][-1] == "4,096"
    assert lines[-6].startswith("of one image, for stable-diffusion-1 ")
    assert lines[-6].split()[-6:] == ["in", "pixels", "in", "latents", "times", "fewer"]
    assert "1,085,016 parameters" in lines


def test_a_side_that_does_not_fit():
    with pytest.raises(ValueError, match="multiples of 8"):
        table(LAYOUTS["kl-f8"], 36)
