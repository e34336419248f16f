"""What --data understands: the sources, their order, their splits and their descriptions."""

import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hypothesis import given
from hypothesis import strategies as st

from minidiff.data import kinds
from minidiff.data.arrays import ArraySource, Facts, shuffled
from minidiff.data.describe import describe
from minidiff.data.kinds import SPECS
from minidiff.data.sources import Source, Wrapper, drawn, open_source
from minidiff.errors import InputError
from minidiff.tokenizer import Tokenizer


@jax.jit
def indices_of(source, step):
    return source.batch(step)["index"]


def array_source(count=7, batch_size=3, seed=0):
    images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1)
    return ArraySource.init("test", images, np.arange(count) % 3, seed=seed, batch_size=batch_size)


# The order of examples


@pytest.mark.parametrize(("count", "batch_size"), [(1, 3), (7, 3), (6, 6), (5, 12), (100, 32)])
def test_every_epoch_shows_every_example_once(count, batch_size):
    source = array_source(count, batch_size)
    steps = -(-3 * count // batch_size)
    order = np.concatenate([indices_of(source, step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_positions_count_on_after_as_many_batches_as_there_are_examples():
    source = array_source(count=7, batch_size=3)  # step 7 begins the fourth epoch
    order = np.concatenate([indices_of(source, step) for step in range(7, 14)])
    assert all(sorted(order[i : i + 7]) == list(range(7)) for i in (0, 7, 14))


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_a_batch_depends_on_seed_and_step_alone(steps, seed):
    source, again = array_source(seed=seed), array_source(seed=seed)
    asked = {step: np.asarray(indices_of(source, step)) for step in steps}
    for step in reversed(steps):
        order = indices_of(again, step)
        assert np.array_equal(order, asked[step])
        assert np.all((order >= 0) & (order < source.count))


def test_late_steps_do_not_overflow():
    source = array_source(count=1000, batch_size=500)
    last = 2**31 - 2
    two_batches = np.concatenate([indices_of(source, last), indices_of(source, last + 1)])
    assert sorted(two_batches) == list(range(1000))


def test_epochs_and_seeds_differ():
    first = np.asarray(indices_of(array_source(100, 100), 0))
    assert not np.array_equal(first, indices_of(array_source(100, 100), 1))
    assert not np.array_equal(first, indices_of(array_source(100, 100, seed=1), 0))
    assert not np.array_equal(first, np.arange(100))


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 300])
def test_shuffled_is_a_bijection(count):
    places = jnp.arange(count, dtype=jnp.uint32)
    shuffle = jax.jit(lambda epoch: shuffled(jnp.uint32(5), epoch, places, count))
    for epoch in (0, 1, 1000, 2**32 - 1):
        assert sorted(np.asarray(shuffle(jnp.full(count, epoch, jnp.uint32)))) == list(range(count))


def test_every_example_comes_to_every_place():
    count, epochs = 10, 4000
    epoch = jnp.repeat(jnp.arange(epochs, dtype=jnp.uint32), count)
    place = jnp.tile(jnp.arange(count, dtype=jnp.uint32), epochs)
    order = np.asarray(jax.jit(shuffled, static_argnums=3)(jnp.uint32(0), epoch, place, count))
    order = order.reshape(epochs, count)
    tally = np.stack([np.bincount(order[:, i], minlength=count) for i in range(count)])
    assert tally.min() > 320  # 400 expected, standard deviation 19
    assert tally.max() < 480
    neighbours = np.mean(np.abs(order[:, 1:] - order[:, :-1]))
    assert abs(neighbours - (count + 1) / 3) < 0.1  # of two different numbers below 10


# ArraySource


def test_batches_are_floats_between_minus_one_and_one():
    images = np.array([0, 255, 51], np.uint8).reshape(3, 1, 1, 1)
    batch = ArraySource.init("test", images).examples(jnp.arange(3))
    assert batch["image"].dtype == jnp.float32
    np.testing.assert_allclose(batch["image"].ravel(), [-1, 1, -0.6], atol=1e-6)
    assert "label" not in batch


def test_labels_go_with_their_images():
    source = array_source(count=9, batch_size=9)
    batch = source.batch(2)
    np.testing.assert_array_equal(batch["label"], np.arange(9)[batch["index"]] % 3)
    expected = np.asarray(source.images)[batch["index"]] / 127.5 - 1
    np.testing.assert_allclose(batch["image"], expected, atol=1e-6)


def test_the_source_is_an_argument_of_compiled_functions_and_traced_once():
    traces = []

    @jax.jit
    def step(source, number):
        traces.append(number)
        return source.batch(number)["image"].sum()

    facts = [Facts(captions=tuple("ab"), class_names=("x",)) for _ in range(2)]
    images = np.zeros((2, 4, 4, 1), np.uint8)
    for seed, fact in enumerate(facts):  # another seed, and equal facts: the same program
        step(ArraySource.init("test", images + seed, seed=seed, facts=fact), seed)
    assert len(traces) == 1
    assert len(jax.tree.leaves(array_source())) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": np.zeros((0, 2, 2, 1), np.uint8)}, "has no images"),
        ({"batch_size": 0}, "at least 1"),
        ({"seed": -1}, "from 0 to"),
        ({"batch_size": 2**31}, "below 2"),
    ],
)
def test_bad_arrays_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ArraySource.init("test", **{"images": np.zeros((3, 2, 2, 1), np.uint8), **settings})


