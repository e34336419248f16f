"""The procedural pictures: pure, differentiable, in range, and each factor to be seen."""

from functools import cache

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from minidiff.data import scenes as data
from minidiff.data.captions import full_caption_words, to_text
from minidiff.data.pictures import SUBJECT_COLOURS
from minidiff.data.scenes import FACTORS, SPLITS, UNSEEN_PAIRS, SceneSource
from minidiff.errors import InputError

EVERY_SUBJECT = np.arange(len(FACTORS["subject"]))
draw = jax.jit(data.scenes, static_argnums=1)
AT_ONCE = 32
render_at_once = jax.jit(data.render_batch, static_argnums=1)


def render_batch(scenes, size):
    """Pictures of any number of scenes, of which 32 are painted at once: a program for each size."""
    count = len(scenes.x)
    whole = -(-count // AT_ONCE) * AT_ONCE
    padded = jax.tree.map(lambda x: np.asarray(x)[np.arange(whole) % count], scenes)
    parts = [
        render_at_once(jax.tree.map(lambda x, i=i: x[i : i + AT_ONCE], padded), size)
        for i in range(0, whole, AT_ONCE)
    ]
    return np.concatenate(parts)[:count]


@cache
def batch_function(source):
    return jax.jit(source.batch)


@cache
def many(split, seed=0):
    """4,096 scenes of the split, on the host."""
    return jax.device_get(draw(seed, split, jnp.arange(4096)))


def few(split, count, seed=0):
    """The first of them."""
    return jax.tree.map(lambda x: x[:count], many(split, seed))


def canonical(**given):
    """Scenes without jitter: the subject in the middle, large, unless the factors given differ."""
    values = dict.fromkeys(FACTORS, 0) | {"size": 1, "position": 1} | given
    count = max(np.size(value) for value in values.values())
    values = {name: np.broadcast_to(np.int32(value), count) for name, value in values.items()}
    none = np.zeros(count, np.int32)
    zero = np.zeros(count, np.float32)
    return data.Scene(
        **values,
        second=none,
        second_subject=none,
        second_colour=none,
        x=data.CENTRE_X[values["position"]],
        y=zero - np.float32(0.14),
        radius=data.RADIUS[values["size"]],
        tilt=zero,
        rgb=SUBJECT_COLOURS[values["colour"]],
        second_rgb=SUBJECT_COLOURS[values["colour"]],
        horizon=zero - np.float32(0.3),
        background_shift=np.zeros((count, 3), np.float32),
    )


CONTINUOUS = ("x", "y", "radius", "tilt", "rgb", "horizon", "background_shift")


@jax.jit
def loss_and_slopes(parameters, scenes, target):
    """Squared error of each picture, and its gradient in the parameters of its own scene."""

    def loss(parameters):
        images = data.render_batch(scenes.replace(**parameters), 16)
        errors = jnp.sum((images - target) ** 2, (1, 2, 3))
        return jnp.sum(errors), errors

    (_, errors), slopes = jax.value_and_grad(loss, has_aux=True)(parameters)
    return errors, slopes


def continuous(scenes):
    return {name: getattr(scenes, name) for name in CONTINUOUS}


def dressed():
    """Every subject with every accessory, half of them striped."""
    accessory = np.arange(32) // 8
    subject = np.tile(np.arange(8), 4)
    return canonical(subject=subject, accessory=accessory, background=3, style=accessory % 2)


# A source is a pure function ----------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "pairs"])
def test_a_batch_is_the_same_whatever_was_asked_before(split):
    source = SceneSource(seed=3, split=split, batch_size=8)
    batch = batch_function(source)
    first = batch(5)
    batch(2)
    again = batch(5)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["image"], batch(6)["image"])


def test_an_example_does_not_depend_on_its_batch():
    batch = batch_function(SceneSource(batch_size=8))(3)
    indices = jnp.array([31, 24, 1_000_000, 0, 26])
    examples = jax.jit(SceneSource().examples)(indices)
    for name, value in batch.items():
        same = np.asarray(value)[[7, 0, 2]]
        np.testing.assert_allclose(np.asarray(examples[name])[[0, 1, 4]], same, atol=1e-6)


def test_compiled_and_eager_agree():
    scenes = few("train", 4)
    one = jax.tree.map(lambda x: x[1], scenes)
    np.testing.assert_allclose(data.render(one), render_batch(scenes, 16)[1], atol=1e-5)


def test_one_scene_is_what_the_batch_holds():
    together = render_batch(few("test", 4, seed=1), 16)
    alone = jax.jit(lambda index: data.render(data.scene(1, "test", index)))
    for index in range(4):
        np.testing.assert_allclose(alone(index), together[index], atol=1e-5)


def test_seeds_and_splits_differ():
    images = [render_batch(few("train", 4, seed), 16) for seed in (0, 1)]
    images += [render_batch(few(split, 4), 16) for split in SPLITS if split != "train"]
    for i, image in enumerate(images):
        assert all(np.abs(image - other).max() > 0.1 for other in images[:i])


