"""Any data set that TFDS holds as array_record, read into memory without TensorFlow."""

import io
import re
from pathlib import Path

import numpy as np

from minidiff.data.arrays import ArraySource, Facts
from minidiff.data.folder import check_memory, clean
from minidiff.data.images import square, to_rgb
from minidiff.errors import InputError

NAME = re.compile(r"[a-z][a-z0-9_]*(/[\w.+-]+){0,2}")  # name, name/config, name/config/version
CAPTIONS = ("caption", "text", "captions", "description", "title")  # features taken as captions
READ_AT_ONCE = 1000


def prepared_source(
    spec: str,
    *,
    seed: int,
    split: str,
    size: int | None,
    batch_size: int,
    data_dir: Path | None = None,
) -> ArraySource:
    """The data set ``spec`` = NAME or NAME:SPLIT, such as "mnist" or "mnist:train[:5000]".

    The SPLIT of the spec, in TFDS's own notation, outweighs ``split``. A data set of ours that is
    not prepared yet is prepared first (see ``minidiff.data.builders``). Images keep their native
    size if ``size`` is None. Raises InputError, one line.
    """
    name, _, own_split = spec.partition(":")
    split = own_split or split
    if not NAME.fullmatch(name):
        raise InputError(f"tfds:{spec}: want tfds:NAME or tfds:NAME:SPLIT, such as tfds:mnist")
    builder = _open(name, data_dir)
    features = builder.info.features
    keys = feature_keys(name, features)
    examples = _examples(name, builder, split, keys["image"])
    side = _side(name, features[keys["image"]].shape, size)
    channels = features[keys["image"]].shape[-1]
    check_memory(len(examples), (side, side, channels))

    images = np.empty((len(examples), side, side, channels), np.uint8)
    labels = np.empty(len(examples), np.int32) if "label" in keys else None
    captions = [] if "caption" in keys else None
    for start in range(0, len(examples), READ_AT_ONCE):
        numbers = range(start, min(start + READ_AT_ONCE, len(examples)))
        for number, example in zip(numbers, examples.__getitems__(numbers), strict=True):
            images[number] = _to_square(example[keys["image"]], side, channels)
            if labels is not None:
                labels[number] = example[keys["label"]]
            if captions is not None:
                captions.append(clean(example[keys["caption"]].decode("utf-8", "replace")))
    facts = Facts(
        captions=tuple(captions) if captions else None,
        class_names=tuple(features[keys["label"]].names) if "label" in keys else None,
    )
    return ArraySource.init(
        f"tfds:{spec}", images, labels, seed=seed, batch_size=batch_size, facts=facts
    )


def feature_keys(name: str, features) -> dict[str, str]:
    """Which of TFDS's features serve as "image", "label" and "caption" (the last two if any).

    The image is the feature of that name, or else the first one of 8-bit images with 1 or 3
    channels; the label is the feature of that name, or else the only ClassLabel.
    """
    import tensorflow_datasets as tfds

    def is_image(feature) -> bool:
        shape = getattr(feature, "shape", None)
        kind = isinstance(feature, (tfds.features.Image, tfds.features.Tensor))
        return kind and len(shape) == 3 and shape[-1] in (1, 3) and feature.np_dtype == np.uint8

    found = dict(features.items()) if hasattr(features, "items") else {}
    images = [key for key in found if is_image(found[key])]
    labels = [key for key in found if isinstance(found[key], tfds.features.ClassLabel)]
    captions = [key for key in CAPTIONS if isinstance(found.get(key), tfds.features.Text)]
    if not images:
        raise InputError(f"tfds:{name} has no 8-bit images with 1 or 3 channels")
    keys = {"image": "image" if "image" in images else images[0]}
    if "label" in labels or len(labels) == 1:
        keys["label"] = "label" if "label" in labels else labels[0]
    if captions:
        keys["caption"] = captions[0]
    return keys


def _open(name: str, data_dir: Path | None):
    """The TFDS builder of a prepared data set; those of ours are prepared where they are not."""
    import tensorflow_datasets as tfds

    from minidiff.data import builders

    data_dir = data_dir or builders.default_data_dir()
    find = tfds.core.read_only_builder.builder_from_files
    try:
        return find(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        if name.partition("/")[0] not in builders.BUILDERS:
            raise InputError(
                f"{name} is not prepared under {data_dir}; minidiff itself can only prepare "
                f"{', '.join(builders.BUILDERS)}"
            ) from None
    return tfds.builder_from_directory(builders.prepare(name, data_dir))


def _examples(name: str, builder, split: str, image_key: str):
    """The split as a TFDS data source, whose images of kind Image come as encoded bytes."""
    import tensorflow_datasets as tfds

    encoded = isinstance(builder.info.features[image_key], tfds.features.Image)
    decoders = {image_key: tfds.decode.SkipDecoding()} if encoded else None
    try:
        return builder.as_data_source(split=split, decoders=decoders)
    except NotImplementedError:
        raise InputError(
            f"{name} is prepared as {builder.info.file_format.value} in {builder.data_dir}, which "
            "cannot be read without TensorFlow: prepare it with file_format='array_record'"
        ) from None
    except (ValueError, KeyError):
        splits = ", ".join(builder.info.splits) or "none"
        raise InputError(f"tfds:{name} has no split {split!r}, only {splits}") from None


def _side(name: str, shape: tuple, size: int | None) -> int:
    """The side of the images in pixels: ``size``, or the native one if a U-Net can take it."""
    height, width, _ = shape
    if size is not None:
        return size
    if height is None or height != width or height % 4:
        native = f"{height or 'any'}x{width or 'any'}"
        raise InputError(f"tfds:{name} has images of {native} pixels: say which size you want")
    return height


def _to_square(image: bytes | np.ndarray, side: int, channels: int) -> np.ndarray:
    """One image, encoded or not, as (side, side, channels) uint8."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.shape == (side, side, channels):
            return image
        opened = Image.fromarray(image[..., 0] if channels == 1 else image)
    else:
        opened = Image.open(io.BytesIO(image))
    upright = opened.convert("L") if channels == 1 else to_rgb(opened)
    return square(upright, side).reshape(side, side, channels)
