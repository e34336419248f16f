"""What the networks of the field are made of, and the table that tells it."""

import dataclasses

import jax
import pytest

from minidiff.layers import count_parameters
from minidiff.layouts import LAYOUTS, SIDES, count_blocks, describe, table
from minidiff.recipes import vae
from minidiff.unet import UNet, UNetConfig

SMALL = UNetConfig(channels=(8, 16), groups=4, attention=(1,))


@pytest.mark.parametrize(
    ("name", "parameters", "counts"),
    [
        ("compact", 1_063_651, (6, 6, 11, 1)),
        ("ddpm-cifar10", 35_746_307, (12, 12, 22, 6)),
        ("stable-diffusion-1", 859_520_964, (12, 12, 22, 16)),
    ],
)
def test_the_networks_of_the_field_have_their_sizes(name, parameters, counts):
    found = count_blocks(LAYOUTS[name])
    assert found.pop("middle") == 1
    assert tuple(found[kind] for kind in ("input", "output", "resblocks", "attention")) == counts
    rows = describe(LAYOUTS[name], SIDES[name])
    assert sum(count for _, _, count in rows) == parameters
    assert rows[-1][1] == (SIDES[name], SIDES[name], LAYOUTS[name].image_channels)


def test_stable_diffusion_as_a_table():
    text = table(LAYOUTS["stable-diffusion-1"], 64)
    lines = text.splitlines()
    assert lines[-2:] == [
        "12 + 1 + 12 input, middle and output blocks: 22 ResBlocks, 16 transformer blocks",
        "859,520,964 parameters",
    ]
    cells = {line.split()[0]: line.split()[1:] for line in lines[:-2]}
    assert cells["stage"] == ["output", "parameters"]
    assert cells["conv_in"] == ["64", "x", "64", "x", "320", "11,840"]  # 9 * 4 * 320 + 320
    assert cells["down.2.resample"] == ["8", "x", "8", "x", "1280", "14,746,880"]
    assert cells["time"] == ["1280", "2,050,560"]  # 320 * 1280 + 1280 * 1280 + 2 * 1280
    assert cells["out"][:5] == ["64", "x", "64", "x", "4"]
    assert len({line.index(line.split()[-1]) + len(line.split()[-1]) for line in lines[:-2]}) == 1
    assert len(lines) == 3 + 2 + 11 + 1 + 15 + 1  # time, conv_in; down; middle; up; out


def test_a_network_without_text_has_self_attentions():
    assert table(SMALL, 8).splitlines()[-2] == (
        "4 + 1 + 4 input, middle and output blocks: 8 ResBlocks, 4 self-attentions"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"context": 6, "attention": (0, 1)},
        {"pooled": 5},
        {"context": 6, "pooled": 5, "heads": 2},
        {"patch": 2, "blocks": 2, "head_width": 4},
    ],
    ids=str,
)
def test_the_rows_add_up(settings):
    config = dataclasses.replace(SMALL, **settings)
    unet = jax.eval_shape(lambda key: UNet.init(key, config), jax.random.key(0))
    rows = describe(config, 16)
    assert sum(count for _, _, count in rows) == count_parameters(unet)
    counts = count_blocks(config)
    stages = [name for name, _, _ in rows]
    assert counts["input"] == sum(name.startswith(("conv_in", "down.")) for name in stages)
    assert counts["output"] == sum(name.startswith("up.") and ".blocks." in name for name in stages)
    blocks = sum(".blocks." in name for name in stages)
    assert counts["resblocks"] == blocks + 2
    looking = [f"{side}.{n}.blocks" for n, side in [(1, "down"), (0, "up")]]
    if config.attention == (1,):
        assert counts["attention"] == 1 + sum(name.startswith(tuple(looking)) for name in stages)
    else:
        assert counts["attention"] == 1 + blocks


def test_levels_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"attention at \[2\]: levels are 0 to 1"):
        dataclasses.replace(SMALL, attention=(0, 2))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("compact-f8", 1_085_016),
        ("kl-f4", 55_312_063),
        ("kl-f8", 83_653_863),
        ("kl-f16", 69_610_963),
        ("kl-f32", 103_880_131),
    ],
)
def test_the_autoencoders_of_the_field_have_their_sizes(name, parameters):
    config, side = LAYOUTS[name], SIDES[name]
    rows = {name: (shape, count) for name, shape, count in describe(config, side)}
    assert sum(count for _, count in rows.values()) == parameters
    small = side // config.factor
    assert rows["encoder.out"][0] == (small, small, 2 * config.latent_channels)
    assert rows["decoder.out"][0] == (side, side, 3)
    assert ("quant" in rows) is ("post_quant" in rows) is config.quant


def test_an_autoencoder_as_a_table():
    lines = table(LAYOUTS["compact-f8"], 64).splitlines()
    assert lines[1].split() == [
        "encoder.conv_in",
        "16",
        "x",
        "16",
        "x",
        "64",
        "27,712",
    ]  # 9 * 48 * 64 + 64
    assert lines[-1] == "1,085,016 parameters"


def test_the_autoencoder_that_is_trained_here_is_the_one_that_is_described():
    assert vae.PRESETS["cpu"].network((64, 64, 3)) == LAYOUTS["compact-f8"]
