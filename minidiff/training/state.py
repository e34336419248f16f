"""Training is a state and a step: the whole state is one pytree, the step one compiled program."""

import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from minidiff.training.devices import ONE, Devices
from minidiff.training.muon import scale_by_muon

Loss = Callable[[jax.Array, object, dict], jax.Array | tuple[jax.Array, dict[str, jax.Array]]]
"""loss(key, model, batch) -> a scalar, or (scalar, {name: number to log beside it})."""

VECTORS = ("bias", "scale", "shift")  # the fields of layers that have one axis


@struct.dataclass
class TrainState:
    """All that a run must remember to go on as if it had never stopped."""

    step: jax.Array  # () int32, how many steps have been taken
    model: object
    ema: object  # like model: the running average that is sampled from
    opt_state: object

    @classmethod
    def init(cls, model: object, optimizer: optax.GradientTransformation) -> "TrainState":
        """Step 0. The average starts as a copy: a donated buffer must not be held twice."""
        ema = jax.tree.map(jnp.copy, model)
        return cls(step=jnp.int32(0), model=model, ema=ema, opt_state=optimizer.init(model))


def learning_rate_schedule(steps: int, learning_rate: float, warmup: int) -> optax.Schedule:
    """A linear warm-up, then a cosine to zero."""
    warmup = min(warmup, steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps)


def make_optimizer(
    steps: int,
    learning_rate: float,
    *,
    kind: str = "adamw",
    warmup: int = 100,
    weight_decay: float = 0.0,
    clip: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW or Muon under a linear warm-up and a cosine to zero, after clipping the gradient's norm.

    Muon (Jordan et al. 2024) makes the update of each matrix orthogonal: every direction moves
    equally far. It learns more per image and takes about ten times AdamW's learning rate; what has
    one axis (biases, scales and shifts) is left to AdamW at a fifth of that. Only matrices decay.
    """
    rate = learning_rate_schedule(steps, learning_rate, warmup)

    def decayed(model):
        return jax.tree_util.tree_map_with_path(_is_matrix, model)

    adamw = optax.adamw(rate, b2=0.99, weight_decay=weight_decay, mask=decayed)
    if kind == "muon":
        matrices = optax.chain(
            scale_by_muon(lambda x: x.ndim % 2),  # a matrix has two axes, a convolution four
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(rate),
        )
        # As one long vector: there are many of them, and each would be a loop of its own.
        vectors = optax.flatten(optax.adam(lambda step: 0.2 * rate(step), b2=0.99))
        return optax.chain(
            optax.clip_by_global_norm(clip),
            optax.partition({True: matrices, False: vectors}, decayed),
        )
    return optax.chain(optax.clip_by_global_norm(clip), adamw)


def _is_matrix(path: tuple, x: jax.Array) -> bool:
    """Whether a layer's array has two axes or more.

    Stacked layers give every array one more axis, so biases, scales and shifts go by their names.
    """
    return x.ndim > 1 and jax.tree_util.keystr(path[-1:], simple=True) not in VECTORS


def ema_decay_at(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """min(decay, (1 + step) / (10 + step)): early on the average forgets its random start."""
    taken = step.astype(jnp.float32)
    return jnp.minimum(decay, (1.0 + taken) / (10.0 + taken))


def cast(tree: object, dtype: DTypeLike) -> object:
    """Every float array of a pytree as ``dtype``; single numbers, such as a temperature, stay."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if x.ndim and jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.999,
    dtype: str = "float32",
    steps: int = 1,
    constrain: Callable[[object], object] = lambda model: model,
    devices: Devices = ONE,
) -> Callable[[Key[Array, ""], TrainState, object], tuple[TrainState, dict[str, jax.Array]]]:
    """A compiled ``train_step(key, state, source) -> (state, metrics)``.

    Args:
        loss: ``loss(key, model, batch)``; the key is fold_in(key, step).
        optimizer: an optax transformation.
        ema_decay: of the running average, reached by ``ema_decay_at``.
        dtype: what the loss computes in, "float32" or "bfloat16"; the weights stay float32.
        steps: how many steps one call takes (a ``lax.scan``: one dispatch for all).
        constrain: brings a model that a step has moved back to where it may be.
        devices: what the rows of each batch, and the state, are divided among.

    The batch of each step is ``source.batch(step)``, drawn inside the program. ``metrics`` holds
    "loss", "gradient_norm" and what the loss logs, each (steps,). The state given in is donated:
    keep the returned one. ValueError, before anything is computed, for a source that holds the
    batches of another number of ``steps`` (``minidiff.data.stream.feed``).
    """

    def one_step(key, state, source):
        batch = devices.spread(source.batch(state.step))

        def loss_of(model):
            out = loss(jax.random.fold_in(key, state.step), cast(model, dtype), batch)
            return out if isinstance(out, tuple) else (out, {})

        (value, logged), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.model)
        with jax.numpy_dtype_promotion("standard"):  # optax divides by an integer count of steps
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.model)
        model = constrain(optax.apply_updates(state.model, updates))
        decay = ema_decay_at(state.step, ema_decay)
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, model)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient), **logged}
        return devices.keep(TrainState(state.step + 1, model, ema, opt_state)), metrics

    def train_step(key, state, source):
        held = getattr(source, "steps", steps)
        if held != steps:
            raise ValueError(f"a call takes {steps} steps, and was fed the batches of {held}")

        def body(state, _):
            return one_step(key, state, source)

        return jax.lax.scan(body, state, None, length=steps)

    return jax.jit(train_step, donate_argnums=1)


def fit(
    key: Key[Array, ""],
    state: TrainState,
    source: object,
    train_step: Callable,
    until: int,
) -> Iterator[tuple[TrainState, dict[str, jax.Array]]]:
    """Yield (state, metrics) after each call of ``train_step``, until ``until`` steps are taken.

    The caller owns logging, pictures and checkpoints. The state that was yielded is donated when the
    generator goes on: copy what you want to keep. ``source`` answers ``batch(step)``; or it is an
    iterator of such, one for each call, as ``minidiff.data.stream.feed`` makes for a source that is
    read while it is used.
    """
    sources = source if isinstance(source, Iterator) else itertools.repeat(source)
    while int(state.step) < until:
        state, metrics = train_step(key, state, next(sources))
        yield state, metrics
