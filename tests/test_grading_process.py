"""The student's process as the grader sees it: what crosses, and what cannot be done from there."""

import contextlib
import os
import pickle
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff import checks
from minidiff.checks.exercise import CandidateError
from minidiff.errors import InputError
from minidiff.grading import process, wire
from minidiff.grading.process import Allowance, Died, Limits, Remote, Worker
from minidiff.schedules import linear_schedule

pytestmark = pytest.mark.long  # a process for each notebook

EXERCISES = checks.exercises()
NOISING = ("alpha_bar", "add_noise", "predict_x0")
HOG = 1.5  # GiB
has_limits = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is limited on Linux"
)

FUNCTIONS = """
import os, subprocess, sys, time
import jax, jax.numpy as jnp, numpy as np
from minidiff import checks

class Thing:
    pass

class Trap:
    def __array__(self, *args, **kwargs):
        raise RuntimeError("caught")

class Loud(Exception):
    def __str__(self):
        raise RuntimeError

class Odd(BaseException):
    pass

itself = []
itself.append(itself)

def give(thing):
    return lambda beta: thing

def throw(error):
    def my_alpha_bar(beta):
        raise error
    return my_alpha_bar

def fork(beta):
    os.fork()
    return np.cumprod(1 - beta)

def hog(beta):
    return np.empty(1 << 29)  # 4 GiB

def spawn(beta):
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid

def echo(*args):
    return args

def place():
    return [os.getcwd(), os.environ["HOME"], os.environ["MINIDIFF_PRESET"], os.listdir()]

def square(x):
    return x**2

traced = []

def count(x):
    traced.append(1)
    return x + len(traced)

def branch(x):
    return x if x > 0 else -x

private = 3
checks.alpha_bar(give(3))
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A student's process that has these functions, all exercises and the mistakes of some."""
    worker = Worker(tmp_path_factory.mktemp("scratch"), Limits(memory=HOG))
    assert worker.ask(Allowance(60), "cell", 1, FUNCTIONS) == {"id": 1}
    known = "".join(f"my_{name} = checks.{name}.solution\n" for name in EXERCISES)
    known += "".join(
        f"wrong_{name}_{i} = list(checks.{name}.mistakes.values())[{i}]\n"
        for name in NOISING
        for i in range(len(EXERCISES[name].mistakes))
    )
    assert worker.ask(Allowance(60), "cell", 2, known) == {"id": 2}
    yield worker
    assert worker.alive
    worker.end()


@pytest.fixture
def far(worker):
    """A function of that process by name, or by an expression."""

    def at(source):
        assert "raised" not in worker.ask(Allowance(60), "cell", 3, f"f = {source}")
        return Remote(worker, "f", Allowance(60))

    return at


# Every exercise can be judged from afar, and is judged the same


@pytest.mark.parametrize("name", EXERCISES)
def test_a_solution_is_right_from_afar(worker, name):
    verdict = EXERCISES[name].judge(Remote(worker, f"my_{name}", Allowance(60)))
    assert verdict.sentence == ""
    assert verdict.status == "right"


