"""mnist, fashion_mnist and cifar10 as TFDS builders that need no TensorFlow.

They take the names, versions and features of the official data sets, so that every program finds
them. TFDS knows the checksums of these archives and refuses a download that differs.
"""

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8

from minidiff.errors import InputError

IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
IDX_BYTES = b"\0\0\x08"  # how a file of unsigned bytes begins; the number of axes follows
CIFAR10_FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
CIFAR10_RECORD = 1 + 3 * 32 * 32  # label, then the red, green and blue planes

DIGITS = tuple("0123456789")
GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


class _Labelled(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the classics share: PNG images with one label. TFDS keeps its own under these names."""

    VERSION = tfds.core.Version("3.0.1")
    SHAPE = (28, 28, 1)
    CLASSES = DIGITS
    URL = ""
    EXTRA = {}  # noqa: RUF012

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.name}, prepared by minidiff without TensorFlow.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=self.SHAPE),
                    "label": tfds.features.ClassLabel(names=self.CLASSES),
                    **self.EXTRA,
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        urls = {split: [self.URL + name for name in names] for split, names in IDX_FILES.items()}
        paths = dl_manager.download(urls)
        return {split: self._generate_examples(*paths[split]) for split in paths}

    def _generate_examples(self, images_path, labels_path):
        images, labels = read_idx(images_path), read_idx(labels_path)
        yield from _records(images, labels, self.SHAPE[:2])


class Mnist(_Labelled, skip_registration=True):
    """70,000 handwritten digits, 28x28 grey (LeCun et al. 1998)."""

    URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"


class FashionMnist(_Labelled, skip_registration=True):
    """70,000 pieces of clothing, 28x28 grey (Xiao et al. 2017)."""

    CLASSES = GARMENTS
    URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


class Cifar10(_Labelled, skip_registration=True):
    """60,000 photographs in 10 classes, 32x32 (Krizhevsky 2009)."""

    VERSION = tfds.core.Version("3.0.2")
    SHAPE = (32, 32, 3)
    CLASSES = CIFAR10_CLASSES
    URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    EXTRA = {"id": tfds.features.Text()}  # noqa: RUF012  the official data set has it

    def _split_generators(self, dl_manager):
        archive = dl_manager.download(self.URL)
        return {split: self._generate_examples(archive, split) for split in CIFAR10_FILES}

    def _generate_examples(self, archive, split):
        images, labels = read_cifar10(archive, CIFAR10_FILES[split])
        for number, record in _records(images, labels, self.SHAPE):
            yield number, {**record, "id": f"{split}_{number:05d}"}


def _records(images: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]) -> Iterator:
    from PIL import Image

    if images.shape != (len(labels), *shape):
        raise InputError(f"images of shape {images.shape} do not go with {len(labels)} labels")
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield number, {"image": Image.fromarray(image), "label": int(label)}


def read_idx(path: str | os.PathLike) -> UInt8[np.ndarray, "..."]:
    """The uint8 array in a gzipped IDX file, the format of MNIST."""
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
        rank = content[3]
        shape = tuple(int(extent) for extent in np.frombuffer(content, ">u4", rank, offset=4))
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, zlib.error, IndexError, ValueError):
        raise InputError(f"{path} is not a complete IDX file: delete it") from None
    if content[:3] != IDX_BYTES:
        raise InputError(f"{path} is not a complete IDX file of bytes: delete it")
    return values


def read_cifar10(
    archive: str | os.PathLike, names: tuple[str, ...]
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int[np.ndarray, " n"]]:
    """Images and labels of those files in the binary CIFAR-10 archive. Nothing is unpickled."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = {Path(member.name).name: member for member in tar if member.isfile()}
            missing = [name for name in names if name not in members]
            if missing:
                raise InputError(f"{archive} has no {', '.join(missing)}")
            content = b"".join(tar.extractfile(members[name]).read() for name in names)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{archive} is not a complete CIFAR-10 archive ({error}): delete it"
        ) from None
    if len(content) % CIFAR10_RECORD:
        raise InputError(f"{archive} is not a complete CIFAR-10 archive: delete it")
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR10_RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int32)
