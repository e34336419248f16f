"""The training state and its step, on a model small enough to work out by hand."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from minidiff.training.state import (
    TrainState,
    cast,
    ema_decay_at,
    fit,
    make_optimizer,
    make_train_step,
)

KEY = jax.random.key(0)


@struct.dataclass
class Line:
    slope: jax.Array  # (1, 1)
    height: jax.Array  # (1,)

    def __call__(self, x):
        return x * self.slope[0, 0] + self.height[0]


@struct.dataclass
class Numbers:
    """Source whose batch is different at each step."""

    seed: int = struct.field(pytree_node=False, default=0)

    def batch(self, step):
        return {"x": jax.random.normal(jax.random.fold_in(jax.random.key(self.seed), step), (16,))}


def loss(key, model, batch):
    noise = 0.01 * jax.random.normal(key, batch["x"].shape)
    return jnp.mean(jnp.square(model(batch["x"]) - (3 * batch["x"] - 1 + noise)))


def line():
    return Line(slope=jnp.zeros((1, 1)), height=jnp.zeros(1))


ADAM = optax.adam(0.1)


@cache
def train_step(steps, **settings):
    return make_train_step(loss, ADAM, steps=steps, **settings)


def trained(steps, calls, **settings):
    step = train_step(steps, **settings)
    state, losses = TrainState.init(line(), ADAM), []
    for _ in range(calls):
        state, metrics = step(KEY, state, Numbers())
        assert metrics["loss"].shape == metrics["gradient_norm"].shape == (steps,)
        losses += metrics["loss"].tolist()
    return state, losses


def test_it_learns():
    state, losses = trained(100, 2)
    assert float(state.model.slope[0, 0]) == pytest.approx(3, abs=0.05)
    assert float(state.model.height[0]) == pytest.approx(-1, abs=0.05)
    assert int(state.step) == 200
    assert losses[-1] < 1e-3 < losses[0]


def test_many_steps_in_one_call_are_the_same_steps():
    """Bit for bit: both are the same compiled body, four times."""
    (one, one_losses), (four, four_losses) = trained(1, 8), trained(4, 2)
    assert one_losses == four_losses
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_average_follows_the_model():
    state, _ = trained(1, 1, ema_decay=0.9)
    # At step 0 the decay is 1/10: nine tenths of the first step's weights.
    np.testing.assert_allclose(state.ema.height, 0.9 * state.model.height, rtol=1e-6)
    state, _ = trained(100, 2, ema_decay=0.9)
    np.testing.assert_allclose(state.ema.slope, state.model.slope, atol=0.02)


def test_the_decay_warms_up():
    decays = [float(ema_decay_at(jnp.int32(step), 0.999)) for step in (0, 90, 10**6)]
    assert decays == pytest.approx([0.1, 0.91, 0.999])


def test_the_average_is_no_alias():
    state = TrainState.init(line(), optax.adam(0.1))
    assert state.ema.slope.unsafe_buffer_pointer() != state.model.slope.unsafe_buffer_pointer()


def test_bfloat16_trains_float32_weights():
    state, losses = trained(100, 1, dtype="bfloat16")
    assert state.model.slope.dtype == state.ema.slope.dtype == jnp.float32
    assert losses[-1] < 0.01 * losses[0]
    assert losses != trained(100, 1)[1]  # it did compute in another precision


def test_cast_leaves_whole_numbers_alone():
    tree = cast({"w": jnp.ones(2), "n": jnp.int32(3)}, "bfloat16")
    assert tree["w"].dtype == jnp.bfloat16
    assert tree["n"].dtype == jnp.int32


def test_fit_stops_when_it_is_done():
    optimizer = optax.adam(0.1)
    step = make_train_step(loss, optimizer, steps=5)
    state = TrainState.init(line(), optimizer)
    seen = [int(state.step) for state, _ in fit(KEY, state, Numbers(), step, until=20)]
    assert seen == [5, 10, 15, 20]
    state = TrainState.init(line(), optimizer).replace(step=jnp.int32(20))
    assert list(fit(KEY, state, Numbers(), step, until=20)) == []


def test_the_optimizer_warms_up_and_comes_to_rest():
    optimizer, model = make_optimizer(100, 0.1, warmup=10), line()
    gradient = jax.tree.map(jnp.ones_like, model)

    @jax.jit
    def sizes(model):
        def body(state, _):
            updates, state = optimizer.update(gradient, state, model)
            return state, jnp.abs(updates.slope[0, 0])

        return jax.lax.scan(body, optimizer.init(model), None, length=100)[1]

    size = np.asarray(sizes(model))
    assert size[0] == 0
    assert size.argmax() == 10
    assert size.max() == pytest.approx(0.1, rel=0.01)
    assert size[-1] < 1e-3


def test_only_weights_decay_and_large_gradients_are_clipped():
    model = jax.tree.map(jnp.ones_like, line())
    optimizer = make_optimizer(10, 0.1, warmup=0, weight_decay=0.5)
    still = jax.tree.map(jnp.zeros_like, model)
    updates = one_update(optimizer, still, model)
    assert float(updates.slope[0, 0]) == pytest.approx(-0.05)
    assert float(updates.height[0]) == 0
    plain = make_optimizer(10, 0.1, warmup=0, clip=0.1)
    huge = jax.tree.map(lambda x: 1e6 * jnp.ones_like(x), model)
    _, state = jax.jit(plain.update)(huge, plain.init(model), model)
    [adam] = [
        s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")
    ]
    norm = float(optax.tree.norm(adam.mu))
    assert norm == pytest.approx(0.1 * 0.1, rel=1e-3)  # (1 - b1) times the clipped gradient


@struct.dataclass
class Layer:
    weight: jax.Array
    bias: jax.Array


def first_update(optimizer, model, seed=0):
    """What one step adds to a model, for a random gradient that is steeper in some directions."""
    dice = np.random.default_rng(seed)
    gradient = jax.tree.map(
        lambda x: np.float32(dice.normal(size=x.shape) * np.linspace(1, 6, x.shape[-1])), model
    )
    return one_update(optimizer, gradient, model), gradient


def one_update(optimizer, gradient, model):
    """In one program, not one for every operation of the optimizer."""

    @jax.jit
    def update(gradient, model):
        return optimizer.update(gradient, optimizer.init(model), model)[0]

    return update(gradient, model)


def test_layers_of_a_stack_decay_like_single_ones():
    """Every array of a stack has one axis more: its biases are no matrices for that."""
    for kind in ("adamw", "muon"):
        optimizer = make_optimizer(10, 0.1, kind=kind, warmup=0, weight_decay=0.5)
        stack = {"blocks": Layer(weight=jnp.ones((3, 4, 5)), bias=jnp.ones((3, 5)))}
        still = jax.tree.map(jnp.zeros_like, stack)
        updates = one_update(optimizer, still, stack)
        np.testing.assert_allclose(updates["blocks"].weight, -0.05, rtol=1e-5)
        assert not updates["blocks"].bias.any(), kind


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (3, 6, 10), (3, 3, 4, 8), (2, 3, 3, 4, 8)])
def test_muon_moves_every_direction_of_a_matrix_equally_far(shape):
    """Its singular values are the same but for what a few Newton-Schulz steps leave."""
    stacked, model = len(shape) % 2, Layer(weight=jnp.zeros(shape), bias=jnp.zeros(shape[-1]))
    optimizer = make_optimizer(100, 0.1, kind="muon", warmup=0, clip=1e9)
    updates, gradient = first_update(optimizer, model)
    rows = int(np.prod(shape[stacked:-1]))
    moved = np.reshape(updates.weight, (-1, rows, shape[-1]))
    before = np.reshape(gradient.weight, moved.shape)
    assert len(moved) == (shape[0] if stacked else 1)
    for update, slope in zip(moved, before, strict=True):
        values = np.linalg.svd(update, compute_uv=False)
        assert values.max() / values.min() < 2 < np.divide(*np.linalg.svd(slope)[1][[0, -1]])
        u, _, v = np.linalg.svd(slope, full_matrices=False)
        assert -np.vdot(update, u @ v) / np.linalg.norm(update) / np.sqrt(len(values)) > 0.97


def test_muon_leaves_vectors_to_adam():
    """Every number goes equally far against its gradient: a fifth of the rate."""
    stack = Layer(weight=jnp.zeros((3, 4, 5)), bias=jnp.zeros((3, 5)))
    updates, gradient = first_update(make_optimizer(100, 0.1, kind="muon", warmup=0), stack)
    size = float(jnp.abs(updates.bias[0, 0]))
    np.testing.assert_allclose(updates.bias, -size * np.sign(gradient.bias), rtol=1e-3)
    assert size == pytest.approx(0.02, rel=1e-3)
    assert np.ptp(np.abs(updates.weight)) > 1e-3


def test_both_optimizers_learn():
    optimizer = make_optimizer(300, 0.1, kind="muon", warmup=10)
    step = make_train_step(loss, optimizer, steps=300)
    state, metrics = step(KEY, TrainState.init(line(), optimizer), Numbers())
    assert metrics["loss"][-1] < 0.01 * metrics["loss"][0]
    assert float(state.model.slope[0, 0]) == pytest.approx(3, abs=0.2)


def test_a_constraint_holds_after_every_step():
    """The average too is of models that keep to it, and the step goes on from the bound."""

    def at_most_one(model):
        return model.replace(slope=jnp.minimum(model.slope, 1.0))

    state, losses = trained(100, 2, constrain=at_most_one)
    assert float(state.model.slope[0, 0]) == 1
    assert float(state.ema.slope[0, 0]) <= 1
    assert float(state.model.height[0]) == pytest.approx(-1, abs=0.5)
    assert losses[-1] > 0.5


def test_what_the_loss_logs_stands_beside_it():
    def chatty(key, model, batch):
        return loss(key, model, batch), {"slope": model.slope[0, 0], "rows": jnp.float32(16)}

    optimizer = optax.adam(0.1)
    step = make_train_step(chatty, optimizer, steps=5)
    state, metrics = step(KEY, TrainState.init(line(), optimizer), Numbers())
    assert set(metrics) == {"loss", "gradient_norm", "slope", "rows"}
    assert all(values.shape == (5,) for values in metrics.values())
    assert float(metrics["slope"][0]) == 0  # of the model before the step
    plain, losses = trained(5, 1)
    assert metrics["loss"].tolist() == losses
    np.testing.assert_array_equal(state.model.slope, plain.model.slope)


def test_cast_leaves_single_numbers_in_float32():
    tree = cast({"w": jnp.ones(2), "log_scale": jnp.float32(1.234567)}, "bfloat16")
    assert tree["log_scale"].dtype == jnp.float32
    assert float(tree["log_scale"]) == pytest.approx(1.234567, rel=1e-7)