@pytest.mark.parametrize("name", NOISING)
def test_a_mistake_has_the_same_sentence_from_afar(worker, name):
    exercise = EXERCISES[name]
    for i, sentence in enumerate(exercise.mistakes):
        verdict = exercise.judge(Remote(worker, f"wrong_{name}_{i}", Allowance(60)))
        assert (verdict.status, verdict.sentence) == ("wrong", sentence)


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("give(None)", "my_alpha_bar returned None"),
        ("give('text')", "my_alpha_bar returned str, wanted an array of numbers"),
        ("give(Thing())", "my_alpha_bar returned Thing, wanted an array of numbers"),
        ("give(Thing)", "my_alpha_bar returned type, wanted"),
        ("give(np.array([Thing()] * 3))", "wanted an array of numbers"),
        ("give(x for x in 'ab')", "my_alpha_bar returned generator, wanted"),
        ("give([[1, 2], [3]])", "my_alpha_bar returned list, wanted"),
        ("give(np.zeros((2, 5)))", "shape (2, 5), wanted (3,)"),
        ("lambda beta: jnp.full(beta.shape, jnp.nan)", "NaN"),
        ("give(10**400)", "OverflowError"),
        ("give(np.zeros(20_000_000))", "returned more than 64 MB"),
        ("give(np.broadcast_to(1.0, (1 << 40,)))", "returned more than 64 MB"),
        ("give(itself)", "raised RecursionError"),
        ("give(Trap())", "raised RuntimeError: caught"),
        pytest.param("hog", "raised MemoryError", marks=has_limits),
        ("throw(ValueError('one\\n\\ntwo'))", "raised ValueError: one two"),
        ("throw(Loud())", "raised Loud"),
        ("throw(Odd('✓ right'))", "raised Odd: ✓ right"),
        ("throw(SystemExit(0))", "raised SystemExit"),
        ("throw(KeyboardInterrupt())", "raised KeyboardInterrupt"),
        ("lambda: None", "raised TypeError"),
    ],
)
def test_whatever_a_function_does_is_told_in_a_line(far, source, part):
    verdict = EXERCISES["alpha_bar"].judge(far(source))
    assert verdict.status == "wrong"
    assert part.replace("my_alpha_bar ", "") in verdict.sentence
    assert "\n" not in verdict.sentence


def test_a_blank_is_a_blank_and_a_fork_answers_once(far):
    blank = far("throw(NotImplementedError())")
    assert EXERCISES["alpha_bar"].judge(blank).status == "not attempted"
    for _ in range(3):
        assert EXERCISES["alpha_bar"].judge(far("fork")).status == "right"


def test_arguments_and_results_arrive_as_they_were(far):
    key = jax.random.key(3, impl="rbg")
    things = [
        *(1, 2.5, True, None, "ein Bär", float("inf")),
        *(np.arange(6.0).reshape(2, 3).T, np.float32(2), np.array("x" == "x"), jnp.ones((0, 3))),
        *(jnp.arange(3, dtype=jnp.bfloat16), np.arange(3, dtype=">i4"), np.array([1j])),
        *((1, [2, (3,)]), {"a": jnp.ones(2), "": (), "b": {}}, {7: 8}),
    ]
    echo = far("echo")
    for thing, back in zip(things, echo(*things), strict=True):
        assert type(back) is type(thing) or isinstance(thing, np.generic)
        assert jax.tree.structure(back) == jax.tree.structure(thing)
        for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(thing), strict=True):
            assert np.asarray(one).dtype.name == np.asarray(other).dtype.name
            assert np.array_equal(one, other)
    [back] = echo(key)
    assert back.dtype == key.dtype
    assert np.array_equal(jax.random.key_data(back), jax.random.key_data(key))
    [schedule] = echo(linear_schedule(10))
    assert isinstance(schedule, wire.Foreign)
    assert np.array_equal(far("lambda s: s.beta")(linear_schedule(10)), linear_schedule(10).beta)


def test_transformed_where_it_lives(far):
    square = far("square")
    assert square.transformed("grad")(3.0) == 6.0
    assert square.transformed("jit")(jnp.arange(3)).tolist() == [0, 1, 4]
    assert square.transformed("grad").transformed("grad")(3.0) == 2.0
    counting = far("count").transformed("jit")
    assert [int(counting(jnp.ones(()))) for _ in range(3)] == [2, 2, 2]  # traced once
    with pytest.raises(CandidateError, match="TracerBoolConversionError"):
        far("branch").transformed("jit")(1.0)


def test_where_it_lives(far, worker):
    where, home, preset, files = far("place")()
    assert Path(where).name.startswith("scratch")
    assert (home, preset, files) == (where, "smoke", [])
    look = worker.ask(Allowance(60), "look", "private")
    assert (look["there"], look["callable"], look["kind"]) == (True, False, "int")
    assert not worker.ask(Allowance(60), "look", "attic")["there"]


# What ends the process


