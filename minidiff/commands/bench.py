"""Measure speed here, or compare it with an earlier result.

Run the benchmarks of the repository, each in a process of its own, and compare two results. Without
names all of them run, in short.
"""

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from minidiff import tables
from minidiff.commands._arguments import place
from minidiff.errors import InputError
from minidiff.files import check_output
from minidiff.measure import results

FOLDER = Path(__file__).parents[2] / "benchmarks"
WITH_PEERS = ("unet_step", "clip_step", "sampling")  # these take --peers-python


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which benchmarks, how long, where to write, what to compare with."""
    parser.add_argument(
        "names", nargs="*", default=[], metavar="NAME", help="default: all of them, in short"
    )
    parser.add_argument("--list", action="store_true", help="list the benchmarks and leave")
    parser.add_argument("--quick", action="store_true", help="named ones in short, too")
    parser.add_argument("--out", type=place, default="bench.json", help="JSON to write or add to")
    parser.add_argument(
        "--compare", type=place, metavar="OLD", help="an older JSON: print new / old afterwards"
    )
    parser.add_argument(
        "--with", type=place, dest="new", metavar="NEW", help="run nothing, compare OLD with NEW"
    )
    parser.add_argument("--across-machines", action="store_true", help="compare different machines")
    parser.add_argument(
        "--peers", type=place, metavar="PYTHON", help="interpreter that has torch, diffusers, ..."
    )


def scripts(folder: Path = FOLDER) -> dict[str, Path]:
    """Benchmarks by name. InputError where minidiff was installed without its repository."""
    found = {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}
    if not found:
        raise InputError(
            "the benchmarks are not here: clone minidiff, and install by `pip install -e .`"
        )
    return found


def title(script: Path) -> str:
    """The first line of a benchmark's docstring."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").split("\n")[0]


def _here() -> dict:
    """This machine, asked in a process of its own, so that no device is held while others run."""
    code = "import json, minidiff; print(json.dumps(minidiff.runtime.describe()))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(chosen: dict[str, Path], options: Sequence[str], peers: str | None, out: Path) -> dict:
    """Run benchmarks one after the other; their results, also added to the file ``out`` each.

    What they print is shown. SystemExit with status 1 at the end if one of them failed.
    """
    found, failed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, script in chosen.items():
            print(f"\n{name}: {title(script)}", flush=True)
            fresh = Path(folder) / f"{name}.json"
            command = [sys.executable, str(script), *options, "--out", str(fresh)]
            if peers and name in WITH_PEERS:
                command += ["--peers-python", peers]
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
            if fresh.exists():
                found |= results.read(fresh)
                known = results.read(out) if out.exists() else {}
                out.write_text(json.dumps(known | found, indent=1) + "\n", encoding="utf-8")
    print(f"\nwrote {out}" if found else "\nnothing was measured")
    if failed:
        print(f"minidiff: failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)
    return found


def run(args: argparse.Namespace, folder: Path = FOLDER) -> None:
    """The verb: list, run, compare. InputError about a name or a file before anything is run."""
    if args.new and not args.compare:
        raise InputError("--with NEW needs --compare OLD")
    old = results.read(args.compare) if args.compare else {}
    if args.new:
        print(results.compare(old, results.read(args.new), args.across_machines))
        return
    have = scripts(folder)
    for name in args.names:
        if name not in have:
            raise InputError(f"there is no benchmark {name!r}: choose from {', '.join(have)}")
    if args.list:
        print(tables.plain((name, title(path)) for name, path in have.items()))
        return
    out = Path(args.out)
    check_output("--out", out)
    if out.exists():
        results.read(out)
    if args.peers and not Path(args.peers).is_file():
        raise InputError(f"--peers {args.peers}: there is no such file; give a Python interpreter")
    if old and not args.across_machines:
        here = _here()
        if results.identity(here) not in {
            results.identity(result["machine"]) for result in old.values()
        }:
            raise InputError(results.different(next(iter(old.values()))["machine"], here))
    chosen = {name: have[name] for name in args.names or have}
    quick = ["--quick"] if args.quick or not args.names else []
    found = measure(chosen, quick, args.peers, out)
    if old:
        print("\n" + results.compare(old, found, args.across_machines))
