r"""The parts every network is made of: plain pytrees whose fields are arrays.

A layer is a frozen dataclass. ``Layer.init(key, ...)`` draws its arrays; calling it is a pure function
of them and the input, so JAX transforms a whole network. Images: (batch, height, width, channels).

What the layers compute is written out first, as functions of arrays. ``faster_by`` puts a faster twin
in its place where minidiff/kernels/ has one; ``group_norm.reference`` is the one written here.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key, Real

from minidiff.kernels.bias import bias_twin
from minidiff.kernels.choice import faster_by
from minidiff.kernels.conv import conv_twin
from minidiff.kernels.doubled_conv import doubled_conv_twin
from minidiff.kernels.group_norm import group_norm_silu_twin, group_norm_twin
from minidiff.kernels.layer_norm import layer_norm_twin

Features = Float[Array, "batch *space channels"]
Channels = Float[Array, " channels"]


@faster_by(bias_twin)
def add_bias(x: Features, bias: Float[Array, "*each channels"]) -> Features:
    """x + bias; ``bias`` is (channels,), or (batch, channels): one for every example."""
    return x + bias.reshape(-1, *(1,) * (x.ndim - 2), x.shape[-1])


@faster_by(conv_twin)
def conv(
    x: Float[Array, "batch height width inputs"],
    weight: Float[Array, "kernel kernel inputs outputs"],
    stride: int = 1,
    padding: tuple[int, int] | None = None,
) -> Float[Array, "batch new_height new_width outputs"]:
    """Slide the kernel over the image: each of its places is a matrix product, and they add up.

    ``padding`` is how many zeros stand before and after each side; None: kernel // 2 (``kernel`` is
    odd). As everywhere in the field the kernel is not flipped: this is a cross-correlation.
    """
    kernel, around = weight.shape[0], padding or (weight.shape[0] // 2,) * 2
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    rows, columns = ((side - kernel) // stride * stride + 1 for side in x.shape[1:3])
    return sum(
        x[:, i : i + rows : stride, j : j + columns : stride] @ weight[i, j]
        for i in range(kernel)
        for j in range(kernel)
    )


@faster_by(doubled_conv_twin)
def doubled_conv(
    x: Float[Array, "batch height width inputs"], weight: Float[Array, "3 3 inputs outputs"]
) -> Float[Array, "batch 2*height 2*width outputs"]:
    """The convolution of an image whose every pixel is repeated in both directions."""
    return conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), weight)


@faster_by(group_norm_twin)
def group_norm(
    x: Features, scale: Channels, shift: Channels, groups: int, eps: float = 1e-5
) -> Features:
    """Normalise groups of channels over space, in float32 (Wu and He 2018, equations 1 and 6).

    Every group of every image is shifted to mean 0 and scaled to variance 1; then every channel gets
    its own scale and shift. https://arxiv.org/abs/1803.08494
    """
    batch, channels = x.shape[0], x.shape[-1]
    grouped = x.astype(jnp.float32).reshape(batch, -1, groups, channels // groups)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = grouped.var(axis=(1, 3), keepdims=True)
    normal = ((grouped - mean) * jax.lax.rsqrt(variance + eps)).reshape(batch, -1, channels)
    scale, shift = scale.astype(jnp.float32), shift.astype(jnp.float32)
    return (normal * scale[None, None] + shift[None, None]).reshape(x.shape).astype(x.dtype)


@faster_by(group_norm_silu_twin)
def group_norm_silu(
    x: Features, scale: Channels, shift: Channels, groups: int, eps: float = 1e-5
) -> Features:
    """The same, and SiLU of it: u sigmoid(u)."""
    u = group_norm(x, scale, shift, groups, eps)
    return u * jax.nn.sigmoid(u)


@faster_by(layer_norm_twin)
def layer_norm(
    x: Float[Array, "rows channels"], scale: Channels, shift: Channels, eps: float = 1e-5
) -> Float[Array, "rows channels"]:
    """Every row shifted to mean 0 and scaled to variance 1, in float32; then scale and shift.

    Ba et al. 2016, https://arxiv.org/abs/1607.06450, equation 4
    """
    rows = x.astype(jnp.float32)
    centred = rows - rows.mean(axis=1, keepdims=True)
    variance = jnp.square(centred).mean(axis=1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + eps)
    scale, shift = scale.astype(jnp.float32), shift.astype(jnp.float32)
    return (normal * scale[None] + shift[None]).astype(x.dtype)


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
        std = scale / math.sqrt(inputs)
        weight = std * jax.random.normal(key, (inputs, outputs), jnp.float32)
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
    padding: tuple[int, int] | None = struct.field(pytree_node=False, default=None)  # of ``conv``

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        scale: float = 1.0,
    ) -> "Conv":
        """Weights normal with standard deviation scale / sqrt(kernel^2 inputs); bias zero."""
        std = scale / math.sqrt(kernel * kernel * inputs)
        weight = std * jax.random.normal(key, (kernel, kernel, inputs, outputs), jnp.float32)
        return cls(weight, jnp.zeros(outputs, jnp.float32), stride=stride, padding=padding)

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch new_height new_width outputs"]:
        return add_bias(conv(x, self.weight, self.stride, self.padding), self.bias)

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
        scale, shift = jnp.ones(channels, jnp.float32), jnp.zeros(channels, jnp.float32)
        return cls(scale=scale, shift=shift, groups=groups, eps=eps)

    def __call__(self, x: Features) -> Features:
        return group_norm(x, self.scale, self.shift, self.groups, self.eps)

    def silu(self, x: Features) -> Features:
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
    t: Real[Array, " batch"], width: int, *, cos_first: bool = False, frequency_shift: int = 1
) -> Float[Array, "batch width"]:
    r"""Sines, then cosines, of t at width / 2 frequencies falling from 1 to 1e-4 (Ho et al. 2020).

    The frequencies are exp(-ln(1e4) i / (width / 2 - frequency_shift)), i = 0 .. width / 2 - 1;
    ``width`` is even and at least 4. Stable Diffusion has the cosines first and a shift of 0.
    """
    half = width // 2
    i = jnp.arange(half, dtype=jnp.float32)
    frequencies = jnp.exp(-math.log(10_000) * i / (half - frequency_shift))
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