def test_a_source_says_what_it_gives():
    source = SceneSource(size=32, batch_size=3)
    batch = batch_function(source)(0)
    assert source.name == "scenes"
    assert batch["image"].shape == (3, *source.image_shape)
    assert batch["factors"].shape == (3, 7)
    assert batch["words"].shape == (3, 16)
    assert [batch[name].dtype for name in ("image", "factors", "words")] == ["float32"] + [
        "int32"
    ] * 2
    captions = source.captions(batch)
    assert len(captions) == 3
    assert all(caption.split() for caption in captions)


def test_bad_input_is_told_in_one_line():
    with pytest.raises(InputError, match=r"'trian'.*train, test, unseen, pairs, two"):
        SceneSource(split="trian")
    with pytest.raises(InputError, match="'trian'"):
        data.scene(0, "trian", 0)
    with pytest.raises(InputError, match="size 7"):
        data.render(jax.tree.map(lambda x: x[0], canonical()), 7)


# Splits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_every_value_occurs_about_equally_often(split):
    scenes = many(split)
    for name, names in FACTORS.items():
        if split == "two" and name in ("accessory", "size", "position"):
            continue
        share = np.bincount(getattr(scenes, name), minlength=len(names)) / 4096
        assert share.shape == (len(names),), name
        np.testing.assert_allclose(share, 1 / len(names), atol=0.035, err_msg=name)


def test_unseen_pairs_are_seen_nowhere_else():
    assert sorted(subject for subject, _ in UNSEEN_PAIRS) == list(range(8))
    assert sorted(colour for _, colour in UNSEEN_PAIRS) == list(range(8))
    for split in SPLITS:
        scenes = many(split)
        pairs = set(zip(scenes.subject.tolist(), scenes.colour.tolist(), strict=True))
        if split == "unseen":
            assert pairs == set(UNSEEN_PAIRS)
        else:
            assert len(pairs) == 56
            assert not pairs & set(UNSEEN_PAIRS)


def test_pairs_differ_in_one_factor_and_in_no_jitter():
    scenes = many("pairs")
    even, odd = (jax.tree.map(lambda x, start=i: x[start::2], scenes) for i in (0, 1))
    different = np.stack([getattr(even, name) != getattr(odd, name) for name in FACTORS])
    assert (different.sum(0) == 1).all()
    assert (different.sum(1) > 200).all()  # of 2,048 pairs, a seventh for each factor
    assert np.array_equal(even.tilt, odd.tilt)
    assert np.array_equal(even.background_shift, odd.background_shift)
    same_size, same_position = even.size == odd.size, even.position == odd.position
    assert np.array_equal(even.radius[same_size], odd.radius[same_size])
    assert np.array_equal(even.x[same_position], odd.x[same_position])
    images = batch_function(SceneSource(split="pairs", batch_size=256))(0)["image"]
    # The least visible change is the style of a small object: a stripe or two, one pixel wide.
    assert np.abs(images[::2] - images[1::2]).sum((1, 2, 3)).min() > 4.0


def test_two_are_two_different_objects_side_by_side():
    scenes = many("two")
    assert (scenes.second == 1).all()
    assert (scenes.subject != scenes.second_subject).all()
    assert (scenes.colour != scenes.second_colour).all()
    assert (scenes.accessory == 0).all()
    assert 0.45 < (scenes.position == 0).mean() < 0.55
    assert np.array_equal(scenes.x > 0, scenes.position == 2)
    first = few("two", 16)
    images = render_batch(first, 32)
    for i, image in enumerate(images):
        for x, rgb in ((first.x[i], first.rgb[i]), (-first.x[i], first.second_rgb[i])):
            half = image[:, :16] if x < 0 else image[:, 16:]
            painted = np.abs(half - (2 * np.clip(rgb, 0, 1) - 1)).max(-1) < 0.02
            assert painted.sum() > 8
    for name in ("train", "pairs", "unseen"):
        assert (many(name).second == 0).all()


def test_size_and_position_do_not_overlap():
    scenes = many("train")
    for name, field in (("size", "radius"), ("position", "x")):
        values, jittered = getattr(scenes, name), getattr(scenes, field)
        for value in range(len(FACTORS[name]) - 1):
            assert jittered[values == value].max() + 0.05 < jittered[values == value + 1].min()


# Pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 16, 64])
def test_images_are_finite_and_in_range(size):
    images = render_batch(few("train", 32), size)
    assert images.shape == (32, size, size, 3)
    assert np.isfinite(images).all()
    assert images.min() >= -1.0
    assert images.max() <= 1.0
    assert images.std() > 0.3


@given(seed=st.integers(0, 2**31 - 1), index=st.integers(0, 2**31 - 1))
def test_any_seed_and_index_will_do(seed, index):
    scenes = draw(seed, "train", jnp.array([index], jnp.int32))
    assert np.isfinite(render_batch(scenes, 16)).all()


