"""Exercises of lesson 09: where coarse meets fine, group normalisation, counting blocks."""

import jax.numpy as jnp

from minidiff.checks.exercise import Exercise, integers, normal
from minidiff.layers import Conv, GroupNorm
from minidiff.layouts import count_blocks
from minidiff.unet import UNetConfig


def _join_skip(x, skip):
    """What a block on the way up is given: ``Conv.doubled`` with a kernel that changes nothing."""
    channels = x.shape[-1]
    centre = jnp.zeros((3, 3, channels, channels)).at[1, 1].set(jnp.eye(channels))
    doubled = Conv(weight=centre, bias=jnp.zeros(channels)).doubled(x)
    return jnp.concatenate([doubled, skip], axis=-1)


def _skips() -> list[tuple]:
    return [
        (normal(0, 2, 3, 3, 4), normal(1, 2, 6, 6, 4)),
        (normal(2, 1, 4, 4, 6), normal(3, 1, 8, 8, 6)),
    ]


def _doubled(x):
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _beside(x, skip):
    """The doubled image at every other pixel, zeros between."""
    batch, side, _, channels = x.shape
    apart = jnp.zeros((batch, 2 * side, 2 * side, channels)).at[:, ::2, ::2].set(x)
    return jnp.concatenate([apart, skip], axis=-1)


def _side_by_side(x, skip):
    doubled = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return jnp.concatenate([doubled, skip], axis=-1)


join_skip = Exercise(
    name="join_skip",
    task="The coarse image at twice its side, each pixel repeated, and the skip's channels after it.",
    solution=_join_skip,
    cases=_skips,
    mistakes={
        "the skip is added: put its channels *beside* the others, by concatenate": (
            lambda x, skip: _doubled(x) + skip
        ),
        "the skip's channels come first: the ones from below must come before them": (
            lambda x, skip: jnp.concatenate([skip, _doubled(x)], axis=-1)
        ),
        "the whole image is there four times: repeat each *pixel* (jnp.repeat, not jnp.tile)": (
            lambda x, skip: jnp.concatenate([jnp.tile(x, (1, 2, 2, 1)), skip], axis=-1)
        ),
        "they are joined along the height: channels are the last axis": (
            lambda x, skip: jnp.concatenate([_doubled(x), skip], axis=1)
        ),
        "they are joined along the batch: channels are the last axis": (
            lambda x, skip: jnp.concatenate([_doubled(x), skip], axis=0)
        ),
        "there are zeros between the pixels: each pixel must fill a square of four": _beside,
        "the skip is missing: this is the doubled image alone": lambda x, skip: _doubled(x),
        "the fine image was halved: the coarse one must be doubled to meet it": (
            lambda x, skip: jnp.concatenate([x, skip[:, ::2, ::2]], axis=-1)
        ),
    },
    written=_side_by_side,
    hints=(
        "Two steps: make x as large as skip, then put the channels of both side by side.",
        "`jnp.repeat(x, 2, axis=1)` doubles every row. Columns are axis 2.",
        "`jnp.concatenate([a, b], axis=-1)` joins along the last axis, the channels.",
    ),
    minutes=5,
)


def _normalize_groups(x, groups):
    """``GroupNorm`` as it begins: scale one, shift zero."""
    return GroupNorm.init(x.shape[-1], groups)(x)


def _features() -> list[tuple]:
    """Features whose channels, images and positions all differ in size and place."""
    cases = []
    for seed, (batch, side, channels, groups) in enumerate(((3, 4, 8, 2), (2, 5, 6, 3))):
        ramp = jnp.arange(1.0, channels + 1)[None, None, None, :]
        rows = jnp.arange(1.0, side + 1)[None, :, None, None]
        images = jnp.arange(1.0, batch + 1)[:, None, None, None]
        noise = normal(seed, batch, side, side, channels)
        cases.append((images * (noise * ramp + 0.5 * ramp + rows), groups))
    return cases


def _normalized(x, axes, power=0.5):
    variance = jnp.var(x, axis=axes, keepdims=True)
    return (x - x.mean(axis=axes, keepdims=True)) / (variance + 1e-5) ** power


def _in_groups(x, groups, change):
    """``change`` of (batch, height, width, groups, channels of a group)."""
    return change(x.reshape(*x.shape[:-1], groups, -1)).reshape(x.shape)


