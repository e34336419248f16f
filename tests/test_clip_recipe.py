"""The clip recipe and the commands that use its runs, on the smallest run there is."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from minidiff import weights
from minidiff.cli import main
from minidiff.errors import InputError
from minidiff.recipes import clip as recipe
from minidiff.trained.encoder import Index
from minidiff.training.run import Run


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def numbers(run):
    """metrics.jsonl without the clock."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]


def bits(run):
    arrays, _ = weights.load_arrays(run.checkpoint(run.saved_steps()[-1]))
    return {name: (x.dtype, x.shape, x.tobytes()) for name, x in arrays.items()}


# The recipe


def test_what_a_run_leaves(clip_run):
    run = Run(clip_run)
    assert run.saved_steps() == [2, 4]
    lines = run.metrics()
    assert [line["step"] for line in lines] == [2, 4]
    assert all({"loss", "temperature", "gradient_norm"} <= set(line) for line in lines)
    assert lines[0]["temperature"] == pytest.approx(0.07, rel=0.01)
    pictures = sorted(run.figures.glob("*.png"))
    assert run.figures / "loss.png" in pictures
    assert len(pictures) > 1  # and the similarities
    for path in pictures:
        with Image.open(path) as picture:
            picture.verify()
    for step in (0, 2, 4):
        scores, _ = weights.load_arrays(run.path / recipe.SCORES / f"{step:06d}.safetensors")
        assert scores["cosine"].shape == (recipe.SHOWN, recipe.SHOWN)
        assert np.abs(scores["cosine"]).max() <= 1 + 1e-5
    facts = run.read_json("config.json")
    assert facts["image_shape"] == [8, 8, 3]


def test_the_report_measures_everything(clip_run):
    report = Run(clip_run).read_json("report.json")
    assert report["log_batch_size"] == pytest.approx(np.log(16))
    assert 0 < report["loss"] < 10
    for way in ("image to text", "text to image"):
        found = report["recall"][way]
        assert 0 <= found["R@1"] <= found["R@5"] <= found["R@10"] <= 1
        assert 0.5 < found["ceiling of R@1"] <= 1
    for split in ("test", "unseen"):
        assert all(0 <= value <= 1 for value in report["zero_shot"][split].values())
    assert len(report["hat"]["ranks"]) == 5
    assert 0 <= report["binding"] <= 1
    text = (clip_run / "report.md").read_text()
    assert f"{report['parameters']:,} parameters" in text
    assert "figures/loss.png" in text


def test_a_stopped_run_ends_with_the_same_bits(clip_run, tmp_path, capsys):
    again = Run(tmp_path / "again")
    shutil.copytree(clip_run, again.path)
    again.checkpoint(4).unlink()
    (again.path / "report.json").unlink()
    assert main(tiny.clip_command(again.path)) == 0
    assert "report.md" in capsys.readouterr().out
    assert bits(again) == bits(Run(clip_run))
    assert numbers(again) == numbers(Run(clip_run))
    found, expected = (
        run.read_json("report.json") | {"training_seconds": 0} for run in (again, Run(clip_run))
    )
    assert found == expected


def test_it_loads_what_it_trained(clip_run):
    encoder = recipe.load(clip_run)
    arrays, _ = weights.load_arrays(Run(clip_run).checkpoint(4))
    np.testing.assert_array_equal(encoder.clip.text.tokens, arrays["ema.text.tokens"])
    assert (encoder.side, encoder.clip.config.embedding) == (8, 8)
    assert encoder.texts(["a red cat", "a blue man"]).shape == (2, 8)
    assert encoder.clip.config.text.end == encoder.tokenizer.end


