"""Published folders: pictures, tokens and settings come to what the peers make of them."""

import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from foreign import complaint, equal
from golden import make_clip, make_published
from golden.make_published import CROP, EDGE, PREPROCESS, SIDE, SIZES, SQUARE, TEXTS
from PIL import Image

from minidiff import weights
from minidiff.cli import main
from minidiff.clip import OPENAI_MEAN, OPENAI_STD
from minidiff.data.images import square
from minidiff.tokenizer import AddedToken, Tokenizer
from minidiff.trained.diffusion import Diffusion
from minidiff.trained.encoder import Encoder
from minidiff.weights.clip import _entries, _template
from minidiff.weights.clip_settings import read_config
from minidiff.weights.folders import weight_files
from minidiff.weights.preprocess import FILTERS, Preprocess, read_preprocess

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = GOLDEN / "published"
PICTURES = safetensors.numpy.load_file(PUBLISHED / "pictures.safetensors")
TOKENIZERS = json.loads((PUBLISHED / "tokenizers.json").read_text())
STATES = safetensors.numpy.load_file(PUBLISHED / "states.safetensors")
OPEN_CLIP = safetensors.numpy.load_file(PUBLISHED / "open_clip.safetensors")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def put(path, facts):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts))
    return path


def change(path, **changes):
    return put(path, (json.loads(path.read_text()) if path.exists() else {}) | changes)


@pytest.fixture
def folder(tmp_path):
    """A CLIP that sees SIDE pixels, with a tokenizer for its 40 ids of no use."""
    return Path(shutil.copytree(GOLDEN / "clip/quick", tmp_path / "model"))


# Pictures


@pytest.mark.parametrize("name", PREPROCESS)
def test_pictures_are_made_ready_as_the_settings_say(tmp_path, name):
    put(tmp_path / "preprocessor_config.json", PREPROCESS[name])
    ready = read_preprocess(tmp_path, SIDE)
    for size in SIZES:
        found = ready(Image.fromarray(make_published.picture(size)))
        np.testing.assert_array_equal(found, PICTURES[f"{name}.{size}"])


def test_each_of_the_settings_shows():
    """Each gives other pictures, and none the square cut first that our data sets are made of."""
    for size in ("wide", "high"):
        shown = {PICTURES[f"{name}.{size}"].tobytes() for name in PREPROCESS}
        # "numbers alone" and "squashed with crop" say in other words what others say.
        assert len(shown) == len(PREPROCESS) - 2
        cut_first = square(Image.fromarray(make_published.picture(size)), SIDE)
        assert cut_first.tobytes() not in shown
        for name in ("squashed", "larger"):
            far = np.abs(np.float32(cut_first) - PICTURES[f"{name}.{size}"]).mean()
            assert far > 10


@pytest.mark.parametrize("name", ["bicubic", "squashed", "larger"])
def test_an_encoder_shows_its_network_what_the_peer_shows(tmp_path, folder, name):
    put(folder / "preprocessor_config.json", PREPROCESS[name])
    make_published_tokenizer(folder, {})
    change(folder / "config.json", text_config=roomy(folder))
    widen(folder)
    encoder = Encoder.open(folder)
    assert encoder.notes == ()
    Image.fromarray(make_published.picture("wide")).save(tmp_path / "wide.png")
    found = encoder.read([tmp_path / "wide.png"])
    np.testing.assert_array_equal(np.round(found[0] * 127.5 + 127.5), PICTURES[f"{name}.wide"])
    if name == "bicubic":
        found = encoder.clip.image.normalize(jnp.asarray(found))[0]
        np.testing.assert_allclose(found, PICTURES["normalised"], **CLOSE)


def make_published_tokenizer(folder, files):
    make_published.write_tokenizer(folder, files)


def roomy(folder):
    facts = json.loads((folder / "config.json").read_text())["text_config"]
    return facts | {"vocab_size": make_published.FIRST, "max_position_embeddings": 12}


