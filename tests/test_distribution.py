"""What is published: the wheel holds the lessons, and does without the repository what README says."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("minidiff", "lessons", "tests", "benchmarks", "docs", ".ci")
BUILD = "from setuptools import build_meta; build_meta.build_{}({!r})"


def build(kind, tree, out):
    """The file that setuptools, as pip calls it, makes of a tree of sources."""
    out.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind, str(out))],
        cwd=tree, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    [made] = out.iterdir()
    return made


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The source distribution of this repository, unpacked."""
    folder = tmp_path_factory.mktemp("sources")
    tree, ignore = folder / "tree", shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    with tarfile.open(build("sdist", tree, folder / "sdist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    [unpacked] = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    """A wheel, made of the source distribution alone."""
    return build("wheel", sources, tmp_path_factory.mktemp("wheel"))


def relative(folder, *patterns):
    return {path.relative_to(folder).as_posix() for p in patterns for path in folder.glob(p)}


def test_the_source_distribution_holds_what_is_edited_and_tested(sources):
    wanted = ("minidiff/**/*.py", "lessons/**/*.py", "lessons/*.ipynb", "lessons/*.json", "*.toml")
    wanted += ("tests/*.py", "tests/golden/*", "benchmarks/*.py", "docs/*.md", "*.md")
    assert relative(ROOT, *wanted) <= relative(sources, "**/*")


def test_the_wheel_holds_all_modules_and_lessons_and_nothing_beside_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = relative(ROOT, "minidiff/**/*.py")
    lessons = relative(ROOT / "lessons", "*.ipynb", "measured.json")
    assert len(modules) > 100
    assert len(lessons) > 10
    assert modules | {f"minidiff/assets/lessons/{name}" for name in lessons} <= names
    assert relative(ROOT, "minidiff/assets/**/*.*") <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"minidiff", next(top for top in tops if top.endswith(".dist-info"))}
    assert not [name for name in names if "__pycache__" in name or "/src/" in name]


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory):
    """Runs ``minidiff`` of the wheel, in an empty folder, where there is no checkout."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    install = ["pip", "--python", str(scripts / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, "-m", *install, "--quiet", str(wheel)], check=True)
    # Everything else as it is installed here; a path in a .pth file comes after the venv's own.
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    [there] = subprocess.check_output([scripts / "python", "-c", code], text=True).split("\n")[:-1]
    (Path(there) / "running.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "work").mkdir()

    def run(*words, program="minidiff"):
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [scripts / program, *words],
            cwd=folder / "work", env=kept, capture_output=True, text=True, check=False,
        )  # fmt: skip

    where = run("-c", "import minidiff; print(minidiff.__file__)", program="python").stdout
    assert Path(where.strip()).is_relative_to(folder), where
    return run


def said(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_without_the_repository(command, tmp_path):
    """Quickstart, a picture from its run, the lessons, a copy of one, its exercises."""
    names = sorted(path.stem for path in (ROOT / "lessons").glob("*.ipynb"))
    assert "report.md" in said(command("quickstart", "--preset", "smoke"))
    out = tmp_path / "cat.png"
    said(command("sample", "quickstart/text_to_image", "a blue cat", "--out", str(out)))
    assert out.stat().st_size > 1000
    listed = said(command("lessons"))
    assert [line.split()[0] for line in listed.splitlines()[:-1]] == names
    assert "a fresh copy" in said(command("lessons", "open", "00", "--no-start"))
    assert "0 of" in said(command("check", f"{names[0]}.ipynb"))
    refused = command("bench")
    assert refused.returncode == 2
    assert refused.stderr.startswith("minidiff: the benchmarks are not here: clone minidiff")
    assert refused.stderr.count("\n") == 1
