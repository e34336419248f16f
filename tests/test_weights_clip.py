"""CLIP under the names of others: every stage as in transformers and open_clip, and what is refused."""

import errno
import json
import os
import shutil
import struct as packing
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from foreign import complaint, equal
from golden import make_clip

from minidiff import weights
from minidiff.clip import CLIP, OPENAI_MEAN, OPENAI_STD, SIZES, CLIPConfig
from minidiff.contrastive import contrastive_loss
from minidiff.text import TextConfig, Tokenizer
from minidiff.vit import ViTConfig
from minidiff.weights import mapping
from minidiff.weights.clip_settings import read_config

GOLDEN = Path(__file__).parent / "golden/clip"
FC1 = "text_model.encoder.layers.1.mlp.fc1"  # of the golden: (96, 24)


@pytest.fixture
def folder(tmp_path):
    """A copy of a golden folder, to be damaged."""
    return Path(shutil.copytree(GOLDEN / "quick", tmp_path / "model"))


def tensors(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def put(path, arrays):
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    safetensors.numpy.save_file(arrays, path)


def change(path, **changes):
    """Change settings in a JSON file; those of a section are given as a dict, ... removes one."""
    facts = json.loads(path.read_text()) if path.exists() else {}
    for key, value in changes.items():
        if isinstance(value, dict):
            facts[key] = {**(facts.get(key) or {}), **value}
        else:
            facts[key] = value
        if value is ...:
            del facts[key]
    path.write_text(json.dumps(facts))


# Parity


@jax.jit
def everything(clip, images, ids):
    image, text = clip.encode_images(images), clip.encode_texts(ids)
    towers = {"image": clip.image.stages(images), "text": clip.text.stages(ids)}
    return {
        **{f"{tower}.{name}": x for tower, stages in towers.items() for name, x in stages.items()},
        "image_embeddings": image,
        "text_embeddings": text,
        "logits_per_image": clip.logits(images, ids),
        "clip_loss": contrastive_loss(image, text, clip.log_scale),
    }


def deviating(found, wanted):
    """Names of the stages that differ by more than 1e-5."""
    return [
        name
        for name, x in wanted.items()
        if x.shape != found[name].shape or not np.allclose(found[name], x, rtol=1e-5, atol=1e-5)
    ]


@pytest.fixture(scope="module", params=["quick", "gelu"])
def golden(request):
    """(what transformers computes, what we do)"""
    wanted, _ = weights.load_arrays(GOLDEN / request.param / "golden.safetensors")
    inputs = wanted.pop("images"), wanted.pop("ids")
    with jax.default_matmul_precision("highest"):
        return wanted, everything(weights.load_clip(GOLDEN / request.param), *inputs)


def test_every_stage_is_that_of_transformers(golden):
    wanted, found = golden
    assert found.keys() == wanted.keys()
    assert deviating(found, wanted) == []


def test_the_goldens_tell_right_from_nearly_right(golden):
    wanted, found = golden
    assert set(deviating({k: x * (1 + 1e-4) + 1e-4 for k, x in found.items()}, wanted)) == set(
        wanted
    )
    maps = [x for name, x in wanted.items() if "attention" in name]
    assert all(x.max() > 0.9 for x in maps)  # far from uniform: q, k and the heads matter
    spread = {name: x.std() for name, x in wanted.items() if x.ndim and "attention" not in name}
    assert min(spread.values()) > 0.05


@pytest.mark.parametrize(
    "layer",
    ["mlp.fc1.bias", "layer_norm2.weight", "layer_norm1.bias", "self_attn.q_proj.weight"],
)
@pytest.mark.parametrize("tower", ["text", "vision"])
def test_one_number_shows(folder, tower, layer):
    """A small change of one number in the last block is noticed, and not before that block."""
    wanted, _ = weights.load_arrays(folder / "golden.safetensors")
    inputs = wanted.pop("images"), wanted.pop("ids")
    arrays, last = tensors(folder), {"text": 1, "vision": 2}[tower]
    arrays[f"{tower}_model.encoder.layers.{last}.{layer}"].flat[0] += 0.01
    put(folder / "model.safetensors", arrays)
    found = everything(weights.load_clip(folder), *inputs)
    ours = {"text": "text", "vision": "image"}[tower]
    places = deviating(found, wanted)
    assert f"{ours}.blocks.{last}" in places
    assert not any(name.startswith(f"{ours}.blocks.{last - 1}") for name in places)


def test_a_text_ends_as_the_settings_say(folder):
    """2 means the largest id, anything else its first place."""
    clip = weights.load_clip(folder)
    assert clip.config.text.end is None
    change(folder / "config.json", text_config={"eos_token_id": 5})
    clip = weights.load_clip(folder)
    assert clip.config.text.end == 5
    ids = jnp.array([[37, 9, 5, 39, 5, 1]])
    assert np.array_equal(clip.text(ids), clip.text.states(ids)[:, 2])


# OpenAI's names


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("name", ["ViT.safetensors", "model.safetensors"])
def test_openais_names(tmp_path, kind, name):
    extras = {"input_resolution": 8, "context_length": 6, "vocab_size": 50}
    arrays = {name: array.astype(kind) for name, array in make_clip.openai_tensors().items()}
    put(tmp_path / name, {**arrays, **extras})
    path = tmp_path if name.startswith("model") else tmp_path / name
    clip = weights.load_clip(path)
    assert clip.config == CLIPConfig(
        embedding=20,
        image=ViTConfig(8, 4, 3, 128, 1, 2, 4, "quick_gelu", 1e-5, OPENAI_MEAN, OPENAI_STD),
        text=TextConfig(50, 6, 96, 2, 1, 4, "quick_gelu", 1e-5, None),
    )
    wanted, _ = weights.load_arrays(GOLDEN / "openai/golden.safetensors")
    with jax.default_matmul_precision("highest"):
        images, ids = make_clip.openai_images(), jnp.array(make_clip.OPENAI_IDS)
        assert deviating(everything(clip, images, ids), wanted) == []


def test_openais_names_become_hugging_faces(tmp_path):
    put(tmp_path / "a.safetensors", make_clip.openai_tensors())
    clip = weights.load_clip(tmp_path)
    weights.save_clip(clip, tmp_path / "b")
    assert equal(weights.load_clip(tmp_path / "b"), clip)
    assert "text_model.final_layer_norm.weight" in tensors(tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("visual.proj", None, "visual.proj is missing"),
        ("visual.conv1.weight", None, "visual.conv1.weight is missing"),
        ("text_projection", (96,), "text_projection has shape (96,), not 2 sizes above 0"),
        ("token_embedding.weight", (0, 96), "token_embedding.weight has shape (0, 96), not 2"),
        ("visual.positional_embedding", (6, 128), "has 6 rows, not one more than a square"),
        ("visual.positional_embedding", (1, 128), "has 1 rows, not one more than a square"),
        ("visual.conv1.weight", (32, 3, 4, 4), "is 32 wide, which makes no heads of 64"),
        ("visual.conv1.weight", (128, 1, 4, 4), "(128, 1, 4, 4), not (128, 3, 4, 4)"),
        ("positional_embedding", (6, 193), "is 193 wide, which makes no heads of 64"),
        (
            "transformer.resblocks.1.attn.in_proj_weight",
            (96, 96),
            "transformer.resblocks.1.attn.in_proj_weight has shape (96, 96), not (288, 96)",
        ),
        (
            "transformer.resblocks.1.attn.in_proj_bias",
            None,
            "transformer.resblocks.1.attn.in_proj_bias is missing",
        ),
        ("transformer.resblocks.1.attn.bias", (3,), "transformer.resblocks.1.attn.bias is unex"),
        ("visual.layer1.0.conv1.weight", (1,), "with a ResNet"),
    ],
)
def test_faults_under_openais_names(tmp_path, name, shape, said):
    arrays = make_clip.openai_tensors()
    arrays.pop(name, None)
    if shape:
        arrays[name] = np.zeros(shape, np.float32)
    put(tmp_path / "model.safetensors", arrays)
    assert said in complaint(weights.load_clip, tmp_path)


