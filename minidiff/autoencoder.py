r"""The two towers of an autoencoder: one turns an image into few numbers, the other turns them back.

The encoder is the way down of a U-Net, the decoder the way up, with nothing between them but what the
encoder leaves: no skip connection helps. Neither is told a time. Block for block they are those of
latent diffusion (Rombach et al. 2022, https://arxiv.org/abs/2112.10752) and of VQGAN (Esser et al. 2021,
https://arxiv.org/abs/2012.09841, appendix A), which differ only in what lies between the towers.
It is read after lesson 09, beside ``minidiff.vae``.
"""

import dataclasses

import jax
from flax import struct
from jaxtyping import Array, Float, Key

from minidiff.blocks import Level, ResBlock, SpatialAttention
from minidiff.layers import Conv, GroupNorm, depth_to_space, space_to_depth


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """What both towers are made of. ValueError where the numbers do not fit each other."""

    image_channels: int = 3
    latent_channels: int = 4
    # Channels of each level, finest first; each level has half the side of the one before.
    channels: tuple[int, ...] = (128, 256, 512, 512)
    decoder_channels: tuple[int, ...] | None = None  # none: as the encoder's
    blocks: int = 2  # ResBlocks per level of the encoder; the decoder has one more
    attention: tuple[int, ...] = ()  # levels with attention
    middle: bool = True  # ResBlock, attention, ResBlock at the coarsest level, in both towers
    middle_attention: bool = True
    groups: int = 32
    eps: float = 1e-6  # of GroupNorm
    patch: int = 1  # a patch x patch square of pixels is one position of the finest level
    padding: tuple[int, int] = (0, 1)  # zeros before and after each side at stride 2

    def __post_init__(self):
        unknown = set(self.attention) - set(range(len(self.channels)))
        if unknown:
            raise ValueError(
                f"attention at {sorted(unknown)}: levels are 0 to {len(self.channels) - 1}"
            )
        if len(self.wide) != len(self.channels):
            raise ValueError(
                f"decoder_channels {self.wide} must be as many as channels {self.channels}"
            )

    @property
    def wide(self) -> tuple[int, ...]:
        """Channels of the decoder's levels, finest first."""
        return self.channels if self.decoder_channels is None else self.decoder_channels

    @property
    def factor(self) -> int:
        """How many times shorter than the image's the latent's sides are."""
        return self.patch * 2 ** (len(self.channels) - 1)

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(height, width, channels) of z. ValueError unless ``factor`` divides the image's sides."""
        height, width, channels = image_shape
        if height % self.factor or width % self.factor or min(height, width) < 1:
            raise ValueError(
                f"an image of {height} x {width} cannot be encoded: both sides must be multiples of "
                f"{self.factor}"
            )
        if channels != self.image_channels:
            raise ValueError(f"images have {self.image_channels} channels here, not {channels}")
        return height // self.factor, width // self.factor, self.latent_channels

    def res_block(self, key: Key[Array, ""], inputs: int, outputs: int) -> ResBlock:
        """A block of these towers: no time is told."""
        return ResBlock.init(key, inputs, outputs, None, self.groups, self.eps)

    def attention_block(self, key: Key[Array, ""], channels: int) -> SpatialAttention:
        """Attention between positions, with one head of all channels."""
        return SpatialAttention.init(key, channels, 1, self.groups, self.eps)


@struct.dataclass
class Middle:
    """At the coarsest level: a block, a look at the whole picture, a block."""

    first: ResBlock
    look: SpatialAttention | None
    second: ResBlock

    @classmethod
    def init(cls, key: Key[Array, ""], channels: int, config: AutoencoderConfig) -> "Middle":
        first, look, second = jax.random.split(key, 3)
        return cls(
            first=config.res_block(first, channels, channels),
            look=config.attention_block(look, channels) if config.middle_attention else None,
            second=config.res_block(second, channels, channels),
        )

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        x = self.first(x)
        return self.second(x if self.look is None else self.look(x))


