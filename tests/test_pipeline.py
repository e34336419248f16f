"""Stable Diffusion as one object: tiny ones of both generations, as diffusers draws with them."""

import dataclasses
import json
import shutil
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign import complaint
from golden.make_clip import noise
from golden.make_pipeline import (
    LATENT,
    NEGATIVE,
    PROMPTS,
    SAMPLERS,
    SCALE,
    SIDE,
    STEPS,
    STRENGTH,
    picture,
)
from PIL import Image

from minidiff import editing, pipeline, weights
from minidiff.cli import main
from minidiff.pipeline import known_latents, part_of, to_latents, to_pictures
from minidiff.trained.diffusion import Diffusion, draw

GOLDEN = Path(__file__).parent / "golden/pipeline"
KEY = jax.random.key(0)
START = jnp.float32(noise("start", LATENT))
TOLD = {"negative": NEGATIVE, "steps": STEPS, "scale": SCALE}


@cache
def loaded(name):
    return weights.load_pipeline(GOLDEN / name)


@cache
def golden(name):
    return weights.load_arrays(GOLDEN / f"{name}.safetensors")[0]


def near(found, wanted, most=1e-4):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < most, np.abs(found - wanted).max()


@pytest.mark.parametrize("name", ["one", "two"])
def test_texts_are_read_as_there(name):
    """Ids, padding and states: 49407's kin in the first generation, "!" in the second."""
    wanted, model = golden(name), loaded(name)
    texts = [*PROMPTS, NEGATIVE]
    np.testing.assert_array_equal(model.tokenizer(texts, model.context), wanted["ids"])
    near(model.condition(texts).states, wanted["states"], 1e-5 * np.abs(wanted["states"]).max())


CASES = [(name, x) for name in ("one", "two") for x in SAMPLERS if (name, x) != ("two", "plms")]


@pytest.mark.parametrize(("name", "sampler"), CASES)
def test_pictures_are_those_of_diffusers(name, sampler):
    wanted = np.clip(golden(name)[f"{sampler}.images"], -1, 1)
    found = loaded(name).draw(KEY, PROMPTS, start=START, sampler=sampler, **TOLD)
    near(found, wanted)


@pytest.mark.parametrize("name", ["one", "two"])
def test_the_folder_s_own_sampler(name):
    """PNDM in the first generation, DDIM in the second."""
    own = {"one": "plms", "two": "ddim"}[name]
    wanted = np.clip(golden(name)[f"{own}.images"], -1, 1)
    near(loaded(name).draw(KEY, PROMPTS, start=START, **TOLD), wanted)


@pytest.mark.parametrize("name", ["one", "two"])
def test_from_a_picture(name, monkeypatch):
    wanted, model = golden(name), loaded(name)
    near(
        to_latents(model.vae, picture()), wanted["encoded"], 1e-5 * np.abs(wanted["encoded"]).max()
    )
    monkeypatch.setattr(editing, "sample_noise", lambda *_: START)
    found = model.redraw(KEY, picture(), PROMPTS, strength=STRENGTH, sampler="ddim", **TOLD)
    near(found, np.clip(wanted["img2img.images"], -1, 1))


def test_the_samplers_can_be_told_apart():
    """Else the pictures above would say little: of 8 steps each ends elsewhere, within the range."""
    wanted = golden("one")
    ends = [wanted[f"{sampler}.images"] for sampler in SAMPLERS]
    for i, one in enumerate(ends):
        assert np.mean(np.abs(one) < 1) > 0.5
        assert all(np.abs(one - other).max() > 5e-3 for other in ends[:i])


@pytest.mark.parametrize(
    "changes",
    [{"last": -1}, {"offset": 0}, {"prediction": "v"}, {"beta_end": 0.0119}],
    ids=str,
)
def test_a_wrong_setting_shows(changes):
    model = loaded("one")
    model = dataclasses.replace(model, scheduler=dataclasses.replace(model.scheduler, **changes))
    found = model.draw(KEY, PROMPTS, start=START, **TOLD)
    assert np.abs(found - np.clip(golden("one")["plms.images"], -1, 1)).max() > 1e-4


def test_a_picture_depends_on_its_key_and_number_alone():
    model = loaded("one")
    two = model.draw(KEY, PROMPTS, **TOLD)
    near(model.draw(KEY, PROMPTS[:1], **TOLD), two[:1])
    assert two.shape == (2, SIDE, SIDE, 3)
    assert np.abs(two).max() <= 1