@pytest.mark.parametrize(
    ("model", "activation", "heads"),
    [
        ({"quick_gelu": True, "vision_cfg": {"layers": 1}}, "quick_gelu", (2, 8)),
        ({"vision_cfg": {"layers": 1}, "text_cfg": {"heads": 1}}, "gelu", (2, 1)),
        ({"quick_gelu": True, "vision_cfg": {"head_width": 80}}, "quick_gelu", (1, 8)),
    ],
)
def test_models_of_open_clip_that_only_look_like_openais(tmp_path, model, activation, heads):
    """What they are is told by open_clip's settings and defaults: a text tower has 8 heads."""
    put(tmp_path / "open_clip_model.safetensors", make_clip.openai_tensors())
    change(tmp_path / "open_clip_config.json", model_cfg=model)
    config = weights.load_clip(tmp_path).config
    assert config.image.activation == config.text.activation == activation
    assert (config.image.heads, config.text.heads) == heads


# Saved and loaded


def test_saved_tensors_are_those_loaded(tmp_path):
    for name in ("quick", "gelu"):
        weights.save_clip(weights.load_clip(GOLDEN / name), tmp_path / name)
        saved, original = tensors(tmp_path / name), tensors(GOLDEN / name)
        assert saved.keys() == original.keys()
        _, metadata = weights.load_arrays(tmp_path / name / "model.safetensors")
        assert metadata == {"format": "pt"}  # transformers 4 refuses files that do not say so
        assert all(
            saved[k].dtype == v.dtype and saved[k].tobytes() == v.tobytes()
            for k, v in original.items()
        )
        assert read_config(tmp_path / name) == read_config(GOLDEN / name)
        settings = json.loads((tmp_path / name / "config.json").read_text())
        wanted = json.loads((GOLDEN / name / "config.json").read_text())
        for tower in ("text_config", "vision_config"):
            shared = settings[tower].keys() & wanted[tower].keys() - {"bos_token_id"}
            assert len(shared) >= 9
            assert {k: settings[tower][k] for k in shared} == {k: wanted[tower][k] for k in shared}
    preprocessing = json.loads((GOLDEN / "quick/preprocessor_config.json").read_text())
    assert json.loads((tmp_path / "quick/preprocessor_config.json").read_text()) == preprocessing


