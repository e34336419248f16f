"""Hostile folders of runs: config.json, metrics.jsonl, checkpoints, tokenizer, index of a search.

Handled rather than refused, as the tests at the end say: of a name that stands twice in JSON the last
one counts; a byte-order mark and UTF-16 are read; files that no run has are left alone; the last line
of metrics.jsonl may be cut short.
"""

import json
import os
import shutil
from pathlib import Path

import hostile
import numpy as np
import pytest
import safetensors.numpy
import tiny
from hostile import handled, refused
from hostile_files import change_config, good_images, pickled

from minidiff import weights
from minidiff.cli import main
from minidiff.trained.encoder import Index
from minidiff.training.run import Run

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def run(models):
    return Path(shutil.copytree(models / "run", "run"))


@pytest.fixture
def clip(models):
    good_images("images")
    return Path(shutil.copytree(models / "clip", "clip"))


# config.json: its bytes

BYTES = {
    "nothing": b"",
    "a word": b"hello",
    "half of it": b'{"recipe": "ddpm", "conf',
    "a list": b'["ddpm"]',
    "a number": b"17",
    "null": b"null",
    "NULs": b"\0" * 100,
    "not UTF-8": b'{"recipe": "\xff\xfe"}',
    "single quotes": b"{'recipe': 'ddpm'}",
    "a comment": b'{"recipe": "ddpm"} // yes',
    "two objects": b'{"recipe": "ddpm"}{"recipe": "ddpm"}',
    "deep lists": b'{"recipe": ' + b"[" * 200_000,
    "deep objects": b'{"recipe":' * 100_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "a number of 5000 digits": b'{"recipe": ' + b"9" * 5000 + b"}",
    "a pickle": pickled("executed"),
    "40 MB": b'{"recipe": "' + b"x" * 40_000_000 + b'"}',
    "a long name": b'{"recipe": "' + b"x" * 1_000_000 + b'"}',
    "steering characters": b'{"recipe": "\\u001b[2J\\u202e\\n\\u0007"}',
    "a lone surrogate": b'{"recipe": "\\ud800"}',
    "another recipe": b'{"recipe": "gan"}',
    "a recipe in a list": b'{"recipe": ["ddpm"]}',
    "a recipe in braces": b'{"recipe": {"ddpm": 1}}',
    "a path as the recipe": b'{"recipe": "../../outside"}',
    "no settings": b'{"recipe": "ddpm"}',
    "settings in a list": b'{"recipe": "ddpm", "config": [], "image_shape": [8, 8, 1]}',
    "settings null": b'{"recipe": "ddpm", "config": null, "image_shape": [8, 8, 1]}',
}


@pytest.mark.parametrize("what", BYTES)
@pytest.mark.parametrize(
    "verb", ["sample run", "train ddpm --preset smoke --data digits --out run"]
)
def test_a_config_that_is_none(capsys, place, run, verb, what):
    (run / "config.json").write_bytes(BYTES[what])
    refused(capsys, place, verb.split(), "run")


# config.json: its values

VALUES = [
    ("steps", "many", "a whole number"),
    ("steps", 1.5, "a whole number"),
    ("steps", True, "a whole number"),
    ("steps", None, "a whole number"),
    ("steps", [4], "a whole number"),
    ("steps", {"a": 1}, "a whole number"),
    ("steps", 10**4000, "from 1 to"),
    ("steps", -4, "from 1 to"),
    ("learning_rate", float("nan"), "from 0.0"),
    ("learning_rate", float("inf"), "from 0.0"),
    ("learning_rate", "1e-3", "a number"),
    ("learning_rate", 10**400, "a number"),
    ("weight_decay", False, "a number"),
    ("seed", -1, "from 0"),
    ("dtype", 16, "a text"),
    ("data", 5, "a text"),
    ("data", "", "is empty"),
    ("size", "8", "a whole number or none"),
    ("channels", 8, "whole numbers"),
    ("channels", "8", "whole numbers"),
    ("channels", ["8"], "whole numbers"),
    ("channels", [[8]], "whole numbers"),
    ("channels", [8.0], "whole numbers"),
    ("channels", [], "multiple of 8"),
    ("channels", [0], "multiple of 8"),
    ("channels", [2**40], "multiple of 8"),
    ("channels", [8] * 40, "40 levels"),
    ("channels", [16384, 16384], "of another model"),
    ("attention", [True], "whole numbers"),
    ("attention", [7], "levels are 0 to 0"),
    ("heads", 0, "from 1"),
    ("heads", 3, "does not divide"),
    ("patch", "1", "a whole number"),
    ("timesteps", 10**12, "from 2 to 100000"),
    ("sample_steps", 9, "timesteps=8"),
    ("schedule", ["cosine"], "a text"),
    ("objective", "magic", "eps, x0"),
    ("zero_snr", 1, "true or false"),
    ("sampler", "os.system", "ddim"),
    ("focus", "none", "a number"),
    ("speed", 3, "not of this version"),
    ("__class__", "x", "not of this version"),
    ("image_shape", [8, 8], "image_shape"),
    ("image_shape", "881", "image_shape"),
    ("image_shape", [8, 8, 2], "image_shape"),
    ("image_shape", [8, 9, 1], "image_shape"),
    ("image_shape", [8.0, 8.0, 1.0], "image_shape"),
    ("image_shape", [0, 0, 1], "image_shape"),
    ("image_shape", [-8, -8, 1], "image_shape"),
    ("image_shape", [2**40, 2**40, 3], "image_shape"),
    ("image_shape", None, "image_shape"),
    ("image_shape", ..., "image_shape"),
    ("image_shape", [7, 7, 1], "multiple of"),
    ("image_shape", [16, 16, 3], "of another model"),
]


