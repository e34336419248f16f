"""Fuzzing of everything that reads what others wrote: a value or InputError, and nothing else.

Settings as text and as JSON, captions, safetensors, tokenizers, settings of Hugging Face, images. The
files are valid ones with mutations, so that most of them get past the first check.
"""

import dataclasses
import io
import json
import shutil
from functools import cache
from pathlib import Path

import hostile
import numpy as np
import pytest
from hostile import value_or_complaint
from hostile_files import good_images, header_of, safetensors_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from minidiff import weights
from minidiff.data.images import check_header, read_image
from minidiff.data.sources import open_source
from minidiff.errors import one_line
from minidiff.grading.notebook import read as read_notebook
from minidiff.measure import results
from minidiff.recipes import clip, ddpm, judge, text_to_image
from minidiff.text import Tokenizer
from minidiff.training.config import override
from minidiff.training.run import Run
from minidiff.weights.clip_settings import read_config as read_clip_settings
from minidiff.weights.scheduler import read_scheduler
from minidiff.weights.unet import image_side
from minidiff.weights.unet_settings import read_config as read_unet_settings

GOLDEN = Path(__file__).parent / "golden"
RECIPES = {"clip": clip, "ddpm": ddpm, "judge": judge, "text_to_image": text_to_image}

# Each example writes the same file anew, so that one folder does for all.
fuzzed = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture(scope="module")
def config(models):
    """Content of a good config.json."""
    return (models / "run" / "config.json").read_bytes()


# What stands in hostile files

NUMBERS = st.sampled_from(
    ["0", "-1", "1", "8", "3.5", "1e999", "-inf", "nan", "9" * 400, "٣", "½", "0x8", "1_0", "", " "]
)
TEXTS = NUMBERS | st.text(max_size=12) | st.sampled_from(["none", "true", "8,16", "..", "\x1b[2J"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, 10**400, -1, 0, 1, 2, 3, 8, 16])
    | st.floats()
    | st.text(max_size=8)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@st.composite