@pytest.mark.parametrize("end", [None, 17])
@pytest.mark.parametrize("channels", [1, 3])
def test_our_own_models_come_back(tmp_path, end, channels):
    config = CLIPConfig(
        embedding=6,
        image=ViTConfig(
            8, 2, channels, 12, 3, 2, 2, "gelu", 1e-3, (0.5,) * channels, (0.5,) * channels
        ),
        text=TextConfig(20, 7, 8, 1, 4, 3, "quick_gelu", 1e-6, end),
    )
    clip = CLIP.init(jax.random.key(0), config)
    weights.save_clip(clip, tmp_path / "deep" / "folder")
    assert equal(weights.load_clip(tmp_path / "deep" / "folder"), clip)
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(os.listdir(tmp_path / "deep" / "folder")) == files


def test_one_mean_for_all_channels_is_written_for_each(tmp_path):
    small = {"width": 4, "layers": 1, "heads": 1}
    config = CLIPConfig(4, ViTConfig(**small), TextConfig(vocabulary=5, context=3, **small))
    weights.save_clip(CLIP.init(jax.random.key(0), config), tmp_path)
    assert weights.load_clip(tmp_path).config.image.mean == (0.5, 0.5, 0.5)


def with_other_eps(clip):
    return replace(clip, image=replace(clip.image, norm_in=replace(clip.image.norm_in, eps=0.1)))


def with_other_shape(clip):
    return replace(clip, text=replace(clip.text, positions=clip.text.positions[:5]))


def with_patch_bias(clip):
    patches = replace(clip.image.patches, bias=jnp.zeros(32))
    return replace(clip, image=replace(clip.image, patches=patches))