@pytest.mark.long
def test_siglip_trains_its_bias_on_ones_own_pictures(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, colour in enumerate(["red", "green", "blue", "white"]):
        Image.new("RGB", (9 + i, 9), colour).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {colour} wall")
    more = ["loss=siglip", "context=6", "optimizer=muon"]
    assert main(tiny.clip_command("run", "--data", "folder:images", *more)) == 0
    encoder = recipe.load("run")
    assert float(encoder.clip.bias) != -10
    assert encoder.context == 6
    report = Run(tmp_path / "run").read_json("report.json")
    assert set(report) & {"zero_shot", "hat", "binding"} == set()
    assert 0 <= report["recall"]["image to text"]["R@1"] <= 1
    assert "zero-shot" not in (tmp_path / "run" / "report.md").read_text()


def test_runs_that_are_none(clip_run, tmp_path):
    def refused(message, change):
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(clip_run, folder)
        config = json.loads((folder / "config.json").read_text())
        change(folder, config)
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=message) as caught:
            recipe.load(folder)
        assert "\n" not in str(caught.value)

    refused("a run of ddpm, not of clip", lambda folder, c: c.update(recipe="ddpm"))
    refused("not of this version", lambda folder, c: c["config"].update(speed=3))
    refused("not of this version", lambda folder, c: c.pop("context"))
    refused("of another model", lambda folder, c: c["config"].update(width=32))
    refused("tokenizer", lambda folder, c: shutil.rmtree(folder / "tokenizer"))
    refused("no checkpoint yet", lambda folder, c: [
        path.unlink() for path in (folder / "checkpoints").iterdir()
    ])  # fmt: skip


# The commands


@pytest.fixture
def here(clip_run, tmp_path):
    """A folder with a run, a folder of pictures, and things that are neither."""
    (tmp_path / "run").symlink_to(clip_run)
    images = tmp_path / "images"
    images.mkdir()
    for i, colour in enumerate(["red", "green", "blue", "white", "black"]):
        Image.new("RGB", (20 + i, 12), colour).save(images / f"{colour}.png")
    Image.new("L", (8, 8), 100).save(images / "grey.jpg")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("hello")
    return tmp_path


def done(capsys, line):
    """What a good command prints; its picture is looked at."""
    assert main(line) == 0
    out = capsys.readouterr().out
    with Image.open(out.strip().splitlines()[-1].removeprefix("picture: ")) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 100
    return out.strip().splitlines()[:-1]


def test_classify(capsys, here):
    images = ["images/red.png", str(here / "images" / "grey.jpg")]  # near and from the root
    rows = done(capsys, ["classify", "run", *images, "--labels", "a man", "cat", "star"])
    assert [row.split()[0] for row in rows] == ["red.png", "grey.jpg"]
    for row in rows:
        shares = [float(part.rsplit(" ", 1)[1].rstrip("%")) for part in row.split(", ")]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(100, abs=0.2)
        assert all(label in row for label in ("a man", "cat", "star"))
    one = ["--templates", "{}", "--out", "other.png"]
    assert done(capsys, ["classify", "run", images[0], "--labels", "cat", "dog", *one]) != rows
    assert Path("classify.png").exists()
    assert Path("other.png").exists()


def test_classify_tells_what_it_cut(capsys, here):
    long = "cat " * 200
    assert main(["classify", "run", "images/red.png", "--labels", "cat", long]) == 0
    err = capsys.readouterr().err
    assert "cut to" in err
    assert long.strip() in err


def test_search(capsys, here):
    line = ["search", "run", "images", "a red cat", "a man", "--count", "2"]
    rows = done(capsys, line)
    assert "wrote the index of 6 images" in rows[0]
    assert [row.split(":")[0] for row in rows[1:]] == ["a red cat", "a man"]
    assert all(row.count(".png") + row.count(".jpg") == 2 for row in rows[1:])
    again = done(capsys, line)
    assert "read the index" in again[0]
    assert again[1:] == rows[1:]
    index = Index.load("images.index.safetensors")
    assert len(index.names) == 6
    assert index.encoder == recipe.load("run").fingerprint