@pytest.mark.parametrize(
    ("name", "value", "said"), VALUES, ids=[f"{n} {str(v)[:20]}" for n, v, _ in VALUES]
)
def test_a_value_that_cannot_be(capsys, place, run, name, value, said):
    facts = json.loads((run / "config.json").read_text())
    known = name in facts["config"] or name.startswith("image")
    change_config(run, **({name: value} if known else {"config": facts["config"] | {name: value}}))
    refused(capsys, place, ["sample", "run"], "run", said)


CLIP_VALUES = [
    ("context", 0, "context is 0"),
    ("context", "8", "context is 8"),
    ("context", 10**9, "context is 1000000000"),
    ("context", 9, "of another model"),
    ("image_shape", [10, 10, 3], "patch=4"),
    ("image_shape", [4096, 4096, 3], "more than 4096 patches"),
    ("width", 4096, "of another model"),
    ("loss", "siglip", "bias is missing"),
]


@pytest.mark.parametrize(("name", "value", "said"), CLIP_VALUES)
def test_a_value_of_clip_that_cannot_be(capsys, place, clip, name, value, said):
    facts = json.loads((clip / "config.json").read_text())
    (facts if name in facts and name not in facts["config"] else facts["config"])[name] = value
    if name == "context":
        facts["context"] = value
        facts["config"]["context"] = None
    (clip / "config.json").write_text(json.dumps(facts))
    refused(capsys, place, ["search", "clip", "images", "cat"], "clip", said)


# Kinds of files


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def folder(path):
    path.unlink()
    path.mkdir()


def zeros(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def loop(path):
    path.unlink()
    path.symlink_to(path.name)


def nothing(path):
    path.write_bytes(b"")


PARTS = [
    *((make, "run", "config.json") for make in (pipe, folder, zeros, loop)),
    *((make, "run", "checkpoints/step_00000004.safetensors") for make in (pipe, folder, zeros, loop)),
    *((make, "clip", "tokenizer/vocab.json") for make in (pipe, folder, zeros, loop, nothing)),
    *((make, "clip", "tokenizer/merges.txt") for make in (pipe, folder, zeros, loop)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "model", "name"), PARTS, ids=[f"{m.__name__} {n}" for m, _, n in PARTS]
)
def test_a_part_of_another_kind(capsys, place, run, clip, make, model, name):
    make(place / "work" / model / name)
    command = {"run": "sample run", "clip": "search clip images cat"}[model]
    refused(capsys, place, command.split(), model)


# Checkpoints and metrics

CHECKPOINT = "checkpoints/step_00000004.safetensors"


def arrays(run):
    return safetensors.numpy.load_file(run / CHECKPOINT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.astype(np.int32), "holds I32, not floats"),
        (lambda x: x.astype(bool), "holds BOOL, not floats"),
        (lambda x: np.full_like(x, np.nan), "holds NaN"),
        (lambda x: np.full_like(x, -np.inf), "holds NaN or infinity"),
        (lambda x: x[None], "has shape"),
        (lambda x: x[:0], "has shape"),
        (lambda x: x.ravel(), "has shape"),
    ],
    ids=["int", "bool", "nan", "inf", "axis", "empty", "flat"],
)
def test_a_checkpoint_of_other_numbers(capsys, place, run, change, said):
    found = arrays(run)
    found["ema.conv_in.weight"] = np.ascontiguousarray(change(found["ema.conv_in.weight"]))
    safetensors.numpy.save_file(found, run / CHECKPOINT)
    refused(capsys, place, ["sample", "run"], CHECKPOINT, "conv_in.weight", said)


def test_a_checkpoint_with_steering_characters_in_a_name(capsys, place, run):
    found = arrays(run) | {"ema.\x1b[2J\n\u202e../../outside": np.zeros(1, np.float32)}
    safetensors.numpy.save_file(found, run / CHECKPOINT)
    refused(capsys, place, ["sample", "run"], "is unexpected")


def test_a_checkpoint_under_digits_of_another_script_is_none(capsys, place, run):
    (run / CHECKPOINT).rename(run / "checkpoints" / "step_٠٠٠٠٠٠٠٤.safetensors")
    refused(capsys, place, ["sample", "run"], "no checkpoint yet")


