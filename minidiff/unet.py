r"""A compact U-Net: the network that looks at a noisy image and names the noise.

Down a ladder of resolutions and up again. The coarse levels see the whole picture and decide what it
shows; skip connections carry every level's own detail across, so that the fine levels can tell where
each bit of noise is. The layout is that of DDPM (Ho et al. 2020, appendix B) and of diffusers'
UNet2DModel, block for block, after Ronneberger et al. 2015.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from minidiff.layers import (
    Conv,
    GroupNorm,
    Linear,
    count_parameters,
    depth_to_space,
    space_to_depth,
    time_embedding,
)
from minidiff.transformer import Attention


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """What a U-Net is made of. ``UNetConfig.sized(width)`` sets all of it from one number."""

    image_channels: int = 3
    # Channels of each level, finest first; each level has half the side of the one before.
    channels: tuple[int, ...] = (32, 64, 64)
    blocks: int = 1  # ResBlocks per level on the way down; one more on the way up
    attention: tuple[int, ...] = ()  # levels with self-attention; the middle always has it
    heads: int = 1
    groups: int = 8
    patch: int = 1  # a patch x patch square of pixels is one position of the finest level

    def __post_init__(self):
        unknown = set(self.attention) - set(range(len(self.channels)))
        if unknown:
            raise ValueError(
                f"attention at {sorted(unknown)}: levels are 0 to {len(self.channels) - 1}"
            )

    @classmethod
    def sized(cls, width: int, **settings) -> "UNetConfig":
        """The dial: ``width`` channels at the finest level, twice that at two coarser ones."""
        return cls(channels=(width, 2 * width, 2 * width), **settings)

    def check_image(self, side: int) -> None:
        """ValueError unless an image of this side can be halved at every level."""
        factor = self.patch * 2 ** (len(self.channels) - 1)
        if side % factor:
            raise ValueError(
                f"image side {side} is not a multiple of {factor}, as this U-Net needs"
            )


@struct.dataclass
class ResBlock:
    """Two normalised convolutions around a shortcut; the time embedding is added between them."""

    norm1: GroupNorm
    conv1: Conv
    time: Linear
    norm2: GroupNorm
    conv2: Conv
    shortcut: Conv | None

    @classmethod
    def init(cls, key: Key[Array, ""], inputs: int, outputs: int, time_width: int, groups: int):
        k1, kt, k2, ks = jax.random.split(key, 4)
        return cls(
            norm1=GroupNorm.init(inputs, groups),
            conv1=Conv.init(k1, inputs, outputs),
            time=Linear.init(kt, time_width, outputs),
            norm2=GroupNorm.init(outputs, groups),
            conv2=Conv.init(k2, outputs, outputs, scale=1e-3),  # a block begins as its shortcut
            shortcut=None if inputs == outputs else Conv.init(ks, inputs, outputs, kernel=1),
        )

    def __call__(
        self, x: Float[Array, "batch height width inputs"], time: Float[Array, "batch time"]
    ) -> Float[Array, "batch height width outputs"]:
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = h + self.time(jax.nn.silu(time))[:, None, None, :]
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))


@struct.dataclass
class SpatialAttention:
    """Every position looks at every other: what convolutions see only after many layers."""

    norm: GroupNorm
    attention: Attention

    @classmethod
    def init(cls, key: Key[Array, ""], channels: int, heads: int, groups: int):
        attention = Attention.init(key, channels, heads, out_scale=1e-3)
        return cls(norm=GroupNorm.init(channels, groups), attention=attention)

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        tokens = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])
        return x + self.attention(tokens).reshape(x.shape)


@struct.dataclass
class Level:
    """The blocks of one resolution, and the convolution that leads to the next one."""

    blocks: tuple[ResBlock, ...]
    attention: tuple[SpatialAttention, ...]  # after each block, or empty
    resample: Conv | None  # stride 2 on the way down, after doubling on the way up

    @classmethod
    def init(cls, key, inputs, outputs, *, attend, stride, time_width, config):
        """One ResBlock for each entry of ``inputs``; ``stride`` None leaves the resolution as it is."""
        block_key, attention_key, resample_key = jax.random.split(key, 3)
        block_keys = jax.random.split(block_key, len(inputs))
        attention_keys = jax.random.split(attention_key, len(inputs)) if attend else ()
        return cls(
            blocks=tuple(
                ResBlock.init(k, n, outputs, time_width, config.groups)
                for k, n in zip(block_keys, inputs, strict=True)
            ),
            attention=tuple(
                SpatialAttention.init(k, outputs, config.heads, config.groups)
                for k in attention_keys
            ),
            resample=stride and Conv.init(resample_key, outputs, outputs, stride=stride),
        )

    def apply_block(self, i: int, x: jax.Array, time: jax.Array) -> jax.Array:
        """Block i, then its attention if this level has any."""
        x = self.blocks[i](x, time)
        return self.attention[i](x) if self.attention else x


@struct.dataclass
class UNet:
    """A denoiser: ``unet(xt, t)`` is its guess of the noise in xt."""

    time1: Linear
    time2: Linear
    conv_in: Conv
    down: tuple[Level, ...]
    middle: tuple[ResBlock, SpatialAttention, ResBlock]
    up: tuple[Level, ...]  # coarsest first
    norm_out: GroupNorm
    conv_out: Conv
    patch: int = struct.field(pytree_node=False, default=1)

    @classmethod
    def init(cls, key: Key[Array, ""], config: UNetConfig) -> "UNet":
        """Draw every weight; blocks begin as shortcuts and the output begins near zero."""
        widths, last = config.channels, len(config.channels) - 1
        time_width = 4 * widths[0]
        colours = config.image_channels * config.patch**2
        keys = iter(jax.random.split(key, 7 + 2 * len(widths)))
        shared = {"time_width": time_width, "config": config}

        skips, down = [widths[0]], []
        for i, width in enumerate(widths):
            inputs = (skips[-1],) + (width,) * (config.blocks - 1)
            stride = 2 if i < last else None
            attend = i in config.attention
            down.append(
                Level.init(next(keys), inputs, width, attend=attend, stride=stride, **shared)
            )
            skips += [width] * (config.blocks + (i < last))

        up, current = [], widths[-1]
        for i, width in reversed(list(enumerate(widths))):
            inputs = []
            for _ in range(config.blocks + 1):
                inputs.append(current + skips.pop())
                current = width
            stride = 1 if i > 0 else None
            attend = i in config.attention
            up.append(Level.init(next(keys), inputs, width, attend=attend, stride=stride, **shared))

        wide, fine, groups = widths[-1], widths[0], config.groups
        return cls(
            time1=Linear.init(next(keys), fine, time_width),
            time2=Linear.init(next(keys), time_width, time_width),
            conv_in=Conv.init(next(keys), colours, fine),
            down=tuple(down),
            middle=(
                ResBlock.init(next(keys), wide, wide, time_width, groups),
                SpatialAttention.init(next(keys), wide, config.heads, groups),
                ResBlock.init(next(keys), wide, wide, time_width, groups),
            ),
            up=tuple(up),
            norm_out=GroupNorm.init(fine, groups),
            conv_out=Conv.init(next(keys), fine, colours, scale=1e-3),
            patch=config.patch,
        )

    def __call__(
        self,
        xt: Float[Array, "batch height width channels"],
        t: Int[Array, "batch"] | Float[Array, "batch"],
    ) -> Float[Array, "batch height width channels"]:
        return self.forward(xt, t)["out"]

    def forward(self, xt: jax.Array, t: jax.Array) -> dict[str, jax.Array]:
        """Every stage's output by name, in order; the last, ``out``, is the predicted noise."""
        dtype = self.conv_in.weight.dtype  # weights cast to bfloat16 compute in bfloat16
        stages = {}
        time = time_embedding(t, self.time1.weight.shape[0]).astype(dtype)
        time = stages["time"] = self.time2(jax.nn.silu(self.time1(time)))

        x = stages["conv_in"] = self.conv_in(space_to_depth(xt.astype(dtype), self.patch))
        skips = [x]
        for n, level in enumerate(self.down):
            for i in range(len(level.blocks)):
                x = stages[f"down.{n}.blocks.{i}"] = level.apply_block(i, x, time)
                skips.append(x)
            if level.resample:
                x = stages[f"down.{n}.resample"] = level.resample(x)
                skips.append(x)

        first, attention, second = self.middle
        x = stages["middle"] = second(attention(first(x, time)), time)

        for n, level in enumerate(self.up):
            for i in range(len(level.blocks)):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = stages[f"up.{n}.blocks.{i}"] = level.apply_block(i, x, time)
            if level.resample:
                x = stages[f"up.{n}.resample"] = level.resample.doubled(x)

        x = self.conv_out(jax.nn.silu(self.norm_out(x)))
        stages["out"] = depth_to_space(x, self.patch)
        return stages


