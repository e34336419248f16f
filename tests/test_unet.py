"""The U-Net's shapes, starts and gradients, and that it learns."""

import dataclasses
import itertools
from functools import cache, partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import towers
from hypothesis import given, settings

from minidiff.layers import Conv, count_parameters, depth_to_space, space_to_depth
from minidiff.layouts import describe
from minidiff.noising import noise_loss
from minidiff.schedules import linear_schedule
from minidiff.training.state import TrainState, cast, make_train_step
from minidiff.unet import Condition, UNet, UNetConfig

TINY = UNetConfig(image_channels=2, channels=(8, 16), attention=(1,), heads=2, groups=4)
# The same that looks at a text: at its states, of 6 numbers, and at one vector of 5 for the whole.
TOLD = dataclasses.replace(TINY, context=6, pooled=5)
KEY = jax.random.key(0)
SCHEDULE = linear_schedule(100, 1e-3, 0.2)


# Correct is enough here: XLA takes five times as long to optimise what draws the weights.
QUICK = {"xla_backend_optimization_level": 0}
init = jax.jit(UNet.init, static_argnums=1, compiler_options=QUICK)
stages_of = jax.jit(UNet.stages, compiler_options=QUICK)


@cache
def tiny(patch=1):
    if patch == 1:
        return init(KEY, TINY)
    ends = jax.random.split(jax.random.key(1))
    return tiny().replace(
        conv_in=Conv.init(ends[0], 2 * patch**2, 8),
        conv_out=Conv.init(ends[1], 8, 2 * patch**2, scale=1e-3),
        config=dataclasses.replace(TINY, patch=patch),
    )


@cache
def told():
    return init(KEY, TOLD)


def text(batch=4, tokens=3):
    rng = np.random.default_rng(1)
    states, pooled = rng.normal(size=(batch, tokens, 6)), rng.normal(size=(batch, 5))
    return Condition(jnp.float32(states), jnp.float32(pooled))


def images(batch=4, side=8):
    return jnp.float32(np.random.default_rng(0).uniform(-1, 1, size=(batch, side, side, 2)))


@pytest.mark.parametrize("patch", [1, 2])
def test_it_answers_in_the_shape_of_what_it_is_asked(patch):
    t = jnp.array([0, 1, 50, 99])
    out = stages_of(tiny(patch), images(), t)["out"]
    assert out.shape == (4, 8, 8, 2)
    assert out.dtype == jnp.float32
    assert 0 < np.abs(out).max() < 0.1  # near zero at the start, not at it


def test_samples_do_not_see_each_other():
    net, x, t = tiny(), images(), jnp.array([0, 1, 50, 99])
    other = stages_of(net, jnp.flip(x, 0).at[2].set(x[2]), jnp.array([7, 8, 50, 9]))
    for name, stage in stages_of(net, x, t).items():
        np.testing.assert_allclose(stage[2], other[name][2], atol=1e-5, err_msg=name)
        assert np.abs(stage[0] - other[name][0]).max() > 1e-5, name


def test_it_sees_the_time():
    net, x = tiny(), jnp.tile(images(1), (4, 1, 1, 1))
    out = np.asarray(stages_of(net, x, jnp.array([0, 10, 50, 99]))["middle"])
    for a, b in itertools.combinations(range(4), 2):
        assert np.abs(out[a] - out[b]).max() > 1e-5  # little at the start, for blocks add little


@pytest.mark.parametrize("kind", ["plain", pytest.param("patches", marks=pytest.mark.long), "told"])
def test_every_parameter_gets_a_gradient(kind):
    """Within three steps, element by element: from the very small initial weights too.

    All but the bias of the attention keys. It adds the same to every score of a query, which the
    softmax takes away again: its gradient is zero but for rounding. Where there is a text there is
    no such bias.
    """
    if kind == "told":  # one level, to compile less
        net = init(KEY, dataclasses.replace(TOLD, channels=(8,), attention=(0,)))
    else:
        net = tiny(2 if kind == "patches" else 1)
    condition = text(8) if kind == "told" else None
    x0, optimizer = images(8), optax.adam(1e-2)

    def loss(net, key):
        return noise_loss(key, lambda xt, t: net(xt, t, condition), SCHEDULE, x0)

    @partial(jax.jit, compiler_options=QUICK)
    def three_steps(net):
        def body(carry, key):
            net, opt_state = carry
            gradient = jax.grad(loss)(net, key)
            with jax.numpy_dtype_promotion("standard"):  # optax divides by its integer count
                updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(net, updates), opt_state), jax.tree.map(jnp.abs, gradient)

        _, sizes = jax.lax.scan(body, (net, optimizer.init(net)), jax.random.split(KEY, 3))
        return jax.tree.map(lambda size: size.max(0), sizes)

    dead = []
    for path, size in jax.tree_util.tree_leaves_with_path(three_steps(net)):
        name = jax.tree_util.keystr(path)
        size = np.asarray(size)
        if name.endswith(".attention.key.bias"):
            assert size.max() < 1e-6, name
        elif size.min() == 0 or size.max() < 1e-6:
            dead.append((name, size.min(), size.max()))
    assert not dead


