"""A folder of the user's own images, with or without captions, as arrays in memory.

Layout, as in the Hugging Face "imagefolder" convention: images in any subfolders, whose names
become labels; captions either in a `.txt` beside each image or in a `metadata.jsonl` or `metadata.csv`
with `file_name` and `text` (``minidiff.data.metadata``), at the top or in any subfolder: each names
images relative to its own place, and no image may be named twice. Where there is one, `.txt` files are
ignored. An image without a caption gets "" and a remark. Hidden files are skipped.
"""

import functools
import hashlib
import os
import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np

from minidiff.data import metadata
from minidiff.data.arrays import ArraySource, Facts
from minidiff.data.images import (
    CONVERT,
    SUFFIXES,
    UNREAD,
    complain,
    drop_colour_if_grey,
    read_images,
)
from minidiff.data.sources import DEFAULT_SIZE, check_split, first_few
from minidiff.errors import InputError

MAX_BYTES = 2 * 2**30  # of decoded uint8 pixels
MAX_CAPTION = 1000  # characters
MAX_CAPTION_BYTES = 2**20  # of a .txt beside an image
SMALLEST_SPLIT = 10  # with fewer images, all are in both splits
SPLIT_NAMES = {"train", "test", "val", "valid", "validation", "dev"}


def folder_source(
    path: str, *, seed: int, split: str, size: int | None, batch_size: int
) -> ArraySource:
    """The images under ``path``, centre-cropped and resized to ``size``; grey if all of them are.

    An image is in the "test" split where the hash of its name says so (one in ten), whatever else
    is in the folder. Raises InputError, one line, for whatever cannot be used.
    """
    check_split("folder", split)
    size = size or DEFAULT_SIZE
    root = Path(path).expanduser()
    paths, others = list_files(root)
    names = [item.relative_to(root).as_posix() for item in paths]
    check_memory(len(paths), (size, size, 3))
    problems = []
    captions = _read_captions(root, names, others, problems)
    uncaptioned = tuple(name for name, text in zip(names, captions or (), strict=False) if not text)
    if uncaptioned:
        share = f"{len(uncaptioned)} of {len(names)} images have no caption"
        problems.append(f"{share}: {first_few(uncaptioned)}")
    images = drop_colour_if_grey(read_images(paths, size, root))

    parents = [str(PurePosixPath(name).parent) for name in names]
    class_names = tuple(sorted(set(parents))) if set(parents) != {"."} else None
    chosen = np.flatnonzero([in_test(name) == (split == "test") for name in names])
    if len(names) < SMALLEST_SPLIT or len(chosen) in (0, len(names)):
        chosen = np.arange(len(names))
        problems.append(f"too few images ({len(names)}) to split: train and test hold all of them")
    above = {name.partition("/")[0].lower() for name in names if "/" in name}
    if above and above <= SPLIT_NAMES:
        problems.append(
            f"{', '.join(sorted(above))}: taken for classes, not for splits; open one alone"
        )
    labels = None
    if class_names:
        labels = np.array([class_names.index(parents[i]) for i in chosen], np.int32)
    facts = Facts(
        captions=tuple(captions[i] for i in chosen) if captions else None,
        class_names=class_names,
        problems=tuple(problems),
        uncaptioned=uncaptioned,
        content=functools.partial(_digest, {names[i]: paths[i] for i in chosen}),
    )
    name = f"folder:{path}"
    return ArraySource.init(
        name, images[chosen], labels, seed=seed, batch_size=batch_size, facts=facts
    )


def _digest(files: dict[str, Path]) -> str:
    """Of the names of files, and of the bytes that lie there now."""
    made = hashlib.sha256()
    for name, path in files.items():
        made.update(hashlib.sha256(os.fsencode(name)).digest())
        with open(path, "rb") as file:
            made.update(hashlib.file_digest(file, "sha256").digest())
    return made.hexdigest()[:32]


def fits_memory(count: int, shape: tuple[int, ...]) -> bool:
    """Whether ``count`` uint8 images of ``shape`` stay within MAX_BYTES."""
    return count * int(np.prod(shape)) <= MAX_BYTES