def alone(tmp_path, source, seconds=60.0, **limits):
    """What comes of calling ``f`` in a process of its own, and how long the allowance lasted."""
    worker = Worker(tmp_path, Limits(**limits))
    try:
        assert "raised" not in worker.ask(Allowance(60), "cell", 1, source)
        return worker, Remote(worker, "f", Allowance(seconds))()
    finally:
        worker.end()


def gone(pid):
    """Whether a process has ended, be it that nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("while True: pass", "f took longer than 2 s"),
        (
            "for fd in range(3, 50):\n"
            "        try: os.write(fd, b'mdif' + bytes(range(256)) * 300)\n"
            "        except OSError: pass",
            "f wrote nonsense into the grader's connection",
        ),
        (
            "from minidiff.grading import wire\n"
            "    for fd in range(3, 50):\n"
            "        try: wire.write(os.fdopen(fd, 'wb', 0), wire.dump({'id': 99, 'value': 1.0}))\n"
            "        except OSError: pass",
            "f wrote nonsense into the grader's connection",
        ),
        ("os.closerange(0, 100)", "f (ended|closed)"),
        # It leaves the group that is killed and holds the pipes open; nobody waits for it.
        (
            "if os.fork() == 0:\n        os.setsid(); time.sleep(6)\n    os._exit(7)",
            "f took longer",
        ),
    ],
)
def test_a_call_that_never_answers(tmp_path, body, how):
    source = f"import os, time\ndef f():\n    {body}"
    with pytest.raises(Died, match=how):
        alone(tmp_path, source, seconds=2.0)


@has_limits
def test_what_it_started_ends_with_it(tmp_path):
    source = FUNCTIONS + "\nf = lambda: (os.getpid(), spawn(0))"
    worker, pids = alone(tmp_path, source)
    assert not worker.alive
    deadline = time.monotonic() + 20
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline
    with pytest.raises(Died):
        worker.ask(Allowance(1), "look", "f")


def test_a_process_that_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setattr(process.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    os.chmod(tmp_path / "python", 0o755)
    with pytest.raises(InputError, match="does not start: no such thing"):
        Worker(tmp_path, Limits())


# Bytes


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data):
    with pytest.raises(wire.Malformed):
        wire.load(b"\xff" + data)
    with contextlib.suppress(wire.Malformed):
        wire.load(len(data).to_bytes(8, "little") + data)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_flipped_byte_does_harm(place, byte):
    data = bytearray(wire.dump({"a": [np.arange(3.0), "text"], "b": (True, None)}))
    data[place % len(data)] = byte
    with contextlib.suppress(wire.Malformed):
        wire.load(bytes(data))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '["array", "float32", [-1]]',
        '["array", "float32", [1000000000000]]',
        '["array", "object", [1]]',
        '["array", "float32", [true]]',
        '["array", "float32", ["3"]]',
        '["key", "attic", ["array", "uint32", [0]]]',
        '["dict", [["list"], 1]]',
        '["attic", 1]',
        "[]",
        "[[]]",
        "9" * 10_000,
        "{",
    ],
)
def test_an_answer_that_is_none(text):
    with pytest.raises(wire.Malformed):
        wire.load(len(text).to_bytes(8, "little") + text.encode() + bytes(8))


def test_a_pickle_is_no_answer(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    data = pickle.dumps(Bomb())
    with pytest.raises(wire.Malformed):
        wire.load(data)
    assert not (tmp_path / "boom").exists()


def test_messages_are_read_as_they_were_written(tmp_path):
    with open(tmp_path / "pipe", "wb", 0) as file:
        wire.write(file, b"one")
        wire.write(file, b"x" * 3_000_000)
    with open(tmp_path / "pipe", "rb", 0) as file:
        assert wire.read(file) == b"one"
        with pytest.raises(wire.Malformed):
            wire.read(file, 2_999_999)
    with open(tmp_path / "pipe", "rb", 0) as file:
        file.seek(3 + 12)
        assert len(wire.read(file, None)) == 3_000_000
        with pytest.raises(EOFError):
            wire.read(file)
    with open(tmp_path / "pipe", "r+b", 0) as file:
        file.write(b"nope")
        file.seek(0)
        with pytest.raises(wire.Malformed):
            wire.read(file)
