"""TFDS data sets made and read without TensorFlow and without the network."""

import functools
import gzip
import http.server
import io
import subprocess
import sys
import tarfile
import threading

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from minidiff.data import builders, classics
from minidiff.data.describe import describe
from minidiff.data.prepared import feature_keys
from minidiff.data.scenes import SceneSource
from minidiff.data.sources import open_source
from minidiff.errors import InputError

COUNTS = {"train": 12, "test": 7}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A folder that is served as the web, and its address."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def labelled(count, shape):
    random = np.random.default_rng(count)
    images = random.integers(0, 256, (count, *shape), np.uint8)
    return images, random.permutation(np.arange(count, dtype=np.uint8) % 10)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes(), mtime=0)


def write_idx(folder):
    for split, (images_name, labels_name) in classics.IDX_FILES.items():
        images, labels = labelled(COUNTS[split], (28, 28))
        (folder / images_name).write_bytes(idx(images))
        (folder / labels_name).write_bytes(idx(labels))


def write_cifar10(folder):
    with tarfile.open(folder / "cifar.tar.gz", "w:gz") as tar:
        for split, names in classics.CIFAR10_FILES.items():
            images, labels = labelled(COUNTS[split], (32, 32, 3))
            planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            records = np.concatenate([labels[:, None], planes], axis=1)
            for name, part in zip(names, np.array_split(records, len(names)), strict=True):
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = part.nbytes
                tar.addfile(member, io.BytesIO(part.tobytes()))


def pairs(images, labels):
    return sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


# The classics


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_classics_come_out_as_they_were_published(name, web, data_dir, monkeypatch):
    folder, address = web
    builder = builders.BUILDERS[name]
    if name == "cifar10":
        write_cifar10(folder)
        monkeypatch.setattr(builder, "URL", address + "cifar.tar.gz")
    else:
        write_idx(folder)
        monkeypatch.setattr(builder, "URL", address)
    shape = builder.SHAPE
    for split, count in COUNTS.items():
        source = open_source(f"tfds:{name}", split=split)
        assert source.image_shape == shape
        images, labels = labelled(count, shape if name == "cifar10" else shape[:2])
        assert pairs(np.asarray(source.images), source.labels) == pairs(images, labels)
    assert source.facts.class_names == builder.CLASSES

    # Anybody else finds it under the official name, by the official features.
    theirs = tfds.data_source(name, split="train", data_dir=data_dir, download=False)
    assert len(theirs) == COUNTS["train"]
    assert theirs[0]["image"].shape == shape
    official = tfds.builder_cls(name)(data_dir=data_dir)
    assert set(official.info.features) == set(theirs[0])
    assert str(official.version) == str(builder.VERSION)
    assert f"{count} images are fewer" in " ".join(describe(source)["problems"])