@pytest.mark.parametrize("net", [tiny, told])
def test_no_two_weights_start_alike(net):
    """Of one shape, up to scale: two layers that were given one key would be the same."""
    by_shape = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(net()):
        if leaf.ndim > 1:
            leaf = np.asarray(leaf, np.float64).ravel()
            by_shape.setdefault(leaf.size, []).append((jax.tree_util.keystr(path), leaf))
    pairs = [pair for group in by_shape.values() for pair in itertools.combinations(group, 2)]
    assert len(pairs) > 50
    for (a, first), (b, second) in pairs:
        alike = abs(np.corrcoef(first, second)[0, 1])
        assert alike < 0.8, f"{a} and {b} start alike"


T = jnp.array([0, 1, 50, 99])


def shaken_told():
    """As after some training: the blocks, which start as their shortcuts, have something to say."""
    return towers.shaken(told())


def test_the_text_is_seen():
    """By its own sample alone, in the states and in the pooled vector, at every stage after."""
    net, x, said = shaken_told(), images(), text()
    before = stages_of(net, x, T, said)
    states = stages_of(net, x, T, said.replace(states=said.states.at[1, 2].add(1.0)))
    pooled = stages_of(net, x, T, said.replace(pooled=said.pooled.at[1, 0].add(1.0)))
    for name, stage in before.items():
        for after, deaf in ((states, ("time", "conv_in", "down.0")), (pooled, ("conv_in",))):
            moved = np.abs(np.asarray(after[name] - stage)).reshape(4, -1).max(1)
            assert (moved[1] > 1e-4) != name.startswith(deaf), name
            np.testing.assert_allclose(moved[[0, 2, 3]], 0, atol=1e-5, err_msg=name)


def test_samples_do_not_see_each_others_text():
    net, x, said = shaken_told(), images(), text()
    other = Condition(
        jnp.flip(said.states, 0).at[2].set(said.states[2]),
        jnp.flip(said.pooled, 0).at[2].set(said.pooled[2]),
    )
    found, mixed = stages_of(net, x, T, said)["out"], stages_of(net, x, T, other)["out"]
    np.testing.assert_allclose(mixed[2], found[2], atol=1e-5)
    assert np.abs(np.asarray(mixed - found))[[0, 1, 3]].reshape(3, -1).max(1).min() > 1e-4


def test_a_text_of_any_length():
    for tokens in (1, 7):
        call = partial(jax.eval_shape, lambda net, said: net(images(), T, said))
        assert call(told(), text(tokens=tokens)).shape == (4, 8, 8, 2)


