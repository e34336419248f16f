r"""The parts every network is made of: plain pytrees whose fields are arrays.

A layer is a frozen dataclass. ``Layer.init(key, ...)`` draws its arrays, calling it is a pure function
of those arrays and the input, so ``jax.jit``, ``jax.grad``, ``jax.vmap`` and ``jax.tree.map`` work on
a whole network with nothing in between. Images are (batch, height, width, channels).
"""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Key, Real

from minidiff.kernels.conv import conv
from minidiff.kernels.group_norm import group_norm


@struct.dataclass
class Linear:
    """x @ weight + bias on the last axis."""

    weight: jax.Array  # (in, out)
    bias: jax.Array | None  # (out,)

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        inputs: int,
        outputs: int,
        *,
        scale: float = 1.0,
        bias: bool = True,
    ) -> "Linear":
        """Weights normal with standard deviation scale / sqrt(inputs); bias zero, or none."""
        weight = jax.random.normal(key, (inputs, outputs)) * (scale / math.sqrt(inputs))
        return cls(weight=weight, bias=jnp.zeros(outputs) if bias else None)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        # One flat matmul: on a 3-D activation XLA's CPU backend copies transposes for the gradient.
        flat = x.reshape(-1, x.shape[-1]) @ self.weight
        if self.bias is not None:
            flat = flat + self.bias[None, :]
        return flat.reshape(*x.shape[:-1], -1)


@struct.dataclass
class Conv:
    """Two-dimensional convolution with an odd square kernel and zero padding (kernel // 2)."""

    weight: jax.Array  # (kernel, kernel, in, out)
    bias: jax.Array  # (out,)
    stride: int = struct.field(pytree_node=False, default=1)

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        scale: float = 1.0,
    ) -> "Conv":
        """Weights normal with standard deviation scale / sqrt(kernel^2 inputs); bias zero."""
        std = scale / math.sqrt(kernel * kernel * inputs)
        weight = jax.random.normal(key, (kernel, kernel, inputs, outputs)) * std
        return cls(weight=weight, bias=jnp.zeros(outputs), stride=stride)

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch new_height new_width outputs"]:
        return conv(x, self.weight, self.stride) + self.bias[None, None, None, :]


@struct.dataclass
class GroupNorm:
    """Normalise groups of channels over space (Wu and He 2018); the sums run in float32."""

    scale: jax.Array  # (channels,)
    shift: jax.Array  # (channels,)
    groups: int = struct.field(pytree_node=False, default=8)
    eps: float = struct.field(pytree_node=False, default=1e-5)

    @classmethod
    def init(cls, channels: int, groups: int = 8, eps: float = 1e-5) -> "GroupNorm":
        """Scale one, shift zero. ValueError unless groups divides channels."""
        if channels % groups:
            raise ValueError(f"GroupNorm: {channels} channels do not split into {groups} groups")
        return cls(scale=jnp.ones(channels), shift=jnp.zeros(channels), groups=groups, eps=eps)

    def __call__(
        self, x: Float[Array, "batch *space channels"]
    ) -> Float[Array, "batch *space channels"]:
        return group_norm(x, self.scale, self.shift, self.groups, self.eps)


@struct.dataclass
class LayerNorm:
    """Normalise the last axis of every position (Ba et al. 2016), in float32."""

    scale: jax.Array  # (width,)
    shift: jax.Array  # (width,)
    eps: float = struct.field(pytree_node=False, default=1e-5)

    @classmethod
    def init(cls, width: int, eps: float = 1e-5) -> "LayerNorm":
        """Scale one, shift zero."""
        return cls(scale=jnp.ones(width), shift=jnp.zeros(width), eps=eps)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        centred = flat - flat.mean(axis=1, keepdims=True)
        variance = jnp.square(centred).mean(axis=1, keepdims=True)
        out = (
            centred * jax.lax.rsqrt(variance + self.eps) * self.scale[None, :] + self.shift[None, :]
        )
        return out.reshape(x.shape).astype(x.dtype)


def attention(
    q: Float[Array, "batch queries heads width"],
    k: Float[Array, "batch keys heads width"],
    v: Float[Array, "batch keys heads width"],
    mask: Bool[Array, "#batch #heads queries keys"] | None = None,
) -> Float[Array, "batch queries heads width"]:
    r"""softmax(q k^T / sqrt(width)) v (Vaswani et al. 2017, equation 1), for every head.

    ``mask`` is True where a query may look at a key. The softmax runs in float32.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    scores = scores.astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


@struct.dataclass
class Attention:
    """Multi-head attention of a sequence to itself."""

    query: Linear
    key: Linear
    value: Linear
    out: Linear
    heads: int = struct.field(pytree_node=False, default=1)

    @classmethod
    def init(
        cls, key: Key[Array, ""], width: int, heads: int, *, out_scale: float = 1.0
    ) -> "Attention":
        """Four square projections. ValueError unless heads divides width."""
        if width % heads:
            raise ValueError(f"Attention: width {width} does not split into {heads} heads")
        q, k, v, o = jax.random.split(key, 4)
        return cls(
            query=Linear.init(q, width, width),
            key=Linear.init(k, width, width),
            value=Linear.init(v, width, width),
            out=Linear.init(o, width, width, scale=out_scale),
            heads=heads,
        )

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "#batch #heads tokens tokens"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        split = (*x.shape[:2], self.heads, -1)
        q, k, v = (layer(x).reshape(split) for layer in (self.query, self.key, self.value))
        return self.out(attention(q, k, v, mask).reshape(x.shape))


@struct.dataclass
class MLP:
    """Two linear layers with a GELU between; the hidden layer is ``expand`` times as wide."""

    up: Linear
    down: Linear

    @classmethod
    def init(
        cls, key: Key[Array, ""], width: int, *, expand: int = 4, out_scale: float = 1.0
    ) -> "MLP":
        up, down = jax.random.split(key)
        return cls(
            up=Linear.init(up, width, expand * width),
            down=Linear.init(down, expand * width, width, scale=out_scale),
        )

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return self.down(jax.nn.gelu(self.up(x), approximate=False))


@struct.dataclass
class TransformerBlock:
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)) (Radford et al. 2019)."""

    norm1: LayerNorm
    attention: Attention
    norm2: LayerNorm
    mlp: MLP

    @classmethod
    def init(
        cls, key: Key[Array, ""], width: int, heads: int, *, out_scale: float = 1.0
    ) -> "TransformerBlock":
        """``out_scale`` shrinks what both branches add: (2 layers)^-1/2 keeps a deep sum steady."""
        attention_key, mlp_key = jax.random.split(key)
        return cls(
            norm1=LayerNorm.init(width),
            attention=Attention.init(attention_key, width, heads, out_scale=out_scale),
            norm2=LayerNorm.init(width),
            mlp=MLP.init(mlp_key, width, out_scale=out_scale),
        )

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "#batch #heads tokens tokens"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


def time_embedding(t: Real[Array, "batch"], width: int) -> Float[Array, "batch width"]:
    r"""Sines, then cosines, of t at width / 2 frequencies falling from 1 to 1e-4 (Ho et al. 2020).

    The frequencies are exp(-ln(1e4) i / (width / 2 - 1)), i = 0 .. width / 2 - 1; ``width`` is even
    and at least 4.
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half) / (half - 1))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def count_parameters(network: object) -> int:
    """How many numbers a network holds; works on shapes alone (``jax.eval_shape``) too."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(network))
