"""The vae recipe, on the smallest run there is: what it leaves, measures, reads again and refuses."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from minidiff import weights
from minidiff.cli import main
from minidiff.errors import InputError
from minidiff.measure import metrics
from minidiff.recipes import vae as recipe
from minidiff.trained.autoencoder import decode, encode, from_prior
from minidiff.training.needs import training_source
from minidiff.training.run import Run

KEY = jax.random.key(0)
SHAPE = (16, 16, 3)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def again(vae_run, tmp_path):
    """A copy of the run, to change."""
    shutil.copytree(vae_run, tmp_path / "again")
    return Run(tmp_path / "again")


def unscaled(vae):
    """The VAE as it was trained: its compiled programs are there already."""
    return vae.replace(config=dataclasses.replace(vae.config, scale=1.0))


def settings(run):
    return Run(run).read_settings("vae", recipe.Config)[0]


# What it leaves


def test_what_a_run_leaves(vae_run):
    run = Run(vae_run)
    assert run.saved_steps() == [2, 4]
    lines = run.metrics()
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        loss = line["l1"] + line["l2"] + 1e-6 * line["kl"]
        assert line["loss"] == pytest.approx(loss, rel=1e-5)
    names = {path.stem for path in run.figures.glob("*.png")}
    assert names == {"reconstructions", "prior", "walk", "loss", "step_000000", "step_000002"}
    sizes = {}
    for path in run.figures.glob("*.png"):
        with Image.open(path) as picture:
            picture.verify()
            sizes[path.stem] = picture.size
    factor = round(1040 / 137)  # eight images of 16 pixels, nine lines
    assert sizes["walk"] == (137 * factor, 35 * factor)
    assert sizes["reconstructions"] == (137 * factor, 69 * factor)  # 16 images and 16 copies
    assert run.read_json("config.json")["image_shape"] == list(SHAPE)


def test_the_report_measures_what_a_loaded_model_does(vae_run):
    report = Run(vae_run).read_json("report.json")
    vae = unscaled(recipe.load(vae_run))
    test = recipe.open_source("scenes", split="test", size=16, batch_size=64)
    real = recipe.first(test, 16)["image"]
    mean, log_variance = encode(vae, real)
    made = np.clip(decode(vae, mean), -1, 1)
    decibels = metrics.psnr(made, real)
    assert report["count"] == 16
    assert report["psnr"] == pytest.approx({"mean": decibels.mean(), "worst": decibels.min()})
    assert report["ssim"] == pytest.approx(metrics.ssim(made, real).mean())
    assert report["crispness"]["real"] == metrics.crispness(real)
    nats = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum() / 16
    assert report["kl"] == pytest.approx({"nats": nats, "bits": nats / np.log(2)}, rel=1e-4)
    assert (report["image_shape"], report["latent_shape"]) == ([16, 16, 3], [8, 8, 2])
    assert report["fewer"] == 6
    seen = report["judge"]
    assert seen["accuracy"]["real"]["subject"] > 0.9 > seen["accuracy"]["made"]["subject"]
    assert seen["frechet"]["floor"] > 0
    text = (vae_run / "report.md").read_text()
    assert f"{report['parameters']:,} parameters" in text
    assert f"{report['psnr']['mean']:.2f}" in text
    assert "judge: subject" in text


def test_a_stopped_run_ends_with_the_same_bits(vae_run, again, capsys):
    def told(run):
        arrays, _ = weights.load_arrays(run.checkpoint(4))
        report = run.read_json("report.json") | {"training_seconds": 0}
        return {name: x.tobytes() for name, x in arrays.items()}, report

    again.checkpoint(4).unlink()
    for name in ("report.json", recipe.LATENTS):
        (again.path / name).unlink()
    assert main(tiny.vae_command(again.path)) == 0
    assert "report.md" in capsys.readouterr().out
    assert told(again) == told(Run(vae_run))


# What it makes


def test_its_scale_makes_unit_variance(vae_run):
    vae = recipe.load(vae_run)
    config = settings(vae_run)
    mean, _ = encode(unscaled(vae), recipe.first(training_source(config), 16)["image"])
    assert np.std(vae.config.scale * mean) == pytest.approx(1, rel=1e-5)
    assert vae.config.scale == Run(vae_run).read_json(recipe.LATENTS)["scale"]


def test_a_scale_that_nobody_recorded_is_measured(vae_run, again):
    recorded = recipe.load(again.path).config.scale
    earlier = recipe.load(f"{again.path}@2").config.scale
    assert earlier != recorded
    (again.path / recipe.LATENTS).unlink()
    assert recipe.load(again.path).config.scale == pytest.approx(recorded, rel=1e-6)
    facts = again.read_json("config.json")
    facts["config"]["data"] = "folder:gone"
    again.write_json("config.json", facts)
    with pytest.raises(InputError, match=r"no latents.json of step 4: .*gone"):
        recipe.load(again.path)


def test_what_draws_needs_no_encoder(vae_run):
    vae = unscaled(recipe.load(vae_run))

    def never(x):
        raise AssertionError("the encoder was asked")

    images = from_prior(KEY, vae, 3, SHAPE)
    assert images.shape == (3, *SHAPE)
    for encoder in (None, never):
        np.testing.assert_array_equal(
            from_prior(KEY, vae.replace(encoder=encoder), 3, SHAPE), images
        )
    z = jax.ShapeDtypeStruct((5, 8, 8, 2), np.float32)
    made = jax.eval_shape(lambda z: vae.replace(encoder=None, quant=None).decode(z), z)
    assert made.shape == (5, *SHAPE)


def test_a_draw_is_its_own_whatever_else_is_drawn(vae_run):
    vae = unscaled(recipe.load(vae_run))
    many = from_prior(KEY, vae, 5, SHAPE)
    np.testing.assert_array_equal(from_prior(KEY, vae, 2, SHAPE), many[:2])
    assert len(np.unique(many[:, 3, 3, 0])) == 5


@pytest.mark.parametrize(("dtype", "bound"), [(None, 0), ("float16", 1e-3)])
def test_a_copy_has_what_load_needs(vae_run, tmp_path, dtype, bound):
    recipe.copy(f"{vae_run}@2", tmp_path / "copy", dtype)
    there, here = recipe.load(tmp_path / "copy"), recipe.load(f"{vae_run}@2")
    assert there.config == here.config
    for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
        np.testing.assert_allclose(a, b, atol=bound, rtol=bound)
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        "checkpoints", "config.json", recipe.LATENTS,
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("data", ["digits", "folder:images"])
def test_other_pictures(data, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(6):
        Image.new("RGB", (20, 20), (40 * i, 90, 10)).save(tmp_path / "images" / f"{i}.png")
    assert main(tiny.vae_command("run", "--data", data, "decoder_channels=none")) == 0
    report = Run(tmp_path / "run").read_json("report.json")
    assert "judge" not in report
    assert report["image_shape"] == [16, 16, 1 if data == "digits" else 3]
    assert recipe.load("run").config.wide == (8,)


# What it refuses


def test_runs_that_are_none(vae_run, tmp_path):
    def refused(message, change):
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(vae_run, folder)
        config = json.loads((folder / "config.json").read_text())
        change(folder, config)
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=message) as caught:
            recipe.load(folder)
        assert "\n" not in str(caught.value)

    def scale(value):
        content = {"step": 4, "scale": value}
        return lambda folder, c: (folder / recipe.LATENTS).write_text(json.dumps(content))

    refused("a run of ddpm, not of vae", lambda folder, c: c.update(recipe="ddpm"))
    refused("not of this version", lambda folder, c: c["config"].update(speed=3))
    refused("of another model", lambda folder, c: c["config"].update(channels=[16]))
    refused("config.json: .*multiples of 2", lambda folder, c: c.update(image_shape=[15, 15, 3]))
    for value in (0, -1.0, None, "1", True, float("nan"), float("inf")):
        refused("latents.json is damaged: scale", scale(value))
    refused("latents.json cannot be read", lambda folder, c: (
        (folder / recipe.LATENTS).write_text("{")
    ))  # fmt: skip


BAD = {
    "size=20": "20 x 20 cannot be encoded: both sides must be multiples of 8: set size, patch or",
    "patch=3": "multiples of 6",
    "--data digits size=12": "12 x 12 cannot be encoded",
    "--data digits size=8": "SSIM wants images of 11 pixels or more",
    "size=24": "16, 32 or 64 pixels",
    "channels=8": "both towers have as many",
    "decoder_channels=12,16": "multiple of 8",
    "absolute=0 squared=0": "no error would be left",
    "--data folder:nowhere": "nowhere",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_before_the_work(capsys, tmp_path, line):
    assert main(["train", "vae", "--preset", "smoke", "--out", "run", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert BAD[line] in err
    assert out == ""
    assert os.listdir(tmp_path) == []


def test_presets_fit_their_images():
    for config in recipe.PRESETS.values():
        network = config.network((config.size, config.size, 3))
        assert network.factor == 8
    cpu = recipe.PRESETS["cpu"].network((64, 64, 3))
    assert cpu.latent_shape((64, 64, 3)) == (8, 8, 4)
    assert Path(recipe.__file__).stem == "vae"
