"""Both towers of CLIP in float64, one number at a time where that is bearable: the slow truth."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import weights


def arrays(network):
    """Every array of a network by its dotted name, in float64."""
    return {n: np.asarray(x, np.float64) for n, x in weights.flatten(network).items()}


def shaken(network, size=0.1):
    """The network with normal noise on every array: no bias is zero and no scale is one."""
    leaves, structure = jax.tree.flatten(network)
    dice = np.random.default_rng(0)
    shake = [np.asarray(x) + np.float32(size * dice.normal(size=x.shape)) for x in leaves]
    return structure.unflatten(map(jnp.asarray, shake))  # by NumPy, which compiles nothing


def within(w, name):
    """The part called ``name``, its arrays by the rest of their names."""
    return {n.removeprefix(name + "."): x for n, x in w.items() if n.startswith(name + ".")}


def layer_norm(w, x, eps):
    out = np.zeros(x.shape)
    for where in np.ndindex(x.shape[:-1]):
        row = x[where]
        out[where] = (row - row.mean()) / math.sqrt(row.var() + eps) * w["scale"] + w["shift"]
    return out


def linear(w, x):
    return x @ w["weight"] + w.get("bias", 0.0)


def attend(w, x, heads, causal):
    q, k, v = (linear(within(w, name), x) for name in ("query", "key", "value"))
    out, size = np.zeros(x.shape), x.shape[2] // heads
    for b, h, i in np.ndindex(x.shape[0], heads, x.shape[1]):
        part = slice(h * size, (h + 1) * size)
        seen = range(i + 1) if causal else range(x.shape[1])
        shares = [math.exp(q[b, i, part] @ k[b, j, part] / math.sqrt(size)) for j in seen]
        for j, share in zip(seen, shares, strict=True):
            out[b, i, part] += share / sum(shares) * v[b, j, part]
    return linear(within(w, "out"), out)


def activate(x, name):
    if name == "quick_gelu":
        return x / (1 + np.exp(-1.702 * x))
    return x * np.vectorize(lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2))))(x)


def blocks(w, x, heads, activation, eps, causal):
    w = within(w, "blocks")
    for i in range(len(w["norm1.scale"])):
        block = {name: stacked[i] for name, stacked in w.items()}
        inner = layer_norm(within(block, "norm1"), x, eps)
        x = x + attend(within(block, "attention"), inner, heads, causal)
        hidden = linear(within(block, "mlp.up"), layer_norm(within(block, "norm2"), x, eps))
        x = x + linear(within(block, "mlp.down"), activate(hidden, activation))
    return x


def run(w, x, config, causal):
    return blocks(within(w, "transformer"), x, config.heads, config.activation, config.eps, causal)


def image_tower(vit, images):
    """What ``vit(images)`` should be."""
    w, config, images = arrays(vit), vit.config, np.asarray(images, np.float64)
    pixels = ((images + 1) / 2 - np.array(config.mean)) / np.array(config.std)
    side, patch = config.image_size // config.patch, config.patch
    x = np.zeros((len(images), config.tokens, config.width))
    x[:, 0] = w["class_token"]
    for b, r, c in np.ndindex(len(images), side, side):
        square = pixels[b, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
        x[b, 1 + r * side + c] = square.ravel() @ w["patches.weight"]
    x = layer_norm(within(w, "norm_in"), x + w["positions"], config.eps)
    return layer_norm(within(w, "norm_out"), run(w, x, config, False)[:, 0], config.eps)


def text_tower(text, ids, ends):
    """What ``text(ids)`` should be; ``ends`` tells where each row has its end token."""
    w, config = arrays(text), text.config
    x = w["tokens"][np.asarray(ids)] + w["positions"][: np.shape(ids)[1]]
    x = layer_norm(within(w, "norm_out"), run(w, x, config, True), config.eps)
    return x[np.arange(len(x)), ends]


def is_attention_map(found, shape, causal=False):
    """Each query's shares are positive, add up to 1, and none goes to the future if causal."""
    found = np.asarray(found)
    assert found.shape == shape
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    if causal:
        assert (np.triu(found, 1) == 0).all()
        assert (found[..., *np.tril_indices(shape[-1])] > 0).all()
    else:
        assert (found > 0).all()
