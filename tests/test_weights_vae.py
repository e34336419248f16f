"""The VAE under diffusers' and latent diffusion's names: every block as diffusers computes it."""

import dataclasses
import hashlib
import json
import shutil
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from foreign import complaint, equal

from minidiff import weights
from minidiff.layers import count_parameters
from minidiff.vae import VAE, VAEConfig, kl
from minidiff.weights.vae import entries
from minidiff.weights.vae_settings import read_config

GOLDEN = Path(__file__).parent / "golden/vae"
NAMES = ["plain", "old", "bare"]
FILE = "diffusion_pytorch_model.safetensors"
KEY = jax.random.key(0)
QUICK = {"xla_backend_optimization_level": 0}  # correct is enough here


@cache
def loaded(name):
    return weights.load_vae(GOLDEN / name)


@cache
def golden(name):
    return weights.load_arrays(GOLDEN / f"{name}.safetensors")[0]


@partial(jax.jit, compiler_options=QUICK)
def stages(vae, images):
    mean, log_variance = vae.moments(images)
    z = mean if vae.post_quant is None else vae.post_quant(mean)
    found = {f"encoder.{name}": x for name, x in vae.encoder.forward(images).items()}
    found |= {f"decoder.{name}": x for name, x in vae.decoder.forward(z).items()}
    whole = {"mean": mean, "log_variance": log_variance, "kl": kl(mean, log_variance)}
    return found | whole | {"decoded": vae.decode(mean)}


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_is_as_in_diffusers(name):
    wanted = golden(name)
    found = stages(loaded(name), jnp.asarray(wanted["images"]))
    assert set(found) == set(wanted) - {"images"}
    for stage, value in found.items():
        scale = np.abs(wanted[stage]).max()
        np.testing.assert_allclose(value, wanted[stage], atol=1e-5 * scale, err_msg=stage)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_folder_is_read_again(name, tmp_path):
    vae = loaded(name)
    weights.save_vae(vae, tmp_path)
    equal(weights.load_vae(tmp_path), vae)
    theirs = json.loads((GOLDEN / name / "config.json").read_text())
    ours = json.loads((tmp_path / "config.json").read_text())
    assert {key: theirs[key] for key in ours} == ours


def full(name):
    attention = {"kl-f16": (4,)}.get(name, ())
    channels = {"kl-f16": (128, 128, 256, 256, 512)}.get(name, (128, 256, 512, 512))
    latent = {"kl-f16": 16}.get(name, 4)
    return VAEConfig(channels=channels, attention=attention, latent_channels=latent)