def with_end_two(clip):
    config = replace(clip.text.config, end=2)
    return replace(clip, text=replace(clip.text, config=config))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda clip: replace(clip, bias=jnp.float32(-10)), "SigLIP"),
        (with_other_eps, "not what its config says"),
        (with_other_shape, "not what its config says"),
        (with_patch_bias, "not what its config says"),
        (with_end_two, "end token 2 means another thing"),
    ],
)
def test_what_hugging_face_cannot_express(tmp_path, changed, said):
    clip = changed(weights.load_clip(GOLDEN / "quick"))
    assert said in complaint(weights.save_clip, clip, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_the_old_model(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    calls, fsync = [], os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:  # of the last of three files
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space") as caught:
        weights.save_clip(weights.load_clip(GOLDEN / "gelu"), folder)
    assert caught.value.filename == str(folder / "config.json")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("crash", range(4))
def test_a_crash_leaves_no_mixture(folder, monkeypatch, crash):
    """At every rename: the old model, the new one, or an error."""
    old, new = weights.load_clip(folder), weights.load_clip(GOLDEN / "gelu")
    rename, done = os.replace, []

    def interrupted(source, target):
        if len(done) == crash:
            raise KeyboardInterrupt
        done.append(target)
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        if crash < 3:
            with pytest.raises(KeyboardInterrupt):
                weights.save_clip(new, folder)
        else:
            weights.save_clip(new, folder)
    if crash < 3:
        assert "config.json" in complaint(weights.load_clip, folder)
    else:
        assert weights.load_clip(folder).config.embedding == new.config.embedding
    assert not equal(old, new)


# Kinds of files


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(folder, kind):
    arrays = {name: array.astype(kind) for name, array in tensors(folder).items()}
    put(folder / "model.safetensors", arrays)
    clip = weights.load_clip(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(clip)} == {jnp.dtype("float32")}
    found = clip.image.transformer.blocks.mlp.up.weight[1]
    wanted = arrays["vision_model.encoder.layers.1.mlp.fc1.weight"].astype(np.float32).T
    assert np.array_equal(found, wanted)


def test_buffers_of_old_files_are_ignored(folder):
    ids = {f"{t}_model.embeddings.position_ids": np.arange(9)[None] for t in ("text", "vision")}
    put(folder / "model.safetensors", {**tensors(folder), **ids})
    assert equal(weights.load_clip(folder), weights.load_clip(GOLDEN / "quick"))


def shard(folder):
    arrays = tensors(folder)
    (folder / "model.safetensors").unlink()
    names, places = sorted(arrays), {}
    for i in range(3):
        part = {name: arrays[name] for name in names[i::3]}
        put(folder / f"model-{i}.safetensors", part)
        places |= dict.fromkeys(part, f"model-{i}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index, places


def test_shards(folder):
    shard(folder)
    assert equal(weights.load_clip(folder), weights.load_clip(GOLDEN / "quick"))


def test_broken_shards(folder):
    index, places = shard(folder)
    one = folder / "model-1.safetensors"
    shutil.copy(one, folder / "model-2.safetensors")
    assert "as another file does" in complaint(weights.load_clip, folder)
    one.unlink()
    assert complaint(weights.load_clip, folder) == f"there is no file {one}"
    for wrong in ("../model-0.safetensors", "model.bin", 3, ["a"]):
        change(index, weight_map={**places, "logit_scale": wrong})
        assert "something else than safetensors" in complaint(weights.load_clip, folder)
    change(index, weight_map=...)
    assert "no weight_map" in complaint(weights.load_clip, folder)


# Faults, listed by name


@pytest.mark.parametrize(
    "name",
    [
        "logit_scale",
        "visual_projection.weight",
        "vision_model.embeddings.class_embedding",
        "vision_model.pre_layrnorm.bias",
        "text_model.embeddings.token_embedding.weight",
        f"{FC1}.weight",
        f"{FC1}.bias",
    ],
)
def test_a_fault_is_named(folder, name):
    path, arrays = folder / "model.safetensors", tensors(folder)
    array, said = arrays.pop(name), f"{folder} is of another model: {name}"
    put(path, arrays)
    assert complaint(weights.load_clip, folder) == f"{said} is missing"
    put(path, {**arrays, name: array.astype(np.int32)})
    assert complaint(weights.load_clip, folder) == f"{said} holds I32, not floats"
    bad = array[None]
    put(path, {**arrays, name: bad})
    told = complaint(weights.load_clip, folder)
    assert told == f"{said} has shape {bad.shape}, not {array.shape}"
    put(path, {**arrays, name: array, f"{name}_2": array, "a\nb": array})
    told = complaint(weights.load_clip, folder)
    assert f"{name}_2 is unexpected" in told
    assert "'a\\nb' is unexpected" in told


def test_a_transposed_weight_is_misshapen(folder):
    arrays = tensors(folder)
    arrays[f"{FC1}.weight"] = arrays[f"{FC1}.weight"].T
    put(folder / "model.safetensors", arrays)
    said = complaint(weights.load_clip, folder)
    assert said.endswith(f"{FC1}.weight has shape (24, 96), not (96, 24)")


def test_settings_of_another_model(folder):
    change(folder / "config.json", vision_config={"num_hidden_layers": 4})
    said = complaint(weights.load_clip, folder)
    assert "vision_model.encoder.layers.3.layer_norm1.weight is missing" in said
    assert said.endswith("and 13 more")
    change(folder / "config.json", vision_config={"num_hidden_layers": 2})
    assert "layers.2.layer_norm1.bias is unexpected" in complaint(weights.load_clip, folder)


def test_nothing_is_read_before_everything_fits(folder, monkeypatch):
    """Names and shapes come first: here settings promise terabytes, and one tensor has the wrong type."""

    def refuse(*arguments, **settings):
        raise AssertionError("a tensor was read, or room made for one")

    monkeypatch.setattr(mapping, "_read", refuse)
    monkeypatch.setattr(np, "empty", refuse)
    arrays = tensors(folder)
    arrays["visual_projection.weight"] = arrays["visual_projection.weight"].astype(np.int8)
    put(folder / "model.safetensors", arrays)
    assert "holds I8" in complaint(weights.load_clip, folder)
    most = 2**20
    huge = {"hidden_size": most, "intermediate_size": most, "patch_size": 2**12}
    change(folder / "config.json", vision_config=huge | {"image_size": 2**12})
    assert f"not ({most},)" in complaint(weights.load_clip, folder)


@pytest.mark.parametrize(
    "damage", ["cut in the data", "cut in the header", "empty", "text", "huge"]
)
def test_a_damaged_file(folder, damage):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    content = {
        "cut in the data": whole[:-1],
        "cut in the header": whole[:100],
        "empty": b"",
        "text": b"these are no weights\n" * 20,
        "huge": packing.pack("<Q", 2**62) + whole[8:],
    }
    path.write_bytes(content[damage])
    assert f"{path} cannot be read as safetensors" in complaint(weights.load_clip, folder)


def test_every_cut_is_noticed(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 20, dtype=int):
        path.write_bytes(whole[:length])
        assert str(path) in complaint(weights.load_clip, folder)


def test_pickled_weights_are_refused(folder):
    pickled = folder / "pytorch_model.bin"
    (folder / "model.safetensors").rename(pickled)
    (folder / "golden.safetensors").unlink()
    for path in (folder, pickled):
        said = complaint(weights.load_clip, path)
        assert "pytorch_model.bin" in said
        assert "unpickling runs code" in said


def test_a_folder_without_weights(tmp_path):
    assert complaint(weights.load_clip, tmp_path / "no") == f"there is no folder {tmp_path / 'no'}"
    assert "holds no model.safetensors" in complaint(weights.load_clip, tmp_path)
    for name in ("a.safetensors", "b.safetensors", f"{weights.TEMPORARY}1-c.safetensors"):
        put(tmp_path / name, {})
    assert "several" in complaint(weights.load_clip, tmp_path)
    (tmp_path / "b.safetensors").unlink()
    said = complaint(weights.load_clip, tmp_path)
    assert said == f"there is no file {tmp_path / 'config.json'}"


# Settings


def test_silent_settings_are_those_of_transformers(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    real, half = SIZES["ViT-B/32"], (0.5, 0.5, 0.5)
    assert read_config(tmp_path) == replace(
        real, image=replace(real.image, mean=half, std=half), text=replace(real.text, end=49_407)
    )


def test_settings_given_twice(tmp_path):
    path = tmp_path / "config.json"
    change(path, text_config={"hidden_size": 64, "vocab_size": 9}, text_config_dict=None)
    assert read_config(tmp_path).text.vocabulary == 9
    change(path, text_config_dict={"hidden_size": 128})
    text = read_config(tmp_path).text
    assert (text.width, text.vocabulary) == (128, 49_408)
    path.write_text(json.dumps({"text_config": {"hidden_size": 64}, "text_config_dict": {}}))
    assert read_config(tmp_path).text.width == 512


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "siglip"}, "model_type is 'siglip', not clip"),
        ({"text_config": 3}, "text_config is 3, not settings"),
        ({"projection_dim": "512"}, "projection_dim is '512', not a whole number from 1"),
        ({"projection_dim": None}, "projection_dim is None"),
        ({"text_config": {"vocab_size": 0}}, "text_config: vocab_size is 0"),
        ({"text_config": {"hidden_size": True}}, "hidden_size is True"),
        ({"text_config": {"hidden_size": 24.0}}, "hidden_size is 24.0"),
        ({"text_config": {"hidden_size": 10**400}}, "not a whole number"),
        ({"text_config": {"num_attention_heads": 5}}, "text_config: heads 5 does not divide"),
        ({"text_config": {"intermediate_size": 100}}, "a multiple of hidden_size 24"),
        ({"text_config": {"eos_token_id": -1}}, "eos_token_id is -1"),
        ({"text_config": {"eos_token_id": [1, 2]}}, "eos_token_id is [1, 2]"),
        ({"text_config": {"max_position_embeddings": -77}}, "max_position_embeddings is -77"),
        ({"vision_config": {"hidden_act": "relu"}}, "'relu', not gelu or quick_gelu"),
        ({"vision_config": {"hidden_act": ["gelu"]}}, "not gelu or quick_gelu"),
        ({"vision_config": {"image_size": [16, 16]}}, "image_size is [16, 16]"),
        ({"vision_config": {"patch_size": 5}}, "vision_config: patch 5 does not divide"),
        ({"vision_config": {"num_hidden_layers": 10**6}}, "num_hidden_layers is 1000000"),
        ({"vision_config": {"layer_norm_eps": -1e-5}}, "layer_norm_eps is -1e-05"),
        ({"vision_config": {"layer_norm_eps": float("nan")}}, "layer_norm_eps is nan"),
        ({"vision_config": {"layer_norm_eps": "1e-5"}}, "layer_norm_eps is '1e-5'"),
        ({"vision_config": {"num_channels": 0}}, "num_channels is 0"),
    ],
)
def test_impossible_settings(folder, changes, said):
    change(folder / "config.json", **changes)
    told = complaint(weights.load_clip, folder)
    assert told.startswith(f"{folder / 'config.json'}: ")
    assert said in told


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe{", b"[" * 100_000, b"9" * 9999])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_settings_that_are_no_settings(folder, content, name):
    (folder / name).write_bytes(content)
    assert str(folder / name) in complaint(weights.load_clip, folder)


def test_settings_too_large_to_be_settings(folder):
    with open(folder / "config.json", "ab") as file:
        file.truncate(2**25 + 1)
    assert "at most 33554432 bytes" in complaint(weights.load_clip, folder)


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({}, OPENAI_MEAN, OPENAI_STD),
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}, (0.1, 0.2, 0.3), (1, 2, 3)),
        ({"image_mean": ..., "image_std": ...}, OPENAI_MEAN, OPENAI_STD),
        ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
        ({"rescale_factor": ...}, OPENAI_MEAN, OPENAI_STD),
    ],
)
def test_how_images_are_normalised(folder, changes, mean, std):
    path = folder / "preprocessor_config.json"
    change(path, **changes)
    config = weights.load_clip(folder).config.image
    assert (config.mean, config.std) == (mean, std)
    inner = json.loads(path.read_text())
    path.unlink()
    change(folder / "processor_config.json", image_processor=inner)  # where transformers 5 puts it
    config = weights.load_clip(folder).config.image
    assert (config.mean, config.std) == (mean, std)