def widen(folder):
    """As many rows as the tokenizer has ids."""
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    name = "text_model.embeddings.token_embedding.weight"
    arrays[name] = np.resize(arrays[name], (make_published.FIRST, 24))
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (CROP | {"do_center_crop": False} | EDGE, "size is {'shortest_edge': 16}, not 16 by 16"),
        ({"do_center_crop": False, "size": {"height": 16, "width": 17}}, "not 16 by 16, which its"),
        ({"do_center_crop": False, "do_resize": False}, "do_center_crop is False, not true"),
        ({"crop_size": {"height": 16, "width": 20}}, "not 16 by 16, which its network sees"),
        ({"crop_size": 224}, "crop_size is 224, not 16 by 16"),
        ({"size": {"longest_edge": 16}}, "not a height and width or a shortest_edge"),
        ({"size": {"shortest_edge": 16, "longest_edge": 20}}, "not a height and width or a short"),
        ({"size": {"height": 16}}, "not a height and width or a shortest_edge"),
        ({"size": 0}, "size is 0, not a height"),
        ({"size": {"shortest_edge": True}}, "not a height and width or a shortest_edge"),
        ({"size": "16"}, "size is '16'"),
        ({"crop_size": {"shortest_edge": 16}}, "not a height and width"),
        ({"resample": 6}, "resample is 6, not a whole number from 0 to 5"),
        ({"resample": "bicubic"}, "resample is 'bicubic'"),
        ({"do_resize": "yes"}, "do_resize is 'yes', not true or false"),
        ({"do_pad": True}, "do_pad is True, not false"),
        ({"image_processor_type": "SiglipImageProcessor"}, "'SiglipImageProcessor', not"),
        ({"image_processor_type": "ViTImageProcessor"}, "'ViTImageProcessor', not"),
        ({"feature_extractor_type": "ViTFeatureExtractor"}, "'ViTFeatureExtractor', not"),
    ],
)
def test_preprocessing_that_is_none_of_ours(folder, changes, said):
    change(folder / "preprocessor_config.json", **changes)
    told = complaint(weights.load_clip, folder)
    assert told.startswith(f"{folder / 'preprocessor_config.json'}: ")
    assert said in told


def test_a_picture_too_long_to_be_resized(tmp_path, folder):
    """A line of pixels would become as many squares."""
    ready = read_preprocess(folder, SIDE)
    said = complaint(ready, Image.new("RGB", (6_000_000, 1)))
    assert "more than 80000000 pixels" in said


def test_what_is_assumed_is_said(folder, tmp_path):
    (folder / "preprocessor_config.json").unlink()
    _, ready = weights.read_clip(folder)
    assert ready == Preprocess(SIDE, SIDE, FILTERS.index("bicubic"))
    [note] = ready.notes
    assert "no preprocessor_config.json" in note
    assert "bicubic" in note
    put(folder / "processor_config.json", {"processor_class": "CLIPProcessor"})
    assert weights.read_clip(folder)[1].notes == (note,)
    put(folder / "processor_config.json", {"image_processor": SQUARE | {"do_center_crop": False}})
    _, ready = weights.read_clip(folder)
    assert (ready.size, ready.crop, ready.notes) == ((SIDE, SIDE), False, ())


