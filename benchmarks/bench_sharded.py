r"""Contrastive losses over many devices: all-gather and ring, beside one device in chunks.

    python benchmarks/bench_sharded.py [--devices D] [--quick] [--turns N] [--cores C] [--out FILE]

Value and gradients. On a CPU the devices (8 unless told otherwise) are slices of it, and show what
the collectives cost, not what more machines gain; on accelerators they are all there are.
"""

from functools import partial

import harness
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from turns import at_least

from minidiff import contrastive

PAIRS, QUICK = (1024, 8192), (1024,)
WIDTH, AXIS = 64, "pairs"


def options(parser) -> None:
    parser.add_argument(
        "--devices", type=at_least(1), default=8, help="slices of a CPU; default: 8"
    )


def slice_the_cpu(args) -> None:
    jax.config.update("jax_num_cpu_devices", args.devices)


def sharded(loss, mesh):
    """A loss for inside shard_map as a function of whole arrays and numbers."""
    rows, all_alike = PartitionSpec(AXIS), PartitionSpec()

    def whole(image, text, *numbers):
        specs = (rows, rows, *(all_alike for _ in numbers))
        run = partial(loss, axis_name=AXIS)
        return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=all_alike)(
            image, text, *numbers
        )

    return whole


def cases(args):
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), (AXIS,), axis_types=(AxisType.Auto,))
    log_scale = jnp.float32(contrastive.LOG_SCALE_INIT)
    numbers = {"clip": (log_scale,), "siglip": (log_scale, jnp.float32(-10.0))}
    losses = {
        "clip": (contrastive.contrastive_loss, contrastive.sharded_contrastive_loss),
        "siglip": (contrastive.siglip_loss, contrastive.ring_siglip_loss),
    }
    for name, (alone, many) in losses.items():
        for pairs in QUICK if args.quick else PAIRS:
            pairs += -pairs % devices  # equally many each
            spread = NamedSharding(mesh, PartitionSpec(AXIS))
            alike = NamedSharding(mesh, PartitionSpec())
            arrays = [harness.normal(seed, pairs, WIDTH) for seed in (0, 1)]
            inputs = (*arrays, *numbers[name])
            shared = (*jax.device_put(arrays, spread), *jax.device_put(numbers[name], alike))
            grad = tuple(range(len(inputs)))
            one = jax.value_and_grad(alone, grad)
            all_of_them = jax.value_and_grad(sharded(many, mesh), grad)
            yield harness.Case(
                f"{name}, N {pairs}, width {WIDTH}, {devices} devices",
                {
                    "ours": harness.compiled(all_of_them, *shared),
                    "one device": harness.compiled(one, *inputs),
                },
                reference="one device",
                flops=6 * pairs**2 * WIDTH,
            )


if __name__ == "__main__":
    harness.main("sharded", __doc__, cases, options, before=slice_the_cpu)
