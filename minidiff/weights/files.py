"""Pytrees of arrays to safetensors files and back, without pickle.

Every array is stored under its path in the tree (``model.down.0.blocks.1.conv1.weight``). A file is
written whole or not at all: to a temporary name, flushed to the disk, then renamed.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from minidiff.errors import InputError
from minidiff.files import check_regular

FLOATS = {"F16", "BF16", "F32", "F64"}  # kinds of numbers, as safetensors calls them
WHOLE = {f"{sign}{bits}" for sign in "IU" for bits in (8, 16, 32, 64)}
TEMPORARY = ".tmp-"
LISTED = 3  # names that an error message spells out
MOST_NAME = 200  # characters of each

Shape = tuple[int, ...]


def flatten(tree: object) -> dict[str, object]:
    """The arrays (or ShapeDtypeStructs) of a pytree by their dotted path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def faults(wanted: dict[str, Shape], found: dict[str, Shape]) -> list[str]:
    """What is missing, unexpected or of another shape, by name, one phrase each."""
    return [
        *(f"{name} is missing" for name in wanted if name not in found),
        *(f"{printable(name)} is unexpected" for name in found if name not in wanted),
        *(
            f"{name} has shape {found[name]}, not {shape}"
            for name, shape in wanted.items()
            if name in found and found[name] != shape
        ),
    ]


def refuse(source: object, faults: list[str]) -> None:
    """InputError with the first few of the faults and the number of the others; nothing if none."""
    if faults:
        more = f" and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
        raise InputError(f"{source} is of another model: {'; '.join(faults[:LISTED])}{more}")


def printable(name: str) -> str:
    """A name from a file, fit for a message of one line."""
    name = name if len(name) <= MOST_NAME else f"{name[:MOST_NAME]}..."
    return name if name.isprintable() else repr(name)


def unflatten(
    template: object,
    arrays: dict[str, np.ndarray],
    source: str = "file",
    make: Callable = jnp.asarray,
) -> object:
    """A pytree shaped like ``template`` (arrays or ShapeDtypeStructs) with these arrays in it.

    ``make(array, dtype)`` makes its leaves: JAX's arrays, or with ``np.asarray`` NumPy's. InputError
    names what is missing, unexpected or of another shape; then nothing is loaded.
    """
    wanted = flatten(template)
    shapes = {name: array.shape for name, array in arrays.items()}
    refuse(source, faults({name: leaf.shape for name, leaf in wanted.items()}, shapes))
    leaves = [make(arrays[name], leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def save(path: Path | str, tree: object, metadata: dict[str, str] | None = None) -> None:
    """Write the arrays of a pytree; an existing file is replaced only once the new one is whole."""
    # order="C": safetensors would write the memory of a transposed array as it lies.
    arrays = {n: np.asarray(leaf, order="C") for n, leaf in jax.device_get(flatten(tree)).items()}
    write_atomically(Path(path), safetensors.numpy.save(arrays, metadata))


def load_arrays(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays by name, metadata) of a safetensors file. InputError if it is not one."""
    with reading(path), safetensors.safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return arrays, file.metadata() or {}


@contextlib.contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """What goes wrong in a safetensors file becomes InputError."""
    check_regular(path)
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except MemoryError:
        raise InputError(f"{path} does not fit the memory of this machine") from None
    except (safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from None


def load_metadata(path: Path | str) -> dict[str, str]:
    """What ``save`` was told beside the arrays; they are not read. InputError if it is no such file."""
    with reading(path), safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def load(
    path: Path | str, template: object, prefix: str = "", make: Callable = jnp.asarray
) -> object:
    """A pytree shaped like ``template`` from a file that ``save`` wrote, of the names after ``prefix``.

    ``make`` is ``unflatten``'s. The header is compared first. InputError as ``unflatten``, and for
    numbers of another kind, NaN and infinities; then nothing is loaded.
    """
    wanted = flatten(template)
    with reading(path), safetensors.safe_open(path, framework="numpy") as file:
        names = {n.removeprefix(prefix): n for n in file.keys() if n.startswith(prefix)}  # noqa: SIM118
        headers = {name: file.get_slice(stored) for name, stored in names.items()}
        shapes = {name: tuple(header.get_shape()) for name, header in headers.items()}
        kinds = {name: header.get_dtype() for name, header in headers.items()}
        wrong = [
            f"{name} holds {kinds[name]}, not {'floats' if allowed is FLOATS else 'whole numbers'}"
            for name, leaf in wanted.items()
            for allowed in [FLOATS if jnp.issubdtype(leaf.dtype, jnp.floating) else WHOLE]
            if name in kinds and kinds[name] not in allowed
        ]
        refuse(path, faults({name: leaf.shape for name, leaf in wanted.items()}, shapes) + wrong)
        arrays = {name: file.get_tensor(stored) for name, stored in names.items()}
    check_finite(arrays, path)
    return unflatten(template, arrays, str(path), make)


def check_finite(arrays: dict[str, np.ndarray], source: object) -> None:
    """InputError names the first array that holds NaN or an infinity: nothing good comes of it."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"{source}: {name} holds NaN or infinity")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content so that a crash leaves the old content or the new, never a mixture.

    OSError, naming the file, where it cannot be written; then the old content stands.
    """
    write_together(path.parent, {path.name: content})


def write_together(folder: Path, contents: dict[str, bytes]) -> None:
    """Replace several files of a folder, each as ``write_atomically`` does.

    The last one seals them: it is removed before the others are replaced. So a crash leaves the old
    files, the new ones, or no seal; never a mixture that has one. OSError, naming the file, where
    one cannot be written; if that is for want of space, the old ones stand.
    """
    names = {folder / f"{TEMPORARY}{os.getpid()}-{name}": folder / name for name in contents}
    path = folder
    try:
        for temporary, content in zip(names, contents.values(), strict=True):
            path = names[temporary]
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if len(names) > 1:
            path.unlink(missing_ok=True)
            _reach_the_disk(folder)
        for temporary, path in names.items():
            os.replace(temporary, path)
    except BaseException as error:
        for temporary in names:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # not the temporary one; a full disk names none
        raise
    _reach_the_disk(folder)


def _reach_the_disk(folder: Path) -> None:
    """What was renamed or removed in a folder is so after a crash too."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of writers that were killed."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)
