"""What the scripts with contestants in one process share: command line, ceiling, table and JSON.

A script gives cases (``contest.py`` says what they are, how they are timed, what a row holds) to
``main``. If one disagrees with its reference the script ends with status 1.
"""

import argparse
import datetime
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
from contest import (
    Case,
    Contestant,
    Disagrees,
    carrying,
    compare,
    compiled,
    normal,
    on_accelerator,
    turn,
    twins,
)
from turns import Parser, at_least, peak_rss, pin, save

from minidiff import runtime
from minidiff.measure import results

__all__ = [
    "Case",
    "Contestant",
    "carrying",
    "compiled",
    "main",
    "normal",
    "on_accelerator",
    "twins",
]

TURNS, QUICK_TURNS = 15, 5
CEILING_SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


def ceiling(dtype: str) -> float:
    """GFLOP/s of a large matrix product, the best of several."""
    side = CEILING_SIDE[jax.default_backend()]
    a = normal(0, side, side, dtype=dtype)
    product = compiled(jnp.matmul, a, a)
    return 2 * side**3 / min(turn(product, 1) for _ in range(8)) / 1e9


def arguments(doc: str, options: Callable[[Parser], None] | None = None) -> argparse.Namespace:
    """The command line that all scripts share; ``options`` adds a script's own."""
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases and turns")
    parser.add_argument("--turns", type=at_least(2), help="turns each contestant takes")
    parser.add_argument("--cores", type=at_least(1), help="cores to use (Linux); default: all")
    parser.add_argument("--out", type=Path, help="JSON to write or add to; see README.md")
    if options:
        options(parser)
    args = parser.parse_args()
    args.turns = args.turns or (QUICK_TURNS if args.quick else TURNS)
    if args.cores and not hasattr(os, "sched_setaffinity"):
        parser.error("--cores works on Linux only")
    if args.out and not args.out.parent.is_dir():
        parser.error(f"--out: there is no folder {args.out.parent}")
    pin(args.cores)
    return args


def main(
    name: str,
    doc: str,
    cases: Callable[[argparse.Namespace], Iterable[Case]],
    options: Callable[[Parser], None] | None = None,
    before: Callable[[argparse.Namespace], None] = lambda args: None,
) -> None:
    """Run a script's cases, print their table, write the JSON. Exit status 1 if any disagrees.

    ``options`` adds to the command line; ``before`` is called before JAX's backend starts.
    """
    args = arguments(doc, options)
    before(args)
    jax.config.update("jax_enable_compilation_cache", False)
    machine = runtime.describe()
    del machine["cache_dir"], machine["cache_bytes"]
    dtypes = ("float32", "bfloat16") if on_accelerator() else ("float32",)
    ceilings = {dtype: ceiling(dtype) for dtype in dtypes}
    found, wrong = {}, False
    for case in cases(args):
        try:
            found |= compare(case, args.turns, ceilings)
        except Disagrees as error:
            print(f"{name}: {error}", file=sys.stderr)
            wrong = True
    told = ", ".join(f"{dtype} {value:.0f} GFLOP/s" for dtype, value in ceilings.items())
    print(f"{results.named(machine)}; ceiling: {told}")
    print(results.report({"contenders": found}))
    if found:
        result = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command(name, sys.argv[1:]),
            "title": doc.strip().splitlines()[0],
            "cores": machine["cpu_count"],
            "machine": machine,
            "ceiling_gflops": ceilings,
            "peak_bytes": peak_bytes(),
            "contenders": found,
        }
        where = jax.default_backend() if on_accelerator() else f"{machine['cpu_count']}_cores"
        key = f"{name}{'_quick' * args.quick}_{where}"
        print(f"wrote {save(args.out, key, machine, result)}")
    sys.exit(1 if wrong else 0)


def command(name: str, words: list[str]) -> str:
    """How to repeat it; where somebody wrote the result tells others nothing."""
    told = " ".join([f"python benchmarks/bench_{name}.py", *words])
    return re.sub(r" --out[ =]\S+", "", told)


def peak_bytes() -> int | None:
    """The most memory that the whole run held: the device's, or this process's; None if unknown."""
    held = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return held if held or on_accelerator() else peak_rss()
