r"""Attention and what is built of it: every position of a sequence looks at every other.

The blocks are those of GPT-2 and CLIP: normalise, then attend or compute, then add to what came in.
The same stack reads patches of an image (vit.py) and pieces of words (text.py). It is read in lesson 03.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Key

from minidiff.kernels.attention import attention_twin
from minidiff.kernels.choice import faster_by
from minidiff.layers import LayerNorm, Linear

Tokens = Float[Array, "batch tokens width"]
Queries = Float[Array, "batch queries heads width"]
Keys = Float[Array, "batch keys heads width"]
Mask = Bool[Array, "#batch #heads #queries #keys"]  # True where a query may look at a key

UNROLLED = 12  # layers: more are compiled once and looped over, on the CPU too


def attention_weights(
    q: Queries, k: Keys, mask: Mask | None = None
) -> Float[Array, "batch heads queries keys"]:
    r"""softmax(q k^T / sqrt(width)) over the keys: where each query looks. Computed in float32."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)


@faster_by(attention_twin)
def attention(q: Queries, k: Keys, v: Keys, mask: Mask | None = None) -> Queries:
    r"""softmax(q k^T / sqrt(width)) v, for every head (Vaswani et al. 2017, equation 1).

    What each query brings home: the mean of the values, by its weights. A query that may look nowhere
    gets NaN. https://arxiv.org/abs/1706.03762
    """
    weights = attention_weights(q, k, mask).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


@struct.dataclass
class Attention:
    """Multi-head attention of a sequence to itself, or to another: the ``context``."""

    query: Linear
    key: Linear
    value: Linear
    out: Linear
    heads: int = struct.field(pytree_node=False, default=1)

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        width: int,
        heads: int,
        *,
        context: int | None = None,
        bias: bool = True,
        out_scale: float = 1.0,
    ) -> "Attention":
        """Four projections. ValueError unless heads divides width.

        ``context`` is the width of the sequence looked at, by default the same; ``bias`` is that of
        queries, keys and values.
        """
        if width % heads:
            raise ValueError(f"Attention: width {width} does not split into {heads} heads")
        q, k, v, o = jax.random.split(key, 4)
        return cls(
            query=Linear.init(q, width, width, bias=bias),
            key=Linear.init(k, context or width, width, bias=bias),
            value=Linear.init(v, context or width, width, bias=bias),
            out=Linear.init(o, width, width, scale=out_scale),
            heads=heads,
        )

    def project(
        self, x: Tokens, context: Float[Array, "batch keys context"] | None = None
    ) -> tuple[jax.Array, ...]:
        """Queries of x, keys and values of the context or x: (batch, tokens, heads, width / heads)."""
        seen = x if context is None else context
        return tuple(
            layer(y).reshape(*y.shape[:2], self.heads, -1)
            for layer, y in ((self.query, x), (self.key, seen), (self.value, seen))
        )

    def __call__(
        self,
        x: Tokens,
        mask: Mask | None = None,
        context: Float[Array, "batch keys context"] | None = None,
    ) -> Tokens:
        return self.out(attention(*self.project(x, context), mask).reshape(x.shape))

    def weights(
        self,
        x: Tokens,
        mask: Mask | None = None,
        context: Float[Array, "batch keys context"] | None = None,
    ) -> Float[Array, "batch heads tokens keys"]:
        """The attention map: row i says how much token i takes from every other."""
        q, k, _ = self.project(x, context)
        return attention_weights(q, k, mask)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x times the share of a normal law below x (Hendrycks and Gimpel 2016), exactly."""
    # Not jax.nn.gelu: its erfc is slower, and more exact only where the result is below 1e-6.
    return x * (0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5)))


def geglu(x: Float[Array, "*batch twice"]) -> Float[Array, "*batch once"]:
    """One half of the last axis, times the GELU of the other (Shazeer 2020)."""
    value, gate = jnp.split(x, 2, axis=-1)
    return value * gelu(gate)


ACTIVATIONS = {
    "gelu": gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # OpenAI's CLIP was trained with it
    "geglu": geglu,
}


@struct.dataclass
class MLP:
    """Two linear layers with a GELU between; the hidden layer is ``expand`` times as wide.

    A "geglu" computes twice that many numbers, for half of them gate the others.
    """

    up: Linear
    down: Linear
    activation: str = struct.field(pytree_node=False, default="gelu")

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        width: int,
        *,
        expand: int = 4,
        out_scale: float = 1.0,
        activation: str = "gelu",
    ) -> "MLP":
        """ValueError unless ``activation`` is one of ACTIVATIONS."""
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r}: choose from {', '.join(ACTIVATIONS)}")
        up, down = jax.random.split(key)
        halves = 2 if activation == "geglu" else 1
        return cls(
            up=Linear.init(up, width, halves * expand * width),
            down=Linear.init(down, expand * width, width, scale=out_scale),
            activation=activation,
        )

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


@struct.dataclass
class TransformerBlock:
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)) (Radford et al. 2019)."""

    norm1: LayerNorm
    attention: Attention
    norm2: LayerNorm
    mlp: MLP

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        width: int,
        heads: int,
        *,
        expand: int = 4,
        out_scale: float = 1.0,
        activation: str = "gelu",
        eps: float = 1e-5,
    ) -> "TransformerBlock":
        """``out_scale`` shrinks what both branches add: (2 layers)^-1/2 keeps a deep sum steady."""
        attention_key, mlp_key = jax.random.split(key)
        mlp = MLP.init(mlp_key, width, expand=expand, out_scale=out_scale, activation=activation)
        return cls(
            norm1=LayerNorm.init(width, eps),
            attention=Attention.init(attention_key, width, heads, out_scale=out_scale),
            norm2=LayerNorm.init(width, eps),
            mlp=mlp,
        )

    def __call__(self, x: Tokens, mask: Mask | None = None) -> Tokens:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