def test_negative_prompts():
    """One for all, or one for each; away from itself a prompt is alone, whatever the scale."""
    model, settings = loaded("two"), {"steps": STEPS, "start": START}
    one = model.draw(KEY, PROMPTS, negative=NEGATIVE, **settings)
    near(model.draw(KEY, PROMPTS, negative=[NEGATIVE] * 2, **settings), one, 1e-6)
    alone = model.draw(KEY, PROMPTS, scale=1.0, **settings)
    near(model.draw(KEY, PROMPTS, negative=PROMPTS, scale=9.0, **settings), alone)
    assert np.abs(alone - one).max() > 1e-3
    said = complaint(lambda: model.draw(KEY, PROMPTS, negative=["a"] * 3, **settings))
    assert said == "3 negative prompts for 2 prompts"


def test_what_is_known_stays():
    model = loaded("one")
    known = np.zeros((1, SIDE, SIDE, 1), bool)
    known[:, 3:] = True
    made = model.inpaint(KEY, picture(), known, PROMPTS, **TOLD)
    np.testing.assert_array_equal(made[:, 3:], picture()[:, 3:])
    assert np.abs(made[:, :3] - picture()[:, :3]).max() > 1e-2
    # Of a square that is known in part nothing is taken for known.
    mask = known_latents(known, 2)
    assert mask.shape == (1, SIDE // 2, SIDE // 2, 1)
    assert not mask[:, :2].any()
    assert mask[:, 2:].all()


def test_part_of_the_way():
    steps = tuple(range(40, 0, -10))
    assert part_of(steps, 1.0) == steps
    assert part_of(steps, 0.5) == (20, 10)
    assert part_of(steps, 0.01) == (10,)


def test_parts_are_decoded_like_the_whole(monkeypatch):
    """As many calls as it takes, the last one filled up."""
    vae, z = loaded("one").vae, jax.random.normal(KEY, (3, 8, 8, 4), jnp.float32)
    whole = to_pictures(vae, z)
    calls = []
    decode = pipeline._decode
    monkeypatch.setattr(pipeline, "AT_ONCE", 2 * SIDE**2)
    monkeypatch.setattr(pipeline, "_decode", lambda vae, z: calls.append(len(z)) or decode(vae, z))
    near(to_pictures(vae, z), whole, 1e-6)
    assert calls == [2, 2]


def test_what_cannot_be_drawn_is_refused():
    model = loaded("one")
    assert "sampler must be one of ddpm, ddim" in complaint(
        lambda: model.draw(KEY, PROMPTS, sampler="magic")
    )
    assert "between 1 and 1000" in complaint(lambda: model.draw(KEY, PROMPTS, steps=1001))
    odd = np.zeros((1, 15, 16, 3), np.float32)
    assert "multiples of 2" in complaint(lambda: model.redraw(KEY, odd, ["a"]))


# Folders


@pytest.fixture
def folder(tmp_path):
    """A copy of a pipeline, to be changed."""
    return Path(shutil.copytree(GOLDEN / "one", tmp_path / "model"))


def change(path, **changes):
    facts = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: x for key, x in facts.items() if x is not ...}))


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "StableDiffusionImg2ImgPipeline"},
        {"_class_name": "StableDiffusionInpaintPipeline", "image_encoder": ...},
        {
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
            "requires_safety_checker": True,
        },
        {"tokenizer": ["transformers", "CLIPTokenizerFast"]},
    ],
)
def test_folders_of_the_same_parts(folder, changes):
    change(folder / "model_index.json", **changes)
    assert weights.is_latent(folder)
    assert weights.load_pipeline(folder).scheduler == loaded("one").scheduler


def test_a_folder_without_a_list_of_its_parts(folder):
    (folder / "model_index.json").unlink()
    assert weights.is_latent(folder)
    assert weights.load_pipeline(folder).side == SIDE


def test_a_scheduler_that_would_clip_latents_does_not(folder):
    """As the pipeline of diffusers makes it when it is opened."""
    path = folder / "scheduler/scheduler_config.json"
    change(path, _class_name="DDIMScheduler", clip_sample=True, steps_offset=0)
    scheduler = weights.load_pipeline(folder).scheduler
    assert (scheduler.method, scheduler.clip, scheduler.offset) == ("ddim", None, 1)