def test_no_network_is_one_line_and_soon(data_dir, monkeypatch):
    monkeypatch.setattr(classics.FashionMnist, "URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(InputError) as caught:
        open_source("tfds:fashion_mnist")
    message = str(caught.value)
    assert f"fashion_mnist is not prepared under {data_dir}" in message
    assert "could not be downloaded" in message
    assert "network" in message
    assert "\n" not in message


def test_a_missing_download_is_one_line(web, data_dir, monkeypatch):
    monkeypatch.setattr(classics.Mnist, "URL", web[1])
    with pytest.raises(InputError, match="could not be downloaded"):
        builders.prepare("mnist")


def test_nothing_is_left_half_prepared(web, data_dir, monkeypatch):
    folder, address = web
    write_idx(folder)
    (folder / classics.IDX_FILES["test"][0]).write_bytes(gzip.compress(b"no images"))
    monkeypatch.setattr(classics.Mnist, "URL", address)
    with pytest.raises(InputError, match="not a complete IDX file"):
        open_source("tfds:mnist")
    write_idx(folder)
    monkeypatch.setattr(classics.Mnist, "URL", address + "./")  # not what TFDS has kept
    assert open_source("tfds:mnist").count == COUNTS["train"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        gzip.compress(b"", mtime=0),
        gzip.compress(b"\0\0\x08\x03", mtime=0),
        gzip.compress(b"\0\0\x0d\x01\0\0\0\x01ABCD", mtime=0),
        gzip.compress(b"\0\0\x08\x01\0\0\0\x02A", mtime=0),
        gzip.compress(b"\0\0\x08\x01\0\0\0\x01A" * 9, mtime=0)[:-9],
        b"not compressed",
    ],
)
def test_damaged_idx_files(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(InputError, match="not a complete IDX file"):
        classics.read_idx(tmp_path / "a.gz")


def test_damaged_cifar_archives(tmp_path):
    (tmp_path / "cifar.tar.gz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="not a complete CIFAR-10"):
        classics.read_cifar10(tmp_path / "cifar.tar.gz", ("test_batch.bin",))
    write_cifar10(tmp_path)
    with pytest.raises(InputError, match=r"has no data_batch_9\.bin"):
        classics.read_cifar10(tmp_path / "cifar.tar.gz", ("data_batch_9.bin",))


# The scenes


def test_scenes_are_published_in_order(data_dir):
    counts = {"train": 11, "pairs": 4}
    builders.prepare("minidiff_scenes", counts=counts)
    theirs = tfds.data_source("minidiff_scenes", split="train", data_dir=data_dir)
    ours = jax.jit(SceneSource(size=16).examples)(np.arange(11))
    captions = SceneSource().captions(ours)
    assert len(theirs) == 11
    for i, example in enumerate(theirs):
        levels = (np.asarray(ours["image"][i]) + 1) * 127.5
        assert np.abs(example["image"] - levels).max() < 0.51
        assert example["caption"].decode() == captions[i]
        assert [example[name] for name in builders.FACTORS] == ours["factors"][i].tolist()

    source = open_source("tfds:minidiff_scenes:pairs", batch_size=4)
    assert source.count == 4
    assert source.image_shape == (16, 16, 3)
    assert all(source.captions(source.batch(0)))


def test_scenes_of_another_size(data_dir):
    path = builders.prepare("minidiff_scenes/size32", counts={"two": 1})
    assert path.parts[-3:-1] == ("minidiff_scenes", "size32")
    assert open_source("tfds:minidiff_scenes/size32:two").image_shape == (32, 32, 3)
    assert open_source("tfds:minidiff_scenes/size32:two", size=8).image_shape == (8, 8, 3)


def test_preparing_twice_is_harmless_but_other_counts_are_refused(data_dir):
    first = builders.prepare("minidiff_scenes", counts={"train": 2})
    assert builders.prepare("minidiff_scenes", counts={"train": 2}) == first
    with pytest.raises(InputError, match="holds other counts already"):
        builders.prepare("minidiff_scenes", counts={"train": 3})


@pytest.mark.parametrize(
    ("name", "counts", "message"),
    [
        ("imagenet", None, "cannot prepare 'imagenet', only minidiff_scenes, mnist"),
        ("minidiff_scenes/size5", None, "has no 'size5', only size16, size32, size64"),
        ("mnist/small", None, "only one form"),
        ("minidiff_scenes", {"train": 0}, "at least 1"),
        ("minidiff_scenes", {"tset": 5}, "tset"),
        ("minidiff_scenes", {}, "at least one split"),
    ],
)
def test_what_cannot_be_prepared(name, counts, message, data_dir):
    with pytest.raises(InputError, match=message):
        builders.prepare(name, **({} if counts is None else {"counts": counts}))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot prepare minidiff_scenes"):
        builders.prepare("minidiff_scenes", tmp_path / "file" / "tfds", counts={"train": 1})


def test_no_tensorflow_anywhere(data_dir):
    code = (
        "import sys; from minidiff.data.builders import prepare; "
        "from minidiff.data.sources import open_source; "
        "prepare('minidiff_scenes', counts={'train': 3}); "
        "print(open_source('tfds:minidiff_scenes').count, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False"]
    assert done.stderr == ""


# Anything else that TFDS holds


class Theirs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of somebody else: coloured images of any size, one class, texts."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURES = {  # noqa: RUF012
        "photo": tfds.features.Image(shape=(None, None, 3)),
        "mask": tfds.features.Image(shape=(None, None, 3)),
        "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
        "text": tfds.features.Text(),
    }

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(self.FEATURES), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "validation": self._generate_examples()}

    def _generate_examples(self):
        from PIL import Image

        for i in range(4):
            photo = Image.new("L" if i == 0 else "RGB", (20 + i, 30), 50 * i)  # a grey one, too
            yield i, {"photo": photo, "mask": photo, "kind": i % 2, "text": f" Bär\n{i} "}


def make_theirs(data_dir, file_format="array_record"):
    with builders.quietly():
        Theirs(data_dir=data_dir).download_and_prepare(file_format=file_format)


def test_data_sets_of_others_are_read(data_dir):
    make_theirs(data_dir)
    source = open_source("tfds:theirs", size=16)
    assert source.image_shape == (16, 16, 3)
    assert source.labels.tolist() == [0, 1, 0, 1]
    assert source.facts.class_names == ("cat", "dog")
    assert source.facts.captions == ("Bär 0", "Bär 1", "Bär 2", "Bär 3")
    assert open_source("tfds:theirs:validation[:50%]", size=8).count == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:theirs", "images of anyxany pixels: say which size"),
        ("tfds:theirs:train[", "no split"),
        ("tfds:theirs:test", "no split 'test', only train, validation"),
        ("tfds:theirs/other", "is not prepared under"),
        ("tfds:nobodys", "nobodys is not prepared under .*minidiff_scenes, mnist"),
        ("tfds:../etc", "want tfds:NAME"),
        ("tfds:The Irs", "want tfds:NAME"),
    ],
)
def test_what_cannot_be_read_is_one_line(spec, message, data_dir):
    make_theirs(data_dir)
    with pytest.raises(InputError, match=message) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


def test_which_features_are_used():
    image, text = tfds.features.Image(shape=(8, 8, 3)), tfds.features.Text()
    label = tfds.features.ClassLabel(num_classes=2)
    deep = tfds.features.Tensor(shape=(8, 8, 3), dtype=np.float32)
    assert feature_keys("x", {"a": image, "image": image}) == {"image": "image"}
    assert feature_keys("x", {"a": deep, "b": image, "id": text}) == {"image": "b"}
    two = {"image": image, "label": label, "other": label, "caption": text, "text": text}
    assert feature_keys("x", two) == {"image": "image", "label": "label", "caption": "caption"}
    assert feature_keys("x", {"image": image, "a": label, "b": label}) == {"image": "image"}
    with pytest.raises(InputError, match="no 8-bit images"):
        feature_keys("x", {"a": deep, "t": text})