# open_source


@pytest.mark.parametrize("spec", ["", "mnist", "digits:train", "folder", "folder:", "tfds:", "x:y"])
def test_an_unknown_source_is_one_line_that_lists_the_known_ones(spec):
    with pytest.raises(InputError, match=r"scenes, digits, tfds:NAME.*folder:PATH") as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 18}, "multiple of 4"),
        ({"size": 4}, "from 8"),
        ({"batch_size": 0}, "at least 1"),
        ({"split": "valid"}, "no split 'valid', only train and test"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        open_source("digits", **settings)
    with pytest.raises(InputError):
        open_source("scenes", **settings)


def test_digits_are_real_digits_enlarged():
    native, enlarged = open_source("digits", size=8), open_source("digits")
    assert native.image_shape == (8, 8, 1)
    assert enlarged.image_shape == (16, 16, 1)
    assert native.count == 1438
    assert np.asarray(native.images).max() == 255
    small = np.asarray(enlarged.images, float).reshape(-1, 8, 2, 8, 2, 1).mean((2, 4))
    assert np.corrcoef(small.ravel(), np.asarray(native.images).ravel())[0, 1] > 0.95  # smoothed


def test_digits_split_is_the_same_for_every_seed_and_disjoint():
    train = open_source("digits", size=8, seed=1)
    test = open_source("digits", size=8, split="test", seed=2)
    assert train.count + test.count == 1797
    np.testing.assert_array_equal(train.labels, open_source("digits", size=8, seed=7).labels)
    keys = {image.tobytes() for image in np.asarray(train.images)}
    shared = sum(image.tobytes() in keys for image in np.asarray(test.images))
    assert shared <= 2  # digits holds hardly any exact copies of its own
    assert min(np.bincount(test.labels)) > 20


@pytest.mark.parametrize("spec", ["digits", "scenes"])
def test_every_source_serves_batches_and_captions(spec):
    source = open_source(spec, batch_size=4)
    batch = jax.jit(lambda source, step: source.batch(step))(source, 3)
    assert batch["image"].shape == (4, *source.image_shape)
    assert source.name == spec
    captions = source.captions(batch)
    assert len(captions) == 4
    if spec == "digits":
        names = source.facts.class_names
        assert captions == [f"the digit {names[label]}" for label in batch["label"]]


# Each answers for itself


@struct.dataclass
class Halved(Wrapper):
    source: Source

    @property
    def image_shape(self):
        height, width, channels = self.source.image_shape
        return height // 2, width // 2, channels

    def transform(self, batch):
        return {**batch, "image": batch["image"][:, ::2, ::2]}


@pytest.mark.parametrize("spec", ["digits", "scenes"])
def test_sources_and_what_is_made_of_them_answer_every_question(spec):
    source = open_source(spec, size=8, batch_size=4)
    tokenizer = Tokenizer.from_merges(())
    halved = Halved(source)
    for each in (source, source.tokenized(tokenizer), halved, halved.tokenized(tokenizer)):
        assert isinstance(each, Source)
        assert (each.name, each.batch_size, each.count) == (spec, 4, source.count)
        assert each.class_names == source.class_names
        assert each.factors == source.factors
        assert each.sample_captions(3) == source.sample_captions(3)
    assert (source.factors is None, source.class_names is None) == (
        (True, False) if spec == "digits" else (False, True)
    )


def test_a_source_made_of_another_changes_what_it_says_and_nothing_else():
    source = open_source("digits", size=8, batch_size=4)
    told = Halved(source).tokenized(Tokenizer.from_merges(()))
    plain, batch = drawn(source.tokenized(Tokenizer.from_merges(())), 3), drawn(told, 3)
    assert batch["image"].shape == (4, *told.image_shape) == (4, 4, 4, 1)
    np.testing.assert_array_equal(batch["image"], plain["image"][:, ::2, ::2])
    for name in ("ids", "label", "index"):
        np.testing.assert_array_equal(batch[name], plain[name])
    assert told.captions(batch) == source.captions(plain)
    assert describe(told)["image_shape"] == [4, 4, 1]


def test_a_module_and_a_line_in_the_table_make_a_source(monkeypatch):
    module = types.ModuleType("minidiff.data.attic")
    source, asked = open_source("scenes"), []
    module.attic_source = lambda rest, **settings: asked.append((rest, settings)) or source
    monkeypatch.setitem(sys.modules, "minidiff.data.attic", module)
    monkeypatch.setitem(kinds.KINDS, "attic:BOX", "attic:attic_source")
    settings = {"seed": 3, "split": "test", "size": None, "batch_size": 5}
    assert open_source("attic:old toys", **settings) is source
    assert asked == [("old toys", settings)]
    with pytest.raises(InputError, match="unknown data 'attic:'"):
        open_source("attic:")


def test_a_package_that_is_missing_is_named(monkeypatch):
    def attic_source(rest, **settings):
        import nowhere_to_be_found.at_all  # noqa: F401

    module = types.ModuleType("minidiff.data.attic")
    module.attic_source = attic_source
    monkeypatch.setitem(sys.modules, "minidiff.data.attic", module)
    monkeypatch.setitem(kinds.KINDS, "attic", "attic:attic_source")
    with pytest.raises(InputError, match="'attic' needs the package nowhere_to_be_found, ") as told:
        open_source("attic")
    assert "\n" not in str(told.value)
    monkeypatch.setitem(kinds.KINDS, "attic", "cellar:cellar_source")
    with pytest.raises(ModuleNotFoundError):  # a fault of ours, not of the user
        open_source("attic")


def test_the_table_is_what_is_told():
    assert SPECS == ("scenes, digits, tfds:NAME, tfds:NAME:SPLIT, stream:tfds:NAME or folder:PATH")


# describe


def test_describe_counts_and_measures():
    images = np.zeros((4, 2, 2, 1), np.uint8)
    images[0], images[1, 0, 0] = 255, 255
    facts = Facts(("one", "", "", ""), ("cat", "dog", "owl"), ("3 of 4 images have no caption",))
    source = ArraySource.init("test", images, np.array([0, 0, 0, 1]), facts=facts)
    report = describe(source)
    assert report["count"] == report["examined"] == 4
    assert report["range"] == [-1, 1]
    np.testing.assert_allclose(report["mean"], [-1 + 2 * 5 / 16])
    np.testing.assert_allclose(report["std"], [np.std([2] * 5 + [0] * 11)])
    assert report["labels"] == {"cat": 3, "dog": 1, "owl": 0}
    assert report["captions"] == 1
    problems = " | ".join(report["problems"])
    for expected in (
        "3 of 4 images have no caption",
        "3 image(s) of one flat colour",
        "1 image(s) are copies",
        "fewer than a batch of 64",
        "no image of class owl",
    ):
        assert expected in problems
    json.dumps(report)


@pytest.mark.parametrize("spec", ["digits", "scenes"])
def test_describe_finds_nothing_wrong_with_our_own_sources(spec):
    report = describe(open_source(spec))
    assert not [remark for remark in report["problems"] if "copies" not in remark]
    assert report["captions"] == report["examined"]
    json.dumps(report)
    if spec == "scenes":
        assert report["count"] is None
        assert sum(report["factors"]["subject"].values()) == report["examined"]


def test_importing_sources_is_light():
    code = (
        "import sys, minidiff.data.sources as s; s.open_source('scenes'); "
        "print([m for m in ('sklearn', 'PIL', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
