"""Any data set that TFDS holds as array_record, opened without TensorFlow."""

import re
from pathlib import Path

import numpy as np

from minidiff.data.arrays import ArraySource, Facts
from minidiff.data.folder import fits_memory
from minidiff.data.records import Records
from minidiff.data.stream import Stream
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
    stream: bool = False,
) -> ArraySource | Stream:
    """The data set ``spec`` = NAME or NAME:SPLIT, such as "mnist" or "mnist:train[:5000]".

    The SPLIT of the spec, in TFDS's own notation, outweighs ``split``. A data set of ours that is
    not prepared yet is prepared first (see ``minidiff.data.builders``). Images keep their native
    size if ``size`` is None. It is read into memory, or while it is used: if ``stream`` says so, or
    if it is too large for memory. Raises InputError, one line.
    """
    if ".." in spec:  # as a part of a path it leads out of the data's folder
        raise InputError(f"unknown data 'tfds:{spec}': want tfds:NAME, without two dots")
    settings = {"seed": seed, "batch_size": batch_size}
    try:
        records = open_records(spec, split=split, size=size, data_dir=data_dir)
        return _of_records(records, stream, settings)
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # TFDS raises nearly anything when fed damaged files
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"tfds:{spec} cannot be read: {reason}") from error


def streamed_source(spec: str, **settings) -> Stream:
    """``prepared_source``, read while it is used at any size."""
    return prepared_source(spec, stream=True, **settings)


def _of_records(records: Records, stream: bool, settings: dict) -> ArraySource | Stream:
    if stream or not fits_memory(len(records), records.image_shape):
        return Stream.init(records, **settings)
    images = np.empty((len(records), *records.image_shape), np.uint8)
    labels = np.empty(len(records), np.int32) if "label" in records.kinds else None
    captions = [] if "caption" in records.kinds else None
    for start in range(0, len(records), READ_AT_ONCE):
        numbers = range(start, min(start + READ_AT_ONCE, len(records)))
        found, place = records.read(numbers), slice(start, numbers.stop)
        images[place] = found["image"]
        if labels is not None:
            labels[place] = found["label"]
        if captions is not None:
            captions += found["caption"]
    facts = Facts(
        captions=tuple(captions) if captions else None,
        class_names=records.class_names,
        uncaptioned=tuple(f"record {i}" for i, text in enumerate(captions or ()) if not text),
        content=records.digest,
    )
    return ArraySource.init(records.name, images, labels, **settings, facts=facts)


def open_records(
    spec: str, *, split: str, size: int | None, data_dir: Path | None = None
) -> Records:
    """The records of ``spec``, as of ``prepared_source``, before any of them is read."""
    name, _, own_split = spec.partition(":")
    if not NAME.fullmatch(name):
        raise InputError(f"tfds:{spec}: want tfds:NAME or tfds:NAME:SPLIT, such as tfds:mnist")
    builder = _open(name, data_dir)
    features = builder.info.features
    keys = feature_keys(name, features)
    source = _contents(name, builder, own_split or split)
    side = _side(name, features[keys["image"]].shape, size)
    return Records(f"tfds:{spec}", source, features, keys, side)


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


def _contents(name: str, builder, split: str):
    """The split as a TFDS data source of the records' bytes."""
    import tensorflow_datasets as tfds

    try:
        as_stored = tfds.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split=split, deserialize_method=as_stored)
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
