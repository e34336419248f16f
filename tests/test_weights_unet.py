"""The U-Net under diffusers' names: every block as diffusers computes it, and what is refused."""

import dataclasses
import hashlib
import json
import os
import shutil
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from foreign import complaint, equal

from minidiff import blocks, weights
from minidiff.blocks import Level
from minidiff.layers import count_parameters
from minidiff.layouts import LAYOUTS
from minidiff.unet import Condition, UNet, UNetConfig
from minidiff.weights import mapping
from minidiff.weights.unet import entries, image_side
from minidiff.weights.unet_settings import PLAIN, TEXT, read_config

GOLDEN = Path(__file__).parent / "golden/unet"
NAMES = ["ddpm", "heads", "latent", "linear"]
FILE = "diffusion_pytorch_model.safetensors"
KEY = jax.random.key(0)

# Correct is enough here: XLA takes twice as long to make it fast as well.
QUICK = {"xla_backend_optimization_level": 0}
stages_of = jax.jit(UNet.stages, compiler_options=QUICK)
apply_block = jax.jit(Level.apply_block, static_argnums=1, compiler_options=QUICK)


@cache
def loaded(name):
    return weights.load_unet(GOLDEN / name)


@cache
def golden(name):
    """(what diffusers computes, what it was given: images, times, a text)"""
    arrays, _ = weights.load_arrays(GOLDEN / f"{name}.safetensors")
    stages = jax.tree.map(jnp.asarray, arrays)
    images, t = stages.pop("images"), stages.pop("t")
    states, pooled = stages.pop("states", None), stages.pop("pooled", None)
    return stages, (images, t, Condition(states, pooled) if pooled is not None else states)


def template(config):
    return jax.eval_shape(partial(UNet.init, config=config), KEY)


def filled(config):
    """A network of this config, quickly: its numbers are no sensible weights."""
    leaves, structure = jax.tree.flatten(template(config))
    rng = np.random.default_rng(0)
    return structure.unflatten([jnp.float32(0.2 * rng.normal(size=x.shape)) for x in leaves])


@pytest.fixture
def folder(tmp_path):
    """A copy of a golden folder, to be damaged."""
    return Path(shutil.copytree(GOLDEN / "latent", tmp_path / "model"))


def tensors(folder):
    return safetensors.numpy.load_file(folder / FILE)


def put(path, arrays):
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    safetensors.numpy.save_file(arrays, path)


def change(path, **changes):
    """Change settings in a JSON file; ... removes one."""
    facts = (json.loads(path.read_text()) if path.exists() else {}) | changes
    path.write_text(json.dumps({k: v for k, v in facts.items() if v is not ...}))


# Parity


def differs(found, wanted):
    """By more than 1e-5, of the stage's largest number if that is below 1."""
    size = min(1.0, float(np.abs(wanted).max()))
    return found.shape != wanted.shape or not np.allclose(
        found, wanted, rtol=1e-5, atol=1e-5 * size
    )


def deviating(found, wanted):
    return [name for name, x in wanted.items() if differs(found[name], x)]


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_that_of_diffusers(name):
    wanted, inputs = golden(name)
    found = stages_of(loaded(name), *inputs)
    assert found.keys() == wanted.keys()
    assert deviating(found, wanted) == []


@pytest.mark.parametrize("name", ["heads", "linear"])
def test_every_tensor_shows(name):
    """Any array a little off, and the output is: all but the bias of keys, as the softmax has it."""
    unet, (wanted, inputs) = loaded(name), golden(name)
    leaves, structure = jax.tree.flatten(unet)
    unseen = []
    for i, path in enumerate(weights.flatten(unet)):
        changed = np.array(leaves[i])
        changed.flat[0] += 0.05
        network = structure.unflatten([*leaves[:i], changed, *leaves[i + 1 :]])
        if not differs(stages_of(network, *inputs)["out"], wanted["out"]):
            unseen.append(path)
    keys = [path for path in weights.flatten(unet) if path.endswith(".attention.key.bias")]
    assert unseen == keys
    assert bool(keys) == (unet.config.context is None)


def test_the_goldens_differ_in_what_can_be_set():
    configs = [loaded(name).config for name in NAMES]
    seen = {
        field.name: {getattr(config, field.name) for config in configs}
        for field in dataclasses.fields(UNetConfig)
    }
    same = {name for name, values in seen.items() if len(values) == 1}
    assert same == {"patch"}  # diffusers has none
    assert seen["head_width"] == {None, 4, 3}
    assert seen["padding"] == {None, (0, 1)}