def describe(config: UNetConfig, side: int) -> list[tuple[str, tuple[int, ...], int]]:
    """A row per stage: its name, the shape of its output for one image, its parameters.

    Shapes alone are evaluated: nothing is allocated, however large the network. The rows' parameters
    add up to the whole network's.
    """
    config.check_image(side)
    unet = jax.eval_shape(lambda key: UNet.init(key, config), jax.random.key(0))
    names = []

    def run(unet, image, t):
        stages = unet.forward(image, t)
        names.extend(stages)  # the order that a compiled program's dict does not keep
        return list(stages.values())

    image = jax.ShapeDtypeStruct((1, side, side, config.image_channels), jnp.float32)
    shapes = jax.eval_shape(run, unet, image, jax.ShapeDtypeStruct((1,), jnp.int32))
    return [
        (name, shape.shape[1:], count_parameters(_part(unet, name)))
        for name, shape in zip(names, shapes, strict=True)
    ]


def _part(unet: UNet, name: str) -> object:
    """The layers that compute the stage of this name."""
    if name == "time":
        return unet.time1, unet.time2
    if name == "out":
        return unet.norm_out, unet.conv_out
    if "." not in name:
        return getattr(unet, name)
    side, level, kind, *index = name.split(".")
    level = getattr(unet, side)[int(level)]
    if kind == "resample":
        return level.resample
    return level.blocks[int(index[0])], level.attention[int(index[0]) : int(index[0]) + 1]
