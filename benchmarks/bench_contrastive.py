r"""The contrastive losses in blocks of rows beside the ones that hold the whole N x N matrix.

    python benchmarks/bench_contrastive.py [--sizes N ...] [--width D] [--chunk C] [--turns T]
                                           [--cores C] [--out FILE]

Value and gradients of CLIP's and SigLIP's loss, in float32, by three contenders:

- chunked: ours, as ``minidiff.contrastive`` uses it,
- reference: the readable loss on the whole matrix,
- lean: the whole matrix again, written to be as fast as plain JAX gets, for a fair comparison.

The contenders take turns, so that what else the machine does falls on all of them. One that gives
another loss or other gradients than the reference is not timed. The memory is XLA's own account of
what a compiled program needs besides its arguments and results.
"""

import argparse
import datetime
import os
import statistics
import sys
import time
from pathlib import Path

from turns import Parser, at_least, save

SCALE, BIAS = 14.3, -10.0
TOLERANCE = 1e-5  # of the largest entry; float32 sums of 16,384 terms differ by 1e-6


def arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [1024, 4096, 16_384]
    parser.add_argument("--sizes", type=at_least(1), nargs="+", default=sizes, help="pairs, N")
    parser.add_argument("--width", type=at_least(1), default=64, help="of an embedding")
    parser.add_argument("--chunk", type=at_least(1), help="rows at a time; default: the module's")
    parser.add_argument("--turns", type=at_least(2), default=7, help="turns each contender takes")
    parser.add_argument("--cores", type=at_least(1), help="cores to use (Linux); default: all")
    parser.add_argument("--out", type=Path, help="JSON to write or add to; see README.md")
    args = parser.parse_args()
    if args.cores and not hasattr(os, "sched_setaffinity"):
        parser.error("--cores works on Linux only")
    if args.out and not args.out.parent.is_dir():
        parser.error(f"--out: there is no folder {args.out.parent}")
    return args


def contenders(chunk: int) -> dict:
    """loss -> name -> function of directions (the images' times the scale) and, SigLIP's, a bias."""
    import jax
    import jax.numpy as jnp

    from minidiff.kernels import contrastive as kernels

    def lean_clip(image, text):
        logits = kernels.matmul(image, text.T)
        both = jax.nn.logsumexp(logits, axis=0) + jax.nn.logsumexp(logits, axis=1)
        return jnp.mean(both / 2 - jnp.sum(image * text, axis=1))

    def lean_siglip(image, text, bias):
        logits = kernels.matmul(image, text.T) + bias
        pairs = jnp.sum(image * text, axis=1) + bias  # softplus(-x) = softplus(x) - x
        return jnp.mean(jax.nn.softplus(logits).sum(axis=1) - pairs)

    return {
        "clip": {
            "chunked": lambda *args: kernels.clip(*args, chunk),
            "reference": kernels.clip_reference,
            "lean": lean_clip,
        },
        "siglip": {
            "chunked": lambda *args: kernels.siglip(*args, chunk),
            "reference": kernels.siglip_reference,
            "lean": lean_siglip,
        },
    }


def inputs(loss: str, pairs: int, width: int) -> tuple:
    import jax.numpy as jnp
    import numpy as np

    from minidiff.contrastive import normalize

    image, other = np.random.default_rng(0).normal(size=(2, pairs, width)).astype("float32")
    image, text = normalize(jnp.asarray(image)), normalize(jnp.asarray(image + other))
    return (SCALE * image, text) if loss == "clip" else (SCALE * image, text, jnp.float32(BIAS))


def compare(functions: dict, args: tuple, turns: int) -> dict:
    """Compile all, hold all to the reference, then let them take turns."""
    import jax
    import numpy as np

    wanted = tuple(range(len(args)))
    programs = {
        name: jax.jit(jax.value_and_grad(function, wanted)).lower(*args).compile()
        for name, function in functions.items()
    }
    expected = jax.tree.map(np.asarray, programs["reference"](*args))
    for name, program in programs.items():
        for a, b in zip(jax.tree.leaves(program(*args)), jax.tree.leaves(expected), strict=True):
            error = np.abs(np.asarray(a) - b).max() / np.abs(b).max()
            if not error < TOLERANCE:  # nor if it is not a number
                sys.exit(f"{name}: differs from the reference by {error:.1e}, so it is not timed")

    seconds = {name: [] for name in programs}
    for _ in range(turns):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*args))
            seconds[name].append(time.perf_counter() - start)
    rows = {}
    for name, program in programs.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds["chunked"], strict=True)]
        rows[name] = {
            "memory_bytes": program.memory_analysis().temp_size_in_bytes,
            "turns_s": seconds[name],
            "min_s": min(seconds[name]),
            "quartiles_s": statistics.quantiles(seconds[name], n=4),
            "ratio_quartiles": statistics.quantiles(ratios, n=4),
            "ratio_of_minima": min(seconds[name]) / min(seconds["chunked"]),
        }
    return rows


def table(rows: dict[str, dict[str, dict]]) -> str:
    """A Markdown table; a ratio above 1 means slower, or more memory, than ours."""
    lines = [
        "| loss, N | | s, median | minimum | ratio to ours (quartiles) | of minima "
        "| memory, MiB | ratio to ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, contenders in rows.items():
        ours = contenders["chunked"]["memory_bytes"]
        for name, row in contenders.items():
            low, middle, high = row["ratio_quartiles"]
            lines.append(
                f"| {case} | {name} | {row['quartiles_s'][1]:.4f} | {row['min_s']:.4f} "
                f"| {middle:.2f} ({low:.2f} to {high:.2f}) | {row['ratio_of_minima']:.2f} "
                f"| {row['memory_bytes'] / 2**20:.1f} | {row['memory_bytes'] / ours:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    args = arguments()
    if args.cores:  # before JAX counts the cores that it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.cores :])
    import minidiff
    from minidiff.kernels.contrastive import CHUNK

    chunk = args.chunk or CHUNK
    rows = {
        f"{loss}, {pairs}": compare(functions, inputs(loss, pairs, args.width), args.turns)
        for loss, functions in contenders(chunk).items()
        for pairs in args.sizes
    }
    machine = minidiff.runtime.describe()
    del machine["cache_dir"], machine["cache_bytes"]
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python benchmarks/bench_contrastive.py", *sys.argv[1:]]),
        "width": args.width,
        "chunk": chunk,
        "cores": machine["cpu_count"],
        "machine": machine,
        "contenders": rows,
    }
    print(f"{machine['cpu']}, {result['cores']} cores; width {args.width}, chunk {chunk}")
    print(table(rows))
    key = f"contrastive_width_{args.width}_{result['cores']}_cores"
    print(f"wrote {save(args.out, key, machine, result)}")


if __name__ == "__main__":
    main()
