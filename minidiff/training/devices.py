r"""One program on many devices: a mesh, and where the arrays of a run lie on it.

A training step is written for one device. Given arrays that are spread over a mesh, XLA makes of it a
program for all of them and puts the communication in (Xu et al. 2021, GSPMD): numbers and results stay
those of one device, but for the order of sums. A mesh has two axes:

    data=8            each device has all weights and an eighth of every batch
    model=8           each has an eighth of every large array, and of every batch (Rajbhandari et al. 2020,
                      ZeRO stage 3; Zhao et al. 2023, FSDP): weights, their average, the optimizer's state
    data=4,model=2    halves of the arrays, in four places; eighths of every batch

Several processes, on one machine or on many, run the same command and make one mesh of all their
devices. Each holds its part of every array; one of them, the writer, keeps the run's folder.
"""

import dataclasses
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from minidiff.errors import InputError

AXES = ("data", "model")
SMALLEST = 2**10  # numbers in an array that is worth dividing


@dataclasses.dataclass(frozen=True)
class Devices:
    """A mesh with the axes "data" and "model"; without one, the single device that JAX would take."""

    mesh: Mesh | None = None

    @classmethod
    def parse(cls, text: str | None) -> "Devices":
        """A mesh as ``--mesh`` writes it: "data=8", "data=4,model=2". InputError if it does not fit.

        Without a text: all devices of several processes, or the one of a single process.
        """
        here = jax.device_count()
        if text is None and jax.process_count() == 1:
            return cls()
        sizes = {"data": 1, "model": 1} | ({"data": here} if text is None else _sizes(text))
        if math.prod(sizes.values()) != here:
            raise InputError(
                f"--mesh {text} wants {math.prod(sizes.values())} devices and there are {here}"
                + (": JAX_NUM_CPU_DEVICES=8 divides a CPU" if here == 1 else "")
            )
        kinds = (AxisType.Auto,) * len(AXES)
        return cls(jax.make_mesh(tuple(sizes[axis] for axis in AXES), AXES, axis_types=kinds))

    @property
    def count(self) -> int:
        """Devices that share a batch."""
        return self.mesh.size if self.mesh else 1

    @property
    def parts(self) -> int:
        """Devices that share the weights."""
        return self.mesh.shape["model"] if self.mesh else 1

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return jax.process_index() == 0

    def check_batch(self, batch_size: int) -> None:
        """InputError where a batch cannot be dealt out evenly."""
        if batch_size % self.count:
            raise InputError(
                f"batch_size={batch_size} cannot be dealt to {self.count} devices: "
                f"make it a multiple of {self.count}"
            )

    def shardings(self, tree: object) -> object:
        """Where each array of a state lies: large ones divided along "model", the others everywhere."""
        return jax.tree.map(lambda x: NamedSharding(self.mesh, self._divided(x.shape)), tree)

    def _divided(self, shape: tuple[int, ...]) -> PartitionSpec:
        """The longest axis that divides evenly is divided; of equal ones the last."""
        axes = [axis for axis, length in enumerate(shape) if length % self.parts == 0]
        if self.parts == 1 or math.prod(shape) < SMALLEST or not axes:
            return PartitionSpec()
        longest = max(axes, key=lambda axis: (shape[axis], axis))
        return PartitionSpec(*(None,) * longest, "model")

    def keep(self, state: object) -> object:
        """In a compiled step: the state stays where it lies."""
        if self.mesh is None:
            return state
        return jax.lax.with_sharding_constraint(state, self.shardings(state))

    def spread(self, batch: object) -> object:
        """In a compiled step: the rows of a batch are dealt out to all devices."""
        if self.mesh is None:
            return batch

        def lies(x):
            even = x.ndim > 0 and x.shape[0] % self.count == 0
            return NamedSharding(self.mesh, PartitionSpec(AXES) if even else PartitionSpec())

        return jax.lax.with_sharding_constraint(batch, jax.tree.map(lies, batch))

    def by_rows(self, loss: Callable, axes: int) -> Callable:
        """A loss for use inside ``shard_map`` as one of whole arrays: ``axes`` arguments have rows."""

        def whole(*arguments):
            rest = len(arguments) - axes
            specs = (PartitionSpec(AXES),) * axes + (PartitionSpec(),) * rest
            divided = jax.shard_map(loss, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec())
            return divided(*arguments)

        return whole

    def make(self, function: Callable, *arguments, **options) -> object:
        """What a function makes of these arguments, compiled, its arrays where ``keep`` has them."""
        if self.mesh:
            options["out_shardings"] = self.shardings(jax.eval_shape(function, *arguments))
        return jax.jit(function, **options)(*arguments)

    def place(self, tree: object) -> object:
        """NumPy arrays that every process has, each process keeping the part of its own devices."""
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, tree)

        def put(x, sharding):
            return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

        return jax.tree.map(put, tree, self.shardings(tree))

    @property
    def part(self) -> tuple[int, int]:
        """(p, P): the rows of a batch that lie in this process are the p-th of P equal parts."""
        if jax.process_count() == 1:
            return 0, 1
        rows = NamedSharding(self.mesh, PartitionSpec(AXES))
        held = rows.addressable_devices_indices_map((self.count,)).values()
        return min(part[0].start or 0 for part in held) // len(held), jax.process_count()

    def place_rows(self, batches: object) -> object:
        """Arrays (steps, rows, ...) of this process's rows as parts of those of all processes."""
        if self.mesh is None:
            return batches

        def put(x):
            axes = PartitionSpec(None, AXES) if np.ndim(x) > 1 else PartitionSpec()
            return jax.make_array_from_process_local_data(NamedSharding(self.mesh, axes), x)

        return jax.tree.map(put, batches)

    def gather(self, tree: object) -> object:
        """The whole arrays, as NumPy's, in every process. All of them must ask."""
        if jax.process_count() == 1:
            return jax.device_get(tree)
        return multihost_utils.process_allgather(tree, tiled=True)

    def agree(self, said: bool) -> bool:
        """Whether any process says so. All of them must ask."""
        if jax.process_count() == 1:
            return said
        return bool(multihost_utils.process_allgather(np.array(said)).any())

    def wait(self, name: str) -> None:
        """Go on when all processes are here."""
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(name)


ONE = Devices()


def _sizes(text: str) -> dict[str, int]:
    """ "data=4,model=2" as a dict."""
    found = [re.fullmatch(r"(data|model)=([1-9][0-9]{0,5})", part) for part in text.split(",")]
    names = [part[1] for part in found if part]
    if not all(found) or len(set(names)) < len(names):
        raise InputError(f"--mesh {text!r}: want data=N, model=N or data=N,model=M")
    return {part[1]: int(part[2]) for part in found}
