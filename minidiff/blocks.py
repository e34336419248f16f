r"""What networks that make images are built of: residual blocks, and attention between positions.

It is read in lesson 09.
"""

import jax
from flax import struct
from jaxtyping import Array, Float, Key

from minidiff.layers import Conv, GroupNorm, LayerNorm, Linear, add_bias
from minidiff.transformer import MLP, Attention

SMALL = 1e-3  # scale of a last layer: a block begins as its shortcut
TRANSFORMER_EPS = 1e-6  # of the GroupNorm before a transformer, as in Stable Diffusion


@struct.dataclass
class ResBlock:
    """Two normalised convolutions around a shortcut; the time embedding, if any, is added between."""

    norm1: GroupNorm
    conv1: Conv
    time: Linear | None
    norm2: GroupNorm
    conv2: Conv
    shortcut: Conv | None

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        inputs: int,
        outputs: int,
        time_width: int | None,
        groups: int,
        eps: float = 1e-5,
    ) -> "ResBlock":
        """``time_width`` None: a block that is told no time, as those of an autoencoder."""
        k1, kt, k2, ks = jax.random.split(key, 4)
        return cls(
            norm1=GroupNorm.init(inputs, groups, eps),
            conv1=Conv.init(k1, inputs, outputs),
            time=None if time_width is None else Linear.init(kt, time_width, outputs),
            norm2=GroupNorm.init(outputs, groups, eps),
            conv2=Conv.init(k2, outputs, outputs, scale=SMALL),
            shortcut=None if inputs == outputs else Conv.init(ks, inputs, outputs, kernel=1),
        )

    def __call__(
        self,
        x: Float[Array, "batch height width inputs"],
        time: Float[Array, "batch time"] | None = None,
    ) -> Float[Array, "batch height width outputs"]:
        h = self.conv1(self.norm1.silu(x))
        if self.time is not None:
            h = add_bias(h, self.time(jax.nn.silu(time)))
        h = self.conv2(self.norm2.silu(h))
        return h + (x if self.shortcut is None else self.shortcut(x))


@struct.dataclass
class SpatialAttention:
    """Every position looks at every other: what convolutions see only after many layers."""

    norm: GroupNorm
    attention: Attention

    @classmethod
    def init(cls, key: Key[Array, ""], channels: int, heads: int, groups: int, eps: float = 1e-5):
        attention = Attention.init(key, channels, heads, out_scale=SMALL)
        return cls(norm=GroupNorm.init(channels, groups, eps), attention=attention)

    def __call__(
        self, x: Float[Array, "batch height width channels"], context: None = None
    ) -> Float[Array, "batch height width channels"]:
        del context  # it looks at the image alone
        return x + self.attention(_positions(self.norm(x))).reshape(x.shape)


@struct.dataclass
class ContextBlock:
    """A transformer block with a look at something else: at itself, at the context, then an MLP."""

    norm1: LayerNorm
    attention: Attention
    norm2: LayerNorm
    cross: Attention
    norm3: LayerNorm
    mlp: MLP

    @classmethod
    def init(cls, key: Key[Array, ""], width: int, heads: int, context: int) -> "ContextBlock":
        own, cross, mlp = jax.random.split(key, 3)
        return cls(
            norm1=LayerNorm.init(width),
            attention=Attention.init(own, width, heads, bias=False),
            norm2=LayerNorm.init(width),
            cross=Attention.init(cross, width, heads, context=context, bias=False),
            norm3=LayerNorm.init(width),
            mlp=MLP.init(mlp, width, activation="geglu"),
        )

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        context: Float[Array, "batch keys context"],
    ) -> Float[Array, "batch tokens width"]:
        x = x + self.attention(self.norm1(x))
        x = x + self.cross(self.norm2(x), context=context)
        return x + self.mlp(self.norm3(x))


@struct.dataclass
class SpatialTransformer:
    """Every position looks at every other, and at the text (Rombach et al. 2022, section 3.3)."""

    norm: GroupNorm
    enter: Linear
    block: ContextBlock
    leave: Linear

    @classmethod
    def init(cls, key: Key[Array, ""], channels: int, heads: int, groups: int, context: int):
        enter, block, leave = jax.random.split(key, 3)
        return cls(
            norm=GroupNorm.init(channels, groups, TRANSFORMER_EPS),
            enter=Linear.init(enter, channels, channels),
            block=ContextBlock.init(block, channels, heads, context),
            leave=Linear.init(leave, channels, channels, scale=SMALL),
        )

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        context: Float[Array, "batch keys context"],
    ) -> Float[Array, "batch height width channels"]:
        tokens = self.block(self.enter(_positions(self.norm(x))), context)
        return x + self.leave(tokens).reshape(x.shape)


@struct.dataclass
class Level:
    """The blocks of one resolution, and the convolution that leads to the next one."""

    blocks: tuple[ResBlock, ...]
    attention: tuple[SpatialAttention | SpatialTransformer, ...]  # after each block, or empty
    resample: Conv | None  # stride 2 on the way down, after doubling on the way up

    @classmethod
    def init(cls, key, inputs, outputs, *, attend, stride, config):
        """One ResBlock for each entry of ``inputs``; ``stride`` None leaves the resolution as it is.

        ``config`` makes the parts, by ``res_block`` and ``attention_block``, and has the ``padding`` of
        stride 2.
        """
        block_key, attention_key, resample_key = jax.random.split(key, 3)
        block_keys = jax.random.split(block_key, len(inputs))
        attention_keys = jax.random.split(attention_key, len(inputs)) if attend else ()
        resample = None
        if stride is not None:
            padding = config.padding if stride == 2 else None
            resample = Conv.init(resample_key, outputs, outputs, stride=stride, padding=padding)
        return cls(
            blocks=tuple(
                config.res_block(k, n, outputs) for k, n in zip(block_keys, inputs, strict=True)
            ),
            attention=tuple(config.attention_block(k, outputs) for k in attention_keys),
            resample=resample,
        )

    def apply_block(self, i: int, x: jax.Array, time: object = None, states: object = None):
        """Block i, then its attention if this level has any."""
        x = self.blocks[i](x, time)
        return self.attention[i](x, states) if self.attention else x


def _positions(x: jax.Array) -> jax.Array:
    """An image as a sequence of its positions."""
    return x.reshape(x.shape[0], -1, x.shape[-1])
