"""Hostile weights: safetensors byte by byte, archives, folders of CLIP and U-Net.

Nothing is unpickled or unpacked, and no room is made for what a header merely claims.

Handled rather than refused, as the tests at the end say: metadata of any kind, padding of a header
with blanks, tensors in any order of the file; of a name
that stands twice the last one counts; a library's own notes (_name, auto_map) are passed over.
"""

import json
import os
import pickle
import shutil
from pathlib import Path

import hostile
import numpy as np
import pytest
import safetensors.numpy
from hostile import refused, value_or_complaint
from hostile_files import (
    ARCHIVES,
    good_images,
    header_of,
    pickled,
    safetensors_bytes,
)

from minidiff import memory, weights

GOLDEN = Path(__file__).parent / "golden"
TEMPLATE = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}
GOOD = {"a": ("F32", (2, 3), (0, 24)), "b": ("F32", (2,), (24, 32))}
DATA = np.arange(8, dtype=np.float32).tobytes()


pytestmark = pytest.mark.usefixtures("place")


def load(content):
    """What comes of a file of these bytes."""
    Path("x.safetensors").write_bytes(content)
    return value_or_complaint(weights.load, "x.safetensors", TEMPLATE)


def test_the_good_one():
    found = load(safetensors_bytes(header_of(GOOD), DATA))
    assert np.array_equal(found["a"], np.arange(6).reshape(2, 3))


def changed(name="a", **changes):
    """A file whose header says something else of one tensor."""
    facts = json.loads(header_of(GOOD))
    facts[name] |= changes
    facts[name] = {key: value for key, value in facts[name].items() if value is not ...}
    return safetensors_bytes(json.dumps(facts).encode(), DATA)


def renamed(name):
    facts = {name: GOOD["a"], "b": GOOD["b"]}
    return safetensors_bytes(header_of(facts), DATA)


def with_numbers(*numbers):
    return safetensors_bytes(header_of(GOOD), np.array(numbers, np.float32).tobytes())


