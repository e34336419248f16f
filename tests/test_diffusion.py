"""A model with what belongs to it: objectives, text, samplers, and a diffusers folder."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from PIL import Image

from minidiff.cli import main
from minidiff.clip import CLIP, CLIPConfig
from minidiff.data.captions import VOCABULARY
from minidiff.errors import InputError
from minidiff.measure.judge import real_scenes
from minidiff.measure.showcase import pictures
from minidiff.noising import noise_loss
from minidiff.objectives import OBJECTIVES, as_denoiser
from minidiff.schedules import SCHEDULES, cosine_schedule
from minidiff.text import TextConfig, Tokenizer
from minidiff.trained.diffusion import Diffusion, draw
from minidiff.trained.encoder import Encoder
from minidiff.training.diffusion import Config
from minidiff.unet import UNet, UNetConfig
from minidiff.vit import ViTConfig
from minidiff.weights import save_unet, write_scheduler
from minidiff.weights.scheduler import Scheduler

KEY = jax.random.key(0)
SHAPE = (16, 16, 3)
PLAIN = UNetConfig(channels=(8, 16), groups=4, patch=2)


def loud(unet):
    """The same network with an output that is not near zero."""
    conv = unet.conv_out
    return unet.replace(conv_out=conv.replace(weight=300 * conv.weight))


def plain(**settings):
    unet = loud(UNet.init(KEY, PLAIN))
    return Diffusion(unet, cosine_schedule(20), "v", SHAPE, steps=4, **settings)


@pytest.fixture(scope="module")
def told():
    """A model with text: random weights throughout."""
    tokenizer = Tokenizer.learn(list(VOCABULARY), 600)
    both = {"width": 16, "heads": 2, "layers": 1}
    towers = CLIPConfig(
        embedding=8,
        image=ViTConfig(image_size=16, patch=4, **both),
        text=TextConfig(vocabulary=tokenizer.size, context=18, end=tokenizer.end, **both),
    )
    config = dataclasses.replace(PLAIN, context=16, pooled=16, heads=2)
    return Diffusion(
        loud(UNet.init(KEY, config)),
        cosine_schedule(20),
        "v",
        SHAPE,
        steps=4,
        encoder=Encoder(CLIP.init(KEY, towers), tokenizer),
        scale=3.0,
    )


@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_every_objective_has_its_error_with_every_schedule(objective, schedule):
    config = Config(
        objective=objective, schedule=schedule, zero_snr=True, timesteps=20, sample_steps=4
    )
    model = Diffusion.of(config, UNet.init(KEY, PLAIN), SHAPE)
    denoiser = as_denoiser(objective, model.network, model.schedule)
    x0 = jax.random.normal(KEY, (4, *SHAPE))
    weight = config.step_weight()
    loss = jax.jit(lambda d: noise_loss(KEY, d, model.schedule, x0, weight))
    # A network that says nothing: the error is the target's own size, 1, 1, 1 or 2.
    assert float(loss(denoiser)) == pytest.approx(2.0 if objective == "velocity" else 1.0, rel=0.25)


def test_weights_of_the_steps():
    config = Config(objective="v", timesteps=50)
    snr = config.noise_schedule().alpha_bar / (1 - config.noise_schedule().alpha_bar)
    np.testing.assert_allclose(config.step_weight(), 1 / config.noise_schedule().alpha_bar)
    plain = dataclasses.replace(config, weight="eps")
    np.testing.assert_array_equal(plain.step_weight(), 1)
    clipped = dataclasses.replace(config, weight="min-snr")
    np.testing.assert_allclose(clipped.step_weight(), np.minimum(snr, 5) / snr, rtol=1e-5)


@struct.dataclass
class Shrink:
    """A network of one number."""

    share: jax.Array
    takes_text = False

    def __call__(self, xt, t):
        return self.share * xt


def test_any_network_draws():
    model = Diffusion(Shrink(jnp.float32(0.5)), cosine_schedule(20), "x0", (2, 2, 1), steps=2)
    made = draw(KEY, model, 3)
    assert made.shape == (3, 2, 2, 1)
    np.testing.assert_array_equal(made, draw(KEY, model, 3, prompts=[""]))
    with pytest.raises(InputError, match="without text"):
        draw(KEY, model, 1, prompts=["a cat"])


def test_prompts_need_a_model_with_text():
    with pytest.raises(InputError, match="without text"):
        draw(KEY, plain(), 1, prompts=["a cat"])


def test_samples_stay_within_the_limits():
    assert np.abs(draw(KEY, plain(), 2)).max() <= 1 + 1e-5
    assert np.abs(draw(KEY, plain(limits=None), 2)).max() > 1.1
    assert np.abs(draw(KEY, plain(limits=(-0.5, 0.5)), 2)).max() <= 0.5 + 1e-5


def test_guidance_leads_away_from_the_negative(told):
    """A prompt led away from itself is the prompt alone, whatever the scale."""
    alone = draw(KEY, told, 2, prompts=["a red cat"], scale=1.0)
    itself = draw(KEY, told, 2, prompts=["a red cat"], scale=7.0, negative="a red cat")
    np.testing.assert_allclose(itself, alone, atol=1e-4)
    away = draw(KEY, told, 2, prompts=["a red cat"], scale=7.0, negative="a blue dog")
    assert np.abs(away - alone).max() > 1e-3


@pytest.mark.long
def test_pictures_of_what_else_can_be_done(told):
    figures = pictures(KEY, told, real_scenes(0, "test", 16, 3))
    assert set(figures) == {"filmstrip", "noise_on_off", "between", "inpainting", "clip_guided"}
    assert all(len(figure.axes) >= 2 for figure in figures.values())


def write_folder(folder, **settings):
    """A diffusers folder of random weights."""
    config = UNetConfig(channels=(8, 16), groups=4, padding=(0, 1))
    save_unet(loud(UNet.init(KEY, config)), folder, side=16)
    write_scheduler(folder, Scheduler(steps=20, **settings))
    return folder


@pytest.mark.parametrize("method", ["ddpm", "ddim", "dpm++", "euler"])
def test_a_diffusers_folder_is_sampled_as_it_says(tmp_path, method):
    clip = 1.0 if method in ("ddpm", "ddim") else None  # the others have no such setting
    model = Diffusion.read(write_folder(tmp_path / "model", method=method, clip=clip))
    assert model.image_shape == SHAPE
    assert model.sampler == method
    assert model.limits == ((-1.0, 1.0) if clip else None)
    _, settings = model.sampling(None, {"steps": 5})
    assert settings["steps"] == tuple(model.scheduler.timesteps(5))
    out = tmp_path / "made.png"
    command = ["sample", str(tmp_path / "model"), "--count", "2", "--steps", "5", "--out", str(out)]
    assert main(command) == 0
    with Image.open(out) as picture:
        assert picture.size[0] > 100


def test_the_offset_of_a_folder_is_kept(tmp_path):
    folder = write_folder(tmp_path / "model", method="ddim", offset=1)
    _, settings = Diffusion.read(folder).sampling("ddim", {"steps": 4})
    assert settings["steps"] == (16, 11, 6, 1)


def test_steps_that_the_offset_leads_past_the_end(tmp_path, capsys):
    folder = write_folder(tmp_path / "model", method="ddim", offset=1)
    out = tmp_path / "made.png"
    assert main(["sample", str(folder), "--steps", "20", "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert "offset 1" in err
    assert err.count("\n") == 1
    assert not out.exists()


def test_what_of_a_scheduler_is_not_followed_is_told(tmp_path, capsys):
    folder = write_folder(tmp_path / "model", method="dpm++")
    path = folder / "scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "use_karras_sigmas": True}))
    out = tmp_path / "made.png"
    assert main(["sample", str(folder), "--steps", "2", "--count", "1", "--out", str(out)]) == 0
    assert "use_karras_sigmas" in capsys.readouterr().err


def test_a_folder_whose_images_do_not_fit_its_network(tmp_path, capsys):
    folder = write_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sample_size": 15}))
    assert main(["sample", str(folder), "--out", str(tmp_path / "made.png")]) == 2
    err = capsys.readouterr().err
    assert "side 15" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "made.png").exists()


def test_a_low_loss_needs_the_text(told):
    """The network sees which prompt it is told: another one changes its guess."""
    x, t = jnp.ones((2, *SHAPE)), jnp.array([5, 5])
    one, other = (told.condition([text] * 2) for text in ("a red cat", "a blue star"))
    first, second = (told.network(x, t, condition) for condition in (one, other))
    assert jnp.abs(first - second).max() > 1e-5
