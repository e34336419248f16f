"""Tensors under another library's names and in its layouts, to and from our pytrees.

An ``Entry`` ties one tensor of a file to the arrays of ours that it holds; a list of them is all
that a model needs to be read and written. A file is compared by names and shapes, which stand in
its header, before the first tensor is read or made room for.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import safetensors

from minidiff.errors import InputError
from minidiff.weights.files import (
    FLOATS,
    Shape,
    check_finite,
    faults,
    flatten,
    printable,
    reading,
    refuse,
    unflatten,
)


class Layout(NamedTuple):
    """How an array of ours lies in a file: two functions that undo each other."""

    theirs: Callable[[np.ndarray], np.ndarray]
    ours: Callable[[np.ndarray], np.ndarray]


# DistributedDataParallel, torch.compile, FSDP, checkpointing of activations, DeepSpeed.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
WRAPPERS |= {"_forward_module"}
SAME = Layout(lambda x: x, lambda x: x)
# PyTorch's Linear is (out, in), its Conv2d (out, in, height, width).
TRANSPOSED = Layout(np.transpose, np.transpose)
CONV = Layout(lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0))


def patches(side: int) -> Layout:
    """A Linear on squares of pixels, (side * side * channels, out), as the kernel of a Conv2d."""
    return Layout(
        lambda x: CONV.theirs(x.reshape(side, side, -1, x.shape[-1])),
        lambda x: CONV.ours(x).reshape(-1, x.shape[0]),
    )


class Entry(NamedTuple):
    """One tensor of a file, and the arrays that it holds."""

    name: str
    paths: tuple[str, ...]  # of ours, as ``flatten`` calls them; several lie on its first axis
    layout: Layout = SAME
    layer: int | None = None  # which layer of arrays that are stored stacked

    def shape(self, arrays: Mapping[str, jax.ShapeDtypeStruct]) -> Shape:
        """What the tensor's shape must be, given the shapes of ours."""
        shape = arrays[self.paths[0]].shape[self.layer is not None :]
        # One number shown as a whole array: the layout can be asked, and nothing is allocated.
        shape = self.layout.theirs(np.broadcast_to(np.float32(0), shape)).shape
        return (len(self.paths) * shape[0], *shape[1:]) if len(self.paths) > 1 else shape

    def gather(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The tensor, of our arrays."""
        place = () if self.layer is None else self.layer
        parts = [self.layout.theirs(arrays[path][place]) for path in self.paths]
        return np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts), order="C")

    def scatter(self, tensor: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill our arrays with the tensor."""
        parts = [tensor] if len(self.paths) == 1 else np.split(tensor, len(self.paths))
        place = () if self.layer is None else self.layer
        for path, part in zip(self.paths, parts, strict=True):
            arrays[path][place] = self.layout.ours(part)


def linear(name: str, *paths: str, layer: int | None = None, bias: bool = True) -> list[Entry]:
    """A Linear in PyTorch's names and layout."""
    weight = Entry(f"{name}.weight", tuple(f"{path}.weight" for path in paths), TRANSPOSED, layer)
    shift = Entry(f"{name}.bias", tuple(f"{path}.bias" for path in paths), SAME, layer)
    return [weight, shift] if bias else [weight]


def norm(name: str, path: str, layer: int | None = None) -> list[Entry]:
    """A LayerNorm or GroupNorm in PyTorch's names."""
    return [
        Entry(f"{name}.weight", (f"{path}.scale",), SAME, layer),
        Entry(f"{name}.bias", (f"{path}.shift",), SAME, layer),
    ]


class Tensor(NamedTuple):
    """What the header of an open file says of a tensor; its numbers when asked."""

    shape: Shape
    kind: str
    read: Callable[[], np.ndarray]


@contextlib.contextmanager
def open_tensors(paths: Sequence[Path]) -> Iterator[dict[str, Tensor]]:
    """The tensors of safetensors files by name, while they are open.

    Names are as the network has them, whatever wrapped it when it was saved. InputError if a file is
    damaged or no such file, or if two hold the same name.
    """
    with contextlib.ExitStack() as stack:
        tensors = {}
        for path in paths:
            others = set(tensors)
            with reading(path):
                file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
                for stored in file.keys():  # noqa: SIM118  it is no dict
                    name = unwrapped(stored)
                    if name in tensors:
                        also = "as another file does" if name in others else "under two names"
                        raise InputError(f"{path} holds {printable(stored)}, {also}")
                    header = file.get_slice(stored)
                    tensors[name] = Tensor(
                        tuple(header.get_shape()),
                        header.get_dtype(),
                        lambda file=file, name=stored, path=path: _read(file, name, path),
                    )
        while tensors and all(name.startswith("model.") for name in tensors):  # as Lightning has it
            tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        yield tensors


def unwrapped(name: str) -> str:
    """A tensor's name without what wrappers of a network put before it, or into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _read(file, name: str, path: Path) -> np.ndarray:
    with reading(path):
        return file.get_tensor(name)


def read(
    entries: Sequence[Entry], template: object, tensors: Mapping[str, Tensor], source: object
) -> object:
    """A pytree shaped like ``template`` (ShapeDtypeStructs) of a file's tensors, in its types.

    InputError names those that are missing, unexpected, of another shape, or no floats, then
    nothing was loaded; and those that hold NaN or an infinity.
    """
    leaves = flatten(template)
    wanted = {entry.name: entry.shape(leaves) for entry in entries}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = [
        f"{name} holds {tensors[name].kind}, not floats"
        for name in wanted
        if name in tensors and tensors[name].kind not in FLOATS
    ]
    refuse(source, faults(wanted, found) + wrong)
    arrays = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    for entry in entries:
        tensor = tensors[entry.name].read()
        check_finite({entry.name: tensor}, source)
        entry.scatter(tensor, arrays)
    return unflatten(template, arrays, str(source))


def write(entries: Sequence[Entry], tree: object) -> dict[str, np.ndarray]:
    """The tensors of a file that holds a pytree, by name."""
    arrays = jax.device_get(flatten(tree))
    return {entry.name: entry.gather(arrays) for entry in entries}


def same_parts(tree: object, template: object) -> bool:
    """Whether a pytree is built as its template is, array by array."""
    if jax.tree.structure(tree) != jax.tree.structure(template):
        return False
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(template), strict=True)
    return all(x.shape == y.shape for x, y in pairs)
