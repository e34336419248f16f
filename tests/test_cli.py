"""The command: one clear line about bad input, and what the good commands leave behind."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from minidiff import __version__
from minidiff.cli import main, parse
from minidiff.commands import _found, doctor
from minidiff.measure import speed
from minidiff.recipes import ddpm
from minidiff.recipes import judge as judge_recipe
from minidiff.training.opening import open_run
from minidiff.training.run import Run

MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK")


def paint(folder, count=12):
    """Files of different sizes, kinds and modes, in colour and grey."""
    dice = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        mode = MODES[i % len(MODES)]
        width, height = dice.integers(5, 60, 2)
        image = Image.fromarray(dice.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
        suffix = "jpg" if mode in ("CMYK", "L") or i == 0 else "png"
        image.save(folder / f"{i}.{suffix}")
    return folder


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(ddpm_run):
    """A trained run on digits."""
    return ddpm_run


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def status(arguments):
    """The exit status of a command, however it ends."""
    try:
        return main([str(text) for text in arguments])
    except SystemExit as end:
        return end.code


# Bad input


def refused(capsys, tmp_path, arguments, *named):
    """Exit status 2, one line on stderr that names all of ``named``, nothing done."""
    before = files(tmp_path)
    capsys.readouterr()
    assert status(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("minidiff")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    for name in named:
        assert str(name) in err
    assert out == ""
    assert files(tmp_path) == before


USAGE = {
    "trian ddpm": ["trian"],
    "train": ["recipe"],
    "train pddm": ["pddm", "ddpm", "judge"],
    "train ddpm --preset huge": ["huge", "smoke"],
    "train ddpm --speed 3": ["--speed"],
    "train ddpm --quiet --speed=3": ["--speed"],
    "quickstart --preset huge": ["huge"],
    "quickstart steps=3": ["steps=3"],
    "sample": ["run"],
    "sample run --count 0": ["--count", "0", "from 1"],
    "sample run --count -4": ["--count", "-4"],
    "sample run --count many": ["--count", "many"],
    "sample run --count 1000001": ["--count", "1000001"],
    "sample run --steps 0": ["--steps", "0"],
    "sample run --seed -1": ["--seed", "-1"],
    "sample run --seed 4294967296": ["--seed", "4294967296"],
    "sample run --sampler magic": ["euler", "ddim", "ddpm"],
    "data": ["source"],
    "data digits --size 0": ["--size", "0"],
    "doctor --now": ["--now"],
}


@pytest.mark.parametrize("line", USAGE)
def test_wrong_usage(capsys, tmp_path, line):
    refused(capsys, tmp_path, line.split(), *USAGE[line])


TRAINING = {
    "train ddpm --preset smoke stepz=3": ["stepz", "steps"],
    "train ddpm --preset smoke steps": ["steps", "field=value"],
    "train ddpm --preset smoke steps=few": ["steps=few", "whole number"],
    "train ddpm --preset smoke steps=0": ["steps=0", "from 1"],
    "train ddpm learning_rate=nan --preset smoke": ["learning_rate=nan"],
    "train ddpm --preset smoke sample_steps=1001": ["sample_steps=1001", "timesteps=1000"],
    "train ddpm --data photos": ["photos", "digits"],
    "train ddpm --data folder:": ["folder:", "folder:PATH"],
    "train ddpm --data folder:nowhere": ["nowhere"],
    "train ddpm --data folder:empty": ["empty"],
    "train ddpm --data folder:file.txt": ["file.txt"],
    "train ddpm --data digits --preset smoke size=10": ["10", "multiple of 4"],
    "train ddpm --data digits --preset smoke size=12 patch=8": ["12", "16", "size, patch or"],
    "train ddpm --data tfds:no_such_data": ["no_such_data"],
    "train ddpm --data tfds:No/../Such": ["No/../Such"],
    "train ddpm --data digits --out file.txt --preset smoke": ["file.txt"],
    "train ddpm --data digits --out file.txt/run --preset smoke": ["file.txt/run"],
    "train ddpm --data digits --out full --preset smoke": ["full", "something else"],
    "train judge --data digits": ["data=digits", "scenes"],
    "train judge noise=inf": ["noise=inf"],
    "train judge --out file.txt/run": ["file.txt/run"],
}


@pytest.mark.parametrize("line", TRAINING)
def test_nothing_is_begun(capsys, tmp_path, monkeypatch, line):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "file.txt").write_text("hello")
    refused(capsys, tmp_path, line.split(), *TRAINING[line])


def damage(folder, kind):
    """Spoil a folder of images; the name of the culprit."""
    if kind == "text posing as PNG":
        (folder / "z.png").write_text("not a picture")
        return "z.png"
    if kind == "cut short":
        whole = (folder / "0.jpg").read_bytes()
        (folder / "0.jpg").write_bytes(whole[: len(whole) // 2])
        return "0.jpg"
    if kind == "empty file":
        (folder / "1.png").write_bytes(b"")
        return "1.png"
    if kind == "caption without image":
        (folder / "99.txt").write_text("a picture that was lost")
        return "99.txt"
    (folder / "metadata.jsonl").write_text('{"file_name": "lost.png", "text": "lost"}\n')
    return "lost.png"


@pytest.mark.parametrize("verb", ["train ddpm --preset smoke --data", "data"])
@pytest.mark.parametrize(
    "kind",
    ["text posing as PNG", "cut short", "empty file", "caption without image", "lost image"],
)
def test_a_damaged_folder_of_images(capsys, tmp_path, verb, kind):
    culprit = damage(paint(tmp_path / "images"), kind)
    refused(capsys, tmp_path, [*verb.split(), "folder:images"], culprit)


def test_no_network_for_tfds(capsys, tmp_path, monkeypatch):
    import urllib.request

    import tensorflow_datasets as tfds

    def unreachable(*arguments, **settings):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", unreachable)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert status(["train", "ddpm", "--data", "tfds:mnist", "--out", "run"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("minidiff: ")
    assert "mnist" in err
    assert err.count("\n") == 1, err
    assert not (tmp_path / "run").exists()


SAMPLING = {
    "sample nowhere": ["nowhere", "config.json"],
    "sample file.txt": ["file.txt"],
    "sample empty": ["empty", "config.json"],
    "sample untrained": ["untrained", "no checkpoint"],
    "sample of_judge": ["of_judge", "judge", "not of ddpm or text_to_image"],
    "sample odd": ["odd", "config.json"],
    "sample run --steps 9": ["9", "8"],
    "sample run --sampler ddpm --steps 9": ["9", "8"],
    "sample run --out samples.jpg": ["samples.jpg", ".png"],
    "sample run --out nowhere/samples.png": ["nowhere"],
    "sample run --out folder.png": ["folder.png"],
    "data digits --out data.gif": ["data.gif", ".png"],
    "data digits --split validation": ["validation", "train and test"],
    "data photos": ["photos"],
    "data scenes --split validation": ["validation", "train"],
    "data digits --write there": ["digits", "tfds:NAME"],
}


@pytest.mark.parametrize("line", SAMPLING)
def test_nothing_is_drawn(capsys, tmp_path, run, line):
    for name in ("empty", "folder.png", "odd"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.txt").write_text("hello")
    (tmp_path / "odd" / "config.json").write_text('{"recipe": "ddpm", "config": [1]}')
    open_run(tmp_path / "untrained", "ddpm", ddpm.PRESETS["smoke"], image_shape=[8, 8, 1])
    open_run(tmp_path / "of_judge", "judge", judge_recipe.PRESETS["smoke"])
    (tmp_path / "run").symlink_to(run)
    refused(capsys, tmp_path, line.split(), *SAMPLING[line])


def test_other_settings_leave_the_run_alone(capsys, tmp_path, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    refused(capsys, tmp_path, tiny.command(run, "digits", "seed=1"), run, "seed is 0 there, 1 here")
    refused(capsys, tmp_path, ["train", "judge", "--out", run], run, "of ddpm, not of judge")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_full_disk(capsys, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert status(tiny.command("run")) == 2
    err = capsys.readouterr().err
    assert err.startswith("minidiff: ")
    assert "No space left on device" in err
    assert "run" in err
    assert err.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_interruption(capsys, monkeypatch):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(ddpm, "run", interrupt)
    assert status(["train", "ddpm"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


# What is printed


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert status(["--help"]) == 0
    assert capsys.readouterr().out == shown
    for verb in (
        "quickstart",
        "train",
        "sample",
        "classify",
        "search",
        "arithmetic",
        "data",
        "doctor",
    ):
        assert verb in shown
        assert status([verb, "--help"]) == 0
        assert "usage: minidiff " + verb in capsys.readouterr().out


@pytest.mark.parametrize("recipe", _found.recipes())
def test_the_fields_of_a_recipe(capsys, tmp_path, recipe):
    assert main(["train", recipe, "--fields"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[1:-1] == list(_found.presets(recipe))
    assert {"steps", "batch_size", "learning_rate", "data"} <= {line.split()[0] for line in lines}
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        "train ddpm steps=5 seed=1 --preset smoke --quiet",
        "train ddpm --preset smoke --quiet steps=5 seed=1",
        "train ddpm steps=5 --preset smoke seed=1 --quiet",
        "train --preset smoke ddpm steps=5 --quiet seed=1",
    ],
)
def test_settings_stand_anywhere(line):
    args = parse(line.split())
    assert (args.recipe, args.preset, args.quiet) == ("ddpm", "smoke", True)
    assert args.settings == ["steps=5", "seed=1"]


# What is done


def test_train_leaves_a_run(run):
    names = ["checkpoints", "config.json", "figures", "metrics.jsonl", "report.json", "report.md"]
    assert sorted(os.listdir(run)) == names
    report = Run(run).read_json("report.json")
    assert report["data"] == "digits"
    assert report["steps"] == 200
    assert np.isfinite(report["loss"])
    assert "judge" not in report
    for link in ("samples", "loss"):
        assert f"figures/{link}.png" in (run / "report.md").read_text()
        with Image.open(run / "figures" / f"{link}.png") as picture:
            picture.verify()


def test_train_again_changes_no_weights(capsys, run):
    checkpoints = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    metrics = (run / "metrics.jsonl").read_bytes()
    assert main(tiny.command(run)) == 0
    assert "report.md" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == checkpoints
    assert (run / "metrics.jsonl").read_bytes() == metrics


def tiles(path, count, side=8):
    """The images on a sheet of samples."""
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        assert sheet.mode == "RGB"
        pixels = np.asarray(sheet)
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    width = columns * (side + 1) + 1
    factor = round(640 / width)
    assert pixels.shape == ((rows * (side + 1) + 1) * factor, width * factor, 3)
    small = pixels[::factor, ::factor].astype(int)
    places = [divmod(i, columns) for i in range(count)]
    corners = [(1 + (side + 1) * row, 1 + (side + 1) * column) for row, column in places]
    return np.stack([small[y : y + side, x : x + side] for y, x in corners])


def sample(run, *more, count):
    """The images that ``minidiff sample`` draws."""
    assert main(["sample", str(run), "--count", str(count), "--out", "made.png", *more]) == 0
    return tiles("made.png", count)


def test_samples_by_seed(capsys, run):
    first = sample(run, count=4)
    assert "4 samples" in capsys.readouterr().out
    content = Path("made.png").read_bytes()
    assert np.array_equal(first, sample(run, count=4))
    assert Path("made.png").read_bytes() == content
    assert not np.array_equal(first, sample(run, "--seed", "1", count=4))
    assert len({image.tobytes() for image in first}) == 4


def test_more_samples_begin_with_the_same_ones(run):
    """To a step of rounding: another batch size is another compiled program."""
    assert np.abs(sample(run, count=8)[:4] - sample(run, count=4)).max() <= 1


def test_one_of_the_checkpoints(capsys, run):
    first, *_, last = steps = Run(run).saved_steps()
    drawn = sample(run, count=4)
    assert np.array_equal(drawn, sample(f"{run}@{last}", count=4))
    assert not np.array_equal(drawn, sample(f"{run}@{first}", count=4))
    assert main(["sample", f"{run}@999"]) == 2
    assert (
        f"no checkpoint of step 999: there are {', '.join(map(str, steps))}"
        in capsys.readouterr().err
    )


def test_samplers_and_steps(run):
    few = sample(run, count=4)
    assert np.array_equal(few, sample(run, "--steps", "2", count=4))  # as the run was told
    assert not np.array_equal(few, sample(run, "--steps", "4", count=4))
    assert not np.array_equal(few, sample(run, "--sampler", "ddpm", count=4))


@pytest.mark.long
def test_a_folder_of_ones_own_pictures(capsys, tmp_path):
    """Training, going on after the last checkpoint is lost, and sampling, in colour."""
    paint(tmp_path / "images")
    assert main(tiny.command("run", "folder:images")) == 0
    run = Run(tmp_path / "run")
    assert run.read_json("config.json")["image_shape"] == [8, 8, 3]
    last = run.checkpoint(200).read_bytes()
    run.checkpoint(200).unlink()
    assert main(tiny.command("run", "folder:images")) == 0
    assert run.checkpoint(200).read_bytes() == last
    made = sample("run", count=3)
    assert np.ptp(made, axis=-1).max() > 0  # not grey
    (tmp_path / "images" / "new.txt").write_text("a caption that has no image")
    refused(capsys, tmp_path, tiny.command("run", "folder:images"), "new.txt")


def test_grey_pictures_stay_grey(tmp_path):
    from minidiff.data.sources import open_source

    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.new("L", (9 + i, 12), 40 * i).convert("RGB").save(tmp_path / "images" / f"{i}.png")
    assert open_source("folder:images", size=8).image_shape == (8, 8, 1)


@pytest.mark.parametrize("source", ["digits", "folder:images"])
def test_look_at_data(capsys, tmp_path, source):
    paint(tmp_path / "images")
    assert main(["data", source, "--out", "sheet.png", "--count", "6"]) == 0
    out = capsys.readouterr().out
    assert f"name: {source}" in out
    assert "image_shape: [16, 16, " in out
    assert "problem: " in out
    with Image.open("sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 100


# Doctor


def test_every_check_of_the_doctor_holds():
    checks = doctor.checks()
    assert len(checks) == 6
    assert [text for text, holds in checks if not holds] == []


def test_the_probe_measures_something():
    assert speed.speed_probe(0.1) > 0


def test_the_doctor_reports(capsys, monkeypatch):
    monkeypatch.setattr(speed, "speed_probe", lambda: speed.REFERENCE_GFLOPS / 2)
    monkeypatch.setattr(doctor, "checks", lambda: [("the sky is up", True), ("all is well", False)])
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "jax: " in out
    assert "ok: the sky is up\n" in out
    assert "WRONG: all is well\n" in out
    assert f"ddpm cpu: {2 * ddpm.MINUTES['cpu']:.1f}\n" in out
