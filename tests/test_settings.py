"""Settings of others: each read, refused by name, or known to change nothing. Over every table."""

import importlib
import json
import pkgutil
import shutil
from pathlib import Path

import pytest
from foreign import complaint
from golden import make_clip

import minidiff.vocabulary
import minidiff.weights
from minidiff import weights
from minidiff.settings import TABLES, Settings, Table, same
from minidiff.tokenizer import Tokenizer
from minidiff.weights import pipeline, scheduler
from minidiff.weights.clip_settings import read_config

for module in pkgutil.iter_modules(minidiff.weights.__path__):
    importlib.import_module(f"minidiff.weights.{module.name}")

GOLDEN = Path(__file__).parent / "golden"
DEFAULTS = json.loads((GOLDEN / "published/defaults.json").read_text())
OURS = {name: table for name, table in TABLES.items() if not name.startswith("test")}
STRANGE = {"of": "no kind"}  # a value that no setting has


def reading(table, **facts):
    return Settings(facts, "FILE", table)


def test_there_is_a_table_for_every_file():
    files = {
        "preprocessor_config.json", "processor_config.json", "config.json of a CLIP",
        "text_config of a CLIP", "vision_config of a CLIP", "open_clip_config.json",
        "model_cfg of open_clip", "vision_cfg of open_clip", "text_cfg of open_clip",
        "preprocess_cfg of open_clip", "UNet2DModel", "UNet2DConditionModel", "AutoencoderKL",
        *scheduler.CLASSES,
        "another scheduler", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json",
        "model of tokenizer.json", "an added token", pipeline.NAME, f"{pipeline.NAME} of latents",
    }  # fmt: skip
    assert OURS.keys() == files


@pytest.mark.parametrize("name", OURS)
def test_an_unknown_setting_is_refused(name):
    table = OURS[name]
    for value in (STRANGE, 1, True, False, "on", [3]):
        said = complaint(lambda value=value: reading(table, unheard_of=value))
        assert said.startswith("FILE: unheard_of is ")
        assert "unknown here" in said
    reading(table, unheard_of=None, _note_of_a_library=STRANGE)


@pytest.mark.parametrize("name", OURS)
def test_a_part_that_we_have_not_is_refused_by_name(name):
    for key, allowed in OURS[name].fixed.items():
        for value in (STRANGE, 0.123, "else", not allowed[0]):
            if not any(same(value, x) for x in allowed):
                said = complaint(lambda key=key, value=value: reading(OURS[name], **{key: value}))
                assert said.startswith(f"FILE: {key} is {value!r}, not {json.dumps(allowed[0])}")
        for value in allowed:
            reading(OURS[name], **{key: value})


@pytest.mark.parametrize("name", OURS)
def test_what_changes_nothing_is_let_be(name):
    for key in OURS[name].idle:
        reading(OURS[name], **{key: STRANGE})


@pytest.mark.parametrize("name", OURS)
def test_what_is_not_followed_is_told(name):
    for key, default in OURS[name].noted.items():
        assert reading(OURS[name], **{key: default}).notes == ()
        assert reading(OURS[name]).notes == ()
        [note] = reading(OURS[name], **{key: STRANGE}).notes
        assert note.startswith(f"{key} ")


def test_a_setting_is_of_one_kind_and_asked_for_only_if_it_is_read():
    with pytest.raises(ValueError, match="of two kinds"):
        Table("test", read={"a": 1}, idle=frozenset({"a"}))
    settings = Settings({}, "FILE", Table("test", read={"a": 1}, fixed={"b": (2, 3)}))
    assert (settings.whole("a"), settings.get("b")) == (1, 2)
    with pytest.raises(KeyError):
        settings.get("c")


def test_true_is_not_one():
    assert same(1, 1.0)
    assert same((1, 2), [1, 2])
    assert not same(1, True)
    assert not same(False, 0)


# What the peers write of themselves is known, setting by setting


def accepted(table, facts):
    """Settings that a table knows, and refuses none of."""
    return Settings(facts, "FILE", table)


@pytest.mark.parametrize("name", [n for n in DEFAULTS if n.endswith("Scheduler")])
def test_schedulers_of_diffusers(tmp_path, name):
    """Silent on everything but its class and its schedule, a class does what it does by default."""
    facts = {key: value for key, value in DEFAULTS[name].items() if key != "lambda_min_clipped"}
    path = tmp_path / scheduler.NAME

    def read(facts):
        path.write_text(json.dumps(facts))
        return scheduler.read_scheduler(tmp_path)

    if name.startswith("CogVideoX"):
        assert name in complaint(read, facts)
        return
    told = read(facts)
    kept = {"_class_name", "beta_schedule"}
    assert read({key: facts[key] for key in kept}) == told
    assert told.notes == read({key: facts[key] for key in kept}).notes