def settings_of(name, **changes):
    """A golden's numbers in a network with other settings."""
    unet = loaded(name)
    structure = jax.tree.structure(template(dataclasses.replace(unet.config, **changes)))
    return structure.unflatten(jax.tree.leaves(unet))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ddpm", {"cos_first": True}),
        ("ddpm", {"frequency_shift": 0}),
        ("heads", {"cos_first": False}),
        ("latent", {"frequency_shift": 1}),
        ("linear", {"frequency_shift": 0}),
    ],
)
def test_the_time_is_told_as_the_settings_say(name, changes):
    wanted, (_, t, condition) = golden(name)
    assert not differs(loaded(name).embed(t, condition), wanted["time"])
    assert differs(settings_of(name, **changes).embed(t, condition), wanted["time"])


@pytest.mark.parametrize(
    ("name", "padding"), [("ddpm", None), ("latent", (0, 1)), ("linear", None)]
)
def test_zeros_lie_where_the_settings_say(name, padding):
    wanted, _ = golden(name)
    before = wanted[f"down.0.blocks.{loaded(name).config.blocks - 1}"]
    for unet, wrong in ((loaded(name), False), (settings_of(name, padding=padding), True)):
        assert differs(unet.down[0].resample(before), wanted["down.0.resample"]) == wrong


@pytest.mark.parametrize(
    ("name", "level", "changes"),
    [
        ("ddpm", 1, {"heads": 2}),
        ("ddpm", 1, {"eps": 1.1e-3}),
        ("heads", 0, {"head_width": 8}),
        ("heads", 0, {"groups": 2}),
        ("latent", 0, {"heads": 1}),
        ("latent", 0, {"eps": 1.2e-5}),
        ("latent", 0, {}),
        ("linear", 1, {"head_width": 4}),
        ("linear", 1, {"eps": 1.1e-2}),
    ],
)
def test_blocks_are_made_as_the_settings_say(name, level, changes, monkeypatch):
    """The first of a level; no changes means another eps before transformers, which nothing sets."""
    wanted, (_, _, states) = golden(name)
    states = states.states if isinstance(states, Condition) else states
    before = wanted[f"down.{level - 1}.resample" if level else "conv_in"]
    if not changes:
        monkeypatch.setattr(blocks, "TRANSFORMER_EPS", 1.1e-6)
    for unet, wrong in ((loaded(name), False), (settings_of(name, **changes), True)):
        found = apply_block(unet.down[level], 0, before, wanted["time"], states)
        assert differs(found, wanted[f"down.{level}.blocks.0"]) == wrong


# Networks of full size


FULL = json.loads((GOLDEN / "full.json").read_text())


