"""What minidiff.runtime sets, and what it leaves alone, each in a process of its own."""

import importlib.metadata
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from minidiff import runtime

ROOT = Path(__file__).parents[1]
FLAGS, CACHE = "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"
THRESHOLD = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"

posix = pytest.mark.skipif(os.name != "posix", reason="XDG folders and file modes are of POSIX")


@pytest.fixture
def start(tmp_path):
    """Run Python code in a new process with nothing set but the arguments; its JSON comes back."""
    ours = ("XLA_", "JAX_", "MINIDIFF_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    inherited |= {"XDG_CACHE_HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}

    def start(code, **settings):
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=inherited | settings,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    return start


ENVIRONMENT = f"""
import json, os
import minidiff
print(json.dumps([os.environ.get(name) for name in ({FLAGS!r}, {CACHE!r}, {THRESHOLD!r})]))
"""


def test_sets_flag_and_cache_when_nothing_is_set(start, tmp_path):
    flags, cache, seconds = start(ENVIRONMENT)
    expected = runtime.CPU_FLAG if runtime.knows_cpu_flag(runtime.jaxlib_version()) else None
    assert flags == expected
    if sys.platform != "darwin":  # its folder for caches does not move with the environment
        assert tmp_path in Path(cache).parents
    assert Path(cache).is_dir()
    assert float(seconds) == runtime.MIN_COMPILE_SECONDS


@pytest.mark.parametrize("theirs", ["", "--xla_cpu_multi_thread_eigen=false"])
def test_never_touches_a_users_own_xla_flags(start, theirs):
    assert start(ENVIRONMENT, XLA_FLAGS=theirs)[0] == theirs


def test_never_touches_a_users_own_cache(start, tmp_path):
    theirs = str(tmp_path / "theirs")
    assert start(ENVIRONMENT, **{CACHE: theirs})[1:] == [theirs, None]
    assert start(ENVIRONMENT, **{THRESHOLD: "7"})[2] == "7"


def test_opting_out(start):
    flags, cache, seconds = start(ENVIRONMENT, MINIDIFF_XLA_FLAGS="0")
    assert flags is None
    assert cache
    flags, cache, seconds = start(ENVIRONMENT, MINIDIFF_CACHE="0")
    assert (cache, seconds) == (None, None)


@posix
@pytest.mark.parametrize("home", ["a file, not a folder", "relative/path"])
def test_no_cache_rather_than_an_error_where_it_cannot_be_written(start, tmp_path, home):
    if home == "a file, not a folder":
        home = str(tmp_path / "file")
        Path(home).touch()
    assert start(ENVIRONMENT, XDG_CACHE_HOME=home)[1] is None


@posix
def test_only_the_user_may_write_the_cache(start):
    # JAX runs what it finds there.
    assert stat.S_IMODE(os.stat(start(ENVIRONMENT)[1]).st_mode) == 0o700


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("0.10.1", False),
        ("0.10.2", True),
        ("0.10.10", True),
        ("0.11.0.dev20260101+abc", True),
        ("0.12.0.1", True),
        ("0.13.0.dev1", False),
        ("0.9.2", False),
        ("0.10", False),
        ("1.0", False),
        ("unknown", False),
        (None, False),
    ],
)
def test_flag_only_for_releases_known_to_accept_it(version, known):
    assert runtime.knows_cpu_flag(version) is known


def test_jaxlib_version_is_found_without_importing_it():
    assert runtime.jaxlib_version() == importlib.metadata.version("jaxlib")