def test_the_command_says_what_is_assumed(folder, tmp_path, capsys, monkeypatch):
    (folder / "preprocessor_config.json").unlink()
    make_published_tokenizer(folder, {})
    change(folder / "config.json", text_config=roomy(folder))
    widen(folder)
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    Image.fromarray(make_published.picture("wide")).save("pictures/wide.png")
    assert main(["search", str(folder), "pictures", "a cat"]) == 0
    told = capsys.readouterr()
    index = shard(folder, "model", "model.safetensors.index.fp16.json", "model.fp16-{}.safetensors")
    assert main(["search", str(index), "pictures", "a cat"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("read the index of 1 images")
    assert f"minidiff: {folder}: no preprocessor_config.json: pictures are resized" in told.err
    assert "pictures are resized" not in told.out


@pytest.mark.parametrize("ready", [Preprocess(16, (16, 16), 2, False), Preprocess(16, 20, 1), None])
def test_preprocessing_is_saved_with_a_clip(folder, tmp_path, ready):
    weights.save_clip(weights.load_clip(folder), tmp_path / "again", ready)
    again = weights.read_clip(tmp_path / "again")[1]
    assert again == (ready or Preprocess(16, 16))


def test_an_index_knows_how_its_pictures_were_made_ready(folder):
    clip = weights.load_clip(folder)
    tokenizer = Tokenizer.from_merges(())
    names = {
        Encoder(clip, tokenizer, ready).fingerprint
        for ready in (None, Preprocess(16, 16), Preprocess(16, 16, 1), Preprocess(16, (16, 16)))
    }
    assert len(names) == 4
    noted = Encoder(clip, tokenizer, Preprocess(16, 16, notes=("assumed",)))
    assert noted.fingerprint in names


# open_clip


@pytest.fixture
def opened(tmp_path):
    safetensors.numpy.save_file(
        make_clip.openai_tensors(), tmp_path / "open_clip_model.safetensors"
    )

    def write(**facts):
        put(tmp_path / "open_clip_config.json", facts)
        return tmp_path

    return write


@pytest.mark.parametrize("name", make_published.OPEN_CLIP)
def test_models_of_open_clip(opened, name):
    with jax.default_matmul_precision("highest"):
        clip = weights.load_clip(opened(**make_published.OPEN_CLIP[name]))
        images = jnp.asarray(make_clip.openai_images())
        ids = jnp.array(make_clip.OPENAI_IDS)
        found = {
            "image_embeddings": clip.encode_images(images),
            "text_embeddings": clip.encode_texts(ids),
        }
    for key, x in found.items():
        np.testing.assert_allclose(x, OPEN_CLIP[f"{name}.{key}"], **CLOSE)


def test_each_setting_of_open_clip_shows():
    for key in ("image_embeddings", "text_embeddings"):
        usual = safetensors.numpy.load_file(GOLDEN / "clip/openai/golden.safetensors")[key]
        same = [n for n in make_published.OPEN_CLIP if np.allclose(OPEN_CLIP[f"{n}.{key}"], usual)]
        assert same == (["eos"] if key.startswith("image") else ["other mean"])


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, Preprocess(8, 8, 3, to_even=True)),
        ({"resize_mode": "squash"}, Preprocess(8, (8, 8), 3, False, to_even=True)),
        ({"interpolation": "bilinear"}, Preprocess(8, 8, 2, to_even=True)),
        ({"interpolation": "random", "fill_color": 3}, Preprocess(8, 8, 3, to_even=True)),
        ({"resize_mode": None, "size": 224}, Preprocess(8, 8, 3, to_even=True)),
    ],
)
def test_how_open_clip_makes_pictures_ready(opened, told, expected):
    path = opened(model_cfg={"text_cfg": {"heads": 1}}, preprocess_cfg=told)
    assert weights.read_clip(path)[1] == expected


@pytest.mark.parametrize(
    ("width", "left", "left_of_torchvision"), [(11, 1, 2), (12, 2, 2), (13, 2, 2), (15, 3, 4)]
)
def test_odd_margins_are_halved_as_each_peer_does(width, left, left_of_torchvision):
    """transformers rounds the half down, torchvision as Python's round does."""
    columns = Image.fromarray(np.tile(np.arange(width, dtype=np.uint8), (8, 1))).convert("RGB")
    for to_even, expected in ((False, left), (True, left_of_torchvision)):
        found = Preprocess(8, 8, to_even=to_even)(columns)
        assert found[0, :, 0].tolist() == list(range(expected, expected + 8))


def test_openais_own_models_say_what_is_assumed(opened):
    folder = opened()
    (folder / "open_clip_config.json").unlink()
    clip, ready = weights.read_clip(folder)
    assert ready == Preprocess(8, 8, 3, to_even=True)
    assert "taken for OpenAI's own" in ready.notes[0]
    assert (clip.config.image.mean, clip.config.image.std) == (OPENAI_MEAN, OPENAI_STD)
    facts = {"image_mean": [0.5] * 3, "crop_size": 8, "size": 9, "resample": 2}
    put(folder / "preprocessor_config.json", facts)
    clip, ready = weights.read_clip(folder)
    assert (clip.config.image.mean, clip.config.image.std) == ((0.5,) * 3, OPENAI_STD)
    assert ready == Preprocess(8, 9, 2)