HEADER = header_of(GOOD)
TWICE = HEADER[:-1] + b"," + HEADER[1:]
DAMAGED = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "no header": b"\0" * 8,
    "a length of 2^64 - 1": safetensors_bytes(HEADER, DATA, 2**64 - 1),
    "a length of 2^63": safetensors_bytes(HEADER, DATA, 2**63),
    "a length of a terabyte": safetensors_bytes(HEADER, DATA, 2**40),
    "a length one too large": safetensors_bytes(HEADER, DATA, len(HEADER) + 1),
    "a length one too small": safetensors_bytes(HEADER, DATA, len(HEADER) - 1),
    "a length of zero": safetensors_bytes(HEADER, DATA, 0),
    "a header cut short": safetensors_bytes(HEADER, DATA)[:30],
    "data cut short": safetensors_bytes(HEADER, DATA[:-1]),
    "data too long": safetensors_bytes(HEADER, DATA + b"\0"),
    "no data": safetensors_bytes(HEADER),
    "a list as header": safetensors_bytes(b"[1, 2]"),
    "a word as header": safetensors_bytes(b"hello"),
    "not UTF-8": safetensors_bytes(b'{"\xff": 1}'),
    "deep": safetensors_bytes(b'{"a":' * 10_000),
    "deep metadata": safetensors_bytes(b'{"__metadata__":' + b"[" * 10_000),
    "a bomb of blanks": safetensors_bytes(HEADER + b" " * 101_000_000, DATA),
    "offsets that overlap": changed("b", data_offsets=[16, 24]),
    "offsets with a gap": changed("b", data_offsets=[28, 36]),
    "offsets backwards": changed("b", data_offsets=[32, 24]),
    "offsets below zero": changed("a", data_offsets=[-24, 0]),
    "offsets beyond the end": changed("b", data_offsets=[24, 2**40]),
    "offsets that overflow": changed("b", data_offsets=[2**64 - 8, 2**64]),
    "three offsets": changed("a", data_offsets=[0, 24, 32]),
    "offsets in words": changed("a", data_offsets=["0", "24"]),
    "no offsets": changed("a", data_offsets=...),
    "no shape": changed("a", shape=...),
    "no kind": changed("a", dtype=...),
    "a kind that is none": changed("a", dtype="F33"),
    "a kind of Python's": changed("a", dtype="object"),
    "a number as kind": changed("a", dtype=32),
    "a shape below zero": changed("a", shape=[-2, -3]),
    "a shape of halves": changed("a", shape=[2.0, 3.0]),
    "a shape in words": changed("a", shape="2x3"),
    "a shape whose product overflows": changed("a", shape=[2**32, 2**32, 2**32]),
    "a shape whose product overflows to 6": changed("a", shape=[2**63, 2, 6]),
    "a shape of a terabyte": changed("a", shape=[2**20, 2**18]),
    "a shape of 2^64": changed("a", shape=[2**64]),
    "a shape of a thousand axes": changed("a", shape=[1] * 1000 + [2, 3]),
    "a shape with a zero": changed("a", shape=[0, 3]),
    "a scalar": changed("a", shape=[]),
    "another order of axes": changed("a", shape=[3, 2]),
    "one axis": changed("a", shape=[6]),
    "whole numbers": changed("a", dtype="I32"),
    "truth values": changed("a", dtype="BOOL", shape=[24]),
    "halves of the width": changed("a", dtype="F16"),
    "twice the width": changed("a", dtype="F64"),
    "eight bits": changed("a", dtype="F8_E4M3", shape=[4, 6]),
    "metadata of numbers": safetensors_bytes(header_of(GOOD, __metadata__={"a": 1}), DATA),
    "metadata in a list": safetensors_bytes(header_of(GOOD, __metadata__=["a"]), DATA),
    "a name that leads out": renamed("../../outside/secret"),
    "an absolute name": renamed("/etc/passwd"),
    "an empty name": renamed(""),
    "a name that steers": renamed("a\x1b[2J\u202e\n\x07"),
    "a name with NUL": renamed("a\0"),
    "a name of a megabyte": renamed("a" * 1_000_000),
    "a name of a method": renamed("a.__class__.__init__"),
    "another tensor more": safetensors_bytes(
        header_of(GOOD | {"c": ("F32", (1,), (32, 36))}), DATA + b"\0\0\0\0"
    ),
    "one tensor less": safetensors_bytes(header_of({"a": GOOD["a"]}), DATA[:24]),
    "no tensors": safetensors_bytes(b"{}"),
    "NaN": with_numbers(0, np.nan, 2, 3, 4, 5, 6, 7),
    "infinity": with_numbers(0, 1, 2, 3, 4, 5, 6, np.inf),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file(place, what):
    before = hostile.contents(place)
    said = load(DAMAGED[what])
    assert isinstance(said, str)
    assert said.startswith("x.safetensors")
    assert hostile.contents(place).keys() - before.keys() == {"work/x.safetensors"}


def test_a_claim_of_a_terabyte_that_is_there():
    """A sparse file: as long as it says, and no disk holds it. Shapes are compared before all else."""
    header = header_of(
        {"a": ("F32", (2**20, 2**18), (0, 2**40)), "b": ("F32", (2,), (2**40, 2**40 + 8))}
    )
    Path("x.safetensors").write_bytes(safetensors_bytes(header))
    try:
        os.truncate("x.safetensors", 8 + len(header) + 2**40 + 8)
    except OSError:
        pytest.skip("this file system has no files so large")
    said = value_or_complaint(weights.load, "x.safetensors", TEMPLATE)
    assert isinstance(said, str)
    assert said.startswith("x.safetensors")


# Archives and pickles, wherever weights are expected


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("line", ["search {} good cat", "sample {}"])
def test_an_archive_as_a_model(capsys, place, line, name):
    good_images("good")
    Path(name).write_bytes(ARCHIVES[name](place / "executed"))
    refused(capsys, place, line.format(name).split(), name)


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("network", ["clip/quick", "unet/ddpm"])
def test_an_archive_in_a_folder_of_weights(place, network, name):
    """Under its own name, and under the name that the weights should have."""
    folder = Path(shutil.copytree(GOLDEN / network, "model"))
    load_model = weights.load_clip if network.startswith("clip") else weights.load_unet
    files = list(folder.glob("*.safetensors"))
    content = ARCHIVES[name](place / "executed")
    for file in files:
        file.write_bytes(content)
    assert "cannot be read as safetensors" in value_or_complaint(load_model, folder)
    for file in files:
        file.unlink()
    (folder / name).write_bytes(content)
    said = value_or_complaint(load_model, folder)
    assert isinstance(said, str)
    assert "model" in said
    assert isinstance(value_or_complaint(load_model, folder / name), str)
    assert not (place / "executed").exists()


