"""The sharded losses beside the dense ones, on several CPU devices, for ``test_contrastive.py``.

    python contrastive_devices.py DEVICES                         # one process
    python contrastive_devices.py DEVICES ADDRESS PROCESSES ID    # one of several that talk

A process of its own, since JAX fixes its devices when it starts. Prints one line of JSON: for every
case the largest error of loss and gradients, as a share of the largest entry of each.
"""

import inspect
import json
import math
import sys
import types

import minidiff  # noqa: F401  first: it sets XLA's flags  # isort: skip
import jax
import jax.export
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from rounding import contrastive as may_be_off
from rounding import exact_losses

from minidiff import contrastive

LOSSES = {"sharded_contrastive_loss": (2.6,), "ring_siglip_loss": (1.5, -3.0)}  # and its scalars
PAIRS, WIDTH = 24, 6

MEAN = "jax.lax.pmean((to_text + to_image) / 2, axis_name)"
MISTAKES = {  # name: (the loss, what stands in the module, the mistake)
    "clip: no mean over devices": ("sharded_contrastive_loss", MEAN, "(to_text + to_image) / 2"),
    "clip: sum over devices": ("sharded_contrastive_loss", MEAN, MEAN.replace("pmean", "psum")),
    "clip: pairs of the first device": (
        "sharded_contrastive_loss",
        "jax.lax.axis_index(axis_name) * len(image) + jnp",
        "jnp",
    ),
    "clip: other devices' texts get no gradient": (
        "sharded_contrastive_loss",
        "jax.lax.all_gather(text, axis_name, tiled=True)",
        "jax.lax.stop_gradient(jax.lax.all_gather(text, axis_name, tiled=True))",
    ),
    "siglip: no mean over devices": (
        "ring_siglip_loss",
        "jax.lax.pmean(jnp.mean(loss), axis_name)",
        "jnp.mean(loss)",
    ),
    "siglip: texts stay at home": ("ring_siglip_loss", "(i + 1) % devices", "i"),
    "siglip: ring one step short": ("ring_siglip_loss", "length=devices - 1", "length=devices - 2"),
}


def programs(module, name, mesh):
    """The loss and all its gradients as functions of whole arrays, differentiated in both places."""
    scalars = LOSSES[name]
    wanted = tuple(range(2 + len(scalars)))
    specs = (P("data"), P("data"), *(P() for _ in scalars))

    def loss(*args):
        return getattr(module, name)(*args, "data")

    def shard(function, out_specs, **kwargs):
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs, **kwargs)

    return {
        "outside": jax.jit(jax.value_and_grad(shard(loss, P()), wanted)),
        "inside": jax.jit(shard(jax.value_and_grad(loss, wanted), (P(), specs))),
        # Without this check a mistake gives wrong numbers rather than an error from shard_map.
        "unchecked": jax.jit(jax.value_and_grad(shard(loss, P(), check_vma=False), wanted)),
    }


def example(name, mesh):
    """(arguments spread over the mesh, loss and gradients in float64)"""
    scalars = LOSSES[name]
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, PAIRS, WIDTH)).astype("float32")
    args = (image, text + image, *map(np.float32, scalars))
    expected = exact_losses(*args)

    def spread(x):
        sharding = NamedSharding(mesh, P("data") if x.ndim else P())
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return tuple(map(spread, args)), expected


def largest_error(found, expected):
    """Over what this process can see of the arrays."""
    return max(
        float(np.abs(np.asarray(shard.data) - b[shard.index]).max() / np.abs(b).max())
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
        for shard in a.addressable_shards
    )


def mutated(right, wrong):
    source = inspect.getsource(contrastive)
    assert source.count(right) == 1, f"{right!r} must stand exactly once"
    module = types.ModuleType("mutant")
    exec(compile(source.replace(right, wrong), "mutant", "exec"), module.__dict__)
    return module


def main():
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    jax.config.update("jax_numpy_rank_promotion", "raise")
    alone = len(sys.argv) == 2
    if not alone:
        address, processes, process = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        jax.distributed.initialize(
            address,
            processes,
            process,
            initialization_timeout=100,
            coordinator_bind_address=address,
        )
        assert len(jax.devices()) == processes * len(jax.local_devices())
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(AxisType.Auto,))

    errors, within, mistakes, platforms = {}, {}, {}, []
    examples = {name: example(name, mesh) for name in LOSSES}
    for name, (args, expected) in examples.items():
        right = programs(contrastive, name, mesh)
        for place in ("outside", "inside")[: 2 if alone else 1]:
            case, scale = f"{name}, gradient {place}", math.exp(LOSSES[name][0])
            errors[case] = largest_error(right[place](*args), expected)
            within[case] = errors[case] <= may_be_off(PAIRS, WIDTH, scale, len(jax.devices()))
        if alone:
            lowered = jax.export.export(right["outside"], platforms=["cuda", "tpu"])(*args)
            platforms.append(lowered.platforms)
    if alone:
        for mistake, (name, right, wrong) in MISTAKES.items():
            args, expected = examples[name]
            found = programs(mutated(right, wrong), name, mesh)["unchecked"](*args)
            mistakes[mistake] = largest_error(found, expected)
    found = {"errors": errors, "within": within, "mistakes": mistakes, "platforms": platforms}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
