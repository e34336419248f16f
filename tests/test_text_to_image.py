"""The text-to-image recipe, and ``sample`` and ``compare`` on its smallest run."""

import shutil
from pathlib import Path

import hostile_files
import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from minidiff import weights
from minidiff.cli import main
from minidiff.measure import compare
from minidiff.recipes import clip
from minidiff.recipes import text_to_image as recipe
from minidiff.trained.diffusion import draw
from minidiff.training.run import Run

KEY = jax.random.key(0)
PROMPT = "a blue cat wearing a hat"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A run whose weights are dice: it draws no scenes, but what it draws depends on all it should."""
    folder = tmp_path_factory.mktemp("untrained") / "run"
    hostile_files.text_run(folder)
    return folder


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def sample(run, *more):
    """The picture that ``minidiff sample`` leaves."""
    assert main(["sample", str(run), "--out", "made.png", *map(str, more)]) == 0
    return pixels("made.png")


def refused(capsys, *arguments):
    """The one line about bad input; nothing is written."""
    before = sorted(path.name for path in Path().iterdir())
    try:
        status = main([str(text) for text in arguments])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert status == 2, err
    assert err.count("\n") == 1
    assert err.startswith("minidiff")
    assert out == ""
    assert sorted(path.name for path in Path().iterdir()) == before
    return err


# The recipe


@pytest.mark.long
def test_what_a_run_leaves(text_run):
    run = Run(text_run)
    assert run.saved_steps() == [2, 4]
    report = run.read_json("report.json")
    assert {"prompts", "scales", "guidance", "samplers", "loss"} == set(report["figures"])
    text = (text_run / "report.md").read_text()
    for name in report["figures"]:
        assert f"figures/{name}.png" in text
        with Image.open(run.figures / f"{name}.png") as picture:
            picture.verify()
    for split in ("test", "unseen"):
        found = report["judge"][split]
        assert {"subject", "colour", "accessory", "all", "coverage", "frechet", "noise"} <= set(
            found
        )
        assert all(0 <= value <= 1 for name, value in found.items() if name != "frechet")
    assert [row["scale"] for row in report["scales"]] == [0, 3]
    assert len({(row["sampler"], row["steps"]) for row in report["samplers"]}) == 5


@pytest.mark.long
def test_a_stopped_run_ends_with_the_same_bits(text_run, clip_run, capsys):
    again = Run(Path("again"))
    shutil.copytree(text_run, again.path)
    last = again.checkpoint(4).read_bytes()
    again.checkpoint(4).unlink()
    assert main(tiny.text_command(again.path, f"encoder={clip_run}")) == 0
    assert again.checkpoint(4).read_bytes() == last


@pytest.mark.long
def test_it_takes_its_clip_along(text_run, clip_run):
    """A copy of what reads prompts: the run may be moved, and the other one deleted."""
    ours, theirs = recipe.load(text_run).encoder, clip.load(clip_run)
    assert ours.fingerprint == theirs.fingerprint
    assert ours.tokenizer.encode("a blue cat") == theirs.tokenizer.encode("a blue cat")
    names = [path.name for path in (text_run / "clip" / "checkpoints").iterdir()]
    arrays, _ = weights.load_arrays(text_run / "clip" / "checkpoints" / names[0])
    assert all(name.startswith("ema.") for name in arrays)  # nothing of its training


@pytest.mark.slow
def test_without_a_clip_one_is_trained_first():
    config = [f"--preset={'smoke'}", "--quiet", "--out", "whole"]
    small = [text for text in tiny.TEXT_SETTINGS if not text.startswith("showcase")]
    settings = [*small, "showcase=false", "steps=2", "encoder_preset=smoke"]
    assert main(["train", "text_to_image", *config, *settings]) == 0
    assert Run(Path("whole/clip")).read_json("report.json")["recipe"] == "clip"
    assert clip.load("whole/clip").fingerprint == recipe.load("whole").encoder.fingerprint


def test_the_null_condition_is_that_of_no_words(untrained):
    """Guidance at scale 0 draws what an empty prompt draws, 1 what the prompt alone asks for."""
    model = recipe.load(untrained)
    nothing, ignored, told = (
        draw(KEY, model, 2, **settings)
        for settings in (
            {},
            {"prompts": [PROMPT], "scale": 0.0},
            {"prompts": [PROMPT], "scale": 1.0},
        )
    )
    np.testing.assert_allclose(ignored, nothing, atol=1e-4)
    assert np.abs(told - nothing).max() > 1e-4


@pytest.mark.long
def test_a_sample_depends_on_its_own_prompt_and_number(untrained):
    model = recipe.load(untrained)
    prompts = [PROMPT, "a red star at night", "a green man"]
    together = draw(KEY, model, 3, prompts=prompts, scale=3.0)
    parts = draw(KEY, model, 3, prompts=prompts, scale=3.0, at_once=2)
    np.testing.assert_allclose(parts, together, atol=1e-4)


# minidiff sample


def test_prompts_become_pictures(untrained, capsys):
    first = sample(untrained, PROMPT)
    out, err = capsys.readouterr()
    assert "4 samples" in out
    assert err == ""  # nothing strange
    assert np.array_equal(first, sample(untrained, PROMPT))
    assert not np.array_equal(first, sample(untrained, "a red star at night"))
    assert not np.array_equal(first, sample(untrained, PROMPT, "--seed", 1))
    assert not np.array_equal(first, sample(untrained, PROMPT, "--scale", 9))
    assert not np.array_equal(first, sample(untrained, PROMPT, "--negative", "a dog"))


def test_words_that_it_never_saw_are_told(untrained, capsys):
    sample(untrained, "a blue zeppelin", "--count", 1)
    err = capsys.readouterr().err
    assert "zeppelin" in err
    assert "blue" not in err


def test_a_prompt_that_is_too_long_is_told(untrained, capsys):
    sample(untrained, "a cat " * 20, "--count", 1)
    assert "cut to" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["ddpm", "euler", "heun", "dpm++", "ancestral"])
def test_samplers(untrained, sampler):
    assert sample(untrained, PROMPT, "--sampler", sampler, "--steps", 3, "--count", 1).size


@pytest.mark.long
def test_between(untrained):
    """The first of the row is the prompt's own picture, the last the other's."""
    both = ("a blue cat", "a red star")
    height = sample(untrained, *both, "--between", 4).shape
    assert height[1] > 2 * height[0]  # a row
    assert not np.array_equal(sample(untrained, both[0], "--between", 3), sample(untrained, *both))
    assert sample(untrained, "--between", 3).size


def paint_scene(path, side=16, mode="RGB", value=(200, 30, 30)):
    Image.new(mode, (side, side), value).save(path)


@pytest.mark.long
def test_from_a_picture(untrained):
    paint_scene("red.png", 40)
    little = sample(untrained, "--image", "red.png", "--strength", 0.2, "--count", 1)
    much = sample(untrained, "--image", "red.png", "--strength", 1, "--count", 1)
    red = np.array([200, 30, 30])
    middle = tuple(np.array(little.shape[:2]) // 2)
    distances = [np.abs(made - red)[5:-5, 5:-5].mean() for made in (little, much)]
    assert distances[0] < distances[1], middle
    assert sample(untrained, PROMPT, "--image", "red.png").size


@pytest.mark.long
def test_a_part_is_painted_anew(untrained):
    """Black of the mask is kept to the last digit of a pixel, white is not."""
    paint_scene("red.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[:8] = 255
    Image.fromarray(mask).save("mask.png")
    made = sample(untrained, "--image", "red.png", "--mask", "mask.png", "--count", 1)
    factor = made.shape[0] // 18
    small = made[factor // 2 :: factor, factor // 2 :: factor][1:17, 1:17]
    assert np.abs(small[8:] - [200, 30, 30]).max() <= 1
    assert np.abs(small[:8] - [200, 30, 30]).max() > 20


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([PROMPT, "--scale", "-1"], "--scale"),
        ([PROMPT, "--scale", "nan"], "--scale"),
        ([PROMPT, "--steps", "0"], "--steps"),
        ([PROMPT, "--steps", "9"], "more than the model's 8"),
        ([PROMPT, "--sampler", "magic"], "magic"),
        (["--scale", "2"], "belong to a prompt"),
        (["--negative", "a dog"], "belong to a prompt"),
        ([""], "empty prompt"),
        (["a", "b", "c", "--between", "3"], "--between"),
        ([PROMPT, "--between", "3", "--sampler", "ddpm"], "--between"),
        ([PROMPT, "--mask", "x.png"], "--mask belongs to --image"),
        ([PROMPT, "--strength", "0.5"], "--strength belongs to --image"),
        (["--image", "there-is-none.png"], "there-is-none.png"),
        (["--image", "text.png"], "text.png"),
        (["--image", "red.png", "--mask", "large.png"], "40 x 40"),
        (["--image", "red.png", "--mask", "text.png"], "text.png"),
        (["--image", "red.png", "--mask", "there-is-none.png"], "there-is-none.png"),
        (["--image", "red.png", "--strength", "0"], "--strength"),
        (["--image", "red.png", "--strength", "1.5"], "--strength"),
        (["--image", "red.png", "--between", "2"], "--between"),
        (["--image", "red.png", "--count", "65"], "at most 64"),
        ([PROMPT, "--between", "1"], "from 2 to 64"),
        ([PROMPT, "--out", "made.jpg"], ".png"),
    ],
)
def test_bad_input_is_one_line(untrained, capsys, arguments, reason):
    paint_scene("red.png")
    paint_scene("large.png", 40)
    Path("text.png").write_text("no picture")
    assert reason in refused(capsys, "sample", untrained, *arguments)


def test_a_prompt_to_a_model_without_text(capsys, models):
    assert "clip" in refused(capsys, "sample", models / "clip", PROMPT)
    assert "trained without text" in refused(capsys, "sample", models / "run", PROMPT)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("dropout=2", "dropout=2"),
        ("scale=-1", "scale=-1"),
        ("encoder=nowhere", "nowhere"),
        ("objective=magic", "eps, x0, v, velocity"),
        ("heads=3", "heads=3"),
        ("size=24", "16, 32 or 64"),
    ],
)
def test_bad_settings_are_one_line(capsys, setting, reason):
    arguments = [text for text in tiny.text_command("run") if not text.startswith("size")]
    assert reason in refused(capsys, *arguments, setting)


# minidiff compare, minidiff describe


@pytest.mark.long
def test_a_sweep_shows_its_prompts_over_the_columns():
    prompts = ["a cat", "a red star", "a man"]
    rows = [(name, np.zeros((3, 8, 8, 3), np.float32)) for name in ("scale 0", "scale 3")]
    figure = compare._sweep(rows, prompts, "guidance scale")
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == [*prompts, "", "", ""]


def test_compare(untrained, capsys):
    command = [
        "compare",
        str(untrained),
        "--count",
        "16",
        "--steps",
        "3",
        "--scales",
        "0",
        "2.5",
    ]
    assert main(command) == 0
    said = capsys.readouterr().out
    text = Path("compare/compare.md").read_text()
    for name in ("heun", "dpm++", "ddim, eta 1", "ddpm, large variance", "frechet", "coverage"):
        assert name in said
        assert name in text
    assert "| 2.5 |" in " ".join(text.split())
    assert sorted(path.name for path in Path("compare").iterdir()) == [
        "compare.md", "guidance.png", "samplers.png", "scales.png",
    ]  # fmt: skip


def test_compare_more_steps_than_there_are(untrained, capsys):
    assert "more than the model's 8" in refused(capsys, "compare", untrained, "--steps", "9")


def test_describe(capsys):
    assert main(["describe", "stable-diffusion-1"]) == 0
    said = capsys.readouterr().out
    assert "12 + 1 + 12" in said
    assert "22 ResBlocks, 16 transformer blocks" in said
    assert "859,520,964 parameters" in said