@pytest.mark.parametrize("name", sorted(FULL))
def test_networks_of_full_size_have_the_tensors_of_diffusers(name):
    """Their names and shapes, by hash; nothing is allocated."""
    unet = template(LAYOUTS[name])
    shapes = weights.flatten(unet)
    lines = sorted(f"{entry.name} {list(entry.shape(shapes))}" for entry in entries(unet))
    assert len(lines) == FULL[name]["tensors"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == FULL[name]["sha256"]
    assert sorted(path for entry in entries(unet) for path in entry.paths) == sorted(shapes)


def test_networks_of_full_size_have_the_numbers_of_diffusers():
    counts = {"ddpm-cifar10": 35_746_307, "stable-diffusion-1": 859_520_964}
    assert {name: full["numbers"] for name, full in FULL.items()} == counts
    assert {name: count_parameters(template(LAYOUTS[name])) for name in FULL} == counts


# As published, without what only names the file.
CIFAR10 = {
    "_class_name": PLAIN,
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
STABLE = {
    "_class_name": TEXT,
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}


@pytest.mark.parametrize(
    ("name", "facts"), [("ddpm-cifar10", CIFAR10), ("stable-diffusion-1", STABLE)]
)
def test_the_layouts_are_what_the_published_settings_say(tmp_path, name, facts):
    change(tmp_path / "config.json", **facts)
    assert read_config(tmp_path) == (LAYOUTS[name], False)
    assert image_side(tmp_path) == facts["sample_size"]


# Saved and loaded


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_what_was_loaded(tmp_path, name):
    unet = loaded(name)
    weights.save_unet(unet, tmp_path / "new" / name, side=8)
    assert equal(weights.load_unet(tmp_path / "new" / name), unet)
    assert image_side(str(tmp_path / "new" / name)) == 8
    assert sorted(os.listdir(tmp_path / "new" / name)) == ["config.json", FILE]
    _, metadata = weights.load_arrays(tmp_path / "new" / name / FILE)
    assert metadata == {"format": "pt"}  # diffusers refuses files that do not say so

    facts = json.loads((tmp_path / "new" / name / "config.json").read_text())
    theirs = json.loads((GOLDEN / name / "config.json").read_text())
    assert facts.items() <= theirs.items()
    if name in ("ddpm", "latent"):  # stored in float32
        saved, original = tensors(tmp_path / "new" / name), tensors(GOLDEN / name)
        assert saved.keys() == original.keys()
        assert all(
            saved[k].dtype == v.dtype and saved[k].tobytes() == v.tobytes()
            for k, v in original.items()
        )


SMALL = UNetConfig(image_channels=1, channels=(4, 8), groups=2)


@pytest.mark.parametrize(
    ("settings", "read_as"),
    [
        ({}, {}),
        ({"channels": (6,), "attention": (0,), "blocks": 2}, {}),
        ({"attention": (0,), "head_width": 2, "cos_first": True, "frequency_shift": 0}, {}),
        ({"heads": 2}, {"heads": 1, "head_width": 4}),
        ({"heads": 4, "head_width": 2}, {"heads": 1}),
        ({"context": 3, "attention": (0, 1), "heads": 2}, {}),
        ({"context": 3, "attention": (0, 1), "head_width": 2}, {}),
        ({"context": 3, "attention": (1,), "head_width": 4}, {"heads": 2, "head_width": None}),
        ({"context": 3, "pooled": 5, "padding": (0, 1)}, {}),
    ],
    ids=str,
)
def test_our_own_networks_come_back(tmp_path, settings, read_as):
    """``read_as``: the same heads, told in the other way."""
    unet = filled(dataclasses.replace(SMALL, **settings))
    weights.save_unet(unet, tmp_path)
    read = weights.load_unet(tmp_path)
    assert read.config == dataclasses.replace(unet.config, **read_as)
    assert equal(read.replace(config=unet.config), unet)
    assert image_side(tmp_path) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patch": 2}, "positions are patches: patch 2"),
        ({"pooled": 5}, "a pooled text (pooled) but no states (context)"),
        ({"padding": (1, 0)}, "padding (1, 0)"),
        ({"attention": (0,), "heads": 2}, "heads 2: the heads of a UNet2DModel have one width"),
        ({"attention": (0,), "head_width": 8}, "no heads of width 8 in 4 channels"),
    ],
)
def test_what_diffusers_cannot_express(tmp_path, settings, said):
    config = dataclasses.replace(SMALL, **settings)
    unet = filled(SMALL).replace(config=config)
    assert said in complaint(weights.save_unet, unet, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "changed",
    [
        lambda unet: unet.replace(config=dataclasses.replace(unet.config, eps=0.1)),
        lambda unet: unet.replace(norm_out=unet.norm_out.replace(eps=0.1)),
        lambda unet: unet.replace(time1=unet.time1.replace(bias=None)),
        lambda unet: unet.replace(time1=unet.time1.replace(bias=jnp.zeros(5))),
    ],
)
def test_parts_that_the_config_does_not_tell(tmp_path, changed):
    said = complaint(weights.save_unet, changed(filled(SMALL)), tmp_path / "new")
    assert "not what its config says" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("crash", range(3))
def test_a_crash_leaves_no_mixture(folder, monkeypatch, crash):
    """At every rename: the old network, the new one, or an error."""
    rename, done = os.replace, []

    def interrupted(source, target):
        if len(done) == crash:
            raise KeyboardInterrupt
        done.append(target)
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        if crash < 2:
            with pytest.raises(KeyboardInterrupt):
                weights.save_unet(filled(SMALL), folder)
        else:
            weights.save_unet(filled(SMALL), folder)
    if crash < 2:
        assert "config.json" in complaint(weights.load_unet, folder)
    else:
        assert weights.load_unet(folder).config.channels == SMALL.channels


# Kinds of files and folders