LINES = {
    "not JSON": b"hello\n",
    "a list": b"[1, 2]\n",
    "a number": b"3\n",
    "blank": b"\n",
    "no step": b'{"loss": 1.0, "seconds": 1.0}\n',
    "a step in words": b'{"step": "two", "loss": 1.0, "seconds": 1.0}\n',
    "half a step": b'{"step": 1.5, "loss": 1.0, "seconds": 1.0}\n',
    "a loss in words": b'{"step": 2, "loss": "low", "seconds": 1.0}\n',
    "no seconds": b'{"step": 2, "loss": 1.0}\n',
    "deep": b"[" * 100_000 + b"\n",
    "NULs": b"\0\0\0\n",
    "not UTF-8": b"\xff\xfe\n",
}


@pytest.mark.parametrize("what", LINES)
def test_metrics_that_are_none(capsys, place, ddpm_run, what):
    shutil.copytree(ddpm_run, "run")
    with open("run/metrics.jsonl", "ab") as file:
        file.write(LINES[what])
    number = len(Run(ddpm_run).metrics()) + 1
    refused(capsys, place, tiny.command("run"), f"run/metrics.jsonl line {number}")


@pytest.mark.parametrize("make", [pipe, zeros, nothing])
def test_metrics_of_another_kind(capsys, place, ddpm_run, make):
    shutil.copytree(ddpm_run, "run")
    make(Path("run/metrics.jsonl"))
    capsys.readouterr()
    assert hostile.status(tiny.command("run")) == 2
    err = capsys.readouterr().err
    assert "metrics.jsonl" in err
    assert hostile.is_one_line(err)


# The index of a search


def index(clip, **changes):
    """An index that its model would take for its own, but for the changes; its content."""
    assert main(["search", "clip", "images", "cat", "--index", "good", "--out", "x.png"]) == 0
    Path("x.png").unlink()
    good = Index.load("good")
    Path("good").unlink()
    fields = {**vars(good), **changes}
    Index(**fields).save("images.index.safetensors")
    return Path("images.index.safetensors")


@pytest.mark.parametrize(
    ("embeddings", "said"),
    [
        (np.full((3, 8), np.nan, np.float32), "not an index"),
        (np.full((3, 8), np.inf, np.float32), "not an index"),
        (np.zeros((3, 8), np.int64), "not an index"),
        (np.zeros((3, 8, 1), np.float32), "not an index"),
        (np.zeros((4, 8), np.float32), "not an index"),
    ],
    ids=["nan", "inf", "int", "rank", "rows"],
)
def test_an_index_that_is_none(capsys, place, clip, embeddings, said):
    index(clip, embeddings=embeddings)
    refused(capsys, place, ["search", "clip", "images", "cat"], "images.index.safetensors", said)


def test_names_in_an_index_lead_nowhere(capsys, place, clip):
    """It is made anew where its names are not those of the folder, or its rows of another length."""
    for changes in (
        {"names": ("../../outside/secret.txt", "1.png", "2.png")},
        {"names": ("/etc/passwd", "\x1b[2J", "2.png")},
        {"embeddings": np.zeros((3, 9), np.float32)},
    ):
        index(clip, **changes)
        made = ["search.png", "images.index.safetensors"]
        out = handled(capsys, place, ["search", "clip", "images", "cat"], made=made)
        assert out.startswith("wrote the index of 3 images")
        assert "secret" not in out
        Path("search.png").unlink()


# Handled


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_of_json(run, encoding):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text, encoding)
    assert Run(run).read_json("config.json") == json.loads(text)


def test_a_name_that_stands_twice(run):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace("{", '{"recipe": "clip", ', 1))
    assert Run(run).read_json("config.json") == json.loads(text)


def test_what_no_run_has_is_left_alone(capsys, place, run):
    (run / "checkpoints" / "step_99999999.pkl").write_bytes(pickled(place / "executed"))
    (run / "checkpoints" / "step_00000005.safetensors.bak").write_bytes(b"old")
    (run / "model.bin").write_bytes(pickled(place / "executed"))
    handled(capsys, place, ["sample", "run", "--count", "1"], "1 samples", made=["samples.png"])


def test_metrics_whose_last_line_was_cut(ddpm_run):
    shutil.copytree(ddpm_run, "run")
    whole = Run(Path("run")).metrics()
    with open("run/metrics.jsonl", "ab") as file:
        file.write(b'{"step": 6, "lo')
    assert Run(Path("run")).metrics() == whole


def test_a_tokenizer_is_copied_without_its_neighbours(clip):
    """Into the run of another recipe: two files, wherever links beside them lead."""
    from minidiff.recipes import clip as recipe

    (clip / "tokenizer" / "loop").symlink_to("..")
    (clip / "tokenizer" / "secret").symlink_to("../../../outside/secret.txt")
    recipe.copy(clip, Path("copy"))
    assert sorted(os.listdir("copy/tokenizer")) == ["merges.txt", "vocab.json"]
    assert recipe.load("copy").tokenizer == recipe.load(clip).tokenizer
    assert weights.flatten(recipe.load("copy").clip).keys()
