"""How far float32 may be from the truth, by its arithmetic; and the contrastive losses in float64.

A bound that one machine's numbers gave fails on the next, which multiplies and adds in one step or
sums in another order. ``rounding`` holds on all of them. Nothing here touches a device on import.
"""

import jax
import jax.numpy as jnp
import numpy as np

FUNCTION = 8
"""exp, log, a root or a sigmoid, in roundings: XLA's own are within four steps of the last digit."""


def rounding(count: float, condition: float = 1.0, dtype="float32") -> float:
    """The most that ``count`` roundings, one upon another, change a result, as a share of it.

    gamma_n = n u / (1 - n u), with u half a step of ``dtype`` (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1). A sum of n terms, in whatever order, costs each of them n - 1
    roundings, a product of two vectors n; the share is of the sum of the terms' sizes. ``condition``
    is by how much more the result changes than what was rounded: the sum of sizes over the size of
    the sum, or the argument of an exponential.
    """
    spent = count * float(jnp.finfo(dtype).eps) / 2
    assert spent < 0.1
    return condition * spent / (1 - spent)


def contrastive(pairs: int, width: int, scale: float, blocks: int = 1) -> float:
    """The share of the largest entry by which a contrastive loss and its gradients may be off.

    Two lengths and one product of ``width`` numbers make a cosine. What it is off by is multiplied by
    the scale, and again by two: a softmax is one exponential divided by others. Then ``pairs`` terms
    are added, a block at a time.
    """
    return rounding(3 * width + pairs + (3 + blocks) * FUNCTION, condition=2 * scale)


def assert_within(found, expected, share: float):
    """Arrays differ by at most this share of the largest entry; single numbers of at least 1.

    A single number is a sum over all pairs of terms that add up to about 1 and may cancel.
    """
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = (np.asarray(jnp.asarray(x).astype(jnp.float32)) for x in (a, b))
        assert a.shape == b.shape
        size = np.abs(b).max() if b.ndim else max(1.0, abs(b))
        np.testing.assert_allclose(a, b, rtol=0, atol=share * size)


def exact_losses(image, text, log_scale, *bias, normalised=True):
    """Value and gradients by all arguments, in float64: CLIP's loss, or SigLIP's if there is a bias.

    ``normalised=False`` takes the rows as they are: the kernels are given directions.
    """

    def loss(image, text, log_scale, *bias):
        if normalised:
            image, text = (x / jnp.sqrt((x * x).sum(1, keepdims=True)) for x in (image, text))
        logits = jnp.exp(log_scale) * (image @ text.T)
        if bias:
            z = 2 * jnp.eye(len(image)) - 1
            return -jax.nn.log_sigmoid(z * (logits + bias[0])).sum() / len(image)
        both = jax.nn.log_softmax(logits, axis=1) + jax.nn.log_softmax(logits, axis=0)
        return -jnp.diag(both).mean() / 2

    with jax.enable_x64(True):
        args = [np.asarray(x).astype(np.float64) for x in (image, text, log_scale, *bias)]
        return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(loss, range(len(args))))(*args))