def test_images_reach_the_network_as_they_are(folder):
    (folder / "preprocessor_config.json").unlink()
    vit = weights.load_clip(folder).image
    images = jnp.linspace(-1, 1, 16 * 16 * 3).reshape(1, 16, 16, 3)
    assert np.allclose(vit.normalize(images), images, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_mean": [0.5]}, "image_mean is [0.5], not a list of 3 numbers"),
        ({"image_mean": 0.5}, "image_mean is 0.5"),
        ({"image_mean": [0.5, "0", 0]}, "a list of 3 numbers"),
        ({"image_mean": [0.5, float("inf"), 0]}, "a list of 3 numbers"),
        ({"image_std": [1, 1, 0]}, "image_std is [1.0, 1.0, 0.0], not above 0"),
        ({"do_normalize": "no"}, "do_normalize is 'no', not true or false"),
        ({"do_rescale": False}, "not brought from 0..255 to 0..1"),
        ({"rescale_factor": 1 / 127.5}, "not brought from 0..255 to 0..1"),
    ],
)
def test_impossible_normalisations(folder, changes, said):
    change(folder / "preprocessor_config.json", **changes)
    assert said in complaint(weights.load_clip, folder)


# The tokenizer


def test_the_tokenizer_of_a_folder(tmp_path):
    tokenizer = Tokenizer.learn(["a cat and a hat"] * 3, 530)
    tokenizer.save(tmp_path)
    assert weights.load_tokenizer(tmp_path) == tokenizer
    assert weights.load_tokenizer(str(tmp_path))("a hat").tolist() == tokenizer("a hat").tolist()


