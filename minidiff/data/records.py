"""The examples of a data set in array_record, read by their numbers, without TensorFlow."""

import hashlib
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from minidiff.data.folder import clean
from minidiff.data.images import FORMATS, MAX_PIXELS, square, to_rgb
from minidiff.errors import InputError


class Records:
    """Images, labels and captions of one split, as they lie in its files; several threads may read.

    Attributes:
        name: what ``--data`` was given; errors begin with it.
        image_shape: (side, side, channels) of what ``read`` returns.
        kinds: which of "image", "label" and "caption" there are.
        class_names: of the labels, None if there are none.
    """

    def __init__(self, name: str, source: Sequence[bytes], features, keys: dict, side: int):
        """``source``: a TFDS data source of RAW_BYTES; ``keys``: kind -> name in ``features``."""
        self.name, self.kinds = name, tuple(keys)
        self.image_shape = (side, side, features[keys["image"]].shape[-1])
        self.class_names = tuple(features[keys["label"]].names) if "label" in keys else None
        self._source, self._keys = source, keys
        self._features = {kind: features[key] for kind, key in keys.items()}

    def __len__(self) -> int:
        return len(self._source)

    def read(self, numbers: Sequence[int], *kinds: str) -> dict[str, np.ndarray | list[str]]:
        """What these records hold, of all ``kinds`` or of some.

        Returns "image" (n, side, side, channels) uint8, "label" (n,) int32 and "caption", a list of
        texts. Reading many records at once costs less for each, in any order. Raises InputError,
        one line that names the record, where one is damaged.
        """
        kinds = kinds or self.kinds
        parts = self._parts(kinds)
        found = {kind: [] for kind in kinds}
        for number, content in zip(numbers, self._contents(numbers), strict=True):
            try:
                for kind, value in parts(content).items():
                    found[kind].append(self._value(kind, value))
            except Exception as error:  # decoders raise nearly anything when fed damaged bytes
                raise self._damaged(number, error) from None
        shapes = {"image": ((-1, *self.image_shape), np.uint8), "label": ((-1,), np.int32)}
        for kind in shapes.keys() & found.keys():
            shape, dtype = shapes[kind]
            found[kind] = np.array(found[kind], dtype).reshape(shape)
        return found

    def digest(self) -> str:
        """Of the version of the data set and the sizes of its files; no record is read."""
        info = self._source.dataset_info
        splits = [
            (split.name, split.num_examples, split.num_bytes, split.shard_lengths)
            for split in info.splits.values()
        ]
        told = repr((info.full_name, sorted(splits)))
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def _parts(self, kinds: Sequence[str]):
        """A function from a record's bytes to the features of these kinds; others are passed over."""
        import tensorflow_datasets as tfds

        wanted = {self._keys[kind]: self._features[kind] for kind in kinds}
        decoders = {
            key: tfds.decode.SkipDecoding()
            for key, feature in wanted.items()
            if isinstance(feature, tfds.features.Image)
        }
        # A dictionary of the wanted features alone: decoding the others costs four times as much.
        features = tfds.features.FeaturesDict(wanted)

        def parts(content: bytes) -> dict:
            example = features.deserialize_example_np(content, decoders=decoders)
            return {kind: example[self._keys[kind]] for kind in kinds}

        return parts

    def _value(self, kind: str, value):
        if kind == "image":
            return to_square(value, *self.image_shape[1:])
        return clean(value.decode("utf-8", "replace")) if kind == "caption" else value

    def _contents(self, numbers: Sequence[int]) -> Sequence[bytes]:
        try:
            return self._source.__getitems__(numbers)
        except Exception:  # the format's reader tells a place in the file, not which record it is
            for number in numbers:
                try:
                    self._source[number]
                except Exception as error:
                    raise self._damaged(number, error) from None
            raise

    def _damaged(self, number: int, error: Exception) -> InputError:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        return InputError(f"{self.name}: record {number} cannot be read ({reason})")


def to_square(image: bytes | np.ndarray, side: int, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """One image, encoded or not, as (side, side, channels) uint8. Raises whatever decoders raise."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.shape == (side, side, channels):
            return image
        opened = Image.fromarray(image[..., 0] if channels == 1 else image)
    else:
        opened = Image.open(io.BytesIO(image), formats=FORMATS)
        if opened.width * opened.height > MAX_PIXELS:
            raise InputError(f"{opened.width}x{opened.height} is more than {MAX_PIXELS:,} pixels")
    upright = opened.convert("L") if channels == 1 else to_rgb(opened)
    return square(upright, side).reshape(side, side, channels)
