"""Pytrees of arrays to safetensors files and back, without pickle.

Every array is stored under its path in the tree (``model.down.0.blocks.1.conv1.weight``). A file is
written whole or not at all: to a temporary name, flushed to the disk, then renamed.
"""

import contextlib
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from minidiff.errors import InputError

TEMPORARY = ".tmp-"
LISTED = 3  # names that an error message spells out


def flatten(tree: object) -> dict[str, object]:
    """The arrays (or ShapeDtypeStructs) of a pytree by their dotted path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def unflatten(template: object, arrays: dict[str, np.ndarray], source: str = "file") -> object:
    """A pytree shaped like ``template`` (arrays or ShapeDtypeStructs) with these arrays in it.

    InputError names what is missing, unexpected or of another shape; then nothing is loaded.
    """
    wanted = flatten(template)
    faults = [f"{name} is missing" for name in wanted if name not in arrays]
    faults += [f"{name} is unexpected" for name in arrays if name not in wanted]
    faults += [
        f"{name} has shape {arrays[name].shape}, not {leaf.shape}"
        for name, leaf in wanted.items()
        if name in arrays and arrays[name].shape != leaf.shape
    ]
    if faults:
        more = f" and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
        raise InputError(f"{source} is of another model: {'; '.join(faults[:LISTED])}{more}")
    leaves = [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def save(path: Path | str, tree: object, metadata: dict[str, str] | None = None) -> None:
    """Write the arrays of a pytree; an existing file is replaced only once the new one is whole."""
    # order="C": safetensors would write the memory of a transposed array as it lies.
    arrays = {n: np.asarray(leaf, order="C") for n, leaf in jax.device_get(flatten(tree)).items()}
    write_atomically(Path(path), safetensors.numpy.save(arrays, metadata))


def load_arrays(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays by name, metadata) of a safetensors file. InputError if it is not one."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, file.metadata() or {}
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from None


def load(path: Path | str, template: object) -> object:
    """A pytree shaped like ``template`` from a file that ``save`` wrote; InputError as ``unflatten``."""
    return unflatten(template, load_arrays(path)[0], str(path))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content so that a crash leaves the old content or the new, never a mixture.

    OSError, naming the file, where it cannot be written; then the old content stands.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # not the temporary one; a full disk names none
        raise
    if os.name == "posix":  # the rename itself must reach the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of writers that were killed."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)
