r"""The parts every network is made of: plain pytrees whose fields are arrays.

A layer is a frozen dataclass. ``Layer.init(key, ...)`` draws its arrays, calling it is a pure function
of those arrays and the input, so ``jax.jit``, ``jax.grad``, ``jax.vmap`` and ``jax.tree.map`` work on
a whole network with nothing in between. Images are (batch, height, width, channels).
"""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key, Real

from minidiff.kernels.bias import add_bias
from minidiff.kernels.conv import conv
from minidiff.kernels.doubled_conv import doubled_conv
from minidiff.kernels.group_norm import group_norm, group_norm_silu
from minidiff.kernels.layer_norm import layer_norm


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
        weight = jax.random.normal(key, (inputs, outputs), jnp.float32) * (
            scale / math.sqrt(inputs)
        )
        return cls(weight=weight, bias=jnp.zeros(outputs, jnp.float32) if bias else None)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        # One flat matmul: on a 3-D activation XLA's CPU backend copies transposes for the gradient.
        flat = x.reshape(-1, x.shape[-1]) @ self.weight
        if self.bias is not None:
            flat = add_bias(flat, self.bias)
        return flat.reshape(*x.shape[:-1], -1)


@struct.dataclass
class Conv:
    """Two-dimensional convolution with an odd square kernel and zero padding."""

    weight: jax.Array  # (kernel, kernel, in, out)
    bias: jax.Array  # (out,)
    stride: int = struct.field(pytree_node=False, default=1)
    # Zeros before and after each side; none: kernel // 2 at both.
    zeros: tuple[int, int] | None = struct.field(pytree_node=False, default=None)

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        zeros: tuple[int, int] | None = None,
        scale: float = 1.0,
    ) -> "Conv":
        """Weights normal with standard deviation scale / sqrt(kernel^2 inputs); bias zero."""
        std = scale / math.sqrt(kernel * kernel * inputs)
        weight = std * jax.random.normal(key, (kernel, kernel, inputs, outputs), jnp.float32)
        return cls(weight=weight, bias=jnp.zeros(outputs, jnp.float32), stride=stride, zeros=zeros)

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch new_height new_width outputs"]:
        return add_bias(conv(x, self.weight, self.stride, self.zeros), self.bias)

    def doubled(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch 2*height 2*width outputs"]:
        """The same on an image of twice the side, each pixel repeated. ``kernel`` is 3, stride 1."""
        return add_bias(doubled_conv(x, self.weight), self.bias)


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
        return cls(
            scale=jnp.ones(channels, jnp.float32),
            shift=jnp.zeros(channels, jnp.float32),
            groups=groups,
            eps=eps,
        )

    def __call__(
        self, x: Float[Array, "batch *space channels"]
    ) -> Float[Array, "batch *space channels"]:
        return group_norm(x, self.scale, self.shift, self.groups, self.eps)

    def silu(
        self, x: Float[Array, "batch *space channels"]
    ) -> Float[Array, "batch *space channels"]:
        """The same, and SiLU of it."""
        return group_norm_silu(x, self.scale, self.shift, self.groups, self.eps)


@struct.dataclass
class LayerNorm:
    """Normalise the last axis of every position (Ba et al. 2016), in float32."""

    scale: jax.Array  # (width,)
    shift: jax.Array  # (width,)
    eps: float = struct.field(pytree_node=False, default=1e-5)

    @classmethod
    def init(cls, width: int, eps: float = 1e-5) -> "LayerNorm":
        """Scale one, shift zero."""
        return cls(scale=jnp.ones(width, jnp.float32), shift=jnp.zeros(width, jnp.float32), eps=eps)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        flat = x.reshape(-1, x.shape[-1])
        return layer_norm(flat, self.scale, self.shift, self.eps).reshape(x.shape)


def time_embedding(
    t: Real[Array, " batch"], width: int, *, cos_first: bool = False, last: int = 1
) -> Float[Array, "batch width"]:
    r"""Sines, then cosines, of t at width / 2 frequencies falling from 1 to 1e-4 (Ho et al. 2020).

    The frequencies are exp(-ln(1e4) i / (width / 2 - last)), i = 0 .. width / 2 - 1; ``width`` is
    even and at least 4. Stable Diffusion has the cosines first and ``last`` 0.
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half) / (half - last))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    waves = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(waves[::-1] if cos_first else waves, axis=1)


def space_to_depth(x: Float[Array, "b h w c"], patch: int) -> Float[Array, "b h2 w2 c2"]:
    """Fold each patch x patch square of pixels into one position with patch^2 times the channels."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // patch, w // patch, patch * patch * c)


def depth_to_space(x: Float[Array, "b h w c"], patch: int) -> Float[Array, "b h2 w2 c2"]:
    """The inverse of ``space_to_depth``."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // patch**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * patch, w * patch, c // patch**2)


def count_parameters(network: object) -> int:
    """How many numbers a network holds; works on shapes alone (``jax.eval_shape``) too."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(network))
