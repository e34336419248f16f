r"""The text encoder: a sentence is a sequence of tokens, and one vector at its end.

Token and place are added, and a transformer runs in which every token sees only what came before it.
So the end token, which comes last, is the one that has read everything, and what stands behind it
can never matter. After Radford et al. 2021, section 2.4 (https://arxiv.org/abs/2103.00020). Texts
become tokens in ``minidiff.tokenizer``.
"""

import dataclasses
from collections.abc import Sequence
from itertools import compress

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from minidiff.layers import LayerNorm
from minidiff.tokenizer import Tokenizer
from minidiff.transformer import Transformer

__all__ = ["Reader", "TextConfig", "TextTransformer", "Tokenizer"]


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """What a text encoder is made of. ValueError where the sizes do not fit each other."""

    vocabulary: int = 49_408
    context: int = 77  # most tokens of a text, start and end included
    width: int = 128
    layers: int = 4
    heads: int = 4
    expand: int = 4
    activation: str = "gelu"
    eps: float = 1e-5
    end: int | None = None  # id of the end token; None: the largest id of a row is the end

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")


@struct.dataclass
class TextTransformer:
    """A text encoder: ``encoder(ids)`` is one vector per text."""

    tokens: jax.Array  # (vocabulary, width)
    positions: jax.Array  # (context, width)
    transformer: Transformer
    norm_out: LayerNorm
    config: TextConfig = struct.field(pytree_node=False)

    @classmethod
    def init(cls, key: Key[Array, ""], config: TextConfig) -> "TextTransformer":
        """Draw every weight, with the scales of CLIP: tokens 0.02, positions 0.01."""
        token_key, position_key, blocks_key = jax.random.split(key, 3)
        width = config.width
        return cls(
            tokens=0.02 * jax.random.normal(token_key, (config.vocabulary, width), jnp.float32),
            positions=0.01 * jax.random.normal(position_key, (config.context, width), jnp.float32),
            transformer=Transformer.of(blocks_key, config),
            norm_out=LayerNorm.init(width, config.eps),
            config=config,
        )

    def __call__(self, ids: Int[Array, "batch length"]) -> Float[Array, "batch width"]:
        """One vector per row of token ids: start, text, end, then anything.

        ``length`` is at most the context: ValueError if it is more.
        """
        return self.pool(self.states(ids), ids)

    def states(self, ids: Int[Array, "batch length"]) -> Float[Array, "batch length width"]:
        """What every token has become: the sequence that a diffusion model can look at."""
        return self.norm_out(self.transformer(self.embed(ids), self.mask(ids)))

    def embed(self, ids: Int[Array, "batch length"]) -> Float[Array, "batch length width"]:
        """Token vectors with their places added."""
        length = ids.shape[1]
        if length > self.config.context:
            raise ValueError(f"{length} tokens are more than the context of {self.config.context}")
        return self.tokens[ids] + self.positions[None, :length]

    @staticmethod
    def mask(ids: Int[Array, "batch length"]) -> Bool[Array, "1 1 length length"]:
        """A token sees itself and what came before."""
        return jnp.tril(jnp.ones((ids.shape[1],) * 2, bool))[None, None]

    def pool(
        self, states: Float[Array, "batch length width"], ids: Int[Array, "batch length"]
    ) -> Float[Array, "batch width"]:
        """The state of the (first) end token of each row."""
        end = self.config.end
        place = jnp.argmax(ids if end is None else ids == end, axis=1)
        return jnp.take_along_axis(states, place[:, None, None], axis=1)[:, 0]

    def stages(self, ids: Int[Array, "batch length"]) -> dict[str, jax.Array]:
        """Every stage by name: ``embedded``, ``blocks.i``, ``attention.i``, ``states``, ``out``."""
        embedded = self.embed(ids)
        stages = {"embedded": embedded, **self.transformer.stages(embedded, self.mask(ids))}
        states = self.norm_out(stages[f"blocks.{self.transformer.layers - 1}"])
        return {**stages, "states": states, "out": self.pool(states, ids)}


class Reader:
    """What has a text tower, ``text``, and the ``tokenizer`` whose ids it was trained on."""

    text: TextTransformer
    tokenizer: Tokenizer

    @property
    def context(self) -> int:
        """Most tokens of a text, start and end included: the tokenizer may know of fewer."""
        return min(self.text.config.context, self.tokenizer.most or self.text.config.context)

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts that are longer than the context."""
        return list(compress(texts, self.tokenizer.truncated(texts, self.context)))