@pytest.mark.parametrize(
    ("place", "changes", "said"),
    [
        ("model_cfg", {"embed_dim": 512}, "embed_dim is 512, not 20 as in the tensors"),
        ("model_cfg", {"custom_text": True}, "custom_text is True, not false"),
        ("model_cfg", {"init_logit_bias": -10}, "init_logit_bias is -10, not null"),
        ("model_cfg", {"quick_gelu": "yes"}, "quick_gelu is 'yes', not true or false"),
        ("vision_cfg", {"pool_type": "avg"}, "pool_type is 'avg', not \"tok\""),
        ("vision_cfg", {"act_kwargs": {"approximate": "tanh"}}, "act_kwargs is {'approximate'"),
        ("vision_cfg", {"timm_model_name": "vit_base"}, "timm_model_name is 'vit_base'"),
        ("vision_cfg", {"image_size": [8, 16]}, "image_size is [8, 16], not 8 as in the tensors"),
        ("vision_cfg", {"patch_size": 14}, "patch_size is 14, not 4 as in the tensors"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "layers is [3, 4, 6, 3], not 1"),
        ("vision_cfg", {"head_width": 0}, "head_width is 0, not a whole number"),
        ("vision_cfg", {"head_width": 50}, None),  # two heads of 64, as open_clip has it
        ("vision_cfg", {"head_width": 30}, None),  # four of 32
        ("vision_cfg", {"head_width": 40}, "head_width is 40, not one that 128 numbers split"),
        ("vision_cfg", {"mlp_ratio": 2.0}, "mlp_ratio is 2.0, not 4.0"),
        ("text_cfg", {"pool_type": "last"}, "pool_type is 'last', not argmax or eos"),
        ("text_cfg", {"pool_type": "first"}, "pool_type is 'first'"),
        ("text_cfg", {"proj_type": "none"}, "proj_type is 'none', not \"linear\""),
        ("text_cfg", {"no_causal_mask": True}, "no_causal_mask is True, not false"),
        ("text_cfg", {"hf_tokenizer_name": "bert"}, "hf_tokenizer_name is 'bert', not null"),
        ("text_cfg", {"heads": 7}, "heads is 7, not a divisor of width 96"),
        ("text_cfg", {"context_length": 77}, "context_length is 77, not 6 as in the tensors"),
        ("preprocess_cfg", {"resize_mode": "longest"}, "'longest', not shortest or squash"),
        ("preprocess_cfg", {"interpolation": "nearest"}, "'nearest', not bicubic or bilinear"),
        ("preprocess_cfg", {"mean": [0.5]}, "mean is [0.5], not a list of 3 numbers"),
        ("preprocess_cfg", {"std": 0}, "std is [0.0, 0.0, 0.0], not above 0"),
        ("preprocess_cfg", {"mode": "L"}, "mode is 'L', not \"RGB\""),
    ],
)
def test_models_of_open_clip_that_are_none_of_ours(opened, place, changes, said):
    model = {"vision_cfg": {}, "text_cfg": {"heads": 1}}
    facts = {"model_cfg": model, "preprocess_cfg": {}}
    (facts[place] if place in facts else model if place == "model_cfg" else model[place]).update(
        changes
    )
    folder = opened(**facts)
    if said is None:
        weights.load_clip(folder)
        return
    told = complaint(weights.load_clip, folder)
    assert told.startswith(f"{folder / 'open_clip_config.json'}: ")
    assert said in told


# Tokenizers


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_are_those_of_transformers(tmp_path, name):
    case = TOKENIZERS[name]
    make_published_tokenizer(tmp_path, {})
    if name == "fast":  # tokenizer.json alone tells the byte pairs
        for path in list(tmp_path.iterdir()):
            path.unlink()
    for file, content in case["files"].items():
        put(tmp_path / file, content)
    tokenizer = weights.load_tokenizer(tmp_path)
    wrong = [
        text for text, ids in zip(TEXTS, case["ids"], strict=True) if tokenizer.encode(text) != ids
    ]
    assert wrong == []
    length = tokenizer.most or make_published.ROW
    assert tokenizer(TEXTS, length).tolist() == case["rows"]
    tokenizer.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    assert again == tokenizer
    assert (again.pad, again.most, again.size) == (tokenizer.pad, tokenizer.most, tokenizer.size)
    assert again(TEXTS, length).tolist() == case["rows"]