def test_the_folder_of_a_pipeline(tmp_path):
    shutil.copytree(GOLDEN / "ddpm", tmp_path / "unet")
    (tmp_path / "model_index.json").write_text("{}")
    assert equal(weights.load_unet(tmp_path), loaded("ddpm"))
    assert image_side(tmp_path) == 8
    shutil.copytree(GOLDEN / "heads", tmp_path, dirs_exist_ok=True)  # the folder's own come first
    assert equal(weights.load_unet(str(tmp_path)), loaded("heads"))


def test_one_of_several_variants(folder):
    path = folder / FILE
    for variant in ("fp16", "non_ema"):
        shutil.copy(path, folder / f"diffusion_pytorch_model.{variant}.safetensors")
    assert equal(weights.load_unet(folder), loaded("latent"))
    path.unlink()
    assert "several" in complaint(weights.load_unet, folder)
    one = folder / "diffusion_pytorch_model.fp16.safetensors"
    assert equal(weights.load_unet(one), loaded("latent"))


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(folder, kind):
    arrays = {name: array.astype(kind) for name, array in tensors(folder).items()}
    put(folder / FILE, arrays)
    unet = weights.load_unet(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(unet)} == {jnp.dtype("float32")}
    wanted = arrays["time_embedding.linear_1.weight"].astype(np.float32).T
    assert np.array_equal(unet.time1.weight, wanted)


def test_shards(folder):
    arrays, places = tensors(folder), {}
    (folder / FILE).unlink()
    for i in range(2):
        part = {name: arrays[name] for name in sorted(arrays)[i::2]}
        put(folder / f"part-{i}.safetensors", part)
        places |= dict.fromkeys(part, f"part-{i}.safetensors")
    (folder / f"{FILE}.index.json").write_text(json.dumps({"weight_map": places}))
    assert equal(weights.load_unet(folder), loaded("latent"))


NEW_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_names(name):
    for new, old in NEW_NAMES.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


@pytest.fixture
def old(tmp_path):
    """A folder as of 2022: attention under its old names."""
    folder = Path(shutil.copytree(GOLDEN / "ddpm", tmp_path / "old"))
    arrays = tensors(folder)
    renamed = {old_names(name): array for name, array in arrays.items()}
    assert len(renamed.keys() - arrays.keys()) == 6 * 8  # tensors: 6 attentions, 4 Linear each
    put(folder / FILE, renamed)
    return folder


def test_old_names_of_attention(old):
    assert equal(weights.load_unet(old), loaded("ddpm"))


def test_old_names_beside_new_ones_are_unexpected(old):
    arrays, name = tensors(old), "mid_block.attentions.0.query.bias"
    put(old / FILE, {**arrays, "mid_block.attentions.0.to_q.bias": arrays[name]})
    assert complaint(weights.load_unet, old).endswith(f": {name} is unexpected")


def test_old_names_are_those_of_attention_alone(old):
    put(old / FILE, {**tensors(old), "down_blocks.0.resnets.0.query.weight": np.zeros(3)})
    said = complaint(weights.load_unet, old)
    assert said.endswith("model: down_blocks.0.resnets.0.query.weight is unexpected")


# Faults


@pytest.mark.parametrize(
    "name",
    [
        "conv_in.weight",
        "conv_norm_out.bias",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "down_blocks.0.downsamplers.0.conv.weight",
        "up_blocks.1.resnets.2.conv_shortcut.weight",
        "up_blocks.0.upsamplers.0.conv.bias",
    ],
)
def test_a_fault_is_named(folder, name):
    path, arrays = folder / FILE, tensors(folder)
    array, said = arrays.pop(name), f"{folder} is of another model: {name}"
    put(path, arrays)
    assert complaint(weights.load_unet, folder) == f"{said} is missing"
    put(path, {**arrays, name: array.astype(np.int32)})
    assert complaint(weights.load_unet, folder) == f"{said} holds I32, not floats"
    bad = array[None]
    put(path, {**arrays, name: bad})
    told = complaint(weights.load_unet, folder)
    assert told == f"{said} has shape {bad.shape}, not {array.shape}"
    put(path, {**arrays, name: array, "a\nb": array})
    assert "'a\\nb' is unexpected" in complaint(weights.load_unet, folder)