def _dealt_out(x, groups):
    dealt = x.reshape(*x.shape[:-1], -1, groups)
    return _normalized(dealt, (1, 2, 3)).reshape(x.shape)


def _group_by_group(x, groups):
    parts = x.reshape(*x.shape[:3], groups, x.shape[3] // groups)
    mean = jnp.mean(parts, axis=(1, 2, 4), keepdims=True)
    variance = jnp.mean((parts - mean) ** 2, axis=(1, 2, 4), keepdims=True)
    return ((parts - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape)


normalize_groups = Exercise(
    name="normalize_groups",
    task="In each image and each group of neighbouring channels: mean 0, variance 1.",
    solution=_normalize_groups,
    cases=_features,
    mistakes={
        "every channel is a group of its own here: a group has channels / groups of them": (
            lambda x, groups: _normalized(x, (1, 2))
        ),
        "all channels are one group here: split them first": (
            lambda x, groups: _normalized(x, (1, 2, 3))
        ),
        "each position is normalised by itself (LayerNorm): the mean is over height and width, too": (
            lambda x, groups: _normalized(x, 3)
        ),
        "each position's groups are normalised by themselves: include height and width": (
            lambda x, groups: _in_groups(x, groups, lambda g: _normalized(g, 4))
        ),
        "the images of a batch share a mean (BatchNorm): axis 0 must stay apart": (
            lambda x, groups: _in_groups(x, groups, lambda g: _normalized(g, (0, 1, 2, 4)))
        ),
        "divide by the *standard deviation*, the root of the variance": (
            lambda x, groups: _in_groups(x, groups, lambda g: _normalized(g, (1, 2, 4), 1.0))
        ),
        "the mean is still there: take it away first": (
            lambda x, groups: _in_groups(
                x, groups, lambda g: g / jnp.sqrt(jnp.var(g, axis=(1, 2, 4), keepdims=True) + 1e-5)
            )
        ),
        "only the mean is gone: divide by the standard deviation, too": (
            lambda x, groups: _in_groups(x, groups, lambda g: _normalized(g, (1, 2, 4), 0.0))
        ),
        "a group is *neighbouring* channels: reshape to (..., groups, channels // groups)": _dealt_out,
    },
    written=_group_by_group,
    hints=(
        "Give the channels two axes: `x.reshape(batch, height, width, groups, channels // groups)`.",
        "Mean and variance are over axes 1, 2 and 4, with `keepdims=True`.",
        "Divide by `jnp.sqrt(variance + 1e-5)`: the small number saves empty groups. Reshape back.",
    ),
    level=2,
    minutes=8,
    rtol=1e-3,
    atol=1e-3,
)


def _count_resblocks(levels, blocks):
    return count_blocks(UNetConfig(channels=(8,) * levels, blocks=blocks))["resblocks"]


def _counted(levels, blocks):
    down, middle, up = levels * blocks, 2, levels * (blocks + 1)
    return down + middle + up


count_resblocks = Exercise(
    name="count_resblocks",
    task="How many ResBlocks a U-Net has, from its number of levels and of blocks per level.",
    solution=_count_resblocks,
    cases=lambda: [(4, 2), (2, 1), (3, 1), (1, 3), tuple(map(int, integers(4, 1, 9, 2)))],
    mistakes={
        "the middle has two ResBlocks more": (
            lambda levels, blocks: levels * blocks + levels * (blocks + 1)
        ),
        "the middle has *two* ResBlocks": (lambda levels, blocks: levels * (2 * blocks + 1) + 1),
        "on the way up every level has one block more, since each reads a skip": (
            lambda levels, blocks: 2 * levels * blocks + 2
        ),
        "this is the way down alone": lambda levels, blocks: levels * blocks,
        "the one block more is on the way up only": (
            lambda levels, blocks: 2 * levels * (blocks + 1) + 2
        ),
        "halving and doubling are single convolutions, not ResBlocks": (
            lambda levels, blocks: levels * (2 * blocks + 1) + 2 + 2 * (levels - 1)
        ),
        "four in each of the main blocks, as a popular summary says, is wrong: count the table": (
            lambda levels, blocks: 4 * (levels * (2 * blocks + 1) - levels + 1)
        ),
    },
    written=_counted,
    hints=(
        "Count three parts: the way down, the middle, the way up.",
        "Down: `blocks` at every level. Up: one more at every level. The middle: look at the table.",
    ),
    minutes=4,
)