def mutated(draw, content):
    """Bytes with a few of them changed, cut out, doubled or appended."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["set", "flip", "cut", "insert", "end"]))
        if kind == "set":
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place : place + draw(st.integers(1, 40))]
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
        else:
            del content[place:]
    return bytes(content)


@st.composite
def edited(draw, facts):
    """An object of JSON with one to three of its values, at any depth, replaced or left out."""
    facts = json.loads(json.dumps(facts))
    for _ in range(draw(st.integers(1, 3))):
        inner = facts
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            deeper = isinstance(inner[key], dict | list) and inner[key]
            if deeper and draw(st.booleans()):
                inner = inner[key]
                continue
            if draw(st.integers(0, 4)) or not isinstance(inner, dict):
                inner[key] = draw(JSON)
            else:
                del inner[key]
            break
    return facts


def told(said):
    """A complaint is fit for one line; a value is any."""
    if isinstance(said, str):
        assert hostile.is_one_line(one_line(said) + "\n")
    return said


# Settings


@fuzzed
@given(st.sampled_from(sorted(RECIPES)), st.data())
def test_settings_as_text(recipe, data):
    config = RECIPES[recipe].PRESETS["smoke"]
    fields = st.sampled_from([field.name for field in dataclasses.fields(config)])
    texts = data.draw(st.lists(st.tuples(fields, TEXTS).map("=".join), min_size=1, max_size=3))
    said = told(value_or_complaint(override, config, texts))
    assert isinstance(said, type(config) | str)


@fuzzed
@given(st.text(max_size=30))
def test_what_is_no_setting(text):
    said = told(value_or_complaint(override, ddpm.PRESETS["smoke"], [text]))
    assert isinstance(said, ddpm.Config | str)


@fuzzed
@given(st.data())
def test_config_json(config, data):
    Path("config.json").write_text(json.dumps(data.draw(edited(json.loads(config)))))
    found = told(value_or_complaint(Run(Path()).read_settings, "ddpm", ddpm.Config, "image_shape"))
    if not isinstance(found, str):
        asked, shape = found
        told(value_or_complaint(asked.unet, shape))


@fuzzed
@given(st.data())
def test_config_json_byte_by_byte(config, data):
    Path("config.json").write_bytes(data.draw(mutated(config)))
    told(value_or_complaint(Run(Path()).read_settings, "ddpm", ddpm.Config, "image_shape"))


@fuzzed
@given(st.data())
def test_metrics(data):
    lines = b"".join(b'{"step": %d, "loss": 0.5, "seconds": 1.5}\n' % i for i in range(1, 4))
    Path("metrics.jsonl").write_bytes(data.draw(mutated(lines)))
    told(value_or_complaint(Run(Path()).metrics))


# Captions


@fuzzed
@given(st.data())
def test_captions_in_json(data):
    row = {"file_name": "0.png", "text": "a red cat"}
    rows = [data.draw(edited(row)) for _ in range(data.draw(st.integers(1, 3)))]
    captions("metadata.jsonl", "\n".join(map(json.dumps, rows)).encode())


@fuzzed
@given(st.data())
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", b'{"file_name": "0.png", "text": "a \\u732b"}\n' * 2),
        ("metadata.csv", 'file_name,x,text\n"0.png",1,"a ""red"" cat"\n1.png,,ü\n'.encode()),
        ("0.txt", "ein Bär\r\n\u202e 猫".encode("utf-8-sig")),
    ],
)
def test_captions_byte_by_byte(name, content, data):
    captions(name, data.draw(mutated(content)))


def captions(name, content):
    """The folder opens with captions of a bounded length on one line, or says why not."""
    if not Path("images").exists():
        good_images("images")
    Path("images", name).write_bytes(content)
    source = told(value_or_complaint(lambda: open_source("folder:images", size=8)))
    if not isinstance(source, str):
        for text in source.facts.captions or ():
            assert len(text) <= 1000
            assert len(text.splitlines()) <= 1
            Tokenizer.learn([text], 514).encode(text)


# Weights

TENSORS = {"a": ("F32", (2, 3), (0, 24)), "b": ("F32", (2,), (24, 32))}
TEMPLATE = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}
DATA = np.arange(8, dtype=np.float32).tobytes()


def loaded(content):
    Path("x.safetensors").write_bytes(content)
    found = told(value_or_complaint(weights.load, "x.safetensors", TEMPLATE))
    if not isinstance(found, str):
        assert {name: x.shape for name, x in found.items()} == {"a": (2, 3), "b": (2,)}
        assert all(np.isfinite(x).all() for x in found.values())
    told(value_or_complaint(weights.load_arrays, "x.safetensors"))


@fuzzed
@given(st.data())
def test_weights_byte_by_byte(data):
    loaded(data.draw(mutated(safetensors_bytes(header_of(TENSORS), DATA))))


@fuzzed
@given(st.data())
def test_headers_of_weights(data):
    header = data.draw(edited(json.loads(header_of(TENSORS, __metadata__={"x": "y"}))))
    loaded(safetensors_bytes(json.dumps(header).encode(), DATA))


# Tokenizers


@cache
def tokenizer_files():
    """Content of the two files by name."""
    tokenizer = Tokenizer.learn(["a red cat", "a red hat", "a blue cat"], 530)
    tokenizer.save("tokenizer")
    names = ("vocab.json", "merges.txt")
    return {name: Path("tokenizer", name).read_bytes() for name in names}


@fuzzed
@given(st.sampled_from(["vocab.json", "merges.txt"]), st.data())
def test_tokenizers_byte_by_byte(name, data):
    read_tokenizer({**tokenizer_files(), name: data.draw(mutated(tokenizer_files()[name]))})


@fuzzed
@given(st.data())
def test_vocabularies(data):
    vocabulary = json.loads(tokenizer_files()["vocab.json"])
    content = json.dumps(data.draw(edited(vocabulary))).encode()
    read_tokenizer({**tokenizer_files(), "vocab.json": content})


@fuzzed
@given(st.data())
def test_tokenizers_in_one_file(data):
    merges = tokenizer_files()["merges.txt"].decode().split("\n")[1:-1]
    facts = {"model": {"vocab": {"a": 1, "b": 2}, "merges": merges}}
    read_tokenizer({"tokenizer.json": json.dumps(data.draw(edited(facts))).encode()})


def read_tokenizer(files):
    shutil.rmtree("read", ignore_errors=True)
    Path("read").mkdir()
    for name, content in files.items():
        Path("read", name).write_bytes(content)
    found = told(value_or_complaint(Tokenizer.load, "read"))
    if not isinstance(found, str):
        ids = found(["a red cat", "猫"], 8)
        assert ids.min() >= 0
        assert ids.max() < found.size


# Settings of Hugging Face

SETTINGS = {
    "CLIP": (GOLDEN / "clip" / "quick" / "config.json", read_clip_settings),
    "CLIP's pixels": (GOLDEN / "clip" / "quick" / "preprocessor_config.json", read_clip_settings),
    "U-Net": (GOLDEN / "unet" / "ddpm" / "config.json", read_unet_settings),
    "U-Net with text": (GOLDEN / "unet" / "latent" / "config.json", read_unet_settings),
    "side": (GOLDEN / "unet" / "ddpm" / "config.json", image_side),
}


@pytest.mark.parametrize("what", SETTINGS)
@fuzzed
@given(st.data())
def test_settings_of_networks(what, data):
    path, read = SETTINGS[what]
    facts = json.loads(path.read_text()) if path.exists() else {"image_mean": [0.5] * 3}
    if path.name != "config.json":
        shutil.copy(path.parent / "config.json", "config.json")
    Path(path.name).write_text(json.dumps(data.draw(edited(facts))))
    told(value_or_complaint(read, Path()))


SCHEDULER = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 10, "beta_start": 1e-4, "beta_end": 0.02,
    "beta_schedule": "linear", "trained_betas": None, "clip_sample": True, "set_alpha_to_one": True,
    "steps_offset": 0, "prediction_type": "epsilon", "thresholding": False, "clip_sample_range": 1.0,
    "timestep_spacing": "leading", "rescale_betas_zero_snr": False,
}  # fmt: skip


@fuzzed
@given(st.data())
def test_settings_of_schedulers(data):
    facts = data.draw(edited(SCHEDULER))
    Path("scheduler_config.json").write_text(json.dumps(facts))
    found = told(value_or_complaint(read_scheduler, Path()))
    if not isinstance(found, str):
        assert np.isfinite(found.schedule.alpha_bar).all()


# Images


@cache
def encoded(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp"])
@fuzzed
@given(st.data())
def test_images(kind, data):
    Path("x.png").write_bytes(data.draw(mutated(encoded(kind))))

    def read():
        check_header(Path("x.png"))
        return read_image(Path("x.png"), 8)

    image = told(value_or_complaint(read))
    assert isinstance(image, str) or image.shape == (8, 8, 3)


# Notebooks and results

NOTEBOOK = {
    "cells": [{"cell_type": "code", "source": ["x = 1"], "metadata": {}, "outputs": [], "id": "a"}],
    "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5,
}  # fmt: skip
RESULTS = {
    "sum_2_cores": {
        "machine": {"cpu": "Abacus", "cpu_count": 2, "devices": ["cpu"], "jax": "1"},
        "ceiling_gflops": {"float32": 1.0},
        "contenders": {"ours": {"quartiles_s": [1, 2, 3]}, "case": {"twin": {"quartiles_s": [1, 2, 3]}}},
    }
}  # fmt: skip


@fuzzed
@given(st.data())
def test_notebooks(data):
    Path("x.ipynb").write_text(json.dumps(data.draw(edited(NOTEBOOK))))
    told(value_or_complaint(read_notebook, Path("x.ipynb")))


@fuzzed
@given(st.data())
def test_results(data):
    Path("x.json").write_text(json.dumps(data.draw(edited(RESULTS))))
    found = told(value_or_complaint(results.read, "x.json"))
    if not isinstance(found, str):
        told(value_or_complaint(results.compare, found, RESULTS))
        told(value_or_complaint(results.compare, RESULTS, found))
