"""A trained CLIP with its tokenizer: text and pictures in, embeddings out; and an index of a folder."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minidiff import weights
from minidiff.clip import CLIP
from minidiff.data.arrays import to_float
from minidiff.data.folder import list_files
from minidiff.data.images import read_images
from minidiff.errors import InputError
from minidiff.text import Reader, TextTransformer, Tokenizer
from minidiff.tokenizer import real_clip_tokenizer
from minidiff.weights.preprocess import Preprocess

AT_ONCE = 64  # images or texts per call


@jax.jit
def _encode_images(clip: CLIP, images: jax.Array) -> jax.Array:
    return clip.encode_images(images)


@jax.jit
def _encode_texts(clip: CLIP, ids: jax.Array) -> jax.Array:
    return clip.encode_texts(ids)


@dataclasses.dataclass(frozen=True)
class Encoder(Reader):
    """Both towers for use outside of training: any number of strings or images at once."""

    clip: CLIP
    tokenizer: Tokenizer
    # How picture files are made ready; none: as our data sets are, cropped and reduced by Lanczos.
    preprocess: Preprocess | None = None

    @classmethod
    def open(cls, path: Path | str) -> "Encoder":
        """The CLIP of a published folder or file, with its tokenizer and its way with pictures.

        A safetensors file without a tokenizer beside it has OpenAI's. InputError says what will not do.
        """
        path = Path(path)
        clip, preprocess = weights.read_clip(path)
        alone = path.is_file() and weights.tokenizer_place(path.parent) is None
        folder = path.parent if path.is_file() else path
        tokenizer = real_clip_tokenizer() if alone else weights.load_tokenizer(folder)
        return cls(clip, tokenizer, preprocess).checked(path)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed where the files do not say."""
        return self.preprocess.notes if self.preprocess else ()

    def checked(self, source: object) -> "Encoder":
        """Itself. InputError, naming where it was read, if the parts of it cannot work together."""
        rows, channels = self.clip.config.text.vocabulary, self.clip.config.image.channels
        if self.tokenizer.size > rows:
            raise InputError(
                f"{source}: the tokenizer has ids up to {self.tokenizer.size - 1}, the CLIP {rows} rows"
            )
        if channels not in (1, 3):
            raise InputError(f"{source} sees images of {channels} channels, and files have 1 or 3")
        return self

    @property
    def text(self) -> TextTransformer:
        """The tower that reads texts."""
        return self.clip.text

    @property
    def side(self) -> int:
        """Pixels on a side of the images it sees."""
        return self.clip.config.image.image_size

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "texts embedding"]:
        """Embeddings of texts; one that is too long is cut (``cut`` tells which).

        InputError for an empty text.
        """
        if not texts or not all(text.strip() for text in texts):
            raise InputError("an empty text says nothing: give at least one word")
        return _in_parts(_encode_texts, self.clip, self.tokenizer(list(texts), self.context))

    def unfamiliar(self, texts: Sequence[str]) -> list[str]:
        """The words that a tokenizer reads in pieces: it never met them, or seldom."""
        words = dict.fromkeys(word for text in texts for word in re.findall(r"\w+", text.lower()))
        return [word for word in words if len(self.tokenizer.encode(word)) > 1]

    def images(
        self, images: Float[np.ndarray, "images side side channels"]
    ) -> Float[np.ndarray, "images embedding"]:
        """Embeddings of images in [-1, 1]. ValueError unless they are of the encoder's size."""
        return _in_parts(_encode_images, self.clip, np.asarray(images, np.float32))

    def read(self, paths: Sequence[Path | str]) -> Float[np.ndarray, "images side side channels"]:
        """Image files of any size as this encoder sees them. InputError names what is unreadable."""
        paths = [Path(path) for path in paths]
        for path in paths:
            if not path.is_file():
                raise InputError(f"there is no image {path}")
        images = to_float(read_images(paths, self.side, Path(), self.preprocess))
        if self.clip.config.image.channels == 1:
            images = images.mean(axis=3, keepdims=True)
        return images

    @property
    def fingerprint(self) -> str:
        """A name for these very weights, and what they are shown: an index remembers whose it is."""
        digest = hashlib.sha256()
        for name, array in weights.flatten(self.clip).items():
            digest.update(name.encode())
            digest.update(np.asarray(array, order="C").tobytes())
        if self.preprocess:
            digest.update(repr(dataclasses.replace(self.preprocess, notes=())).encode())
        return digest.hexdigest()[:16]


def _in_parts(encode, clip: CLIP, items: np.ndarray) -> np.ndarray:
    """Encode in calls of one size, so that one compiled program serves any number."""
    parts = []
    for start in range(0, len(items), AT_ONCE):
        some = items[start : start + AT_ONCE]
        filled = np.concatenate([some, np.repeat(some[:1], AT_ONCE - len(some), axis=0)])
        parts.append(np.asarray(encode(clip, jnp.asarray(filled)))[: len(some)])
    return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class Index:
    """Embeddings of the images of a folder, kept in a file so that they are computed once."""

    names: tuple[str, ...]  # relative to the folder
    embeddings: np.ndarray  # (images, embedding)
    encoder: str  # the fingerprint of the encoder that made them
    files: str = ""  # what the files were then: see ``_stamp``

    def save(self, path: Path | str) -> None:
        """Write one safetensors file; the names stand in its header."""
        tree = {"embeddings": self.embeddings}
        weights.save(
            path,
            tree,
            {"names": json.dumps(self.names), "encoder": self.encoder, "files": self.files},
        )

    @classmethod
    def load(cls, path: Path | str) -> "Index":
        """InputError if the file is not an index."""
        arrays, facts = weights.load_arrays(path)
        embeddings = arrays.get("embeddings")
        try:
            names = tuple(json.loads(facts["names"]))
            if embeddings.ndim != 2 or len(names) != len(embeddings):
                raise ValueError("names and embeddings differ in number")
            if embeddings.dtype != np.float32 or not np.isfinite(embeddings).all():
                raise ValueError("embeddings are float32 and finite")
            return cls(names, embeddings, facts["encoder"], facts.get("files", ""))
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{path} is not an index of images") from None


def index_folder(encoder: Encoder, folder: Path | str, path: Path | str) -> tuple[Index, bool]:
    """The index of a folder of images, and whether it was there already.

    It is read from ``path`` if this encoder made that file of these very images; otherwise it is made
    anew and written there. InputError for a folder without images, or if ``path`` holds the index of
    another model or something else.
    """
    folder, path = Path(folder), Path(path)
    files, _ = list_files(folder)
    names = tuple(file.relative_to(folder).as_posix() for file in files)
    stamp, fingerprint = _stamp(names, files), encoder.fingerprint
    if path.exists():
        index = Index.load(path)
        if index.encoder != fingerprint:
            raise InputError(f"{path} holds another model's embeddings: give another --index")
        width = encoder.clip.config.embedding
        # The names too: one from elsewhere could lead out of the folder.
        if (index.files, index.names, index.embeddings.shape[1]) == (stamp, names, width):
            return index, True
    index = Index(names, encoder.images(encoder.read(files)), fingerprint, stamp)
    index.save(path)
    return index, False


def _stamp(names: Sequence[str], files: Sequence[Path]) -> str:
    """A digest of the files' names, sizes and times: another one where any of them was changed."""
    states = [file.stat() for file in files]
    facts = [(n, s.st_size, s.st_mtime_ns) for n, s in zip(names, states, strict=True)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
