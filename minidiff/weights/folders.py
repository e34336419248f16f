"""Folders in the style of Hugging Face: settings in JSON, tensors in safetensors. Never pickle."""

import re
from collections.abc import Iterable
from pathlib import Path

from minidiff.errors import InputError
from minidiff.files import read_json
from minidiff.weights.files import TEMPORARY

PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
INDEX = re.compile(
    r"\.safetensors(\.[\w-]+)?\.index(\.[\w-]+)?\.json$"
)  # with or without a variant


def weight_files(path: Path, stem: str = "model") -> list[Path]:
    """The safetensors files of a folder, or a file itself; of an index, the shards that it names.

    In a folder: ``stem``'s, whole or in shards; else its only variant, whole
    (``model.fp16.safetensors``) or in shards (``model.safetensors.index.fp16.json``); else the only
    safetensors file. InputError if there are none or several, or only pickled ones, which can run
    any code when read.
    """
    if path.is_file():
        if path.suffix in PICKLED:
            raise InputError(f"{path} is pickled, and unpickling runs code: save it as safetensors")
        return _shards(path) if _is_index(path) else [path]
    if not path.is_dir():
        raise InputError(f"there is no folder {path}")
    whole, index = path / f"{stem}.safetensors", path / f"{stem}.safetensors.index.json"
    if whole.exists():
        return [whole]
    if index.exists():
        return _shards(index)
    files = [file for file in sorted(path.iterdir()) if not file.name.startswith(TEMPORARY)]
    single = [file for file in files if file.suffix == ".safetensors"]
    own = [file for file in single if not SHARD.search(file.name)]
    own = [f for f in (*own, *filter(_is_index, files)) if f.name.startswith(f"{stem}.")]
    found = own or single
    if len(found) == 1:
        return _shards(found[0]) if _is_index(found[0]) else found
    if found:
        raise InputError(f"{path} holds several safetensors files: give the path of one")
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
    if pickled:
        raise InputError(
            f"{path} holds only {pickled[0]}, which is pickled, and unpickling runs code: "
            f"save it as {whole.name}"
        )
    raise InputError(f"{path} holds no {whole.name}")


def _is_index(path: Path) -> bool:
    return INDEX.search(path.name) is not None


def _shards(index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"{index} has no weight_map")
    names = list(dict.fromkeys(places.values())) if _all_names(places.values()) else []
    if not names:
        raise InputError(f"{index} names something else than safetensors files beside it")
    return [index.parent / name for name in names]


def _all_names(values: Iterable[object]) -> bool:
    """Plain names of safetensors files: nothing that leads out of the folder."""
    return all(
        isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")
        for name in values
    )