def test_settings_that_the_tensors_contradict(folder):
    config = folder / "config.json"
    change(config, use_linear_projection=True)
    assert "proj_in.weight has shape (6, 6, 1, 1), not (6, 6)" in complaint(
        weights.load_unet, folder
    )
    change(config, use_linear_projection=False, layers_per_block=1)
    assert "down_blocks.0.attentions.1.norm.bias is unexp" in complaint(weights.load_unet, folder)
    change(config, layers_per_block=2, cross_attention_dim=8)
    assert "to_k.weight has shape (6, 9), not (6, 8)" in complaint(weights.load_unet, folder)


def test_nothing_is_read_before_everything_fits(folder, monkeypatch):
    """Names and shapes come first, also where settings promise terabytes."""

    def refuse(*arguments, **settings):
        raise AssertionError("a tensor was read, or room made for one")

    monkeypatch.setattr(mapping, "_read", refuse)
    monkeypatch.setattr(np, "empty", refuse)
    arrays = tensors(folder)
    put(folder / FILE, {**arrays, "conv_out.bias": arrays["conv_out.bias"].astype(np.int8)})
    assert "holds I8" in complaint(weights.load_unet, folder)
    change(folder / "config.json", block_out_channels=[2**16, 2**16], cross_attention_dim=2**20)
    assert f"not ({2**18}, {2**16})" in complaint(weights.load_unet, folder)


def test_every_cut_is_noticed(folder):
    path = folder / FILE
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert f"{path} cannot be read as safetensors" in complaint(weights.load_unet, folder)


def test_pickled_weights_are_refused(folder):
    pickled = folder / "diffusion_pytorch_model.bin"
    (folder / FILE).rename(pickled)
    for path in (folder, pickled):
        said = complaint(weights.load_unet, path)
        assert "diffusion_pytorch_model.bin" in said
        assert "unpickling runs code" in said


def test_a_folder_without_a_network(tmp_path):
    assert complaint(weights.load_unet, tmp_path / "no") == f"there is no folder {tmp_path / 'no'}"
    assert f"holds no {FILE}" in complaint(weights.load_unet, tmp_path)
    put(tmp_path / FILE, {})
    said = f"there is no file {tmp_path / 'config.json'}"
    assert complaint(weights.load_unet, tmp_path) == said
    assert complaint(image_side, tmp_path) == said


# Settings


@pytest.mark.parametrize("name", NAMES)
def test_silent_settings_are_the_defaults(tmp_path, name):
    """Those that say what a newer diffusers writes for its defaults can be left out."""
    facts = json.loads((GOLDEN / name / "config.json").read_text())
    said = {
        "_class_name", "attention_head_dim", "block_out_channels", "class_embed_type",
        "cross_attention_dim", "down_block_types", "downsample_padding", "flip_sin_to_cos",
        "freq_shift", "in_channels", "layers_per_block", "norm_eps", "norm_num_groups",
        "out_channels", "projection_class_embeddings_input_dim", "up_block_types",
        "use_linear_projection",
    }  # fmt: skip
    change(tmp_path / "config.json", **{k: v for k, v in facts.items() if k in said})
    assert read_config(tmp_path) == read_config(GOLDEN / name)


def test_a_class_alone_means_all_its_defaults(tmp_path):
    change(tmp_path / "config.json", _class_name=TEXT)
    stable = LAYOUTS["stable-diffusion-1"]
    assert read_config(tmp_path) == (dataclasses.replace(stable, context=1280), False)
    change(tmp_path / "config.json", _class_name=PLAIN)
    assert read_config(tmp_path)[0] == UNetConfig(
        channels=(224, 448, 672, 896),
        blocks=2,
        attention=(1, 2, 3),
        head_width=8,
        groups=32,
        cos_first=True,
        frequency_shift=0,
    )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("latent", {"layers_per_block": [2, 2]}),
        ("latent", {"cross_attention_dim": [9, 9], "transformer_layers_per_block": [1, 1]}),
        ("latent", {"only_cross_attention": [False, False]}),
        ("latent", {"attention_head_dim": [2, 2], "upcast_attention": True, "dropout": 0.1}),
        ("latent", {"mid_block_only_cross_attention": False, "resnet_out_scale_factor": 1.0}),
        ("latent", {"time_embedding_dim": 24, "a_later_setting": None}),
        ("linear", {"mid_block_scale_factor": 1.0, "addition_embed_type_num_heads": 3}),
        ("ddpm", {"attn_norm_num_groups": 2, "num_train_timesteps": 1000, "sample_size": None}),
    ],
)
def test_other_ways_to_say_the_same(tmp_path, name, changes):
    shutil.copy(GOLDEN / name / "config.json", tmp_path)
    change(tmp_path / "config.json", **changes)
    assert read_config(tmp_path) == read_config(GOLDEN / name)