def test_states_alone_are_a_condition_of_a_network_without_pooled_text():
    net = init(KEY, dataclasses.replace(TOLD, channels=(8,), attention=(), pooled=None))
    found = stages_of(net, images(), T, text().states)["out"]
    # A pooled text that it does not want is not looked at.
    np.testing.assert_allclose(stages_of(net, images(), T, text())["out"], found, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "condition", "said"),
    [
        (TINY, "states", "no attention to a text: call it as unet"),
        (TINY, "whole", "no attention to a text"),
        (TOLD, "nothing", "wants one vector for the whole text"),
        (TOLD, "states", "wants one vector for the whole text"),
        (TOLD, "no pooled", "wants one vector for the whole text"),
        (TOLD, "no states", "looks at a text"),
        (dataclasses.replace(TOLD, pooled=None), "nothing", "looks at a text"),
        (dataclasses.replace(TINY, pooled=5), "nothing", "wants one vector for the whole text"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(config, condition, said):
    whole = text()
    condition = {
        "nothing": None,
        "states": whole.states,
        "whole": whole,
        "no pooled": whole.replace(pooled=None),
        "no states": whole.replace(states=None),
    }[condition]
    net = jax.eval_shape(lambda: UNet.init(KEY, config))
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(lambda net: net(images(), T, condition), net)


def test_a_pooled_text_alone_is_a_condition():
    config = dataclasses.replace(TINY, pooled=5)
    net = jax.eval_shape(lambda: UNet.init(KEY, config))
    condition = Condition(None, text().pooled)
    out = jax.eval_shape(lambda net: net(images(), T, condition), net)
    assert out.shape == (4, 8, 8, 2)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("blocks", [1, 2])
def test_describe_tells_the_real_shapes(patch, blocks):
    config = dataclasses.replace(TINY, patch=patch, blocks=blocks)
    rows = describe(config, 8)
    shapes = jax.eval_shape(lambda: UNet.init(KEY, config))
    assert sum(count for _, _, count in rows) == count_parameters(shapes)
    assert all(count > 0 for _, _, count in rows)
    assert len({name for name, _, _ in rows}) == len(rows)
    if blocks == 1:
        stages = stages_of(tiny(patch), images(), jnp.array([0, 1, 50, 99]))
        assert {name: shape for name, shape, _ in rows} == {
            name: stage.shape[1:] for name, stage in stages.items()
        }
        assert count_parameters(tiny(patch)) == count_parameters(shapes)


def test_the_default_has_the_size_of_its_peer():
    """1,063,651: diffusers' UNet2DModel(block_out_channels=(32, 64, 64), layers_per_block=1,

    norm_num_groups=8), for which this layout is the same block for block.
    """
    assert sum(count for _, _, count in describe(UNetConfig(), 16)) == 1_063_651
    assert UNetConfig.sized(32) == UNetConfig()
    assert UNetConfig.sized(16, patch=2).channels == (16, 32, 32)


def test_describing_a_large_one_allocates_nothing():
    rows = describe(UNetConfig(channels=(4096,) * 4, blocks=3, groups=32), 64)
    assert sum(count for _, _, count in rows) > 5e9


@settings(max_examples=6)
@given(
    patch=st.integers(1, 4),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    channels=st.integers(1, 3),
)
def test_folding_patches_and_back(patch, rows, columns, channels):
    shape = (2, rows * patch, columns * patch, channels)
    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    folded = space_to_depth(x, patch)
    assert folded.shape == (2, rows, columns, patch * patch * channels)
    np.testing.assert_array_equal(depth_to_space(folded, patch), x)
    square = x[0, :patch, :patch].reshape(-1)  # one position is one square of pixels
    np.testing.assert_array_equal(folded[0, 0, 0], square)


def test_an_image_that_cannot_be_halved_is_refused():
    config = UNetConfig(channels=(8, 8, 8), patch=2)
    config.check_image(16)
    with pytest.raises(ValueError, match="side 12 is not a multiple of 8"):
        config.check_image(12)
    with pytest.raises(ValueError, match="side 12 is not a multiple of 8"):
        describe(config, 12)


def test_an_ensemble_is_a_vmap():
    keys, x, t = jax.random.split(KEY, 3), images(), jnp.array([0, 1, 50, 99])
    shapes = jax.eval_shape(jax.vmap(lambda key: UNet.init(key, TINY)), keys)
    assert count_parameters(shapes) == 3 * count_parameters(tiny())
    nets = [jax.tree.map(lambda leaf, i=i: leaf * (1 + i), tiny()) for i in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    vmapped = jax.jit(jax.vmap(lambda net: net(x, t)), compiler_options=QUICK)
    for net, found in zip(nets, vmapped(stacked), strict=True):
        np.testing.assert_allclose(found, stages_of(net, x, t)["out"], atol=1e-5)


@pytest.mark.parametrize("condition", [None, text()], ids=["plain", "told"])
def test_low_precision_weights_compute_in_low_precision(condition):
    net, x, t = told() if condition else tiny(), images(), jnp.array([0, 1, 50, 99])
    exact = stages_of(net, x, t, condition)
    low = stages_of(cast(net, jnp.bfloat16), x, t, condition)
    for name, stage in low.items():
        assert stage.dtype == jnp.bfloat16, name
        size = np.abs(exact[name]).max()
        np.testing.assert_allclose(
            stage.astype(jnp.float32), exact[name], atol=0.06 * size, err_msg=name
        )


class OneBatch:
    """The same eight images at every step."""

    def batch(self, step):
        del step
        return {"image": images(8)}


jax.tree_util.register_static(OneBatch)


def test_it_overfits_one_batch():
    """150 steps: from 1, for it begins as the denoiser that sees no noise, to less than 0.35."""

    def loss(key, model, batch):
        return noise_loss(key, model, SCHEDULE, batch["image"])

    optimizer = optax.adam(5e-3)
    step = make_train_step(loss, optimizer, steps=150)
    net = init(KEY, dataclasses.replace(TINY, channels=(8,), attention=()))
    # The state is donated: train a copy.
    state = TrainState.init(jax.tree.map(jnp.copy, net), optimizer)
    state, metrics = step(KEY, state, OneBatch())
    losses = np.asarray(metrics["loss"])
    assert abs(losses[0] - 1) < 0.2
    assert losses[-30:].mean() < 0.35
    for (path, now), start in zip(
        jax.tree_util.tree_leaves_with_path(state.model), jax.tree.leaves(net), strict=True
    ):
        assert not np.array_equal(now, start), f"{jax.tree_util.keystr(path)} is frozen"
