"""Files that somebody else made, read with a limit. Neither a pipe nor a device can hold us up."""

import json
import os
from pathlib import Path

from minidiff.errors import InputError

POINTER = b"version https://git-lfs.github.com/spec/"
MOST_BYTES = 2**25  # of settings, and of most that is text


def check_regular(path: Path | str) -> None:
    """InputError for what exists and is no file: opening a pipe waits, a device may have no end.

    And for what merely stands for a file: a pointer of Git LFS. A folder is left to whoever opens
    it: the system has a word for that.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{path} is neither a file nor a folder")
    if os.path.isfile(path) and _begins_with(path, POINTER):
        raise InputError(
            f"{path} is a pointer of Git LFS, not the file itself: fetch that by git lfs pull"
        )


def _begins_with(path: Path | str, start: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(start)) == start
    except OSError:  # whoever opens it next will tell
        return False


def check_output(option: str, path: Path) -> None:
    """InputError, naming the option, where a file cannot be written; an old file may be replaced."""
    if not path.parent.is_dir():
        raise InputError(f"{option} {path} cannot be written: there is no folder {path.parent}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(
            f"{option} {path} cannot be written: it is no file, so choose another name"
        )
    if not os.access(path if os.path.exists(path) else path.parent, os.W_OK):
        raise InputError(f"{option} {path} cannot be written: permission is denied")


def check_output_folder(option: str, path: Path) -> None:
    """InputError, naming the option, where a folder can neither be written nor made."""
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise InputError(f"{option} {path} cannot be a folder: {there} is none")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{option} {path} cannot be written: permission is denied in {there}")


def read_bytes(path: Path | str, most: int = MOST_BYTES) -> bytes:
    """A file's content. InputError if it is larger than ``most`` or no file; else OSError."""
    check_regular(path)
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path} is too large: at most {most} bytes")
    return content


def read_json(path: Path | str) -> dict:
    """The object in a JSON file. InputError if it is missing, too large, or something else.

    Of a name that stands there twice the last one counts, as everywhere in Python.
    """
    try:
        facts = json.loads(read_bytes(path))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read as JSON: {reason}") from None
    if not isinstance(facts, dict):
        raise InputError(f"{path} holds {type(facts).__name__}, not an object in braces")
    return facts