def test_values_differ_clearly_at_16_pixels():
    """The least mean absolute difference (of values in [-1, 1]) that a change of one factor makes.

    Of canonical scenes with a small subject, whatever the other three factors are. The hardest are
    a green square and a green disc at night, both in glasses, and the colour of a man's pullover
    under his scarf, which changes few pixels, but those by much.
    """
    least = {"subject": 0.018, "colour": 0.008, "background": 0.09, "accessory": 0.016}
    names = [FACTORS[name] for name in least]
    grid = np.indices([len(values) for values in names])
    flat = dict(zip(least, grid.reshape(len(least), -1), strict=True))
    images = render_batch(canonical(**flat, size=0), 16)
    images = images.reshape(*grid.shape[1:], -1)
    for axis, (name, bound) in enumerate(least.items()):
        values = np.moveaxis(images, axis, 0)
        apart = min(
            np.abs(first - second).mean(-1).min()
            for i, first in enumerate(values)
            for second in values[:i]
        )
        assert apart > bound, name


@pytest.mark.parametrize("accessory", ["hat", "glasses", "scarf"])
@pytest.mark.parametrize("size", [0, 1])
def test_nothing_is_cut_off_at_the_frame(accessory, size):
    """What is worn would not leave the frame: a larger frame around it shows no more of it."""
    worn = canonical(
        subject=EVERY_SUBJECT, accessory=FACTORS["accessory"].index(accessory), size=size
    )
    for x in (-0.29, 0.29):
        x, y = np.full(8, x, np.float32), np.full(8, -0.11, np.float32)
        extreme = worn.replace(x=x, y=y, radius=worn.radius + np.float32(0.015))
        bare = extreme.replace(accessory=np.zeros(8, np.int32))
        change = np.abs(render_batch(extreme, 64) - render_batch(bare, 64)).max(-1)
        assert change[:, 2:].max() > 0.5
        assert change[:, 0].max() < 0.05


@pytest.mark.parametrize("size", [16, 32])
def test_antialiasing_is_near_the_mean_of_a_finer_picture(size):
    """One sample a pixel is no exact area: thin lines and corners are off, the rest is close."""
    scenes = few("test", 64)
    fine = render_batch(scenes, 64)
    mean = fine.reshape(64, size, 64 // size, size, 64 // size, 3).mean((2, 4))
    error = np.abs(render_batch(scenes, size) - mean)
    assert error.mean() < 0.03
    assert np.quantile(error, 0.9) < 0.12
    # Without antialiasing the fine picture's corner pixel stands for all of them: clearly worse.
    coarse = np.abs(fine[:, :: 64 // size, :: 64 // size] - mean)
    assert error.mean() < 0.6 * coarse.mean()


def test_gradients_reach_every_continuous_parameter():
    scenes = dressed()
    scenes = scenes.replace(tilt=scenes.tilt + np.float32(0.03))
    elsewhere = scenes.replace(x=scenes.x + np.float32(0.05), rgb=scenes.rgb * np.float32(0.9))
    target = 0.5 * render_batch(elsewhere, 16)
    _, slopes = loss_and_slopes(continuous(scenes), scenes, target)
    for name, slope in slopes.items():
        assert np.isfinite(slope).all(), name
        size = np.abs(slope).reshape(32, -1).max(1)
        bare_disc = (scenes.subject == 3) & (scenes.accessory == 0)  # has no tilt to be seen
        assert (size[~bare_disc] > 1e-3).all(), (name, size)


def test_gradients_are_finite_in_singular_places():
    """A pixel's centre that is the centre of a shape, or lies on an axis of symmetry."""
    scenes = dressed()
    target = render_batch(scenes, 16)
    for x, y in ((1 / 16, 1 / 16), (1 / 16, -0.14), (0.0, 0.0)):
        moved = scenes.replace(x=np.full(32, x, np.float32), y=np.full(32, y, np.float32))
        _, slopes = loss_and_slopes(continuous(moved), moved, target)
        assert all(np.isfinite(slope).all() for slope in slopes.values())


def test_descent_finds_the_object():
    """What differentiable is for: where an object is and how large, from its picture alone."""
    truth = dressed()
    target = render_batch(truth, 16)
    guess = continuous(truth)
    guess |= {"x": truth.x + np.float32(0.06), "radius": truth.radius - np.float32(0.04)}
    first, _ = loss_and_slopes(guess, truth, target)
    for step in 0.01 * 0.93 ** np.arange(60):
        errors, slopes = loss_and_slopes(guess, truth, target)
        for name in ("x", "radius"):
            guess[name] = guess[name] - np.float32(step) * np.sign(slopes[name])
    assert np.median(errors / first) < 0.02
    np.testing.assert_allclose(np.median(np.abs(guess["x"] - truth.x)), 0.0, atol=0.005)


def test_factors_are_in_order():
    scenes = few("train", 4)
    values = data.factors(scenes)
    assert values.shape == (4, 7)
    for i, name in enumerate(FACTORS):
        assert np.array_equal(values[:, i], getattr(scenes, name))
    single = data.factors(jax.tree.map(lambda x: x[0], scenes))
    assert np.array_equal(single, values[0])


def test_full_captions_of_different_scenes_differ():
    shape = [len(names) for names in FACTORS.values()]
    values = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape))
    every = canonical(**dict(zip(FACTORS, values, strict=True)))
    captions = to_text(jax.jit(jax.vmap(full_caption_words))(every))
    assert len(set(captions)) == np.prod(shape) == len(captions)