def test_no_tokenizer(tmp_path):
    assert "there is no folder" in complaint(weights.load_tokenizer, tmp_path / "no")
    (tmp_path / "vocab.json").write_text("{}")
    said = complaint(weights.load_tokenizer, tmp_path)
    assert said.endswith("holds no tokenizer: vocab.json and merges.txt, or tokenizer.json")
    (tmp_path / "merges.txt").write_text("")
    assert "holds no tokenizer of CLIP" in complaint(weights.load_tokenizer, tmp_path)


# With transformers itself, where it is installed


@pytest.fixture
def transformers():
    module = pytest.importorskip("transformers")
    try:
        assert module.CLIPModel  # imports PyTorch
    except ImportError as error:
        pytest.skip(f"transformers does not work here: {error}")
    return module


@pytest.mark.filterwarnings("ignore")  # its own, and PyTorch's
@pytest.mark.parametrize("name", ["quick", "gelu", "ours"])
def test_transformers_loads_what_we_save(transformers, tmp_path, name):
    import torch

    if name == "ours":
        config = CLIPConfig(
            embedding=6,
            image=ViTConfig(8, 2, 3, 12, 3, 2, 2, "gelu", 1e-3),
            text=TextConfig(20, 7, 8, 1, 4, 3, "quick_gelu", 1e-6, 17),
        )
        clip = CLIP.init(jax.random.key(0), config)
    else:
        clip = weights.load_clip(GOLDEN / name)
    weights.save_clip(clip, tmp_path)
    config = clip.config
    model, told = transformers.CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()), told
    rng, side = np.random.default_rng(0), config.image.image_size
    pixels = rng.integers(0, 256, (4, side, side, 3), np.uint8)
    ids = rng.integers(0, config.text.vocabulary, (4, config.text.context))
    ids[:, 3] = config.text.vocabulary - 1 if config.text.end is None else config.text.end
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path)
    processed = processor(list(pixels), return_tensors="pt")
    with torch.no_grad():
        out = model.eval()(torch.from_numpy(ids), return_loss=True, **processed)
    found = everything(
        clip, jnp.asarray(pixels / 127.5 - 1, jnp.float32), jnp.asarray(ids, jnp.int32)
    )
    wanted = {"logits_per_image": out.logits_per_image.numpy(), "clip_loss": out.loss.numpy()}
    assert deviating(found, wanted) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"projection_dim": 7, "text_config": None},
        {"text_config": {"hidden_size": 64, "num_attention_heads": 4, "eos_token_id": 2}},
        {"vision_config": {"image_size": 64, "hidden_act": "gelu", "projection_dim": 9}},
        {"text_config": {"vocab_size": 9}, "text_config_dict": {"hidden_size": 128}},
        {"vision_config": {"num_channels": 1}, "vision_config_dict": {}},
    ],
)
def test_settings_mean_what_transformers_takes_them_for(transformers, tmp_path, changes):
    change(tmp_path / "config.json", model_type="clip", **changes)
    ours, theirs = read_config(tmp_path), transformers.CLIPConfig.from_pretrained(tmp_path)
    assert ours.embedding == theirs.projection_dim
    end = theirs.text_config.eos_token_id
    assert ours.text.end == (None if end == 2 else end)
    assert ours.text.vocabulary == theirs.text_config.vocab_size
    assert ours.text.context == theirs.text_config.max_position_embeddings
    assert ours.image.image_size == theirs.vision_config.image_size
    assert ours.image.patch == theirs.vision_config.patch_size
    assert ours.image.channels == theirs.vision_config.num_channels
    for mine, other in ((ours.text, theirs.text_config), (ours.image, theirs.vision_config)):
        assert mine.width == other.hidden_size
        assert mine.width * mine.expand == other.intermediate_size
        assert mine.layers == other.num_hidden_layers
        assert mine.heads == other.num_attention_heads
        assert mine.activation == other.hidden_act
        assert mine.eps == other.layer_norm_eps
