"""The encoder gives the same embeddings however it is asked; its index knows whose it is."""

import os
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from minidiff import weights
from minidiff.clip import CLIP, CLIPConfig
from minidiff.errors import InputError
from minidiff.text import TextConfig, Tokenizer
from minidiff.trained.encoder import AT_ONCE, Encoder, Index, index_folder
from minidiff.vit import ViTConfig

TOKENIZER = Tokenizer.from_merges(())
CONTEXT = 12
# Between programs of the same size nothing differs; the rest is rounding.
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@cache
def encoder(seed=0, channels=3):
    config = CLIPConfig(
        embedding=5,
        image=ViTConfig(image_size=8, width=8, layers=1, heads=2, channels=channels),
        text=TextConfig(
            vocabulary=TOKENIZER.size, context=CONTEXT, width=8, layers=1, heads=2,
            end=TOKENIZER.end,
        ),
    )  # fmt: skip
    return Encoder(jax.jit(lambda: CLIP.init(jax.random.key(seed), config))(), TOKENIZER)


def images(count):
    return np.random.default_rng(0).uniform(-1, 1, (count, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3, AT_ONCE, AT_ONCE + 1, 2 * AT_ONCE + 5])
def test_any_number_of_images_and_texts(count):
    pictures, texts = images(count), [f"text {i}" for i in range(count)]
    found = encoder().images(pictures), encoder().texts(texts)
    assert found[0].shape == found[1].shape == (count, 5)
    for i in {0, count // 2, count - 1}:
        np.testing.assert_allclose(found[0][i], encoder().images(pictures[i : i + 1])[0], **CLOSE)
        np.testing.assert_allclose(found[1][i], encoder().texts(texts[i : i + 1])[0], **CLOSE)


def test_they_are_those_of_the_towers():
    clip, texts = encoder().clip, ["a cat", "dogs"]
    ids, pictures = jnp.asarray(TOKENIZER(texts, CONTEXT)), images(2)
    np.testing.assert_allclose(encoder().texts(texts), clip.encode_texts(ids), **CLOSE)
    np.testing.assert_allclose(
        encoder().images(pictures), clip.encode_images(jnp.asarray(pictures)), **CLOSE
    )


def test_long_texts_are_cut_and_told():
    exact, long = "a" * (CONTEXT - 2), "a" * (CONTEXT - 1)
    assert encoder().cut([exact, long, "b"]) == [long]
    assert encoder().texts([long, exact]).shape == (2, 5)
    assert TOKENIZER([long], CONTEXT)[0, -1] == TOKENIZER.end


@pytest.mark.parametrize("texts", [[], [""], ["a cat", " \n"]])
def test_an_empty_text_is_refused(texts):
    with pytest.raises(InputError, match="empty text"):
        encoder().texts(texts)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="this ViT sees images"):
        encoder().images(np.zeros((2, 16, 16, 3), np.float32))


@pytest.mark.parametrize("channels", [1, 3])
def test_files_of_any_size_are_read(tmp_path, channels):
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "red.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    found = encoder(channels=channels).read([tmp_path / "red.png", str(tmp_path / "white.png")])
    assert found.shape == (2, 8, 8, channels)
    red = [1, -1, -1] if channels == 3 else [-1 / 3]
    np.testing.assert_allclose(found[0], np.broadcast_to(red, (8, 8, channels)), atol=1e-6)
    assert (found[1] == 1).all()


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(InputError, match=r"a\.png"):
        encoder().read([tmp_path / "a.png"])
    with pytest.raises(InputError, match=r"there is no image .*b\.png"):
        encoder().read([tmp_path / "b.png"])
    with pytest.raises(InputError, match="there is no image"):
        encoder().read([tmp_path])


