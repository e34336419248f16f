"""A folder of the user's own images, with or without captions, as arrays in memory.

Layout, as in the Hugging Face "imagefolder" convention: images in any subfolders, whose names
become labels; captions either in a `.txt` beside each image or in one `metadata.jsonl` or
`metadata.csv` at the top with `file_name` and `text`. A metadata file outweighs `.txt` files, which
are then ignored. An image without a caption gets "" and a remark. Hidden files are skipped.
"""

import csv
import functools
import hashlib
import io
import json
import os
import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np

from minidiff.data.arrays import ArraySource, Facts
from minidiff.data.images import SUFFIXES, complain, drop_colour_if_grey, read_images
from minidiff.errors import InputError
from minidiff.files import read_bytes

MAX_BYTES = 2 * 2**30  # of decoded uint8 pixels
MAX_CAPTION = 1000  # characters
MAX_CAPTION_BYTES = 2**20  # of a .txt beside an image
MAX_METADATA_BYTES = 2**28
SMALLEST_SPLIT = 10  # with fewer images, all are in both splits
METADATA = ("metadata.jsonl", "metadata.csv")


def folder_source(path: str, *, seed: int, split: str, size: int, batch_size: int) -> ArraySource:
    """The images under ``path``, centre-cropped and resized to ``size``; grey if all of them are.

    An image is in the "test" split where the hash of its name says so (one in ten), whatever else
    is in the folder. Raises InputError, one line, for whatever cannot be used.
    """
    root = Path(path).expanduser()
    paths, others = list_files(root)
    names = [item.relative_to(root).as_posix() for item in paths]
    check_memory(len(paths), (size, size, 3))
    problems = []
    captions = _read_captions(root, names, others, problems)
    images = drop_colour_if_grey(read_images(paths, size, root))

    parents = [str(PurePosixPath(name).parent) for name in names]
    class_names = tuple(sorted(set(parents))) if set(parents) != {"."} else None
    chosen = np.flatnonzero([in_test(name) == (split == "test") for name in names])
    if len(names) < SMALLEST_SPLIT or len(chosen) in (0, len(names)):
        chosen = np.arange(len(names))
        problems.append(f"too few images ({len(names)}) to split: train and test hold all of them")
    labels = None
    if class_names:
        labels = np.array([class_names.index(parents[i]) for i in chosen], np.int32)
    facts = Facts(
        captions=tuple(captions[i] for i in chosen) if captions else None,
        class_names=class_names,
        problems=tuple(problems),
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
        raise InputError(f"no images in {root} (looked for {', '.join(SUFFIXES)}, at any depth)")
    return images, others


def _refuse(error: OSError) -> None:
    raise InputError(f"cannot read the folder {error.filename}: {error.strerror}")


def _read_captions(
    root: Path, names: list[str], others: list[Path], problems: list[str]
) -> list[str] | None:
    """One caption for each of ``names``, "" where there is none, or None where no image has one."""
    metadata = [root / name for name in METADATA if root / name in others]
    beside = [path for path in others if path.suffix.lower() == ".txt"]
    if len(metadata) > 1:
        raise InputError(f"{root} has both {' and '.join(METADATA)}: keep one")
    if metadata:
        texts = _read_metadata(metadata[0], set(names))
        ignored = [path for path in others if path != metadata[0]]
    else:
        texts = _read_beside(root, names, beside)
        ignored = [path for path in others if path not in set(beside)]
    if ignored:
        kinds = sorted({path.suffix.lower() or path.name for path in ignored})
        problems.append(f"{len(ignored)} other file(s) ignored: {', '.join(kinds)}")
    if not texts:
        return None
    captions = [clean(texts.get(name, "")) for name in names]
    missing = sum(not caption for caption in captions)
    if missing:
        problems.append(f"{missing} of {len(names)} images have no caption")
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
        by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    texts, bad = {}, []
    for path in paths:
        name = path.relative_to(root).as_posix()
        images = by_stem.get(str(PurePosixPath(name).with_suffix("")), [])
        if not images:
            bad.append((name, "no image of the same name lies beside it"))
        try:
            text = read_bytes(path, MAX_CAPTION_BYTES).decode("utf-8-sig")
            texts.update(dict.fromkeys(images, text))
        except InputError:
            bad.append((name, f"more than {MAX_CAPTION_BYTES} bytes"))
        except (UnicodeDecodeError, OSError):
            bad.append((name, "not readable as UTF-8 text"))
    complain(bad, "caption file(s)")
    return texts


def _read_metadata(path: Path, names: set[str]) -> dict[str, str]:
    """Captions from metadata.jsonl or metadata.csv, by image name; errors name the line."""
    try:
        text = read_bytes(path, MAX_METADATA_BYTES).decode("utf-8-sig")
    except InputError:
        raise InputError(f"{path.name} is larger than {MAX_METADATA_BYTES} bytes") from None
    except (UnicodeDecodeError, OSError):
        raise InputError(f"{path.name} is not readable as UTF-8 text") from None
    rows = _json_rows(text) if path.suffix == ".jsonl" else _csv_rows(text)
    texts, bad = {}, []
    for line, row in rows:
        place = f"{path.name} line {line}"
        if isinstance(row, str):
            bad.append((place, row))
            continue
        name, caption = row.get("file_name"), row.get("text")
        if not isinstance(name, str) or not isinstance(caption, str):
            bad.append((place, "wants file_name and text, both strings"))
        elif PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            bad.append((place, f"file_name {name!r} must be a path inside the folder"))
        elif str(PurePosixPath(name)) not in names:
            bad.append((place, f"there is no image {name!r} in the folder"))
        elif str(PurePosixPath(name)) in texts:
            bad.append((place, f"a second caption for {name!r}"))
        else:
            texts[str(PurePosixPath(name))] = caption
    complain(bad, "metadata row(s)")
    return texts


def _json_rows(text: str):
    """(line number, dict) for each line, or (line number, what is wrong with it)."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield number, row if isinstance(row, dict) else "not a JSON object"


def _csv_rows(text: str):
    """(line number, dict) for each record, or (line number, what is wrong with it)."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if not {"file_name", "text"} <= set(reader.fieldnames or ()):
            yield 1, "the first line must name the columns file_name and text"
            return
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        yield reader.line_num + 1, f"not CSV ({error})"
