"""Strict settings for every test. Warnings are errors by pyproject.toml."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

# A test's programs run a few times, so most of its time is the compiler's: without LLVM's optimizer
# that is a third to a half less. Child processes inherit it. XLA's own passes run as ever.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

# Before anything of minidiff is imported: shapes in its signatures are checked on every call.
install_import_hook("minidiff", "typecheck.shapes")

import minidiff  # noqa: E402, F401  sets XLA_FLAGS and the compile cache, before jax is imported

# isort: split
import hypothesis  # noqa: E402
import jax  # noqa: E402
import programs  # noqa: E402
import pytest  # noqa: E402
import seconds  # noqa: E402

# Arrays of different rank never meet by accident: (batch,) * (batch, 1) is a classic bug.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Files in which arrays of different type never meet by accident either: float32 + bfloat16, or
# int32 * float32, is written out where it is meant. Not those that train: optax divides by an integer
# count. Of the others nobody has mended the tests' own sums.
STRICT_TYPES = {
    "test_blocks",
    "test_contrastive",
    "test_guidance",
    "test_kernels",
    "test_kernels_attention",
    "test_layers",
    "test_noising",
    "test_objectives",
    "test_text",
    "test_transformer",
    "test_unet",
    "test_vit",
}

# The first example compiles, so a deadline would measure the compiler.
hypothesis.settings.register_profile("local", deadline=None, max_examples=25)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="module", autouse=True)
def strict_types(request):
    """A type is never promoted by accident, in a file of STRICT_TYPES."""
    strict = request.module.__name__ in STRICT_TYPES
    jax.config.update("jax_numpy_dtype_promotion", "strict" if strict else "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "standard")


MOST_PROCESSES = 8  # each takes one to two gigabytes


def pytest_addoption(parser):
    parser.addoption(
        "--optimized", action="store_true", help="compile all as a user's programs are"
    )
    parser.addoption("--seconds", action="store_true", help="end with a table of what files cost")


def pytest_configure(config):
    if config.option.optimized:
        os.environ.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
        jax.config.update("jax_disable_most_optimizations", False)
    if config.option.seconds:
        config.pluginmanager.register(seconds.Seconds())


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config):
    """A process for each core, unless ``-n`` says otherwise or only one file is asked for.

    Not by addopts, which would end every run without xdist in an error. A file stays on one process,
    so that what its tests share is made once. In the order of the alphabet the last files are short;
    xdist's own order leaves long files of few tests for the end.
    """
    option = config.option
    if not config.pluginmanager.hasplugin("xdist") or "PYTEST_XDIST_WORKER" in os.environ:
        return
    alone = len(config.args) == 1 and not Path(config.args[0]).is_dir()
    if option.numprocesses is None and not (alone or option.tx or option.collectonly):
        option.numprocesses, option.maxprocesses = "logical", MOST_PROCESSES
    if option.numprocesses and option.dist == "no":
        option.dist, option.loadscopereorder = "loadfile", False


@pytest.fixture(scope="module")
def optimized():
    """Programs compiled as a user's are, for a file that asks: faster twins, bounds of a few roundings."""
    jax.clear_caches()
    with programs.optimized():
        yield
    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def few_programs(request):
    """Forget compiled programs after a file, once they are many or may hold another platform's kernels.

    Each takes tens to thousands of memory mappings. Linux allows a process 65,530; the compiler that
    gets no more of them ends in a segmentation fault. Until then a file finds the small ones made.
    """
    yield
    if mappings() > 16_000 or hasattr(request.module, "assume"):
        jax.clear_caches()


def mappings():
    """How many memory mappings this process has; elsewhere than on Linux nobody counts them."""
    maps = Path("/proc/self/maps")
    return len(maps.read_bytes().splitlines()) if maps.exists() else 0


@pytest.fixture(scope="session")
def ddpm_run(tmp_path_factory):
    """The tiny ddpm run on digits, to its end; nobody changes it."""
    import tiny

    from minidiff.cli import main

    folder = tmp_path_factory.mktemp("ddpm") / "run"
    assert main(tiny.command(folder)) == 0
    return folder


@pytest.fixture(scope="session")
def clip_run(tmp_path_factory):
    """A run of the smallest CLIP on scenes: hardly trained, but whole."""
    import tiny

    from minidiff.cli import main

    folder = tmp_path_factory.mktemp("clip") / "run"
    assert main(tiny.clip_command(folder)) == 0
    return folder


@pytest.fixture(scope="session")
def text_run(clip_run, tmp_path_factory):
    """A run of the smallest text-to-image model on that CLIP: hardly trained, but whole."""
    import tiny

    from minidiff.cli import main

    folder = tmp_path_factory.mktemp("text_to_image") / "run"
    assert main(tiny.text_command(folder, f"encoder={clip_run}")) == 0
    return folder


@pytest.fixture(scope="session")
def vae_run(tmp_path_factory):
    """A run of the smallest VAE on scenes: hardly trained, but whole."""
    import tiny

    from minidiff.cli import main

    folder = tmp_path_factory.mktemp("vae") / "run"
    assert main(tiny.vae_command(folder)) == 0
    return folder


# Of tests/test_hostile_*.py


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, the only one where something may change, beside one with a secret."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("nobody's business")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with a run of each kind and some images, for tests to link or to copy."""
    from hostile_files import clip_run, ddpm_run, good_images

    folder = tmp_path_factory.mktemp("models")
    ddpm_run(folder / "run")
    clip_run(folder / "clip")
    good_images(folder / "images")
    return folder
