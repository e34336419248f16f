"""A stream serves what the same data would serve in memory: that is the oracle of nearly every test."""

import io
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorflow_datasets as tfds
import tiny
from array_record.python import array_record_module
from flax import struct
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minidiff.cli import main
from minidiff.data import builders, folder, records, tokens
from minidiff.data import stream as streams
from minidiff.data.arrays import shuffled
from minidiff.data.describe import describe
from minidiff.data.sources import check_captions, drawn, open_source
from minidiff.data.stream import AHEAD, Stream, feed
from minidiff.data.tokens import some_captions
from minidiff.errors import InputError
from minidiff.text import Tokenizer
from minidiff.training.run import Run
from minidiff.training.state import TrainState, fit, make_train_step

COUNTS = {"train": 37, "test": 50}
WORDS = ("red", "green", "grey", "tiny")


class Noise(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Random pictures, as PNG or as they are, each with a label, a caption and a thing unused."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("png", "raw")]  # noqa: RUF012

    def _info(self):
        raw = tfds.features.Tensor(
            shape=(8, 8, 3), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
        )
        features = {
            "image": raw
            if self.builder_config.name == "raw"
            else tfds.features.Image(shape=(8, 8, 3)),
            "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
            "caption": tfds.features.Text(),
            "id": np.int64,
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in COUNTS.items()}

    def _generate_examples(self, count):
        dice = np.random.default_rng(count)
        for i in range(count):
            caption = " ".join(dice.choice(WORDS, 1 + i % 5))
            image = dice.integers(0, 256, (8, 8, 3), np.uint8)
            if self.builder_config.name == "png":
                image = Image.fromarray(image)
            yield i, {"image": image, "label": i % 3, "caption": caption, "id": i}


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    with builders.quietly():
        for config in ("png", "raw"):
            Noise(data_dir=data_dir, config=config).download_and_prepare(file_format="array_record")
    return data_dir


@pytest.fixture(autouse=True)
def data_dir(noise, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(noise))
    return noise


def both(spec="tfds:noise/raw", **settings):
    """(in memory, as a stream)."""
    return tuple(open_source(prefix + spec, **settings) for prefix in ("", "stream:"))


def same(ours, theirs):
    assert set(ours) == set(theirs)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name], name)


@jax.jit
def batch_of(source, step):
    return source.batch(step)


# The order


@pytest.mark.parametrize("config", ["png", "raw"])
@pytest.mark.parametrize(("seed", "batch_size"), [(0, 8), (2**32 - 1, 37), (5, 100), (1, 1)])
def test_batches_are_those_of_the_data_in_memory(config, seed, batch_size):
    memory, stream = both(f"tfds:noise/{config}", seed=seed, batch_size=batch_size)
    assert isinstance(stream, Stream)
    assert (stream.name, stream.count) == (memory.name, 37)
    assert stream.image_shape == memory.image_shape
    for step in (0, 4, 36, 37, 10**6, 2**31 - 1):
        expected = batch_of(memory, step)
        same(stream.batch(step), expected)
        assert stream.captions(stream.batch(step)) == memory.captions(expected)


compiled_order = jax.jit(shuffled, static_argnums=3)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**31 - 1), st.sampled_from([1, 2, 3, 37, 65_537]))
def test_the_order_is_that_of_the_compiled_program(seed, step, count):
    class Many:
        name = "many"

        def __len__(self):
            return count

    ours = Stream(Many(), seed, batch_size=16).order(step, 1)[0]
    epoch, place = np.divmod(step * 16 + np.arange(16), count)
    theirs = compiled_order(
        np.uint32(seed), epoch.astype(np.uint32), place.astype(np.uint32), count
    )
    np.testing.assert_array_equal(ours, theirs)


def test_every_epoch_shows_every_record_once_and_epochs_and_seeds_differ():
    _, stream = both(batch_size=10)
    order = stream.order(0, 37).ravel()  # ten epochs
    epochs = order.reshape(10, 37)
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    assert not np.array_equal(both(seed=1, batch_size=10)[1].order(0, 37).ravel(), order)