def test_the_payload_is_one(place):
    """Whoever does unpickle it, finds the folder."""
    pickle.loads(pickled(place / "executed"))
    assert (place / "executed").exists()


# Folders of Hugging Face

NETWORKS = {"clip/quick": weights.load_clip, "unet/ddpm": weights.load_unet}


@pytest.fixture(params=NETWORKS)
def model(request):
    """(a folder to be damaged, what reads it)"""
    folder = Path(shutil.copytree(GOLDEN / request.param, "model"))
    return folder, NETWORKS[request.param]


CONFIGS = {
    "nothing": b"",
    "a list": b"[]",
    "deep": b'{"a":' * 100_000,
    "5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "NaN for all": b"NaN",
    "not UTF-8": b'{"\xff": 1}',
    "40 MB": b'{"a": "' + b"x" * 40_000_000 + b'"}',
    "another model": b'{"model_type": "bert", "_class_name": "VQModel"}',
    "types as lists": b'{"model_type": ["clip"], "_class_name": ["UNet2DModel"]}',
    "types as objects": b'{"model_type": {}, "_class_name": {}}',
    "all null": b'{"model_type": null, "_class_name": null}',
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_that_is_none(model, what):
    folder, read = model
    (folder / "config.json").write_bytes(CONFIGS[what])
    assert str(folder / "config.json") in value_or_complaint(read, folder)


def pipe(path):
    os.mkfifo(path)


def zeros(path):
    path.symlink_to("/dev/zero")


def loop(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [pipe, zeros, loop, Path.mkdir])
@pytest.mark.parametrize("part", ["config.json", "*.safetensors"])
def test_a_part_of_another_kind(model, part, make):
    folder, read = model
    for path in list(folder.glob(part)):
        path.unlink()
        make(path)
    said = value_or_complaint(read, folder)
    assert isinstance(said, str)
    assert "model" in said


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(model, value):
    folder, read = model
    [path] = [p for p in folder.glob("*.safetensors") if not p.name.startswith("golden")]
    arrays = safetensors.numpy.load_file(path)
    name = sorted(arrays)[-1]
    arrays[name] = np.full_like(arrays[name], value)
    safetensors.numpy.save_file(arrays, path)
    assert f"{name} holds NaN or infinity" in value_or_complaint(read, folder)


@pytest.mark.parametrize(
    "names",
    [
        ["../outside/secret.safetensors"],
        ["/etc/passwd"],
        ["sub/model.safetensors"],
        [".."],
        [""],
        ["a.safetensors\0"],
        ["model.bin"],
        [7],
        [None],
        [["model.safetensors"]],
        [{"a": 1}],
    ],
    ids=str,
)
def test_an_index_of_shards_that_leads_out(model, names):
    folder, read = model
    for path in list(folder.glob("*.safetensors")):
        path.unlink()
    stem = "diffusion_pytorch_model" if read is weights.load_unet else "model"
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"w{i}": n for i, n in enumerate(names)}}))
    assert "names something else than safetensors" in value_or_complaint(read, folder)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"weight_map": []}', b"[" * 100_000, b"\xff"])
def test_an_index_of_shards_that_is_none(model, content):
    folder, read = model
    for path in list(folder.glob("*.safetensors")):
        path.unlink()
    stem = "diffusion_pytorch_model" if read is weights.load_unet else "model"
    (folder / f"{stem}.safetensors.index.json").write_bytes(content)
    assert "index.json" in value_or_complaint(read, folder)