def test_search_by_an_image_finds_itself(capsys, here):
    line = ["search", "run", "images", "--image", "images/blue.png", "--count", "99"]
    rows = done(capsys, [*line, "--index", "here.safetensors"])
    assert rows[1].startswith("like blue.png: ")
    assert "blue.png 1.00" in rows[1]
    assert rows[1].count(",") == 5
    assert Path("here.safetensors").exists()


def test_arithmetic(capsys, here):
    rows = done(capsys, ["arithmetic", "run"])
    told = [part.rsplit(" ", 1) for part in rows[0].split(", ")]
    cosines = [float(value) for _, value in told]
    assert len(told) == 8
    assert cosines == sorted(cosines, reverse=True)
    plain = done(capsys, ["arithmetic", "run", "--not-centred", "--out", "plain.png"])
    assert plain != rows
    line = ["arithmetic", "run", "--plus", "images/red.png", "--minus", "images/blue.png"]
    rows = done(capsys, [*line, "images/white.png", "--words", "red", "blue", "red"])
    assert sorted(part.split()[0] for part in rows[0].split(", ")) == ["blue", "red"]


BAD = {
    "classify": ["model"],
    "classify run images/red.png": ["--labels"],
    "classify run images/red.png --labels cat": ["--labels", "two different"],
    "classify run images/red.png --labels cat cat": ["--labels", "two different"],
    "classify run images/red.png --labels cat _": ["empty label"],
    "classify run images/red.png --labels cat dog --templates photo": ["{}", "photo"],
    "classify run text.png --labels cat dog": ["text.png"],
    "classify run nowhere.png --labels cat dog": ["nowhere.png"],
    "classify run images --labels cat dog": ["images"],
    "classify nowhere images/red.png --labels cat dog": ["nowhere"],
    "classify empty images/red.png --labels cat dog": ["empty"],
    "classify file.txt images/red.png --labels cat dog": ["file.txt"],
    "classify bad.safetensors images/red.png --labels cat dog": ["bad.safetensors"],
    "classify other images/red.png --labels cat dog": ["other", "judge", "not of clip"],
    "classify run images/red.png --labels cat dog --out a.jpg": ["a.jpg", ".png"],
    "search run images": ["--image"],
    "search run images _": ["empty text"],
    "search run empty cat": ["empty"],
    "search run nowhere cat": ["nowhere"],
    "search run images cat --index file.txt": ["file.txt"],
    "search run images cat --index theirs": ["theirs", "another model"],
    "search run images cat --index cut": ["cut"],
    "search run images cat --index nowhere/index": ["nowhere/index"],
    "search run images cat --count 0": ["--count"],
    "search run images --image text.png": ["text.png"],
    "search run images cat --out nowhere/a.png": ["nowhere"],
    "arithmetic run --plus images/red.png": ["--plus", "--minus"],
    "arithmetic run --plus text.png --minus images/red.png": ["text.png"],
    "arithmetic run --words _": ["empty"],
    "train clip --preset smoke --data digits patch=3": ["patch=3"],
    "train clip --preset smoke heads=3": ["heads=3"],
    "train clip --preset smoke context=5": ["context=5"],
    "train clip --preset smoke loss=softmax": ["softmax", "siglip"],
    "train clip --preset smoke --data folder:images": ["no captions"],
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line(capsys, here, line):
    """Exit status 2, one line that names the culprit, nothing written. "_" stands for nothing."""
    Index(("a",), np.zeros((1, 8), np.float32), "another").save("theirs")
    (here / "cut").write_bytes((here / "theirs").read_bytes()[:-5])
    (here / "bad.safetensors").write_bytes(b"thesis")
    (here / "other").mkdir()
    (here / "other" / "config.json").write_text('{"recipe": "judge", "config": {}}')
    before = sorted(os.listdir(here))
    try:
        status = main(["" if word == "_" else word for word in line.split()])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert status == 2
    assert err.startswith("minidiff")
    assert err.count("\n") == 1, err
    for name in BAD[line]:
        assert name in err
    assert out == ""
    assert sorted(os.listdir(here)) == before
