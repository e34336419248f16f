"""Files of weights: whole or not at all, and clear about what does not fit."""

import contextlib
import errno
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from minidiff import weights
from minidiff.errors import InputError


@struct.dataclass
class Net:
    weight: jax.Array
    layers: tuple
    named: dict


def net(scale=1.0):
    return Net(
        weight=scale * jnp.arange(6.0).reshape(2, 3),
        layers=(jnp.float16(scale / 3), jnp.array([[-1, 2**31 - 1]], jnp.int32)),
        named={"scalar": jnp.float32(scale * 0.1), "half": jnp.full((4,), scale, jnp.bfloat16)},
    )


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and np.array_equal(x, y) for x, y in leaves
    )


# Round trip


def test_names_are_the_paths():
    names = ["weight", "layers.0", "layers.1", "named.half", "named.scalar"]
    assert list(weights.flatten(net())) == names


@pytest.mark.parametrize("shaped_like", [net(5.0), jax.eval_shape(net)])
def test_round_trip(tmp_path, shaped_like):
    path = tmp_path / "net.safetensors"
    weights.save(path, net(), {"recipe": "test"})
    assert same(weights.load(path, shaped_like), net())
    arrays, metadata = weights.load_arrays(path)
    assert arrays["named.scalar"].shape == ()
    assert metadata == {"recipe": "test"}
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_arrays_take_the_type_of_the_template(tmp_path):
    path = tmp_path / "half.safetensors"
    weights.save(path, {"x": jnp.array([0.5, 2.0], jnp.float16)})
    loaded = weights.load(path, {"x": jnp.zeros(2)})["x"]
    assert loaded.dtype == jnp.float32
    assert loaded.tolist() == [0.5, 2.0]


def test_arrays_in_any_memory_order(tmp_path):
    x = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    weights.save(tmp_path / "x", {"turned": x.T, "every_other": x[:, ::2]})
    arrays, _ = weights.load_arrays(tmp_path / "x")
    assert np.array_equal(arrays["turned"], x.T)
    assert np.array_equal(arrays["every_other"], x[:, ::2])


# What does not fit


def complaint(action, *arguments):
    with pytest.raises(InputError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_faults_are_named():
    arrays = {name: np.asarray(leaf) for name, leaf in weights.flatten(net()).items()}
    del arrays["layers.0"]
    arrays["bias"] = np.zeros(3, np.float32)
    arrays["weight"] = np.zeros((3, 2), np.float32)
    said = complaint(weights.unflatten, net(), arrays, "old.safetensors")
    assert said == (
        "old.safetensors is of another model: layers.0 is missing; bias is unexpected; "
        "weight has shape (3, 2), not (2, 3)"
    )


def test_many_faults_are_counted():
    said = complaint(weights.unflatten, net(), {})
    assert said.endswith("weight is missing; layers.0 is missing; layers.1 is missing and 2 more")


def test_a_missing_file(tmp_path):
    path = tmp_path / "no" / "net.safetensors"
    assert complaint(weights.load, path, net()) == f"there is no file {path}"


@pytest.mark.parametrize("damage", ["cut in the data", "cut in the header", "empty", "text"])
def test_a_damaged_file(tmp_path, damage):
    path = tmp_path / "net.safetensors"
    weights.save(path, net())
    whole = path.read_bytes()
    content = {
        "cut in the data": whole[:-1],
        "cut in the header": whole[:20],
        "empty": b"",
        "text": b"these are no weights\n" * 20,
    }
    path.write_bytes(content[damage])
    assert f"{path} cannot be read as safetensors" in complaint(weights.load, path, net())


def test_a_folder_is_no_file(tmp_path):
    assert str(tmp_path) in complaint(weights.load, tmp_path, net())


# Whole or not at all


def fail_in_fsync(monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    return contextlib.nullcontext()


def fail_in_write(monkeypatch):
    """Files may not grow beyond 4096 bytes, as on a disk with a quota."""
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def limited():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)

    return limited()


def fail_in_rename(monkeypatch):
    def refuse(old, new):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), old, None, new)

    monkeypatch.setattr("os.replace", refuse)
    return contextlib.nullcontext()


@pytest.mark.parametrize("fail", [fail_in_fsync, fail_in_write, fail_in_rename])
@pytest.mark.parametrize("old", [b"old content", None])
def test_a_failure_leaves_the_old_content(tmp_path, monkeypatch, fail, old):
    path = tmp_path / "file"
    if old:
        path.write_bytes(old)
    with fail(monkeypatch), pytest.raises(OSError, match=r".") as caught:
        weights.write_atomically(path, bytes(100_000))
    assert caught.value.filename == str(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"file": old} if old else {})


def test_an_interruption_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        weights.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_no_folder_to_write_in(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder, kind in (("none", FileNotFoundError), ("file", NotADirectoryError)):
        path = tmp_path / folder / "x"
        with pytest.raises(kind) as caught:
            weights.write_atomically(path, b"new")
        assert caught.value.filename == str(path)


def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    path.write_bytes(b"old")
    fsync = os.fsync

    def note(descriptor):
        seen.append((os.stat(descriptor).st_size, path.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", note)
    weights.write_atomically(path, b"the new")
    assert seen[0] == (7, b"old")
    assert path.read_bytes() == b"the new"


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    for name in (f"{weights.TEMPORARY}123-step_1", f"{weights.TEMPORARY}9-config.json", "kept"):
        (tmp_path / name).write_bytes(b"half")
    weights.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["kept"]