@pytest.mark.parametrize("first", [0, 3, 12])
def test_a_run_is_fed_from_the_step_where_it_goes_on(first):
    memory, stream = both(batch_size=8, seed=4)
    steps = iter(range(first, 22))
    for fed in feed(stream, first, 5, 22):
        for step in range(int(fed.first), min(int(fed.first) + 5, 22)):
            assert step == next(steps)
            same(batch_of(fed, step), batch_of(memory, step))
        assert fed.arrays["image"].dtype == np.uint8  # a quarter of the way to the device
    assert not list(steps)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_rows_of_all_processes_are_the_batch(processes):
    memory, stream = both(batch_size=8)
    parts = [
        feed(stream, 2, 3, 8, process=process, processes=processes) for process in range(processes)
    ]
    for step, fed in zip((2, 5), zip(*parts, strict=True), strict=True):
        batches = [batch_of(part, step + 1) for part in fed]
        assert all(len(batch["image"]) == 8 // processes for batch in batches)
        whole = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        same(whole, batch_of(memory, step + 1))


def test_a_process_reads_its_rows_alone(monkeypatch):
    _, stream = both(batch_size=8)
    seen = []
    read = stream.records.read
    monkeypatch.setattr(stream.records, "read", lambda n, *k: seen.extend(n) or read(n, *k))
    list(feed(stream, 0, 2, 2, process=1, processes=4))
    assert seen == stream.order(0, 2)[:, 2:4].ravel().tolist()
    with pytest.raises(InputError, match="batch_size=8 is not divided by 3 processes"):
        next(feed(stream, 0, 1, 1, process=0, processes=3))


def test_feed_leaves_other_sources_alone():
    memory, _ = both()
    given = list(feed({"a": memory}, 0, 5, 20))
    assert len(given) == 4
    assert all(each["a"] is memory for each in given)


def test_feed_lets_its_caller_place_the_arrays():
    _, stream = both(batch_size=4)

    def place(batches):
        return jax.tree.map(lambda x: jax.device_put(x, jax.devices()[0]), batches)

    [fed] = feed((stream, 1.0), 0, 2, 2, place=place)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(fed[0]))
    assert fed[1] == 1.0


# Reading ahead


def test_memory_is_flat(monkeypatch):
    """Never more than the call in use, the one waited for and those read in advance."""
    _, stream = both(batch_size=4)
    begun, taken, most = [], 0, []
    lock = threading.Lock()
    order = Stream.order

    def counted(self, *args):
        with lock:
            begun.append(args[0])
            most.append(len(begun) - taken)
        return order(self, *args)

    monkeypatch.setattr(Stream, "order", counted)
    for _ in feed(stream, 0, 2, 80):
        taken += 1
    assert sorted(begun) == list(range(0, 80, 2))  # each is read once
    assert max(most) <= AHEAD + 1


def grain_threads():
    return [thread for thread in threading.enumerate() if "grain" in thread.name]


@pytest.mark.parametrize("ending", ["all", "closed", "left"])
def test_its_threads_end_with_it(ending):
    _, stream = both(batch_size=4)
    before = set(grain_threads())
    calls = feed(stream, 0, 2, 10**9 if ending != "all" else 8)
    next(calls)
    mine = set(grain_threads()) - before
    assert mine
    if ending == "all":
        list(calls)
    elif ending == "closed":
        calls.close()
    else:
        del calls
    for thread in mine:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_a_process_ends_while_it_reads_ahead():
    code = (
        "from minidiff.data.sources import open_source; from minidiff.data.stream import feed; "
        "calls = feed(open_source('stream:tfds:noise/raw'), 0, 9, 10**9); next(calls); print('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout == "end\n"
    assert done.stderr == ""


def test_a_call_that_is_too_large_names_the_limit(monkeypatch):
    _, stream = both(batch_size=4)
    monkeypatch.setattr(streams, "MOST_BYTES", 5 * 4 * 8 * 8 * 3)
    assert len(list(feed(stream, 0, 5, 5))) == 1
    with pytest.raises(
        InputError, match=r"6 steps of tfds:noise/raw .* set log_every to 5 or less"
    ):
        next(feed(stream, 0, 6, 6))


# Damage


def png(mode="RGB", size=(8, 8)):
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


def readable(file, number):
    try:
        return bool(array_record_module.ArrayRecordReader(str(file)).read([number]))
    except RuntimeError:
        return False


@pytest.mark.parametrize("prefix", ["", "stream:"])
@pytest.mark.parametrize("config", ["png", "raw"])
def test_a_damaged_record_is_named(tmp_path, monkeypatch, prefix, config):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with builders.quietly():
        Noise(data_dir=tmp_path, config=config).download_and_prepare(file_format="array_record")
    [file] = tmp_path.rglob("*train*array_record*")
    content = bytearray(file.read_bytes())
    content[3000] ^= 0xFF
    file.write_bytes(content)
    bad = [number for number in range(37) if not readable(file, number)]
    assert len(bad) == 1
    message = rf"^tfds:noise/{config}: record {bad[0]} cannot be read \("
    with pytest.raises(InputError, match=message) as caught:
        for _ in feed(open_source(f"{prefix}tfds:noise/{config}", batch_size=37), 0, 1, 2):
            pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify image file"),
        (png()[:40], "."),
        (png(size=(9000, 9000)), "9000x9000 is more than 80,000,000 pixels"),
    ],
    ids=["empty", "cut short", "too large"],
)
def test_a_damaged_image_is_named(monkeypatch, content, reason):
    _, stream = both("tfds:noise/png")
    bad = tfds.features.FeaturesDict({"image": tfds.features.Text()})
    bad = bad.serialize_example({"image": content})
    good = stream.records._source[4]
    monkeypatch.setattr(
        stream.records, "_contents", lambda numbers: [bad if n == 5 else good for n in numbers]
    )
    assert stream.records.read([4], "image")["image"].shape == (1, 8, 8, 3)
    with pytest.raises(InputError, match=f"record 5 cannot be read .*{reason}"):
        stream.records.read([4, 5], "image")