def test_a_tokenizer_of_a_pipeline(tmp_path):
    make_published_tokenizer(tmp_path / "tokenizer", {"tokenizer_config.json": {"pad_token": "!"}})
    assert weights.load_tokenizer(tmp_path) == weights.load_tokenizer(tmp_path / "tokenizer")
    assert weights.load_tokenizer(tmp_path).pad == 0


def test_a_tokenizer_of_our_own_pads_with_zeros_and_leaves_signs_alone(tmp_path):
    tokenizer = Tokenizer.learn(["a cat!"] * 3, 520)
    tokenizer.save(tmp_path)
    assert weights.load_tokenizer(tmp_path).pad == 0
    added = Tokenizer(tokenizer.vocabulary, tokenizer.merges, (AddedToken("<x>", tokenizer.size),))
    added.save(tmp_path)
    again = weights.load_tokenizer(tmp_path)
    assert (again, again.pad) == (added, 0)
    assert again.encode("cat! <x>") == [*tokenizer.encode("cat!"), tokenizer.size]
    tokenizer.save(tmp_path)  # nothing is left of the token
    assert weights.load_tokenizer(tmp_path) == tokenizer


def test_added_tokens_are_decoded():
    tokenizer = Tokenizer.learn(["a cat!"] * 3, 520)
    token = AddedToken("<cat-toy 猫>", tokenizer.size)
    tokenizer = Tokenizer(tokenizer.vocabulary, tokenizer.merges, (token,))
    assert tokenizer.size == token.id + 1
    ids = tokenizer("a <CAT-TOY 猫> cat", 12)[0]
    assert tokenizer.decode(ids).split() == ["a", "<cat-toy", "猫>", "cat"]


def test_a_tokenizer_that_is_saved_replaces_all_of_the_older_one(tmp_path):
    for files in (
        {"tokenizer_config.json": {"pad_token": "!"}},
        {"added_tokens.json": {"<x>": 530}},
    ):
        make_published_tokenizer(tmp_path, files | {"special_tokens_map.json": {"pad_token": "!"}})
        tokenizer = Tokenizer.learn(["a cat!"] * 3, 520)
        tokenizer.save(tmp_path)
        again = Tokenizer.load(tmp_path)
        assert (again, again.pad, again.added) == (tokenizer, 0, ())


def test_files_that_begin_with_a_mark_of_their_encoding(tmp_path):
    make_published_tokenizer(tmp_path, {"tokenizer_config.json": {}})
    wanted = weights.load_tokenizer(tmp_path)
    for path in tmp_path.iterdir():
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert weights.load_tokenizer(tmp_path) == wanted


