"""What a training needs of its data is asked before the work; what is merely odd is told at its start."""

from pathlib import Path

import pytest
import tiny
from PIL import Image

from minidiff.cli import main
from minidiff.data.folder import in_test

COUNT = 20  # enough for a test split
NAMES = [f"{i:02}.png" for i in range(COUNT)]
IN_TRAIN = next(name for name in NAMES if not in_test(name))
IN_TEST = next(name for name in NAMES if in_test(name))

TRAININGS = {
    "ddpm": lambda out: tiny.command(out, "folder:images", "steps=2"),
    "clip": lambda out: tiny.clip_command(out, "--data", "folder:images"),
    "text_to_image": lambda out: tiny.text_command(out, "--data", "folder:images"),
}


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for i, name in enumerate(NAMES):
        Image.new("RGB", (16, 16), (10 * i, 0, 99)).save(Path("images", name))
        Path("images", name).with_suffix(".txt").write_text(f"picture {i}")


def forget(name):
    Path("images", name).with_suffix(".txt").unlink()


@pytest.mark.parametrize("recipe", ["clip", "text_to_image"])
@pytest.mark.parametrize("name", [IN_TRAIN, IN_TEST])
def test_one_missing_caption_is_refused_before_the_work(capsys, recipe, name):
    forget(name)
    assert main(TRAININGS[recipe]("run")) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert f"folder:images: 1 image(s) without a caption, and here each needs one: {name}" in err
    assert out == ""
    assert not Path("run").exists()


@pytest.mark.parametrize("recipe", ["clip", "text_to_image"])
def test_no_captions_at_all_is_refused_before_the_work(capsys, recipe):
    for name in NAMES:
        forget(name)
    assert main(TRAININGS[recipe]("run")) == 2
    assert "folder:images has no captions: there is no text" in capsys.readouterr().err
    assert not Path("run").exists()


def test_what_needs_no_captions_goes_on_and_tells_each_problem_once(capsys):
    forget(IN_TRAIN)
    Path("images", "notes.md").write_text("nothing of use")
    assert main([*TRAININGS["ddpm"]("run"), "batch_size=20"]) == 0
    count = COUNT - sum(map(in_test, NAMES))
    told = [line for line in capsys.readouterr().err.splitlines() if "problem" in line]
    assert told == [
        "minidiff: problem of folder:images: 1 other file(s) ignored: .md",
        f"minidiff: problem of folder:images: 1 of {COUNT} images have no caption: {IN_TRAIN}",
        f"minidiff: problem of folder:images: {count} images are fewer than a batch of 20: batches "
        "repeat images",
    ]
    assert Path("run", "report.json").exists()