@struct.dataclass
class Encoder:
    """From an image to ``outputs`` numbers at each position of a coarse grid."""

    conv_in: Conv
    down: tuple[Level, ...]
    middle: Middle | None
    norm_out: GroupNorm
    conv_out: Conv
    config: AutoencoderConfig = struct.field(pytree_node=False)

    @classmethod
    def init(cls, key: Key[Array, ""], config: AutoencoderConfig, outputs: int) -> "Encoder":
        keys = iter(jax.random.split(key, 3 + len(config.channels)))
        widths = config.channels
        conv_in = Conv.init(next(keys), config.image_channels * config.patch**2, widths[0])
        down = []
        for i, width in enumerate(widths):
            inputs = (widths[max(i - 1, 0)],) + (width,) * (config.blocks - 1)
            stride = 2 if i < len(widths) - 1 else None
            attend = i in config.attention
            down.append(
                Level.init(next(keys), inputs, width, attend=attend, stride=stride, config=config)
            )
        return cls(
            conv_in=conv_in,
            down=tuple(down),
            middle=Middle.init(next(keys), widths[-1], config) if config.middle else None,
            norm_out=GroupNorm.init(widths[-1], config.groups, config.eps),
            conv_out=Conv.init(next(keys), widths[-1], outputs),
            config=config,
        )

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch h w outputs"]:
        return self.forward(x)["out"]

    def forward(self, x: Float[Array, "batch height width channels"]) -> dict[str, jax.Array]:
        """Every stage's output by name, in order. ValueError for sides that do not fit."""
        self.config.latent_shape(x.shape[1:])
        stages = {}
        x = space_to_depth(x.astype(self.conv_in.weight.dtype), self.config.patch)
        x = stages["conv_in"] = self.conv_in(x)
        for n, level in enumerate(self.down):
            for i in range(len(level.blocks)):
                x = stages[f"down.{n}.blocks.{i}"] = level.apply_block(i, x)
            if level.resample:
                x = stages[f"down.{n}.resample"] = level.resample(x)
        if self.middle:
            x = stages["middle"] = self.middle(x)
        stages["out"] = self.conv_out(self.norm_out.silu(x))
        return stages


@struct.dataclass
class Decoder:
    """From the numbers on the coarse grid back to an image."""

    conv_in: Conv
    middle: Middle | None
    up: tuple[Level, ...]  # coarsest first
    norm_out: GroupNorm
    conv_out: Conv
    config: AutoencoderConfig = struct.field(pytree_node=False)

    @classmethod
    def init(cls, key: Key[Array, ""], config: AutoencoderConfig) -> "Decoder":
        keys = iter(jax.random.split(key, 3 + len(config.wide)))
        widths = config.wide
        conv_in = Conv.init(next(keys), config.latent_channels, widths[-1])
        middle = Middle.init(next(keys), widths[-1], config) if config.middle else None
        up, current = [], widths[-1]
        for i, width in reversed(list(enumerate(widths))):
            inputs = (current,) + (width,) * config.blocks
            current, stride = width, 1 if i > 0 else None
            attend = i in config.attention
            up.append(
                Level.init(next(keys), inputs, width, attend=attend, stride=stride, config=config)
            )
        colours = config.image_channels * config.patch**2
        return cls(
            conv_in=conv_in,
            middle=middle,
            up=tuple(up),
            norm_out=GroupNorm.init(widths[0], config.groups, config.eps),
            conv_out=Conv.init(next(keys), widths[0], colours),
            config=config,
        )

    def __call__(
        self, z: Float[Array, "batch h w latent"]
    ) -> Float[Array, "batch height width channels"]:
        return self.forward(z)["out"]

    def forward(self, z: Float[Array, "batch h w latent"]) -> dict[str, jax.Array]:
        """Every stage's output by name, in order; the last, ``out``, is the image."""
        stages = {}
        x = stages["conv_in"] = self.conv_in(z.astype(self.conv_in.weight.dtype))
        if self.middle:
            x = stages["middle"] = self.middle(x)
        for n, level in enumerate(self.up):
            for i in range(len(level.blocks)):
                x = stages[f"up.{n}.blocks.{i}"] = level.apply_block(i, x)
            if level.resample:
                x = stages[f"up.{n}.resample"] = level.resample.doubled(x)
        x = self.conv_out(self.norm_out.silu(x))
        stages["out"] = depth_to_space(x, self.config.patch)
        return stages