TOY = make_published.token("<x>")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tokenizer_config.json": {"pad_token": "<pad>"}}, "special token '<pad>' has no id"),
        ({"tokenizer_config.json": {"bos_token": "<s>"}}, "bos_token is '<s>', not <|startof"),
        ({"tokenizer_config.json": {"eos_token": "!"}}, "eos_token is '!', not <|endoftext|>"),
        ({"special_tokens_map.json": {"eos_token": {"content": "!"}}}, "eos_token is '!'"),
        ({"tokenizer_config.json": {"tokenizer_class": "T5Tokenizer"}}, "'T5Tokenizer', not"),
        ({"tokenizer_config.json": {"padding_side": "left"}}, "padding_side is 'left'"),
        ({"tokenizer_config.json": {"do_lower_case": False}}, "do_lower_case is False"),
        ({"tokenizer_config.json": {"add_eos_token": False}}, "add_eos_token is False"),
        ({"tokenizer_config.json": {"model_max_length": 2}}, "model_max_length is 2, not a"),
        ({"tokenizer_config.json": {"model_max_length": "77"}}, "model_max_length is '77'"),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"3": TOY}}},
            "'<x>' has the id 3, and",
        ),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": TOY}}}, "invalid literal"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"-1": TOY}}}, "not a whole number"),
        ({"tokenizer_config.json": {"added_tokens_decoder": [TOY]}}, "holds no tokenizer"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"530": "<x>"}}}, "holds no tokenizer"),
        ({"tokenizer_config.json": []}, "holds no tokenizer"),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"530": TOY | {"special": 1}}}},
            "special is 1, not true or false",
        ),
        ({"added_tokens.json": {"<x>": 5.5}}, "not a whole number"),
        ({"added_tokens.json": {" ": 530}}, "not a text"),
        ({"added_tokens.json": {"a": 530}}, "'a' has two ids: 64 and 530"),
        ({"added_tokens.json": {"<|endoftext|>": 530}}, "<|endoftext|> has id 530 and 529"),
        (
            {
                "added_tokens.json": {"<x>": 531},
                "tokenizer_config.json": {"added_tokens_decoder": {"530": TOY}},
            },
            "'<x>' has id 531, elsewhere 530",
        ),
        ({"tokenizer.json": {"model": {"type": "WordPiece"}}}, "type is 'WordPiece', not \"BPE\""),
        (
            {"tokenizer.json": {"model": {}, "normalizer": {"type": "BertNormalizer"}}},
            "normalizer is ['BertNormalizer'], not ['NFC', 'Replace', 'Lowercase']",
        ),
        (
            {"tokenizer.json": {"model": {}, "truncation": {"direction": "Left"}}},
            "direction of truncation is 'Left', not Right",
        ),
    ],
)
def test_tokenizers_that_are_none_of_ours(tmp_path, files, said):
    make_published_tokenizer(tmp_path, files)
    told = complaint(weights.load_tokenizer, tmp_path)
    assert str(tmp_path) in told
    assert said in told


