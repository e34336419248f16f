"""One writer a folder, whatever became of the one before; each rival is a process of its own."""

import contextlib
import errno
import os
import subprocess
import sys

import pytest
import tiny
from hostile import contents

from minidiff.cli import main
from minidiff.errors import InputError
from minidiff.training import lock

HOLD = """
import sys
from pathlib import Path
from minidiff.training import lock
lock.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def rival(folder):
    """Another process that holds the folder until it is told to end."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        if process.poll() is None:
            process.kill()


def refusal(folder):
    with pytest.raises(InputError) as caught:
        lock.acquire(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_second_process_is_told_whose_it_is(tmp_path):
    with rival(tmp_path) as other:
        said = refusal(tmp_path)
        assert said.startswith(f"{tmp_path} is in use: process {other.pid} writes there")
        assert (tmp_path / lock.NAME).read_text().startswith(f"{other.pid} ")


def test_the_lock_of_a_killed_process_is_in_nobodys_way(tmp_path):
    with rival(tmp_path) as other:
        other.kill()
        other.wait()
    assert os.listdir(tmp_path) == [lock.NAME]
    lock.acquire(tmp_path)
    assert (tmp_path / lock.NAME).read_text().startswith(f"{os.getpid()} ")
    lock.release(tmp_path)
    assert not os.listdir(tmp_path)


def test_the_holder_may_take_it_again_and_others_when_it_is_given_back(tmp_path):
    lock.acquire(tmp_path)
    lock.acquire(tmp_path / "." / ".." / tmp_path.name)
    lock.release(tmp_path)
    lock.release(tmp_path)
    with rival(tmp_path):
        assert "is in use" in refusal(tmp_path)


def test_a_decorated_function_gives_it_back_however_it_ends(tmp_path):
    @lock.one_writer
    def work(out, fail):
        lock.acquire(tmp_path)
        assert os.listdir(tmp_path) == [lock.NAME]
        return 1 / (not fail)

    assert work(str(tmp_path), fail=False) == 1
    assert not os.listdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        work(str(tmp_path), fail=True)
    assert not os.listdir(tmp_path)


def test_a_lock_that_its_holder_removes_meanwhile_is_none(tmp_path, monkeypatch):
    """Between the opening of the file and its lock: what was locked is then no longer there."""
    real, calls = lock._lock, []

    def slow(opened, folder):
        if not calls:
            (folder / lock.NAME).unlink()
        calls.append(opened)
        real(opened, folder)

    monkeypatch.setattr(lock, "_lock", slow)
    lock.acquire(tmp_path)
    assert len(calls) == 2
    assert (tmp_path / lock.NAME).read_text().startswith(f"{os.getpid()} ")
    lock.release(tmp_path)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_lock_is_left_alone(tmp_path, kind):
    secret, there = tmp_path / "secret", tmp_path / "run" / lock.NAME
    secret.write_text("nobody's business")
    there.parent.mkdir()
    {
        "link": lambda: there.symlink_to(secret),
        "folder": there.mkdir,
        "pipe": lambda: os.mkfifo(there),
    }[kind]()
    with pytest.raises((InputError, OSError)):
        lock.acquire(there.parent)
    assert secret.read_text() == "nobody's business"


@pytest.mark.skipif(os.name == "nt", reason="fcntl is of POSIX")
def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, capsys):
    def flock(opened, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    lock.acquire(tmp_path)
    assert f"{tmp_path} lies where files cannot be locked" in capsys.readouterr().err
    lock.release(tmp_path)
    assert not os.listdir(tmp_path)


# The commands


@pytest.mark.parametrize("verb", ["train", "quickstart"])
def test_a_second_command_ends_at_once_and_changes_nothing(tmp_path, capsys, verb):
    out = tmp_path / "run"
    out.mkdir()
    if verb == "quickstart":
        (out / "clip").mkdir()
    commands = {
        "train": tiny.command(out),
        "quickstart": ["quickstart", "--preset", "smoke", "--out", str(out)],
    }
    with rival(out) as other:
        before = contents(tmp_path)
        assert main(commands[verb]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"minidiff: {out} is in use: process {other.pid} ")
        assert said.count("\n") == 1
        assert contents(tmp_path) == before
