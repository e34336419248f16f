r"""CLIP: two towers that put images and texts into one space (Radford et al. 2021).

https://arxiv.org/abs/2103.00020. Each tower ends in a vector, a projection without bias brings both to
the same length, and the cosine between an image and a text, times a learned temperature, is how well
they go together.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from minidiff.contrastive import LOG_SCALE_INIT, cosine_similarity, normalize
from minidiff.layers import Linear
from minidiff.text import TextConfig, TextTransformer
from minidiff.vit import ViT, ViTConfig

# What OpenAI's models were shown: pixels in [0, 1], minus these, divided by those.
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """The two towers, and the length of what both end in."""

    embedding: int = 64
    image: ViTConfig = dataclasses.field(default_factory=ViTConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)


def _openai(embedding, patch, width, layers, text_width, image_size=224) -> CLIPConfig:
    """A model of OpenAI's: heads are 64 wide, text has 12 layers and 77 tokens."""
    openai = {"activation": "quick_gelu"}
    return CLIPConfig(
        embedding=embedding,
        image=ViTConfig(
            image_size=image_size,
            patch=patch,
            width=width,
            layers=layers,
            heads=width // 64,
            mean=OPENAI_MEAN,
            std=OPENAI_STD,
            **openai,
        ),
        text=TextConfig(width=text_width, layers=12, heads=text_width // 64, **openai),
    )


SIZES = {
    "toy": CLIPConfig(),
    "ViT-B/32": _openai(512, 32, 768, 12, 512),
    "ViT-B/16": _openai(512, 16, 768, 12, 512),
    "ViT-L/14": _openai(768, 14, 1024, 24, 768),
    "ViT-L/14@336px": _openai(768, 14, 1024, 24, 768, image_size=336),
}


@struct.dataclass
class CLIP:
    """Two encoders, two projections, one temperature."""

    image: ViT
    text: TextTransformer
    image_projection: Linear
    text_projection: Linear
    log_scale: jax.Array  # (): the logarithm of what cosines are multiplied by
    bias: jax.Array | None = None  # (): added to that, in SigLIP's pairwise loss

    @classmethod
    def init(cls, key: Key[Array, ""], config: CLIPConfig) -> "CLIP":
        image_key, text_key, k1, k2 = jax.random.split(key, 4)
        widths, size = (config.image.width, config.text.width), config.embedding
        return cls(
            image=ViT.init(image_key, config.image),
            text=TextTransformer.init(text_key, config.text),
            image_projection=Linear.init(k1, widths[0], size, bias=False),
            text_projection=Linear.init(k2, widths[1], size, bias=False),
            log_scale=jnp.float32(LOG_SCALE_INIT),
        )

    @property
    def config(self) -> CLIPConfig:
        """What it is made of, read off its parts."""
        return CLIPConfig(
            self.image_projection.weight.shape[1], self.image.config, self.text.config
        )

    def encode_images(
        self, images: Float[Array, "batch side side channels"]
    ) -> Float[Array, "batch embedding"]:
        """Images in [-1, 1] to the common space; not of unit length."""
        return self.image_projection(self.image(images))

    def encode_texts(self, ids: Int[Array, "batch length"]) -> Float[Array, "batch embedding"]:
        """Rows of token ids to the common space; not of unit length."""
        return self.text_projection(self.text(ids))

    def logits(
        self,
        images: Float[Array, "images side side channels"],
        ids: Int[Array, "texts length"],
    ) -> Float[Array, "images texts"]:
        """exp(log_scale) times the cosine of every image with every text.

        A softmax along a row tells which text fits the image best.
        """
        similarity = cosine_similarity(self.encode_images(images), self.encode_texts(ids))
        scaled = jnp.exp(self.log_scale.astype(jnp.float32)) * similarity
        return scaled if self.bias is None else scaled + self.bias.astype(jnp.float32)


@struct.dataclass
class ClipScore:
    """A score, images -> (batch,): the cosine of each image with its text, under CLIP.

    ``guidance.ClipGuided`` follows its gradient.
    """

    clip: CLIP
    texts: jax.Array  # (batch, embedding) one for each image

    def __call__(self, images: Float[Array, "batch side side channels"]) -> Float[Array, " batch"]:
        """Images in [-1, 1] to cosines, -1 to 1."""
        return jnp.sum(normalize(self.clip.encode_images(images)) * normalize(self.texts), axis=1)
