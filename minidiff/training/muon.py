r"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum made orthogonal.

A weight matrix moves by the nearest orthogonal matrix to its momentum, $U V^T$ for the momentum
$U S V^T$: every direction equally far, however steep. Five steps of an iteration by Newton and Schulz
bring all singular values near 1,

    X <- a X + b (X X^T) X + c (X X^T)^2 X.

Each step multiplies X by a polynomial of the small square $X^T X$, so that the five of them can be taken
on the small square alone, and the tall matrix is met twice rather than ten times. Matrices of one shape
are stacked: a network has many matrices and few shapes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

STEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
TINY = 1e-8

Stacks = dict[str, jax.Array]


def orthogonalize(
    stacks: list[Float[Array, "_ _ _"]],
) -> list[Float[Array, "_ _ _"]]:
    """Each matrix of stacks (matrices, rows, columns) with its singular values brought near 1.

    They end between 0.7 and 1.2; matrices of zeros stay zeros.
    """
    a, b, c = COEFFICIENTS
    tall, grams = [], {}
    for stack in stacks:
        x = stack if stack.shape[1] >= stack.shape[2] else stack.swapaxes(1, 2)
        x = x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True)) + TINY)
        tall.append(x)
        grams.setdefault(x.shape[2], []).append(jnp.einsum("bmi,bmj->bij", x, x))
    turns = {}
    for side, squares in grams.items():
        square, turn = jnp.concatenate(squares), None
        for step in range(STEPS):
            step_turn = a * jnp.eye(side)[None] + b * square + c * square @ square
            turn = step_turn if turn is None else turn @ step_turn
            if step < STEPS - 1:
                square = step_turn @ square @ step_turn
        ends = np.cumsum([len(part) for part in squares])[:-1]
        turns[side] = iter(jnp.split(turn, ends))
    moved = [x @ next(turns[x.shape[2]]) for x in tall]
    return [
        y if y.shape == stack.shape else y.swapaxes(1, 2)
        for y, stack in zip(moved, stacks, strict=True)
    ]


def scale_by_muon(
    batch_axes: Callable[[jax.Array], int], momentum: float = 0.95
) -> optax.GradientTransformation:
    """Gradients of matrices to orthogonal updates, by Nesterov's momentum.

    Args:
        batch_axes: how many leading axes of an array count matrices, 0 or 1. The last axis of an array
            is what its matrix brings forth, all others between are summed over.
        momentum: of the sum of gradients.
    """

    def shape_of(x: jax.Array) -> tuple[int, int, int]:
        matrices = x.shape[0] if batch_axes(x) else 1
        return matrices, x.size // matrices // x.shape[-1], x.shape[-1]

    def stacked(tree: object) -> Stacks:
        """The arrays of one shape in one: {"rows x columns": (matrices, rows, columns)}."""
        groups = {}
        for x in jax.tree.leaves(tree):
            x = x.reshape(shape_of(x))
            groups.setdefault(f"{x.shape[1]}x{x.shape[2]}", []).append(x)
        return {name: jnp.concatenate(group) for name, group in groups.items()}

    def unstacked(stacks: Stacks, tree: object) -> object:
        """Back to arrays shaped like those of ``tree``."""
        places = dict.fromkeys(stacks, 0)

        def take(x):
            matrices, rows, columns = shape_of(x)
            name = f"{rows}x{columns}"
            first = places[name]
            places[name] += matrices
            return stacks[name][first : first + matrices].reshape(x.shape)

        return jax.tree.map(take, tree)

    def update(gradients: object, sums: Stacks, params: object = None):
        fresh = stacked(gradients)
        sums = {name: momentum * sums[name] + g for name, g in fresh.items()}
        ahead = [momentum * sums[name] + g for name, g in fresh.items()]
        moved = {
            # A wide matrix moves further, so that what it brings forth does (Jordan et al. 2024).
            name: y * max(1.0, y.shape[2] / y.shape[1]) ** 0.5
            for name, y in zip(fresh, orthogonalize(ahead), strict=True)
        }
        return unstacked(moved, gradients), sums

    def init(params: object) -> Stacks:
        return jax.tree.map(jnp.zeros_like, stacked(params))

    return optax.GradientTransformation(init, update)
