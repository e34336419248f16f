"""The text tower alone, under transformers' names: every state as there, and what is refused."""

import hashlib
import json
import shutil
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from foreign import complaint, equal

from minidiff import weights
from minidiff.layers import count_parameters
from minidiff.text import TextConfig
from minidiff.weights.clip import text_entries
from minidiff.weights.text_encoder import template

GOLDEN = Path(__file__).parent / "golden/pipeline"
FILE = "model.fp16.safetensors"
WHOLE = {
    "stable-diffusion-1": TextConfig(
        width=768, layers=12, heads=12, activation="quick_gelu", end=49407
    ),
    "stable-diffusion-2": TextConfig(width=1024, layers=23, heads=16, end=49407),
}


@cache
def loaded(name):
    return weights.load_text_encoder(GOLDEN / name)


@pytest.mark.parametrize("name", ["one", "two"])
def test_every_state_is_as_in_transformers(name):
    """Of every token, padding included: Stable Diffusion looks at all of them."""
    wanted = weights.load_arrays(GOLDEN / f"{name}.safetensors")[0]
    found = jax.jit(type(loaded(name)).states)(loaded(name), wanted["ids"])
    np.testing.assert_allclose(found, wanted["states"], atol=1e-5 * np.abs(wanted["states"]).max())


@pytest.mark.parametrize(("name", "numbers"), [("1", 123_060_480), ("2", 340_387_840)])
def test_the_published_ones_have_these_tensors(name, numbers):
    facts = json.loads((GOLDEN / "full.json").read_text())[f"stable-diffusion-{name}"]
    tower = template(WHOLE[f"stable-diffusion-{name}"])
    leaves = weights.flatten(tower)
    entries = text_entries("", "", tower.config.layers)
    lines = sorted(f"{entry.name} {list(entry.shape(leaves))}" for entry in entries)
    assert len(lines) == facts["tensors"]
    assert count_parameters(tower) == facts["numbers"] == numbers
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == facts["sha256"]


@pytest.fixture
def folder(tmp_path):
    """A copy of a text encoder's folder, to be changed."""
    return Path(shutil.copytree(GOLDEN / "two/text_encoder", tmp_path / "text_encoder"))


def rename(folder, rule, **more):
    """The same tensors under other names, and more of them."""
    tensors = safetensors.numpy.load_file(folder / FILE)
    tensors = {rule(name): x for name, x in tensors.items()} | more
    safetensors.numpy.save_file(tensors, folder / FILE)


PLACES = np.arange(12, dtype=np.int64)[None]
PROJECTION = np.ones((7, 8), np.float32)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"text_model.embeddings.position_ids": PLACES},
        {"text_projection.weight": PROJECTION},
        {"text_projection.weight": PROJECTION, "text_model.embeddings.position_ids": PLACES},
    ],
)
def test_names_as_on_the_hub(folder, more):
    """With the prefix, the places counted out, and the projection, or without any of them."""
    rename(folder, lambda name: f"text_model.{name}", **more)
    assert equal(weights.load_text_encoder(folder), loaded("two"))
    assert equal(weights.load_text_encoder(folder / FILE), loaded("two"))
    assert equal(weights.load_text_encoder(folder.parent), loaded("two"))  # a pipeline's
    without = {name.removeprefix("text_model."): x for name, x in more.items()}
    rename(folder, lambda name: name.removeprefix("text_model."), **without)
    assert equal(weights.load_text_encoder(folder), loaded("two"))


@pytest.mark.parametrize(("told", "end"), [(2, None), (49407, 49407), (529, 529)])
def test_where_a_text_ends(folder, told, end):
    change(folder, eos_token_id=told)
    assert weights.load_text_encoder(folder).config.end == end


def change(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "clip"}, "model_type is 'clip', not clip_text_model"),
        ({"model_type": "t5"}, "model_type is 't5'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', not gelu or quick_gelu"),
        ({"num_attention_heads": 3}, "heads 3 does not divide width 8"),
        ({"num_hidden_layers": 2}, "encoder.layers.2"),
        ({"vocab_size": 531}, "token_embedding.weight"),
        ({"max_position_embeddings": 77}, "position_embedding.weight"),
        ({"gamma": 2}, "gamma is 2, and that setting is unknown here"),
    ],
)
def test_settings_that_will_not_do_are_refused(folder, changes, told):
    change(folder, **changes)
    said = complaint(weights.load_text_encoder, folder)
    assert str(folder) in said
    assert told in said


def test_a_folder_without_its_parts(folder):
    (folder / FILE).rename(folder / "pytorch_model.bin")
    assert "holds only pytorch_model.bin, which is pickled" in complaint(
        weights.load_text_encoder, folder
    )
    (folder / "config.json").unlink()
    assert str(folder) in complaint(weights.load_text_encoder, folder)
    assert "there is no folder" in complaint(weights.load_text_encoder, folder.parent / "no")