@pytest.mark.parametrize("name", ["UNet2DModel", "UNet2DConditionModel"])
def test_networks_of_diffusers(name):
    settings = accepted(OURS[name], DEFAULTS[name])
    known = OURS[name]
    assert DEFAULTS[name].keys() - known.read.keys() - known.fixed.keys() - known.idle <= {
        "_diffusers_version"
    }
    for key in known.fixed.keys() & DEFAULTS[name].keys():
        assert same(settings.get(key), known.default(key)), key
    for key in known.read.keys() & DEFAULTS[name].keys() - {"_class_name"}:
        if known.read[key] is not None and DEFAULTS[name][key] is not None:
            assert same(DEFAULTS[name][key], known.read[key]), key


def test_clip_of_transformers(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(DEFAULTS["CLIPConfig"]))
    said = read_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert read_config(tmp_path) == said


def test_preprocessing_and_tokenizers_of_transformers():
    table, facts = OURS["preprocessor_config.json"], DEFAULTS["CLIPImageProcessor"]
    accepted(table, {key: value for key, value in facts.items() if value is not None})
    for key, value in facts.items():
        if key in table.read and value is not None:
            assert same(value, table.read[key]), key
    accepted(OURS["tokenizer_config.json"], DEFAULTS["CLIPTokenizer"])


@pytest.mark.parametrize(("kind", "name"), [("CLIPVisionCfg", "vision"), ("CLIPTextCfg", "text")])
def test_networks_of_open_clip(kind, name):
    table = OURS[f"{name}_cfg of open_clip"]
    accepted(table, DEFAULTS[kind])
    for key, value in DEFAULTS[kind].items():
        assert key in table.idle or same(value, table.default(key)), key


# Every reader asks its table


def openai(folder):
    """A model of open_clip, whose settings are all told."""
    import safetensors.numpy

    folder.mkdir()
    safetensors.numpy.save_file(make_clip.openai_tensors(), folder / "open_clip_model.safetensors")
    facts = {"model_cfg": {"vision_cfg": {}, "text_cfg": {"heads": 1}}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(facts))
    return folder


def clip(folder):
    return Path(shutil.copytree(GOLDEN / "clip/quick", folder))


def unet(folder):
    return Path(shutil.copytree(GOLDEN / "unet/ddpm", folder))


def tokenizer(folder):
    Tokenizer.learn(["a cat"] * 2, 520).save(folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_text("{}")
    return folder


def fast(folder):
    made = Tokenizer.learn(["a cat"] * 2, 520)
    model = {"type": "BPE", "vocab": made.vocabulary, "merges": [list(x) for x in made.merges]}
    folder.mkdir()
    token = {"id": 520, "content": "<x>"}
    facts = {"version": "1.0", "model": model, "added_tokens": [token]}
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    return folder


def index(folder):
    unet(folder / "unet")
    facts = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(facts))
    return folder


def noise(folder):
    folder.mkdir()
    (folder / scheduler.NAME).write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    return folder


@pytest.mark.parametrize(
    ("make", "read", "file", "place"),
    [
        (clip, weights.load_clip, "config.json", ()),
        (clip, weights.load_clip, "config.json", ("text_config",)),
        (clip, weights.load_clip, "config.json", ("vision_config",)),
        (clip, weights.load_clip, "preprocessor_config.json", ()),
        (unet, weights.load_unet, "config.json", ()),
        (noise, weights.read_scheduler, scheduler.NAME, ()),
        (openai, weights.load_clip, "open_clip_config.json", ()),
        (openai, weights.load_clip, "open_clip_config.json", ("model_cfg",)),
        (openai, weights.load_clip, "open_clip_config.json", ("model_cfg", "vision_cfg")),
        (openai, weights.load_clip, "open_clip_config.json", ("model_cfg", "text_cfg")),
        (openai, weights.load_clip, "open_clip_config.json", ("preprocess_cfg",)),
        (tokenizer, weights.load_tokenizer, "tokenizer_config.json", ()),
        (tokenizer, weights.load_tokenizer, "special_tokens_map.json", ()),
        (fast, weights.load_tokenizer, "tokenizer.json", ()),
        (fast, weights.load_tokenizer, "tokenizer.json", ("model",)),
        (fast, weights.load_tokenizer, "tokenizer.json", ("added_tokens", 0)),
        (index, pipeline.check_pixels, "model_index.json", ()),
    ],
)
def test_a_reader_refuses_what_its_table_does_not_know(tmp_path, make, read, file, place):
    path = make(tmp_path / "model") / file
    read(path.parent)
    facts = section = json.loads(path.read_text())
    for key in place:
        section = section[key]
    section["unheard_of"] = 3
    path.write_text(json.dumps(facts))
    said = complaint(read, path.parent)
    assert f"{path}" in said
    assert "unheard_of is 3, and that setting is unknown here" in said
