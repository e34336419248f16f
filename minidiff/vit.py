r"""The vision transformer: an image is a sequence of patches, and patches look at one another.

Cut the image into squares, map each to a vector, put one learned vector (the class token) in front,
add a learned vector per place, and let a transformer run. What the class token has become at the end
stands for the whole image. After Dosovitskiy et al. 2020 (https://arxiv.org/abs/2010.11929), in the
variant of CLIP (Radford et al. 2021): a norm before the first block, and patches without a bias.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from minidiff.layers import LayerNorm, Linear, space_to_depth
from minidiff.transformer import Transformer


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """What an image encoder is made of. ValueError where the sizes do not fit each other."""

    image_size: int = 16
    patch: int = 4
    channels: int = 3
    width: int = 128
    layers: int = 4
    heads: int = 4
    expand: int = 4
    activation: str = "gelu"
    eps: float = 1e-5  # of the layer norms
    # Pixels reach the first layer as (p - mean) / std, p in [0, 1]. One half each leaves [-1, 1].
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self):
        if self.image_size % self.patch:
            raise ValueError(f"patch {self.patch} does not divide image_size {self.image_size}")
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")

    @property
    def tokens(self) -> int:
        """Patches of an image, and the class token."""
        return (self.image_size // self.patch) ** 2 + 1


@struct.dataclass
class ViT:
    """An image encoder: ``vit(images)`` is one vector per image."""

    patches: Linear  # without bias: (patch * patch * channels, width)
    class_token: jax.Array  # (width,)
    positions: jax.Array  # (tokens, width), the class token's first
    norm_in: LayerNorm
    transformer: Transformer
    norm_out: LayerNorm
    config: ViTConfig = struct.field(pytree_node=False)

    @classmethod
    def init(cls, key: Key[Array, ""], config: ViTConfig) -> "ViT":
        """Draw every weight; class token and positions have the scale that CLIP gives them."""
        patch_key, class_key, position_key, blocks_key = jax.random.split(key, 4)
        width, scale = config.width, config.width**-0.5
        return cls(
            patches=Linear.init(patch_key, config.patch**2 * config.channels, width, bias=False),
            class_token=scale * jax.random.normal(class_key, (width,), jnp.float32),
            positions=scale * jax.random.normal(position_key, (config.tokens, width), jnp.float32),
            norm_in=LayerNorm.init(width, config.eps),
            transformer=Transformer.of(blocks_key, config),
            norm_out=LayerNorm.init(width, config.eps),
            config=config,
        )

    def __call__(
        self, images: Float[Array, "batch side side channels"]
    ) -> Float[Array, "batch width"]:
        """One vector per image in [-1, 1]. ValueError for images of another size."""
        return self.norm_out(self.transformer(self.embed(images))[:, 0])

    def embed(
        self, images: Float[Array, "batch side side channels"]
    ) -> Float[Array, "batch tokens width"]:
        """What the first block is given: class token and patches, each with its place added."""
        x = self.patches(patchify(self.normalize(images), self.config.patch))
        first = jnp.broadcast_to(self.class_token, (x.shape[0], 1, x.shape[2])).astype(x.dtype)
        return self.norm_in(jnp.concatenate([first, x], axis=1) + self.positions[None])

    def normalize(
        self, images: Float[Array, "batch side side channels"]
    ) -> Float[Array, "batch side side channels"]:
        """Images in [-1, 1] as the first layer wants them. ValueError unless of the right shape."""
        side, channels = self.config.image_size, self.config.channels
        if images.shape[1:] != (side, side, channels):
            raise ValueError(
                f"this ViT sees images of {(side, side, channels)}, not {images.shape[1:]}"
            )
        mean, std = jnp.array(self.config.mean), jnp.array(self.config.std)
        scaled = ((images + 1) / 2 - mean[None, None, None]) / std[None, None, None]
        return scaled.astype(self.patches.weight.dtype)

    def stages(self, images: Float[Array, "batch side side channels"]) -> dict[str, jax.Array]:
        """Every stage by name: ``embedded``, ``blocks.i``, ``attention.i``, ``out``.

        Attention maps are (batch, heads, tokens, tokens); ``out`` is the images' vectors.
        """
        embedded = self.embed(images)
        stages = {"embedded": embedded, **self.transformer.stages(embedded)}
        last = stages[f"blocks.{self.transformer.layers - 1}"]
        return {**stages, "out": self.norm_out(last[:, 0])}


def patchify(
    images: Float[Array, "batch height width channels"], patch: int
) -> Float[Array, "batch patches values"]:
    """Squares of patch x patch pixels, row by row; each a row of values (y, x, channel)."""
    squares = space_to_depth(images, patch)
    return squares.reshape(images.shape[0], -1, squares.shape[-1])


def attention_rollout(
    maps: Float[Array, "layers heads tokens tokens"],
) -> Float[Array, "side side"]:
    """How much each patch has contributed to the class token, through all layers.

    Heads are averaged, half of every token stays where it is (the residual path), and the maps are
    multiplied (Abnar and Zuidema 2020). The shares are of the patches alone and add up to 1.
    """
    tokens = maps.shape[-1]
    mixed = 0.5 * maps.mean(axis=1) + 0.5 * jnp.eye(tokens)[None]
    flow = jnp.eye(tokens)
    for layer in mixed:
        flow = layer @ flow
    shares = flow[0, 1:] / flow[0, 1:].sum()
    side = math.isqrt(tokens - 1)
    return shares.reshape(side, side)