def test_the_fingerprint_is_of_the_weights():
    first = encoder().fingerprint
    assert len(first) == 16
    assert Encoder(jax.tree.map(np.array, encoder().clip), TOKENIZER).fingerprint == first
    assert encoder(seed=1).fingerprint != first
    for path in ("log_scale", "text.tokens"):
        flat = {k: np.array(v) for k, v in weights.flatten(encoder().clip).items()}
        flat[path].reshape(-1)[-1] += 1e-3
        other = weights.unflatten(encoder().clip, flat)
        assert Encoder(other, TOKENIZER).fingerprint != first


# The index


def paint(folder, colours):
    for name, colour in colours.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), colour).save(folder / name)
    return folder


@pytest.fixture
def folder(tmp_path):
    return paint(tmp_path / "images", {"b.png": "red", "a.png": "blue", "c/ä d.png": "green"})


def test_an_index_comes_back_as_it_went(tmp_path):
    index = Index(("a.png", "ü \n.png"), np.float32([[1, 2], [3, 4]]), "f" * 16)
    index.save(tmp_path / "index")
    found = Index.load(tmp_path / "index")
    assert (found.names, found.encoder) == (index.names, index.encoder)
    np.testing.assert_array_equal(found.embeddings, index.embeddings)


def test_a_folder_is_indexed_once(tmp_path, folder):
    path = tmp_path / "index.safetensors"
    index, known = index_folder(encoder(), folder, path)
    assert not known
    assert index.names == ("a.png", "b.png", "c/ä d.png")
    expected = encoder().images(encoder().read([folder / name for name in index.names]))
    np.testing.assert_array_equal(index.embeddings, expected)
    before = path.read_bytes()
    again, known = index_folder(encoder(), folder, path)
    assert known
    np.testing.assert_array_equal(again.embeddings, index.embeddings)
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", ["new", "gone", "renamed", "painted over"])
def test_a_changed_folder_is_indexed_again(tmp_path, folder, change):
    path = tmp_path / "index.safetensors"
    before, _ = index_folder(encoder(), folder, path)
    if change == "new":
        paint(folder, {"d.png": "white"})
    elif change == "gone":
        (folder / "a.png").unlink()
    elif change == "renamed":
        (folder / "a.png").rename(folder / "e.png")
    else:
        paint(folder, {"a.png": "white"})
        later = path.stat().st_mtime + 10
        os.utime(folder / "a.png", (later, later))
    after, known = index_folder(encoder(), folder, path)
    assert not known
    files = sorted(p for p in folder.rglob("*.png"))
    assert set(after.names) == {p.relative_to(folder).as_posix() for p in files}
    if change == "painted over":
        assert np.abs(after.embeddings - before.embeddings)[0].max() > 1e-3


def test_the_index_of_another_model_is_refused(tmp_path, folder):
    path = tmp_path / "index.safetensors"
    index_folder(encoder(), folder, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="another model's embeddings"):
        index_folder(encoder(seed=1), folder, path)
    assert path.read_bytes() == before


def test_what_is_no_index_is_refused_and_kept(tmp_path, folder):
    def refused(content, message):
        path = tmp_path / "index.safetensors"
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            index_folder(encoder(), folder, path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == content

    good = tmp_path / "good"
    Index(("a",), np.zeros((1, 5), np.float32), "x").save(good)
    refused(b"", "cannot be read")
    refused(b"thesis", "cannot be read")
    refused(good.read_bytes()[:-3], "cannot be read")
    for tree, facts in (
        ({"weight": np.zeros(3)}, None),
        ({"embeddings": np.zeros((2, 5))}, {"names": '["a"]', "encoder": "x"}),
        ({"embeddings": np.zeros(2)}, {"names": '["a", "b"]', "encoder": "x"}),
        ({"embeddings": np.zeros((1, 5))}, {"names": "[", "encoder": "x"}),
        ({"embeddings": np.zeros((1, 5))}, {"names": '["a"]'}),
    ):
        weights.save(good, tree, facts)
        refused(good.read_bytes(), "is not an index of images")


def test_a_folder_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(InputError, match=name):
            index_folder(encoder(), tmp_path / name, tmp_path / "index")
    assert not (tmp_path / "index").exists()
