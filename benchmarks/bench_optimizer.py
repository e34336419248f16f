r"""Optimizer and running average: array by array, as training does it, and over one flat buffer.

    python benchmarks/bench_optimizer.py [--quick] [--turns N] [--cores C] [--out FILE]

Clipping by the norm of the gradient, AdamW (matrices decay) and the running average of the weights,
for the arrays of a U-Net, in float32; the old state is donated.

- ours: optax over the tree, as in ``minidiff.training.state``,
- flat: state and average are kept as vectors; the gradient arrives as a tree, and the weights leave
  as one, as a network needs them,
- flat, no copies: gradient and weights are vectors too: what could be gained at most.
"""

import harness
import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from minidiff.training.state import make_optimizer
from minidiff.unet import UNet, UNetConfig

SIZES = {"small U-Net": (32, 64, 64), "large U-Net": (48, 96, 96)}
ON_ACCELERATOR = {"U-Net of the gpu preset": (64, 128, 128), "U-Net of DDPM's": (128, 256, 256)}
STEPS, LEARNING_RATE, DECAY, EMA, WARMUP, CLIP, B2 = 10_000, 1e-3, 0.01, 0.999, 10, 1.0, 0.99


def averaged(old, new):
    return jax.tree.map(lambda a, b: EMA * a + (1 - EMA) * b, old, new)


def tree_step(optimizer):
    def step(state, gradient):
        model, ema, opt_state = state
        updates, opt_state = optimizer.update(gradient, opt_state, model)
        model = optax.apply_updates(model, updates)
        return model, averaged(ema, model), opt_state

    return step


def flat_optimizer(mask):
    """The same as ``make_optimizer``'s, for one vector; ``mask`` is 1 where weights decay."""
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, WARMUP, STEPS)
    decay = optax.stateless(lambda updates, x: updates + DECAY * mask * x)
    return optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.scale_by_adam(b2=B2),
        decay,
        optax.scale_by_learning_rate(rate),
    )


@jax.jit  # one program: eagerly, each shape of an array would be compiled by itself
def flatten(tree):
    return ravel_pytree(tree)[0]


def contestants(model) -> dict:
    gradient = jax.tree.map(lambda x: harness.normal(x.size, *x.shape), model)
    optimizer = make_optimizer(STEPS, LEARNING_RATE, warmup=WARMUP, weight_decay=DECAY, clip=CLIP)
    # Nothing is stacked in a U-Net: what has two axes or more is a matrix.
    decays = flatten(jax.tree.map(lambda x: np.full(x.shape, x.ndim > 1, np.float32), model))
    flat = flat_optimizer(decays)
    update, flat_model, flat_gradient = tree_step(flat), flatten(model), flatten(gradient)

    def between_trees(state, gradient):
        old, flat_state = state
        flat_state = update(flat_state, ravel_pytree(gradient)[0])
        return ravel_pytree(old)[1](flat_state[0]), flat_state

    tree_state = (model, model, jax.jit(optimizer.init)(model))
    flat_state = (flat_model, flat_model, jax.jit(flat.init)(flat_model))
    return {
        "ours": harness.carrying(tree_step(optimizer), tree_state, gradient),
        "flat": harness.carrying(between_trees, (model, flat_state), gradient),
        "flat, no copies": harness.carrying(update, flat_state, flat_gradient),
    }


def weights_and_average(state):
    """Both as vectors, whichever contestant's state it is."""
    if len(state) == 2:  # (weights as a tree, the flat state)
        state = (state[0], state[1][1])
    return [flatten(part) for part in state[:2]]


def cases(args):
    sizes = ON_ACCELERATOR if harness.on_accelerator() else SIZES
    for name, channels in list(sizes.items())[: 1 if args.quick else 2]:
        config = UNetConfig(channels=channels)
        model = jax.jit(UNet.init, static_argnums=1)(jax.random.key(0), config)
        leaves = jax.tree.leaves(model)
        count = sum(x.size for x in leaves)
        yield harness.Case(
            f"{name}, {count:,} numbers in {len(leaves)} arrays",
            contestants(model),
            reference="ours",
            items=count,
            tolerance=1e-5,
            same=weights_and_average,
        )


if __name__ == "__main__":
    harness.main("optimizer", __doc__, cases)
