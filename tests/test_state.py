"""The training state and its step, on a model small enough to work out by hand."""

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


def trained(steps, calls, **settings):
    optimizer = optax.adam(0.1)
    step = make_train_step(loss, optimizer, steps=steps, **settings)
    state, losses = TrainState.init(line(), optimizer), []
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
    updates, _ = optimizer.update(still, optimizer.init(model), model)
    assert float(updates.slope[0, 0]) == pytest.approx(-0.05)
    assert float(updates.height[0]) == 0
    plain = make_optimizer(10, 0.1, warmup=0, clip=0.1)
    huge = jax.tree.map(lambda x: 1e6 * jnp.ones_like(x), model)
    _, state = plain.update(huge, plain.init(model), model)
    [adam] = [
        s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")
    ]
    norm = float(optax.tree.norm(adam.mu))
    assert norm == pytest.approx(0.1 * 0.1, rel=1e-3)  # (1 - b1) times the clipped gradient
