"""JAX's own environment changes no contract: each setting in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile import is_one_line

ROOT = Path(__file__).parents[1]
CHILD = Path(__file__).with_name("environment_child.py")
OURS = ("XLA_", "JAX_", "MINIDIFF_", "MPL")


def start(*arguments, **settings):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    inherited |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=inherited | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def told(**settings):
    run = start(CHILD, **settings)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def plain():
    return told()


SETTINGS = {
    "rbg, products in bfloat16": {
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    },
    "unsafe_rbg, 64 bits, products in TF32, ranks and NaNs raise": {
        "JAX_DEFAULT_PRNG_IMPL": "unsafe_rbg",
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_DEBUG_NANS": "1",
    },
}


@pytest.mark.long
@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_numbers_whatever_the_defaults(plain, name):
    found = told(**SETTINGS[name])
    for what in ("batches", "an epoch", "numbers", "kinds"):
        assert found[what] == plain[what]
    for what, values in plain["close"].items():  # an order of sums may differ
        np.testing.assert_allclose(found["close"][what], values, rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_what_is_told_holds_where_nothing_is_set(plain):
    assert plain["batches"] == [True] * 3
    assert plain["an epoch"] == 1438
    assert plain["kinds"] == [["float32"]] * 4


@pytest.mark.long
def test_batches_and_epochs_hold_for_older_streams_of_threefry(plain):
    """The numbers are others there: JAX draws them otherwise from the same key."""
    found = told(JAX_THREEFRY_PARTITIONABLE="0")
    assert found["batches"] == plain["batches"]
    assert found["an epoch"] == plain["an epoch"]
    assert found["numbers"]["order"] != plain["numbers"]["order"]


# Nothing ends in a traceback


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"JAX_PLATFORMS": "nonsense"},
            "JAX_PLATFORMS=nonsense asks for what JAX cannot start here",
        ),
        ({"JAX_PLATFORMS": "cuda"}, "JAX_PLATFORMS=cuda asks for what JAX cannot start here"),
        ({"JAX_PLATFORM_NAME": "tpu"}, "without it cpu would start"),
        ({"JAX_NUM_CPU_DEVICES": "many"}, 'Invalid value "many" for JAX flag jax_num_cpu_devices'),
        ({"JAX_ENABLE_X64": "maybe"}, "JAX cannot read its settings in the environment"),
    ],
)
def test_a_platform_that_cannot_start_is_told_in_one_line(tmp_path, settings, said):
    import jax

    if jax.default_backend() != "cpu" and "nonsense" not in settings.values():
        pytest.skip("the platform is there")
    run = start("-m", "minidiff", "data", "digits", "--out", tmp_path / "x.png", **settings)
    assert run.returncode == 2
    assert is_one_line(run.stderr)
    assert said in run.stderr
    assert not os.listdir(tmp_path)


BACKEND = """
import minidiff.plot, matplotlib, os
from minidiff.checks.exercise import Exercise
from minidiff.measure import compare
from minidiff.grading import process
figure = minidiff.plot.contact_sheet(__import__("numpy").zeros((1, 8, 8, 3)))
minidiff.plot.save(figure, "/dev/null" if os.name == "posix" else "nul")
print(os.environ.get("MPLBACKEND"), str(dict.__getitem__(matplotlib.rcParams, "backend")).lower())
"""


@pytest.mark.long
@pytest.mark.parametrize("window", ["Qt4Agg", "nonsense", "module://nowhere", "QtAgg"])
def test_no_window_is_needed_and_a_known_one_is_kept(tmp_path, window):
    run = start("-c", BACKEND, MPLBACKEND=window)
    assert run.returncode == 0, run.stderr
    named, chosen = run.stdout.strip().split(" ", 1)
    assert named == window
    known = window not in ("Qt4Agg", "nonsense")
    assert (chosen == window.lower()) == known


# Where the rules stand


def sources():
    for path in sorted((ROOT / "minidiff").rglob("*.py")):
        yield path.relative_to(ROOT / "minidiff").as_posix(), path.read_text(encoding="utf-8")


def test_keys_are_made_in_one_place_and_draws_say_their_kind():
    import ast

    draws = {"normal", "uniform", "randint", "bits", "truncated_normal", "gumbel", "exponential"}
    for name, text in sources():
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of, called = ast.unparse(node.func.value), node.func.attr
            if of != "jax.random":
                continue
            assert called not in ("key", "PRNGKey") or name == "keys.py", f"{name}:{node.lineno}"
            kinds = [ast.unparse(x) for x in (*node.args, *(k.value for k in node.keywords))]
            stated = any(kind.startswith(("jnp.float", "jnp.int", "jnp.uint")) for kind in kinds)
            assert called not in draws or stated, f"{name}:{node.lineno}: in which kind of number?"


def test_matplotlib_is_imported_behind_its_guard():
    for name, text in sources():
        outside = not name.startswith("plot/") or name == "plot/__init__.py"
        assert not (outside and ("import matplotlib" in text or "from matplotlib" in text)), name