@struct.dataclass
class Transformer:
    """A stack of blocks, stored as one block whose every array has a leading axis of layers."""

    blocks: TransformerBlock

    @classmethod
    def init(cls, key: Key[Array, ""], width: int, layers: int, heads: int, **settings):
        """``settings`` as of TransformerBlock."""

        def one(key):
            return TransformerBlock.init(
                key, width, heads, out_scale=(2 * layers) ** -0.5, **settings
            )

        return cls(blocks=jax.vmap(one)(jax.random.split(key, layers)))

    @classmethod
    def of(cls, key: Key[Array, ""], config: object) -> "Transformer":
        """The stack that an encoder's config (ViTConfig, TextConfig) describes."""
        settings = {name: getattr(config, name) for name in ("expand", "activation", "eps")}
        return cls.init(key, config.width, config.layers, config.heads, **settings)

    @property
    def layers(self) -> int:
        return self.blocks.norm1.scale.shape[0]

    def block(self, i: int) -> TransformerBlock:
        return jax.tree.map(lambda stacked: stacked[i], self.blocks)

    def __call__(self, x: Tokens, mask: Mask | None = None) -> Tokens:
        def step(x, block):
            return block(x, mask), None

        # Written out on the CPU, where a loop would copy what it keeps for the gradient.
        unroll = jax.default_backend() == "cpu" and self.layers <= UNROLLED
        return jax.lax.scan(step, x, self.blocks, unroll=self.layers if unroll else 1)[0]

    def stages(self, x: Tokens, mask: Mask | None = None) -> dict[str, jax.Array]:
        """Every block's output, ``blocks.i``, and attention map, ``attention.i``, in order."""
        stages = {}
        for i in range(self.layers):
            block = self.block(i)
            stages[f"attention.{i}"] = block.attention.weights(block.norm1(x), mask)
            x = stages[f"blocks.{i}"] = block(x, mask)
        return stages