def test_a_vocabulary_larger_than_its_clip(capsys, place):
    """Ids beyond the rows would be read as the last row: JAX clips indices."""
    from minidiff.text import Tokenizer

    folder = Path(shutil.copytree(GOLDEN / "clip" / "quick", "model"))
    good_images("good")
    Tokenizer.learn(["a cat"] * 2, 600).save(folder)
    rows = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    refused(capsys, place, ["search", "model", "good", "cat"], "model", f"the CLIP {rows} rows")


def test_a_u_net_that_draws_no_pictures(capsys, place, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 8 * 2**30)  # the same on every machine
    folder = Path(shutil.copytree(GOLDEN / "unet" / "ddpm", "model"))
    facts = {"_class_name": "DDPMScheduler", "num_train_timesteps": 4}
    (folder / "scheduler_config.json").write_text(json.dumps(facts))
    config = json.loads((folder / "config.json").read_text())
    for side, said in (
        (2**17, "sample_size"),
        (2**16, "memory"),
        ("8", "sample_size"),
        (7, "side 7"),
    ):
        config["sample_size"] = side
        (folder / "config.json").write_text(json.dumps(config))
        refused(capsys, place, ["sample", "model", "--count", "1"], said)


# The tokenizer of a run

TOKENIZERS = {
    "vocab.json": {
        "a list": b"[]",
        "null": b"null",
        "empty": b"{}",
        "deep": b"[" * 100_000,
        "not UTF-8": b"\xff",
        "ids beyond": b'{"a": 1e400}',
        "40 MB": b" " * 40_000_000,
        "a pickle": pickled("executed"),
    },
    "merges.txt": {
        "three": b"a b c\n",
        "one": b"a\n",
        "unknown": b"zz yy\n",
        "not UTF-8": b"\xff \xfe\n",
        "40 MB": b"a b\n" * 10_000_000,
    },
}


@pytest.fixture
def clip(models):
    return models / "clip"


@pytest.mark.parametrize(
    ("name", "what"), [(name, what) for name in TOKENIZERS for what in TOKENIZERS[name]]
)
def test_a_tokenizer_that_is_none(capsys, place, clip, name, what):
    shutil.copytree(clip, "clip")
    good_images("good")
    Path("clip/tokenizer", name).write_bytes(TOKENIZERS[name][what])
    refused(capsys, place, ["search", "clip", "good", "cat"], "clip/tokenizer")


def test_a_tokenizer_of_another_size(capsys, place, clip):
    shutil.copytree(clip, "clip")
    good_images("good")
    vocabulary = json.loads(Path("clip/tokenizer/vocab.json").read_text())
    vocabulary["ab"] = 2**31 - 1
    Path("clip/tokenizer/vocab.json").write_text(json.dumps(vocabulary))
    refused(capsys, place, ["search", "clip", "good", "cat"], "of another model", "text.tokens")


# Handled


@pytest.mark.parametrize(
    "header",
    [
        header_of(GOOD, __metadata__={"format": "../../x", "\x1b": "\u202e"}),
        header_of(GOOD) + b" " * 64,
        json.dumps(dict(reversed(json.loads(header_of(GOOD)).items()))).encode(),
        TWICE.replace(b"[24, 32]", b"[0, 8]", 1),
    ],
    ids=["metadata", "blanks", "order", "twice"],
)
def test_what_is_read_all_the_same(header):
    assert np.array_equal(load(safetensors_bytes(header, DATA))["b"], [6, 7])


def test_numbers_of_another_width_are_converted():
    facts = {"a": ("F64", (2, 3), (0, 48)), "b": ("F16", (2,), (48, 52))}
    data = np.arange(6.0).tobytes() + np.array([6, 7], np.float16).tobytes()
    found = load(safetensors_bytes(header_of(facts), data))
    assert np.array_equal(found["a"], np.arange(6).reshape(2, 3))
    assert np.array_equal(found["b"], [6, 7])


def test_notes_of_a_library_are_passed_over(model):
    folder, read = model
    change_config_file(folder, _os_system="rm", auto_map={"AutoModel": "evil.Model"})
    (folder / "evil.py").write_text("open('executed', 'w')")
    assert not isinstance(value_or_complaint(read, folder), str)
    assert not Path("executed").exists()


def change_config_file(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