def test_the_side_of_a_network_that_does_not_say(folder):
    change(folder / "unet/config.json", sample_size=...)
    assert weights.load_pipeline(folder).side == 64 * 2


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_that_is_missing(folder, name):
    change(folder / "model_index.json", **{name: [None, None]})
    assert complaint(weights.load_pipeline, folder) == (
        f"{folder / 'model_index.json'} names no {name}, and a StableDiffusionPipeline needs one"
    )
    change(folder / "model_index.json", **{name: ...})
    assert f"names no {name}" in complaint(weights.load_pipeline, folder)
    shutil.copy(GOLDEN / "one/model_index.json", folder)
    shutil.rmtree(folder / name)
    said = complaint(weights.load_pipeline, folder)
    assert said == f"{folder} holds no folder {name}: a part of the pipeline is missing"


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("", {"vae": ["diffusers", "AsymmetricAutoencoderKL"]}, "not AutoencoderKL"),
        ("", {"text_encoder": ["transformers", "T5EncoderModel"]}, "not CLIPTextModel or"),
        ("", {"text_encoder_2": ["transformers", "CLIPTextModel"]}, "text_encoder_2 is"),
        ("", {"_class_name": "StableDiffusionXLPipeline"}, "not StableDiffusionPipeline or"),
        ("unet", {"in_channels": 9}, "out_channels is 4, not in_channels, 9"),
        ("unet", {"sample_size": 7}, "image side 7 is not a multiple of 2"),
        ("scheduler", {"prediction_type": "flow"}, "prediction_type is 'flow'"),
    ],
)
def test_parts_that_are_not_read(folder, part, changes, said):
    name = {"": "model_index", "unet": "unet/config", "scheduler": "scheduler/scheduler_config"}[
        part
    ]
    change(folder / f"{name}.json", **changes)
    told = complaint(weights.load_pipeline, folder)
    assert said in told
    assert str(folder) in told


@pytest.mark.parametrize(
    ("part", "said"),
    [("text_encoder", "the U-Net looks at states of another width"), ("vae", "differ in latents")],
)
def test_parts_that_do_not_fit_each_other(folder, part, said):
    shutil.rmtree(folder / part)
    other = GOLDEN / "two/text_encoder" if part == "text_encoder" else GOLDEN.parent / "vae/plain"
    shutil.copytree(other, folder / part)
    assert said in complaint(weights.load_pipeline, folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_only_pickles(folder, part):
    [file] = (folder / part).glob("*.safetensors")
    file.rename(file.with_suffix(".bin"))
    assert "which is pickled, and unpickling runs code" in complaint(weights.load_pipeline, folder)


# The command


def test_the_command_s_model_is_the_pipeline():
    """Every setting is the folder's: prompts, guidance, sampler and steps end in the same pictures."""
    model, settings = Diffusion.read(GOLDEN / "one"), {"negative": NEGATIVE, "scale": SCALE}
    assert model.image_shape == (SIDE, SIDE, 3)
    assert model.shape == LATENT[1:]
    assert (model.sampler, model.limits, model.scale) == ("plms", None, 7.5)
    found = draw(KEY, model, 2, prompts=PROMPTS, steps=STEPS, **settings)
    near(found, loaded("one").draw(KEY, PROMPTS, steps=STEPS, **settings), 1e-5)


def sample(*arguments):
    return main(["sample", *map(str, arguments), "--count", "2", "--steps", "4"])


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A picture of another size, and a mask that is white at the top."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.uint8(picture()[0] * 127 + 127)).resize((40, 40)).save("a.png")
    mask = np.zeros((40, 40), np.uint8)
    mask[:20] = 255
    Image.fromarray(mask).save("mask.png")
    Image.fromarray(mask * 0).save("black.png")


@pytest.mark.parametrize(
    "arguments",
    [
        ["a hat", "--negative", "a cat", "--scale", "4", "--sampler", "dpm++"],
        [],
        ["a hat", "--image", "a.png", "--strength", "0.5"],
        ["a hat", "--image", "a.png", "--mask", "mask.png"],
        ["a hat", "a cat", "--between", "2"],
    ],
    ids=" ".join,
)
def test_the_command_draws(files, capsys, arguments):
    assert sample(GOLDEN / "two", *arguments, "--out", "made.png") == 0
    with Image.open("made.png") as made:
        assert min(made.size) > 2 * SIDE
        assert np.asarray(made.convert("L")).std() > 1
    assert capsys.readouterr().err == ""


def test_a_prompt_that_is_too_long_is_cut_and_told(files, capsys):
    long = "a hat " * 12
    assert sample(GOLDEN / "two", long, "--negative", f"{long}toy", "--out", "made.png") == 0
    told = capsys.readouterr().err.splitlines()
    assert told == [f"minidiff: cut to 12 tokens: {text}" for text in (long, f"{long}toy")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a hat", "--image", "a.png", "--mask", "black.png"], "black.png has no white"),
        (["a hat", "--image", "no.png"], "no.png"),
        (["a hat", "--steps", "1001"], "1001"),
    ],
)
def test_what_the_command_refuses(files, capsys, arguments, said):
    assert main(["sample", str(GOLDEN / "two"), *arguments, "--out", "made.png"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not Path("made.png").exists()


def test_a_folder_with_a_missing_part_is_told_in_one_line(folder, files, capsys):
    shutil.rmtree(folder / "vae")
    assert sample(folder, "a hat", "--out", "made.png") == 2
    told = capsys.readouterr().err
    assert told.endswith("holds no folder vae: a part of the pipeline is missing\n")
    assert told.count("\n") == 1