# What a text becomes: embeddings, and the states that a U-Net looks at


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The text tower whose weights make_published computes, in a CLIP of no use otherwise."""
    folder = tmp_path_factory.mktemp("text")
    side = {"image_size": 4, "patch_size": 4, "hidden_size": 4, "num_hidden_layers": 1}
    vision = side | {"num_attention_heads": 1, "intermediate_size": 4}
    told = {"text_config": make_published.TEXT, "vision_config": vision, "projection_dim": 7}
    put(folder / "config.json", told)
    config = read_config(folder)
    shapes = weights.flatten(_template(config))
    arrays = make_published.text_weights({e.name: e.shape(shapes) for e in _entries(config)})
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    return weights.load_clip(folder)


@pytest.mark.parametrize("name", ["stable diffusion 1", "stable diffusion 2", "decoder"])
def test_texts_become_what_the_peer_makes_of_them(tmp_path, text, name):
    make_published_tokenizer(tmp_path, TOKENIZERS[name]["files"])
    tokenizer = weights.load_tokenizer(tmp_path)
    encoder = Encoder(text, tokenizer)
    assert encoder.context == min(make_published.ROW, tokenizer.most or math.inf)
    ids = jnp.asarray(tokenizer(TEXTS[:5], encoder.context))
    states = jax.jit(lambda ids: text.text.states(ids))(ids)
    np.testing.assert_allclose(states, STATES[f"{name}.states"], **CLOSE)
    found = encoder.texts(TEXTS[:5])
    np.testing.assert_allclose(found, STATES[f"{name}.embeddings"], **CLOSE)


def test_padding_shows_behind_the_end_alone():
    one, two = (STATES[f"stable diffusion {n}.states"] for n in (1, 2))
    assert np.allclose(one[0, :10], two[0, :10])
    assert np.abs(one[0, 10:] - two[0, 10:]).min(-1).max() > 0.01


# Files of weights


def shard(folder, stem, index, pattern):
    """The tensors of a folder in two shards, and an index of theirs under any name."""
    [path] = folder.glob(f"{stem}.safetensors")
    arrays, places = safetensors.numpy.load_file(path), {}
    path.unlink()
    for i in range(2):
        name = pattern.format(i + 1)
        part = {key: arrays[key] for key in sorted(arrays)[i::2]}
        safetensors.numpy.save_file(part, folder / name)
        places |= dict.fromkeys(part, name)
    return put(folder / index, {"weight_map": places, "metadata": {"total_size": 1}})


UNET = "diffusion_pytorch_model"


@pytest.mark.parametrize(
    "index", ["{}.safetensors.index.fp16.json", "{}.safetensors.fp16.index.json"]
)
@pytest.mark.parametrize(
    ("kind", "stem", "load"),
    [("clip/quick", "model", weights.load_clip), ("unet/ddpm", UNET, weights.load_unet)],
)
def test_shards_of_a_variant(tmp_path, kind, stem, load, index):
    folder = Path(shutil.copytree(GOLDEN / kind, tmp_path / "model"))
    path = shard(folder, stem, index.format(stem), stem + ".fp16-{:05}-of-00002.safetensors")
    assert equal(load(folder), load(GOLDEN / kind))
    assert equal(load(path), load(GOLDEN / kind))
    (folder / f"{stem}.non_ema.safetensors").write_bytes(b"")
    assert "several" in complaint(load, folder)
    assert equal(load(path), load(GOLDEN / kind))


def test_a_variant_alone_beside_other_files(folder):
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert weight_files(folder) == [
        folder / "model.fp16.safetensors"
    ]  # golden.safetensors is there


POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 605157884\n"
)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json"])
def test_a_pointer_of_git_lfs_is_told_as_such(folder, name):
    make_published_tokenizer(folder, {})
    (folder / name).write_text(POINTER)
    read = weights.load_tokenizer if name == "vocab.json" else weights.load_clip
    said = complaint(read, folder)
    assert f"{folder / name} is a pointer of Git LFS, not the file itself" in said


@pytest.mark.parametrize(
    "wrap",
    [
        "module.{}",
        "_orig_mod.{}",
        "module._orig_mod.{}",
        "model.{}",
        "model.model._orig_mod.{}",
        "_fsdp_wrapped_module.{}",
        "network.ema.{}",
    ],
)
@pytest.mark.parametrize(
    ("kind", "stem", "load"),
    [("clip/quick", "model", weights.load_clip), ("unet/ddpm", UNET, weights.load_unet)],
)
def test_names_of_a_wrapped_network(tmp_path, kind, stem, load, wrap):
    folder = Path(shutil.copytree(GOLDEN / kind, tmp_path / "model"))
    arrays = safetensors.numpy.load_file(folder / f"{stem}.safetensors")
    renamed = {wrap.format(name): array for name, array in arrays.items()}
    safetensors.numpy.save_file(renamed, folder / f"{stem}.safetensors")
    assert equal(load(folder), load(GOLDEN / kind))


def test_names_wrapped_in_part(folder):
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    inner = {name.replace(".encoder.", "._orig_mod.encoder.", 1): x for name, x in arrays.items()}
    safetensors.numpy.save_file(inner, folder / "model.safetensors")
    assert equal(weights.load_clip(folder), weights.load_clip(GOLDEN / "clip/quick"))
    doubled = arrays | {"module.logit_scale": arrays["logit_scale"]}
    safetensors.numpy.save_file(doubled, folder / "model.safetensors")
    assert "logit_scale, under two names" in complaint(weights.load_clip, folder)
    both = {**arrays, **{f"ema.{name}": x for name, x in arrays.items()}}
    safetensors.numpy.save_file(both, folder / "model.safetensors")
    assert ": ema.logit_scale is unexpected" in complaint(weights.load_clip, folder)


# Pipelines


def pipeline(folder, **parts):
    """A pipeline that draws pixels, changed."""
    shutil.copytree(GOLDEN / "unet/ddpm", folder / "unet")
    put(folder / "scheduler/scheduler_config.json", {"_class_name": "DDPMScheduler"})
    facts = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    put(folder / "model_index.json", facts | parts)
    return folder


def test_the_parts_of_a_pipeline(tmp_path):
    assert weights.read_components(tmp_path) == (None, {})
    vae = ["diffusers", "AutoencoderKL"]
    folder = pipeline(tmp_path / "a", vae=vae, safety_checker=[None, None])
    kind, parts = weights.read_components(folder)
    assert kind == "DDPMPipeline"
    assert parts == {
        "scheduler": ("diffusers", "DDPMScheduler"),
        "unet": ("diffusers", "UNet2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    }


def test_a_pipeline_of_pixels_is_read(tmp_path):
    folder = pipeline(tmp_path / "a", safety_checker=[None, None], requires_safety_checker=False)
    assert Diffusion.read(folder).image_shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"vqvae": ["diffusers", "VQModel"]}, "latents, which its vqvae (VQModel) turns into pict"),
        ({"vae": ["diffusers", "AutoencoderKL"]}, "latents, which its vae (AutoencoderKL) turns"),
        ({"movq": ["diffusers", "VQModel"]}, "latents, which its movq (VQModel) turns"),
        ({"_class_name": "LDMPipeline"}, "'LDMPipeline', not DDPMPipeline"),
        (
            {"_class_name": "StableDiffusionPipeline"},
            "the class of unet is 'UNet2DModel', not UNet",
        ),
        ({"_class_name": None}, "_class_name is None, not the name of a pipeline"),
        ({"unet": ["diffusers", "UNet1DModel"]}, "the class of unet is 'UNet1DModel', not UNet2D"),
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, "text_encoder is ['transformers', "),
        ({"super_resolution": ["diffusers", "UNet2DModel"]}, "super_resolution is ['diffusers', "),
        ({"unet": ["diffusers"]}, "unet is ['diffusers'], not a library and a class"),
        ({"unet": ["diffusers", 3]}, "unet is ['diffusers', 3], not a library and a class"),
    ],
)
def test_pipelines_that_cannot_be_drawn_from(tmp_path, monkeypatch, capsys, parts, said):
    monkeypatch.chdir(tmp_path)
    pipeline(tmp_path / "a", **parts)
    assert said in complaint(Diffusion.read, "a")
    assert main(["sample", "a", "--count", "1"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not Path("samples.png").exists()


@pytest.mark.parametrize("name", ["vae", "vqvae"])
def test_a_pipeline_of_latents_without_a_word_of_it(tmp_path, name):
    folder = pipeline(tmp_path / "a")
    (folder / "model_index.json").unlink()
    Diffusion.read(folder)
    (folder / name).mkdir()
    assert f"latents, which its {name} turns" in complaint(Diffusion.read, folder)


def test_a_size_that_a_network_cannot_halve(tmp_path):
    folder = pipeline(tmp_path / "a")
    change(folder / "unet/config.json", sample_size=15)
    assert complaint(Diffusion.read, folder).endswith(
        "image side 15 is not a multiple of 4, as this U-Net needs: 12 and 16 would fit"
    )
    unet = weights.load_unet(folder)
    with pytest.raises(ValueError, match=r"side 15 is not a multiple of 4.* 12 and 16 would fit"):
        jax.eval_shape(unet, jnp.zeros((1, 16, 15, 3)), jnp.zeros(1, jnp.int32))


def test_a_network_of_swish(tmp_path):
    folder = pipeline(tmp_path / "a")
    change(folder / "unet/config.json", act_fn="swish")
    assert equal(weights.load_unet(folder), weights.load_unet(GOLDEN / "unet/ddpm"))
    for name in ("mish", "gelu", "relu", None):
        change(folder / "unet/config.json", act_fn=name)
        assert f"act_fn is {name!r}, not" in complaint(weights.load_unet, folder)


def test_schedulers_silent_on_what_their_classes_do_otherwise(tmp_path):
    def read(**facts):
        put(tmp_path / "scheduler_config.json", facts)
        return weights.read_scheduler(tmp_path)

    pndm = {"_class_name": "PNDMScheduler", "beta_schedule": "linear"}
    assert read(**pndm).last == 0
    assert read(**pndm, set_alpha_to_one=True).last == -1
    prior = read(_class_name="UnCLIPScheduler", clip_sample_range=5)
    assert (prior.beta_schedule, prior.spacing) == ("squaredcos_cap_v2", "linspace")
    assert prior.clip == 5
    assert read(_class_name="LCMScheduler").beta_schedule == "scaled_linear"
    folder = tmp_path / "scheduler_config.json"
    assert "snr_shift_scale is 3.0" in complaint(lambda: read(**pndm, snr_shift_scale=3.0))
    assert str(folder) in complaint(lambda: read(**pndm, learned=True))
