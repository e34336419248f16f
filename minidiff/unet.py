r"""A compact U-Net: the network that looks at a noisy image and names the noise.

Down a ladder of resolutions and up again. The coarse levels see the whole picture and decide what it
shows; skip connections carry every level's own detail across, so that the fine levels can tell where
each bit of noise is (Ronneberger et al. 2015). Without text it is laid out as DDPM's (Ho et al. 2020,
appendix B) and diffusers' UNet2DModel, block for block; with text as Stable Diffusion's (Rombach et al.
2022) and diffusers' UNet2DConditionModel: every position may look at every word.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from minidiff.blocks import Level, ResBlock, SpatialAttention, SpatialTransformer
from minidiff.layers import Conv, GroupNorm, Linear, depth_to_space, space_to_depth, time_embedding


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """What a U-Net is made of. ``UNetConfig.sized(width)`` sets all of it from one number."""

    image_channels: int = 3
    # Channels of each level, finest first; each level has half the side of the one before.
    channels: tuple[int, ...] = (32, 64, 64)
    blocks: int = 1  # ResBlocks per level on the way down; one more on the way up
    attention: tuple[int, ...] = ()  # levels with attention; the middle always has it
    heads: int = 1
    groups: int = 8
    patch: int = 1  # a patch x patch square of pixels is one position of the finest level
    context: int | None = None  # width of the text states that attention looks at; none: no text
    pooled: int | None = None  # width of a vector for the whole text, added to the time; or none
    # In what published networks differ (minidiff/layouts.py has them whole).
    head_width: int | None = None  # instead of ``heads``: channels per head
    eps: float = 1e-5  # of GroupNorm
    padding: tuple[int, int] | None = None  # zeros around each side at stride 2; none: one each
    cos_first: bool = False  # in the time embedding
    frequency_shift: int = 1  # see ``time_embedding``

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
            near = [n for n in (side - side % factor, side - side % factor + factor) if n]
            raise ValueError(
                f"image side {side} is not a multiple of {factor}, as this U-Net needs: "
                f"{' and '.join(map(str, near))} would fit"
            )

    def res_block(self, key: Key[Array, ""], inputs: int, outputs: int) -> ResBlock:
        """A block of this network."""
        return ResBlock.init(key, inputs, outputs, 4 * self.channels[0], self.groups, self.eps)

    def attention_block(
        self, key: Key[Array, ""], channels: int
    ) -> SpatialAttention | SpatialTransformer:
        """What follows a block where there is attention: at the image, and at the text if any."""
        heads = channels // self.head_width if self.head_width else self.heads
        if self.context:
            return SpatialTransformer.init(key, channels, heads, self.groups, self.context)
        return SpatialAttention.init(key, channels, heads, self.groups, self.eps)


@struct.dataclass
class Condition:
    """A text as a network sees it."""

    states: jax.Array  # (batch, tokens, width) one vector per token
    pooled: jax.Array | None = None  # (batch, width) one for all


@struct.dataclass
class UNet:
    """A denoiser: ``unet(xt, t)`` is its guess of the noise in xt.

    One with text is called as ``unet(xt, t, condition)``: a Condition, or the states alone.
    """

    time1: Linear
    time2: Linear
    pooled: Linear | None
    conv_in: Conv
    down: tuple[Level, ...]
    middle: tuple[ResBlock, SpatialAttention | SpatialTransformer, ResBlock]
    up: tuple[Level, ...]  # coarsest first
    norm_out: GroupNorm
    conv_out: Conv
    config: UNetConfig = struct.field(pytree_node=False)

    @property
    def takes_text(self) -> bool:
        """Whether it is called with a condition."""
        return self.config.context is not None

    @classmethod
    def init(cls, key: Key[Array, ""], config: UNetConfig) -> "UNet":
        """Draw every weight; blocks begin as shortcuts and the output begins near zero."""
        widths, last = config.channels, len(config.channels) - 1
        colours = config.image_channels * config.patch**2
        keys = iter(jax.random.split(key, 7 + 2 * len(widths)))

        skips, down = [widths[0]], []
        for i, width in enumerate(widths):
            inputs = (skips[-1],) + (width,) * (config.blocks - 1)
            stride = 2 if i < last else None
            attend = i in config.attention
            down.append(
                Level.init(next(keys), inputs, width, attend=attend, stride=stride, config=config)
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
            up.append(
                Level.init(next(keys), inputs, width, attend=attend, stride=stride, config=config)
            )

        fine, wide, time_width = widths[0], widths[-1], 4 * widths[0]
        pooled = None
        if config.pooled:
            pooled = Linear.init(jax.random.fold_in(key, 1), config.pooled, time_width)
        return cls(
            time1=Linear.init(next(keys), fine, time_width),
            time2=Linear.init(next(keys), time_width, time_width),
            pooled=pooled,
            conv_in=Conv.init(next(keys), colours, fine),
            down=tuple(down),
            middle=(
                config.res_block(next(keys), wide, wide),
                config.attention_block(next(keys), wide),
                config.res_block(next(keys), wide, wide),
            ),
            up=tuple(up),
            norm_out=GroupNorm.init(fine, config.groups, config.eps),
            conv_out=Conv.init(next(keys), fine, colours, scale=1e-3),
            config=config,
        )

    def __call__(
        self,
        xt: Float[Array, "batch height width channels"],
        t: Int[Array, " batch"] | Float[Array, " batch"],
        condition: Condition | Float[Array, "batch tokens context"] | None = None,
    ) -> Float[Array, "batch height width channels"]:
        return self.stages(xt, t, condition)["out"]

    def stages(
        self, xt: jax.Array, t: jax.Array, condition: Condition | jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Every stage's output by name, in order; the last, ``out``, is the predicted noise.

        ValueError for images of a side that cannot be halved at every level.
        """
        for side in xt.shape[1:3]:
            self.config.check_image(side)
        dtype = self.conv_in.weight.dtype  # weights cast to bfloat16 compute in bfloat16
        time = self.embed(t, condition).astype(dtype)
        states = condition.states if isinstance(condition, Condition) else condition
        if self.config.context:
            if states is None:
                raise ValueError("this U-Net looks at a text: call it as unet(xt, t, condition)")
            states = states.astype(dtype)
        elif states is not None:
            raise ValueError("this U-Net has no attention to a text: call it as unet(xt, t)")

        stages = {"time": time}
        x = stages["conv_in"] = self.conv_in(space_to_depth(xt.astype(dtype), self.config.patch))
        skips = [x]
        for n, level in enumerate(self.down):
            for i in range(len(level.blocks)):
                x = stages[f"down.{n}.blocks.{i}"] = level.apply_block(i, x, time, states)
                skips.append(x)
            if level.resample:
                x = stages[f"down.{n}.resample"] = level.resample(x)
                skips.append(x)

        first, attention, second = self.middle
        x = stages["middle"] = second(attention(first(x, time), states), time)

        for n, level in enumerate(self.up):
            for i in range(len(level.blocks)):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = stages[f"up.{n}.blocks.{i}"] = level.apply_block(i, x, time, states)
            if level.resample:
                x = stages[f"up.{n}.resample"] = level.resample.doubled(x)

        x = self.conv_out(self.norm_out.silu(x))
        stages["out"] = depth_to_space(x, self.config.patch)
        return stages

    def embed(self, t: jax.Array, condition: object = None) -> Float[Array, "batch time"]:
        """The time, and the whole text if the network wants it, as what every block is told."""
        width, order = self.time1.weight.shape[0], self.config.cos_first
        shift = self.config.frequency_shift
        waves = time_embedding(t, width, cos_first=order, frequency_shift=shift)
        time = self.time2(jax.nn.silu(self.time1(waves.astype(self.time1.weight.dtype))))
        if self.pooled is None:
            return time
        if not isinstance(condition, Condition) or condition.pooled is None:
            raise ValueError("this U-Net wants one vector for the whole text: Condition.pooled")
        return time + self.pooled(condition.pooled.astype(time.dtype))