# What is opened


def test_what_does_not_fit_memory_is_a_stream(monkeypatch):
    assert not isinstance(open_source("tfds:noise/raw"), Stream)
    monkeypatch.setattr(folder, "MAX_BYTES", 37 * 8 * 8 * 3 - 1)
    assert isinstance(open_source("tfds:noise/raw"), Stream)
    assert not isinstance(open_source("tfds:noise/raw:train[:36]"), Stream)
    assert open_source("stream:tfds:noise/raw:train[10:20]").count == 10


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("stream:digits", "unknown data 'stream:digits': choose .*stream:tfds:NAME"),
        ("stream:tfds:", "unknown data"),
        ("stream:stream:tfds:noise/raw", "unknown data"),
        ("stream:tfds:nobodys", "is not prepared under"),
        ("stream:tfds:noise/raw:valid", "no split 'valid', only train, test"),
    ],
)
def test_what_cannot_be_streamed_is_one_line(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"), [({"seed": -1}, "from 0 to"), ({"seed": 2**32}, "from 0 to")]
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        open_source("stream:tfds:noise/raw", **settings)


def test_describe_looks_at_a_sample(monkeypatch):
    memory, stream = both(batch_size=8)
    assert describe(stream) == describe(memory)
    monkeypatch.setattr("minidiff.data.describe.STREAM_EXAMINED", 10)
    report = describe(stream)
    assert (report["count"], report["examined"]) == (37, 10)
    assert "only 10 of 37 images were examined" in report["problems"]
    assert sum(report["labels"].values()) == report["captions"] == 10


def test_drawn_serves_every_source():
    for source in both(batch_size=4):
        assert set(drawn(source, 3)) == {"image", "label", "index"}
        assert set(drawn(source, 3, "words", "index")) == {"index"}
        same({"index": drawn(source, 3, "index")["index"]}, {"index": source.batch(3)["index"]})
    assert set(drawn(open_source("scenes", size=8), 3, "words", "index")) == {"words"}


# Captions


@pytest.mark.parametrize("context", [None, 5])
def test_token_ids_are_those_of_the_data_in_memory(context):
    memory, stream = both(batch_size=8)
    assert some_captions(stream) == some_captions(memory)
    tokenizer = Tokenizer.learn(some_captions(stream), 520)
    expected, told = (source.tokenized(tokenizer, context) for source in (memory, stream))
    assert told.tokens.context == expected.tokens.context
    for fed in feed(told, 0, 3, 6):
        step = int(fed.source.first) + 1
        same(batch_of(fed, step), batch_of(expected, step))


def test_a_tokenizer_learns_from_a_sample_and_longer_captions_are_cut(monkeypatch):
    memory, stream = both(batch_size=37)
    monkeypatch.setattr(tokens, "SAMPLE", 5)
    assert some_captions(stream) == [memory.facts.captions[i] for i in (0, 9, 18, 27, 36)]
    letters = Tokenizer.from_merges(())
    told = stream.tokenized(letters)
    assert told.tokens.context < memory.tokenized(letters).tokens.context
    [fed] = feed(told, 0, 1, 1)
    ids = np.asarray(batch_of(fed, 0)["ids"])
    texts = [memory.facts.captions[i] for i in fed.source.arrays["index"][0]]
    np.testing.assert_array_equal(ids, letters(texts, told.tokens.context))


def test_without_captions_there_is_nothing_to_learn(monkeypatch):
    _, stream = both()
    monkeypatch.setattr(stream.records, "kinds", ("image", "label"))
    assert stream.captions(stream.batch(0)) is None
    with pytest.raises(InputError, match="tfds:noise/raw has no captions"):
        some_captions(stream)


@pytest.mark.parametrize("prefix", ["", "stream:"])
def test_records_without_a_caption_are_named(monkeypatch, prefix):
    said = open_source("tfds:noise/raw").facts.captions
    bad = [f"record {number}" for number, text in enumerate(said) if text.startswith("red")]
    clean = records.clean
    monkeypatch.setattr(records, "clean", lambda x: "" if x.startswith("red") else clean(x))
    source = open_source(f"{prefix}tfds:noise/raw")
    assert list(source.uncaptioned()) == bad
    message = (
        rf"tfds:noise/raw: {len(bad)} image\(s\) without a caption, .*: {', '.join(bad[:3])} and"
    )
    with pytest.raises(InputError, match=message):
        check_captions(source)


# Training


@struct.dataclass
class Mean:
    pixel: jax.Array  # (height, width, channels)


def loss(key, mean, batch):
    noise = 0.1 * jax.random.normal(key, batch["image"].shape)
    return jnp.mean(jnp.square(batch["image"] + noise - mean.pixel[None]))


def losses(source, first=0, until=12):
    optimizer = optax.sgd(1.0)
    step = make_train_step(loss, optimizer, steps=3)
    state = TrainState.init(Mean(jnp.zeros((8, 8, 3))), optimizer).replace(step=jnp.int32(first))
    fed = feed(source, first, 3, until)
    seen = [m["loss"] for _, m in fit(jax.random.key(0), state, fed, step, until)]
    return np.concatenate(seen)


def test_training_has_the_losses_of_training_in_memory():
    memory, stream = both(batch_size=8)
    np.testing.assert_array_equal(losses(stream), losses(memory))
    np.testing.assert_array_equal(losses(stream, 6), losses(memory, 6))
    assert not np.array_equal(losses(stream), losses(both(seed=1, batch_size=8)[1]))


def test_a_wrong_number_of_steps_is_noticed():
    _, stream = both(batch_size=8)
    optimizer = optax.sgd(1.0)
    step = make_train_step(loss, optimizer, steps=3)
    state = TrainState.init(Mean(jnp.zeros((8, 8, 3))), optimizer)
    for source in (stream, stream.tokenized(Tokenizer.from_merges(()))):
        with pytest.raises(ValueError, match="takes 3 steps, and was fed the batches of 1"):
            next(fit(jax.random.key(0), state, feed(source, 0, 1, 6), step, 6))


def test_another_steps_batch_is_never_served_in_silence():
    _, stream = both(batch_size=8)
    [fed] = feed(stream, 3, 2, 5)
    finite = [bool(jnp.isfinite(batch_of(fed, step)["image"]).all()) for step in range(2, 6)]
    assert finite == [False, True, True, False]


def numbers(out):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in Run(out).metrics()]


@pytest.mark.long
def test_the_recipes_stream(tmp_path, capsys):
    for prefix in ("", "stream:"):
        out = tmp_path / f"ddpm{len(prefix)}"
        assert main(tiny.command(out, f"{prefix}tfds:noise/raw", "steps=4")) == 0
    assert numbers(tmp_path / "ddpm0") == numbers(tmp_path / "ddpm7")
    assert main(tiny.clip_command(tmp_path / "clip", "--data", "stream:tfds:noise/raw")) == 0
    assert [line["step"] for line in numbers(tmp_path / "clip")] == [2, 4]


def test_data_describes_a_stream(tmp_path, capsys):
    assert main(["data", "stream:tfds:noise/png", "--out", str(tmp_path / "sheet.png")]) == 0
    assert "examined: 37" in capsys.readouterr().out


def test_what_a_run_depends_on_is_told_by_the_prepared_files():
    from minidiff.training import identity

    memory, stream = (identity.of_source(source) for source in both())
    assert {name: memory[name] for name in stream} == stream
    assert stream["images"] == open_source("tfds:noise/raw").count
    other = identity.of_source(open_source("stream:tfds:noise/png"))
    assert other["files"] != stream["files"]
