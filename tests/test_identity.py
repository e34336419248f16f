"""A run goes on only where all that its weights depend on is what it was begun with.

No test here trains: a run is stopped as soon as its folder is there, and a change is refused before.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hostile import contents
from hostile_files import clip_run
from PIL import Image

from minidiff import weights
from minidiff.data.sources import open_source
from minidiff.errors import InputError
from minidiff.recipes import clip, ddpm, text_to_image
from minidiff.text import Tokenizer
from minidiff.training import identity
from minidiff.training.run import Run

TEXTS = ["a red cat", "a blue cat", "a red house", "a blue house on a hill"]


class Begun(Exception):
    """The folder is made; what would follow is training."""


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    def stop(*arguments, **settings):
        raise Begun

    for recipe in (clip, ddpm, text_to_image):
        monkeypatch.setattr(recipe, "train", stop)


@pytest.fixture
def photos(tmp_path):
    """Four images with captions beside them: too few to split."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(text)
    return folder


def settings(recipe, photos, **more):
    small = {"size": 8, "steps": 2, "batch_size": 4, "data": f"folder:{photos}"}
    return dataclasses.replace(recipe.PRESETS["smoke"], **small, **more)


def begin(recipe, out, config):
    with pytest.raises(Begun):
        recipe.run(str(out), config, progress=False)
    return contents(out)


def refusal(recipe, out, config):
    """What is said; nothing in the folder may change."""
    before = contents(out)
    with pytest.raises(InputError) as caught:
        recipe.run(str(out), config, progress=False)
    assert contents(out) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def forget(out):
    """Make it a run of an earlier version, which recorded nothing."""
    there = json.loads((out / "config.json").read_text())
    del there["depends"]
    (out / "config.json").write_text(json.dumps(there))


def edit(photos):
    (photos / "1.txt").write_text("a green dog on a green meadow")


def add(photos):
    Image.new("RGB", (8, 8), "green").save(photos / "4.png")
    (photos / "4.txt").write_text(TEXTS[0])


def rename(photos):
    (photos / "3.png").rename(photos / "5.png")
    (photos / "3.txt").rename(photos / "5.txt")


def repaint(photos):
    Image.new("RGB", (8, 8), (61, 0, 0)).save(photos / "1.png")


def swap(photos):
    """The same captions, of other images."""
    for name, text in zip("01", (TEXTS[1], TEXTS[0]), strict=True):
        (photos / f"{name}.txt").write_text(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit, "the captions changed; the tokenizer changed"),
        (add, "images is 4 there, 5 here; the files changed; the captions changed"),
        (rename, "the files changed"),
        (repaint, "the files changed"),
        (swap, "the captions changed"),
    ],
)
def test_a_change_of_the_data_is_refused_before_anything_is_written(tmp_path, photos, change, said):
    config = settings(clip, photos, width=16)
    before = begin(clip, tmp_path / "run", config)
    assert begin(clip, tmp_path / "run", config) == before
    change(photos)
    message = refusal(clip, tmp_path / "run", config)
    assert message.startswith(f"{tmp_path / 'run'} was begun with other ")
    assert said in message


def test_a_context_that_is_a_setting_hides_no_change(tmp_path, photos):
    """The context in use is that of the longest caption, if the setting allows more."""
    config = settings(clip, photos, width=16, context=40)
    begin(clip, tmp_path / "run", config)
    forget(tmp_path / "run")
    (photos / "3.txt").write_text(" ".join(TEXTS))
    assert "context is " in refusal(clip, tmp_path / "run", config)


def test_a_run_of_an_earlier_version_keeps_its_tokenizer(tmp_path, photos):
    config = settings(clip, photos, width=16)
    out = tmp_path / "run"
    before = begin(clip, out, config)
    forget(out)
    assert begin(clip, out, config).keys() == before.keys()
    (photos / "1.txt").write_text("a dog cat")  # as long as before, and of other words
    (photos / "2.txt").write_text("a dog house")
    assert "the tokenizer changed" in refusal(clip, out, config)


def test_a_tokenizer_that_was_exchanged_is_noticed(tmp_path, photos):
    config = settings(clip, photos, width=16)
    begin(clip, tmp_path / "run", config)
    Tokenizer.learn(["other words", "other words"], 530).save(tmp_path / "run" / "tokenizer")
    assert "the tokenizer changed" in refusal(clip, tmp_path / "run", config)


def test_a_tokenizer_whose_writing_was_cut_short_is_written_again(tmp_path, photos):
    config = settings(clip, photos, width=16)
    before = begin(clip, tmp_path / "run", config)
    (tmp_path / "run" / "tokenizer" / "merges.txt").unlink()
    assert begin(clip, tmp_path / "run", config) == before


def test_ddpm_looks_at_its_images_and_not_at_captions(tmp_path, photos):
    config = settings(ddpm, photos)
    begin(ddpm, tmp_path / "run", config)
    repaint(photos)
    assert "the files changed" in refusal(ddpm, tmp_path / "run", config)


@pytest.fixture
def encoder(tmp_path):
    return clip_run(tmp_path / "encoder")


def text_settings(photos, encoder):
    return settings(text_to_image, photos, encoder=str(encoder.path))


def test_an_encoder_that_was_trained_anew_is_refused(tmp_path, photos, encoder):
    config = text_settings(photos, encoder)
    before = begin(text_to_image, tmp_path / "run", config)
    assert begin(text_to_image, tmp_path / "run", config) == before
    arrays, _ = weights.load_arrays(encoder.checkpoint(4))
    other = {name: x + np.float32(0.01) for name, x in arrays.items()}
    weights.save(encoder.checkpoint(4), other)
    assert "the encoder changed" in refusal(text_to_image, tmp_path / "run", config)
    forget(tmp_path / "run")
    assert "the encoder changed" in refusal(text_to_image, tmp_path / "run", config)


def test_an_encoder_that_was_copied_may_go(tmp_path, photos, encoder):
    config = text_settings(photos, encoder)
    before = begin(text_to_image, tmp_path / "run", config)
    shutil.rmtree(encoder.path)
    assert begin(text_to_image, tmp_path / "run", config) == before


def test_a_damaged_record_is_told(tmp_path, photos):
    config = settings(ddpm, photos)
    begin(ddpm, tmp_path / "run", config)
    there = Run(tmp_path / "run").read_json("config.json")
    (tmp_path / "run" / "config.json").write_text(json.dumps(there | {"depends": 3}))
    assert "config.json is damaged" in refusal(ddpm, tmp_path / "run", config)


# What is identified by what


def test_scenes_and_digits_are_the_same_everywhere():
    assert identity.of_source(open_source("scenes")) == {}
    found = identity.of_source(open_source("digits"))
    assert found["images"] == 1438
    assert found == identity.of_source(open_source("digits", seed=5, size=32, batch_size=3))


def test_tokenizers_and_weights_by_all_of_them(tmp_path):
    one, same = (Tokenizer.learn(TEXTS, 530) for _ in range(2))
    one.save(tmp_path)
    other = Tokenizer.learn(TEXTS, 520)
    digest = identity.of_tokenizer
    assert digest(one) == digest(same) == digest(Tokenizer.load(tmp_path)) != digest(other)
    tree = {"a": np.arange(4.0), "b": np.float32(2)}
    found = identity.of_weights(tree)
    assert found == identity.of_weights(dict(reversed(tree.items())))
    for change in (
        {"a": np.arange(4.0) + 1},
        {"a": np.arange(4.0).reshape(2, 2)},
        {"c": tree["b"]},
    ):
        assert identity.of_weights(tree | change) != found