ATTEND, PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "AutoencoderKL"}, "'AutoencoderKL', not UNet2DModel or UNet2DConditionM"),
        ({"_class_name": ["UNet2DModel"]}, "_class_name is ['UNet2DModel'], not UNet2DModel or"),
        ({"_class_name": ...}, "_class_name is '', not UNet2DModel or UNet2DConditionModel"),
        ({"a_later_setting": [3]}, "a_later_setting is [3], and that setting is unknown here"),
        ({"act_fn": "gelu"}, 'act_fn is \'gelu\', not "silu" or "swish"'),
        ({"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time', not null"),
        ({"attention_head_dim": 4}, "attention_head_dim is 4, not a divisor of the channels"),
        ({"attention_head_dim": [2]}, "not a number of heads, or one for each level"),
        ({"attention_head_dim": [2, 2.0]}, "not a number of heads, or one for each level"),
        ({"attention_head_dim": [3, 2]}, "heads of one number or of one width at every level"),
        ({"attention_head_dim": None}, "attention_head_dim is None, not a whole number"),
        ({"attention_type": "gated"}, "attention_type is 'gated', not \"default\""),
        ({"block_out_channels": [6, 0]}, "block_out_channels is [6, 0], not a list of 1 to 12"),
        ({"block_out_channels": [5, 10]}, "the first even"),
        ({"block_out_channels": []}, "block_out_channels is [], not a list"),
        ({"block_out_channels": [6, 2**40]}, "whole numbers up to 65536"),
        ({"block_out_channels": [6] * 10**5}, "not a list of 1 to 12 whole numbers"),
        ({"block_out_channels": [6, 10, 14]}, "down_block_types is"),
        ({"norm_num_groups": 4}, "GroupNorm: 6 channels do not split into 4 groups"),
        ({"norm_num_groups": None}, "norm_num_groups is None, not a whole number"),
        ({"center_input_sample": True}, "center_input_sample is True, not false"),
        ({"center_input_sample": 0}, "center_input_sample is 0, not false"),
        ({"class_embed_type": "timestep"}, "'timestep', not null or \"simple_projection\""),
        ({"class_embed_type": "simple_projection"}, "projection_class_embeddings_input_dim is"),
        ({"class_embeddings_concat": True}, "class_embeddings_concat is True"),
        ({"conv_in_kernel": 1}, "conv_in_kernel is 1, not 3"),
        ({"conv_out_kernel": 5}, "conv_out_kernel is 5, not 3"),
        ({"cross_attention_dim": [9, 8]}, "cross_attention_dim is [9, 8], not a whole number"),
        ({"cross_attention_norm": "layer_norm"}, "cross_attention_norm is 'layer_norm', not null"),
        ({"down_block_types": [ATTEND, ATTEND]}, "up_block_types is ['UpBlock2D', "),
        ({"down_block_types": [ATTEND, "KDownBlock2D"]}, "2 times DownBlock2D or CrossAttnDown"),
        ({"down_block_types": [ATTEND, ["DownBlock2D"]]}, "down_block_types is"),
        ({"down_block_types": ATTEND}, "down_block_types is 'CrossAttnDownBlock2D'"),
        ({"down_block_types": ["AttnDownBlock2D", PLAIN_DOWN]}, "down_block_types is"),
        ({"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}, "as down_block_types mirrored"),
        ({"downsample_padding": 2}, "downsample_padding is 2, not a whole number from 0 to 1"),
        ({"dual_cross_attention": True}, "dual_cross_attention is True, not false"),
        ({"encoder_hid_dim": 4}, "encoder_hid_dim is 4, not null"),
        ({"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type is 'text_proj', not null"),
        ({"flip_sin_to_cos": 1}, "flip_sin_to_cos is 1, not true or false"),
        ({"freq_shift": 3}, "freq_shift is 3, not a whole number from 0 to 2"),
        ({"in_channels": 9}, "out_channels is 4, not in_channels, 9"),
        ({"in_channels": "4"}, "in_channels is '4'"),
        ({"layers_per_block": [1, 2]}, "layers_per_block is [1, 2], not a whole number"),
        ({"layers_per_block": 10**4}, "layers_per_block is 10000, not a whole number from 1 to"),
        ({"mid_block_only_cross_attention": True}, "mid_block_only_cross_attention is True"),
        ({"mid_block_scale_factor": 1.4}, "mid_block_scale_factor is 1.4, not 1"),
        ({"mid_block_type": "UNetMidBlock2D"}, "'UNetMidBlock2D', not \"UNetMidBlock2DCrossAttn"),
        ({"mid_block_type": None}, "mid_block_type is None"),
        ({"norm_eps": -1}, "norm_eps is -1, not a number above 0.0"),
        ({"norm_eps": float("nan")}, "norm_eps is nan"),
        ({"num_attention_heads": 2}, "num_attention_heads is 2, not null"),
        ({"num_class_embeds": 10}, "num_class_embeds is 10, not null"),
        ({"only_cross_attention": [False, True]}, "only_cross_attention is [False, True], not fa"),
        ({"resnet_out_scale_factor": 2}, "resnet_out_scale_factor is 2, not 1"),
        ({"resnet_skip_time_act": True}, "resnet_skip_time_act is True, not false"),
        ({"resnet_time_scale_shift": "scale_shift"}, "'scale_shift', not \"default\""),
        ({"reverse_transformer_layers_per_block": [[1], [1]]}, "reverse_transformer_layers_per_"),
        ({"time_cond_proj_dim": 4}, "time_cond_proj_dim is 4, not null"),
        ({"time_embedding_act_fn": "silu"}, "time_embedding_act_fn is 'silu', not null"),
        ({"time_embedding_dim": 25}, "time_embedding_dim is 25, not 24 or null"),
        ({"time_embedding_type": "fourier"}, "'fourier', not \"positional\""),
        ({"timestep_post_act": "silu"}, "timestep_post_act is 'silu', not null"),
        ({"transformer_layers_per_block": 2}, "transformer_layers_per_block is 2, not 1"),
        ({"transformer_layers_per_block": [1, 10]}, "is [1, 10], not 1"),
        ({"use_linear_projection": None}, "use_linear_projection is None, not true or false"),
    ],
    ids=str,
)
def test_settings_with_a_text_that_ours_has_no_part_for(folder, changes, said):
    change(folder / "config.json", **changes)
    told = complaint(weights.load_unet, folder)
    assert told.startswith(f"{folder / 'config.json'}: ")
    assert said in told


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"add_attention": False}, "add_attention is False, not true"),
        ({"attention_head_dim": 4}, "attention_head_dim is 4, not a divisor of the channels"),
        ({"attention_head_dim": [10, 10, 8]}, "attention_head_dim is [10, 10, 8], not a whole"),
        ({"attn_norm_num_groups": 5}, "attn_norm_num_groups is 5, not 2 or null"),
        ({"class_embed_type": "identity"}, "class_embed_type is 'identity', not null"),
        ({"class_embed_type": "simple_projection"}, "'simple_projection', not null"),
        ({"down_block_types": ["SkipDownBlock2D"] * 3}, "3 times DownBlock2D or AttnDownBlock2D"),
        ({"downsample_type": "resnet"}, "downsample_type is 'resnet', not \"conv\""),
        ({"layers_per_block": [2, 2, 2]}, "layers_per_block is [2, 2, 2], not a whole number"),
        ({"mid_block_type": None}, 'mid_block_type is None, not "UNetMidBlock2D"'),
        ({"num_class_embeds": 1000}, "num_class_embeds is 1000, not null"),
        ({"out_channels": 6}, "out_channels is 6, not in_channels, 3"),
        ({"time_embedding_type": "learned"}, "time_embedding_type is 'learned'"),
        ({"upsample_type": "resnet"}, "upsample_type is 'resnet', not \"conv\""),
    ],
    ids=str,
)
def test_settings_without_a_text_that_ours_has_no_part_for(tmp_path, changes, said):
    shutil.copy(GOLDEN / "ddpm" / "config.json", tmp_path)
    change(tmp_path / "config.json", **changes)
    assert said in complaint(read_config, tmp_path)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe{", b"[" * 100_000, b"9" * 9999])
def test_settings_that_are_no_settings(folder, content):
    (folder / "config.json").write_bytes(content)
    assert str(folder / "config.json") in complaint(weights.load_unet, folder)
    assert str(folder / "config.json") in complaint(image_side, folder)


@pytest.mark.parametrize(
    ("size", "side"), [(64, 64), (None, None), (..., None), ([32, 32], 32), (1, 1)]
)
def test_the_side_of_images(folder, size, side):
    change(folder / "config.json", sample_size=size)
    assert image_side(folder) == image_side(folder / FILE) == side


@pytest.mark.parametrize("size", [0, -1, "64", 64.0, [64], [32, 64], [[1], [1]], True, 2**17])
def test_images_that_are_no_squares(folder, size):
    change(folder / "config.json", sample_size=size)
    assert f"sample_size is {size!r}, not a whole number" in complaint(image_side, folder)


# With diffusers itself, where it is installed


@pytest.fixture
def diffusers():
    module = pytest.importorskip("diffusers")
    try:
        assert module.UNet2DModel  # imports PyTorch
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"diffusers does not work here: {error}")
    return module


OURS = {
    "plain": dataclasses.replace(SMALL, heads=2, padding=(0, 1)),
    "text": dataclasses.replace(SMALL, context=3, attention=(0, 1), head_width=2, cos_first=True),
}


@pytest.mark.filterwarnings("ignore")  # its own, and PyTorch's
@pytest.mark.parametrize("name", [*NAMES, *OURS])
def test_diffusers_loads_what_we_save(diffusers, tmp_path, name):
    import torch

    unet = filled(OURS[name]) if name in OURS else loaded(name)
    weights.save_unet(unet, tmp_path)
    kind = getattr(diffusers, json.loads((tmp_path / "config.json").read_text())["_class_name"])
    model, told = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()), told
    rng, config = np.random.default_rng(0), unet.config
    x = np.float32(rng.normal(size=(2, 8, 8, config.image_channels)))
    t, condition, keywords = np.array([3, 57], np.int32), None, {}
    if config.context:
        condition = np.float32(rng.normal(size=(2, 4, config.context)))
        keywords["encoder_hidden_states"] = torch.from_numpy(condition)
    if config.pooled:
        pooled = np.float32(rng.normal(size=(2, config.pooled)))
        condition = Condition(condition, pooled)
        keywords["class_labels"] = torch.from_numpy(pooled)
    with torch.no_grad():
        images = torch.from_numpy(x).permute(0, 3, 1, 2)
        wanted = model.eval()(images, torch.from_numpy(t), **keywords).sample
    wanted = wanted.permute(0, 2, 3, 1).numpy()
    found = stages_of(unet, x, t, condition)["out"]
    np.testing.assert_allclose(found, wanted, atol=3e-5 * np.abs(wanted).max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "facts",
    [
        CIFAR10,
        STABLE,
        {"_class_name": PLAIN},
        {"_class_name": TEXT},
        STABLE | {"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
        STABLE | {"class_embed_type": "simple_projection"}
        | {"projection_class_embeddings_input_dim": 11},
        STABLE | {"layers_per_block": [1] * 4, "cross_attention_dim": [33] * 4},
    ],
    ids=["cifar10", "stable", "plain", "text", "stable 2", "pooled", "lists"],
)  # fmt: skip
def test_settings_mean_what_diffusers_takes_them_for(diffusers, tmp_path, facts):
    """Names and shapes are those of the network that diffusers builds, without memory."""
    import torch

    change(tmp_path / "config.json", **facts)
    with torch.device("meta"):
        kind = getattr(diffusers, facts["_class_name"])
        wanted = kind.from_config({k: v for k, v in facts.items() if k[0] != "_"}).state_dict()
    config, linear_projection = read_config(tmp_path)
    unet = template(config)
    shapes = weights.flatten(unet)
    found = {entry.name: entry.shape(shapes) for entry in entries(unet, linear_projection)}
    assert found == {name: tuple(tensor.shape) for name, tensor in wanted.items()}


@pytest.mark.filterwarnings("ignore")
def test_diffusers_takes_old_names_for_the_same(diffusers, old):
    model = diffusers.UNet2DModel.from_pretrained(old)
    query = model.state_dict()["mid_block.attentions.0.to_q.weight"].numpy()
    assert np.array_equal(query, loaded("ddpm").middle[1].attention.query.weight.T)