def check_memory(count: int, shape: tuple[int, ...]) -> None:
    """Raise InputError where ``count`` uint8 images of ``shape`` would not fit the stated limit."""
    if not fits_memory(count, shape):
        raise InputError(
            f"{count} images of {'x'.join(map(str, shape))} take "
            f"{count * int(np.prod(shape)) / 2**30:.1f} GiB, and {MAX_BYTES / 2**30:.0f} GiB is the "
            "limit: use a smaller size or fewer images, or write them as array_record with TFDS, "
            "which is then read while it is used (tfds:NAME)"
        )


def in_test(name: str) -> bool:
    """Whether the image called ``name`` belongs to the test split: one in ten, by its hash."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4], "big") % 10 == 0


def list_files(root: Path) -> tuple[list[Path], list[Path]]:
    """All image files under ``root`` and all other files, sorted, without hidden ones."""
    if not root.exists():
        raise InputError(f"no such folder: {root}")
    if not root.is_dir():
        raise InputError(f"not a folder: {root} (folder: wants a folder of images)")
    images, others = [], []
    for folder, subfolders, files in os.walk(root, onerror=_refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(folder, name)
            if path.is_file():  # neither a pipe nor a broken link
                (images if path.suffix.lower() in SUFFIXES else others).append(path)
    if not images:
        unread = sorted({path.suffix.lower() for path in others} & set(UNREAD))
        hint = f"; there are {', '.join(unread)}: {CONVERT}" if unread else ""
        wanted = f"looked for {', '.join(SUFFIXES)}, at any depth"
        raise InputError(f"no images in {root} ({wanted}{hint})")
    return images, others


def _refuse(error: OSError) -> None:
    raise InputError(f"cannot read the folder {error.filename}: {error.strerror}")


def _read_captions(
    root: Path, names: list[str], others: list[Path], problems: list[str]
) -> list[str] | None:
    """One caption for each of ``names``, "" where there is none, or None where no image has one."""
    tables = [path for path in others if path.name in metadata.NAMES]
    beside = [path for path in others if path.suffix.lower() == ".txt"]
    for folder in {path.parent for path in tables}:
        if all(folder / name in tables for name in metadata.NAMES):
            raise InputError(f"{folder} has both {' and '.join(metadata.NAMES)}: keep one")
    used = tables or beside
    texts = (
        metadata.read_captions(root, tables, names) if tables else _read_beside(root, names, beside)
    )
    ignored = [path for path in others if path not in set(used)]
    unread = [path for path in ignored if path.suffix.lower() in UNREAD]
    ignored = [path for path in ignored if path not in unread]
    if unread:
        kinds = ", ".join(sorted({path.suffix.lower() for path in unread}))
        problems.append(f"{len(unread)} picture(s) ignored: {kinds} is not read; {CONVERT}")
    if ignored:
        kinds = sorted({path.suffix.lower() or path.name for path in ignored})
        hint = " (captions are read from .txt)" if ".caption" in kinds and not tables else ""
        problems.append(f"{len(ignored)} other file(s) ignored: {', '.join(kinds)}{hint}")
    if not texts:
        return None
    captions = [clean(texts.get(name, "")) for name in names]
    long = sum(len(caption) > MAX_CAPTION for caption in captions)
    if long:
        problems.append(f"{long} caption(s) cut to {MAX_CAPTION} characters")
    return [caption[:MAX_CAPTION] for caption in captions]


def clean(caption: str) -> str:
    """``caption`` on one line, without control characters, surrogates and repeated spaces.

    Nor does it keep byte-order marks, which stand at the head of a text or where two were joined.
    """
    dropped = ("Cc", "Cs")  # control characters, lone surrogates
    kept = (x for x in caption if x.isspace() or unicodedata.category(x) not in dropped)
    return " ".join("".join(kept).replace("\ufeff", "").split())


def _read_beside(root: Path, names: list[str], paths: list[Path]) -> dict[str, str]:
    """Captions from `.txt` files, by the name of the image that has the same stem."""
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(_stem(name), []).append(name)
    texts, bad = {}, []
    for path in paths:
        name = path.relative_to(root).as_posix()
        images = by_stem.get(_stem(name), [])
        if not images:
            bad.append((name, "no image of the same name lies beside it"))
        try:
            text = metadata.read_text(path, MAX_CAPTION_BYTES)
            texts.update(dict.fromkeys(images, text))
        except InputError as error:
            bad.append((name, str(error)))
    complain(bad, "caption file(s)")
    return texts


def _stem(name: str) -> str:
    """The name without its suffix, letters with accents in one form."""
    return str(PurePosixPath(unicodedata.normalize("NFC", name)).with_suffix(""))