@pytest.mark.parametrize("name", ["kl-f8", "kl-f16"])
def test_the_published_ones_have_these_tensors(name):
    facts = json.loads((GOLDEN / "full.json").read_text())[name]
    vae = jax.eval_shape(partial(VAE.init, config=full(name)), KEY)
    leaves = weights.flatten(vae)
    shapes = {entry.name: list(entry.shape(leaves)) for entry in entries(vae)}
    lines = sorted(f"{tensor} {shape}" for tensor, shape in shapes.items())
    assert len(shapes) == facts["tensors"]
    assert count_parameters(vae) == facts["numbers"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == facts["sha256"]


@pytest.fixture
def folder(tmp_path):
    """A copy of a golden folder, to be changed."""
    return Path(shutil.copytree(GOLDEN / "plain", tmp_path / "model"))


def change(folder, **changes):
    path = folder / "config.json"
    facts = json.loads(path.read_text()) | changes
    facts = {key: value for key, value in facts.items() if value is not ...}
    path.write_text(json.dumps(facts))


def as_ldm(tensors, count):
    """Tensors under latent diffusion's names, written out by hand from its autoencoder."""
    found = {}
    for name, x in tensors.items():
        tower, _, rest = name.partition(".")
        parts = rest.split(".")
        if parts[0] in ("down_blocks", "up_blocks"):
            way = parts[0].removesuffix("_blocks")
            level = int(parts[1]) if way == "down" else count - 1 - int(parts[1])
            if parts[2] == "resnets":
                parts = [way, str(level), "block", *parts[3:]]
            elif parts[2] == "attentions":
                parts = [way, str(level), "attn", *parts[3:]]
            else:
                parts = [way, str(level), f"{way}sample", "conv", parts[-1]]
        elif parts[0] == "mid_block":
            kind = {("resnets", "0"): "block_1", ("resnets", "1"): "block_2"}
            parts = ["mid", kind.get((parts[1], parts[2]), "attn_1"), *parts[3:]]
        new = ".".join([tower, *parts]) if rest else name
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "attn" in new:
            for ours, theirs in {
                "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
            }.items():  # fmt: skip
                new = new.replace(f".{ours}.", f".{theirs}.")
            x = x[:, :, None, None] if x.ndim == 2 else x
        found[new] = np.asarray(x, order="C")
    return found


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
@pytest.mark.parametrize("name", ["plain", "old"])
def test_names_of_latent_diffusion(name, prefix, tmp_path):
    weights.save_vae(loaded(name), tmp_path)
    count = len(loaded(name).config.channels)
    tensors = as_ldm(safetensors.numpy.load_file(tmp_path / FILE), count)
    assert any(".up.0.block.2." in x or ".up.0.block.1." in x for x in tensors)
    extra = {"loss.logvar": np.zeros(1, "f4"), "model_ema.decay": np.ones(1, "f4")}
    tensors = {f"{prefix}{key}": x for key, x in (tensors | extra).items()}
    safetensors.numpy.save_file(tensors, tmp_path / FILE)
    equal(weights.load_vae(tmp_path), loaded(name))


def test_a_pipeline_s_folder_holds_it_in_vae(folder, tmp_path):
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    folder.rename(pipeline / "vae")
    equal(weights.load_vae(pipeline), loaded("plain"))


def test_an_older_file_is_silent_on_the_scale(folder):
    change(folder, scaling_factor=..., force_upcast=..., use_quant_conv=...)
    assert weights.load_vae(folder).config.scale == 0.18215


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"_class_name": "AutoencoderTiny"}, "_class_name is 'AutoencoderTiny', not AutoencoderKL"),
        ({"act_fn": "mish"}, "act_fn is 'mish'"),
        ({"shift_factor": 0.1}, "shift_factor is 0.1"),
        ({"latents_mean": [0.0, 1.0]}, "latents_mean is [0.0, 1.0]"),
        ({"down_block_types": ["DownBlock2D"] * 3}, "3 times DownEncoderBlock2D or Attn"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 3}, "down_block_types mirrored"),
        ({"block_out_channels": []}, "block_out_channels is []"),
        ({"block_out_channels": [4, 6, 7]}, "channels"),
        ({"out_channels": 4}, "out_channels is 4, not in_channels, 3"),
        ({"use_post_quant_conv": False}, "use_post_quant_conv is False, not True"),
        ({"scaling_factor": 0}, "scaling_factor is 0"),
        ({"gamma": 2}, "gamma is 2, and that setting is unknown here"),
        ({"latent_channels": 3}, "expected"),
    ],
)
def test_settings_that_will_not_do_are_refused(folder, changes, told):
    change(folder, **changes)
    said = complaint(weights.load_vae, folder)
    assert str(folder) in said
    if told != "expected":
        assert told in said


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch": 4}, "patch 4"),
        ({"middle": False}, "middle False"),
        ({"decoder_channels": (4, 8, 8)}, "decoder_channels (4, 8, 8)"),
        ({"padding": (1, 1)}, "padding (1, 1)"),
        ({"eps": 1e-5}, "eps 1e-05"),
    ],
)
def test_what_diffusers_has_no_settings_for_is_not_saved(changes, told, tmp_path):
    config = dataclasses.replace(read_config(GOLDEN / "plain"), **changes)
    vae = loaded("plain").replace(config=config)
    assert told in complaint(weights.save_vae, vae, tmp_path / "out")
    assert not (tmp_path / "out").exists()
