r"""Starting up: whole processes, from an import to the first training step.

    python benchmarks/bench_start.py [--quick] [--turns N] [--cores C] [--out FILE]

- importing minidiff (ours) beside a Python that does nothing, importing JAX, ``minidiff --help``;
- the first training step of the recipe ``ddpm`` with the compile cache that another process filled
  (ours) beside an empty one; the cache is in a temporary folder.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
import numpy as np

IMPORTS = {
    "ours": ["-c", "import minidiff"],
    "python alone": ["-c", "pass"],
    "minidiff --help": ["-m", "minidiff", "--help"],
    "import jax": ["-c", "import jax"],
}
FIRST_STEP = """
import sys, bench_dispatch, jax, numpy
step = bench_dispatch.stepper(bench_dispatch.settings(sys.argv[1]), 1, 1)
moments = jax.tree.leaves(step.call().opt_state)
print(sum(float(numpy.abs(x).sum()) for x in moments))
"""
FIRST_STEP_TURNS, QUICK = 3, 2


def run(arguments: list[str], cache: str | None = None) -> str:
    """A Python process to its end: what it printed. Leaves, with one line, if it fails."""
    environment = os.environ | {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # this process holds most of a GPU
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        **({"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}),
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parent,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else sys.exit(f"start: {arguments[1]} failed")


def contestant(arguments: list[str], cache=lambda: None, answer=lambda printed: None):
    """A process to be timed; ``cache()`` says where its compile cache is."""
    return harness.Contestant(lambda: answer(run(arguments, cache())), repeats=1)


def cases(args):
    yield harness.Case(
        "import",
        {name: contestant(arguments) for name, arguments in IMPORTS.items()},
        reference="ours",
    )
    network = "tiny" if args.quick else "cpu"
    with tempfile.TemporaryDirectory() as folder:

        def last_number(printed):
            return np.float32(printed.split()[-1])

        step = ["-c", FIRST_STEP, network]
        yield harness.Case(
            f"first training step, {network} U-Net",
            {
                "ours": contestant(step, lambda: folder, last_number),
                "empty cache": contestant(step, lambda: tempfile.mkdtemp(dir=folder), last_number),
            },
            reference="empty cache",
            turns=QUICK if args.quick else FIRST_STEP_TURNS,
        )


if __name__ == "__main__":
    harness.main("start", __doc__, cases)