def test_cache_folder_differs_wherever_compiled_programs_do(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "_user_cache", lambda: str(tmp_path))
    cpu = {"model name": "one", "flags": "avx2 fma"}
    monkeypatch.setattr(runtime, "_cpuinfo", lambda: cpu)
    monkeypatch.setenv(FLAGS, "--a=1")

    folders = [runtime.cache_folder("0.10.2")]
    assert runtime.cache_folder("0.10.2") == folders[0]
    folders.append(runtime.cache_folder("0.12.0.1"))
    monkeypatch.setenv(FLAGS, "--a=2")
    folders.append(runtime.cache_folder("0.10.2"))
    cpu["flags"] = "avx2 fma avx512f"
    folders.append(runtime.cache_folder("0.10.2"))
    cpu["model name"] = "two"
    folders.append(runtime.cache_folder("0.10.2"))
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("backend_started", [False, True])
def test_jax_imported_first(start, backend_started):
    """The cache is still used; the flag only while XLA has not read its flags."""
    flags, cache, config, seconds = start(f"""
import json, os
import jax
if {backend_started}: jax.devices()
import minidiff
print(json.dumps([
    os.environ.get({FLAGS!r}), os.environ.get({CACHE!r}),
    jax.config.jax_compilation_cache_dir,
    jax.config.jax_persistent_cache_min_compile_time_secs,
]))
""")
    known = runtime.knows_cpu_flag(runtime.jaxlib_version())
    assert flags == (runtime.CPU_FLAG if known and not backend_started else None)
    assert config == cache is not None
    assert seconds == runtime.MIN_COMPILE_SECONDS


def test_a_cache_configured_in_jax_stands(start):
    assert (
        start("""
import json
import jax
jax.config.update("jax_compilation_cache_dir", "theirs")
import minidiff
print(json.dumps(jax.config.jax_compilation_cache_dir))
""")
        == "theirs"
    )


DONATED_TRAINING = """
import minidiff, functools, hashlib, json
import jax, jax.numpy as jnp
import numpy as np

hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.endswith("/cache_hits")))

def loss(weights, x):
    h = x
    for w in weights:
        h = jnp.tanh(jax.lax.conv_general_dilated(
            h, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
    return jnp.mean((h - x) ** 2)

@functools.partial(jax.jit, donate_argnums=0)
def train(state, images):
    def step(state, x):
        weights, momentum = state
        slope = jax.grad(loss)(weights, x)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, slope)
        return (jax.tree.map(lambda w, m: w - 0.1 * m, weights, momentum), momentum), None
    return jax.lax.scan(step, state, images)[0]

rng = np.random.default_rng(0)
weights = [rng.normal(0, 0.3, (3, 3, 4, 4)).astype("float32") for _ in range(2)]
state = jax.device_put((weights, [np.zeros_like(w) for w in weights]))
for _ in range(3):
    state = train(state, rng.normal(size=(5, 4, 8, 8, 4)).astype("float32"))
bits = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
assert np.isfinite(np.frombuffer(bits, np.float32)).all()
print(json.dumps([hashlib.sha256(bits).hexdigest(), sum(hits)]))
"""


@pytest.mark.long
def test_cached_programs_with_donated_buffers_give_the_same_bits(start):
    plain, _ = start(DONATED_TRAINING, MINIDIFF_CACHE="0")
    stored, hits_before = start(DONATED_TRAINING, **{THRESHOLD: "0"})
    loaded, hits_after = start(DONATED_TRAINING, **{THRESHOLD: "0"})
    assert (hits_before, hits_after > 0) == (0, True)
    assert plain == stored == loaded


@pytest.mark.skipif(
    os.environ.get(FLAGS) != runtime.CPU_FLAG, reason="XLA_FLAGS are not minidiff's"
)
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the flag concerns CPUs")
def test_convolutions_go_to_eigen():
    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    # Wide enough: without the flag, narrow convolutions go to Eigen too.
    x, w = jnp.ones((64, 16, 16, 64)), jnp.ones((3, 3, 64, 64))
    assert "ynn_fusion" not in jax.jit(convolve).lower(x, w).compile().as_text()


def test_describe_tells_what_is_in_effect():
    facts = json.loads(json.dumps(runtime.describe()))
    for package in ("jax", "jaxlib", "flax", "optax", "numpy"):
        assert facts[package] == importlib.metadata.version(package)
    assert facts["backend"] == jax.default_backend()
    assert len(facts["devices"]) == jax.device_count()
    assert 1 <= facts["cpu_count"] <= os.cpu_count()
    assert facts["xla_flags"] == os.environ.get(FLAGS, "")
    assert facts["cache_dir"] == jax.config.jax_compilation_cache_dir


def test_describe_measures_the_cache(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one").write_bytes(b"123")
    (tmp_path / "two").write_bytes(b"45")
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert runtime.describe()["cache_bytes"] == 5
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
