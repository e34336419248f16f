"""The options of every benchmark with peers from another framework, and where the peers are found."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from turns import Parser, at_least

QUICK_TURNS = 3


def parser(doc: str, peers: Iterable[str], turns: int, steps: int, unit: str) -> Parser:
    """The options that every comparison with peers has."""
    made = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, whole = made.add_argument, at_least(1)
    add("--turns", type=at_least(2), help=f"turns each contender takes; default: {turns}")
    add("--steps", type=whole, help=f"{unit} in a turn; default: {steps}")
    add("--quick", action="store_true", help="few and short turns: does it run at all?")
    add("--cores", type=whole, help="cores to use (Linux); default: all")
    add("--peers", nargs="*", choices=(*peers, "all"), help="none named: ours alone")
    add("--peers-python", help="interpreter with the peers; default: MINIDIFF_PEERS, or this one")
    add("--out", type=Path, help="JSON to write or add to; see README.md")
    for hidden in ("--worker", "--device"):
        add(hidden, help=argparse.SUPPRESS)
    add("--weights", type=Path, help=argparse.SUPPRESS)
    made.set_defaults(usual={"turns": turns, "steps": steps})
    return made


def settle(
    parser: Parser, args: argparse.Namespace, needs: dict[str, Sequence[str]], usual: Sequence[str]
) -> None:
    """Check the options, and fill in the defaults.

    ``needs``: peer -> the modules that its interpreter must have. ``usual``: the peers that are
    taken when none are named. Peers whose modules are missing are left out, or refused if named; so
    is an interpreter that was named and has none of them.
    """
    if args.worker:
        return
    if args.cores:
        if not hasattr(os, "sched_setaffinity"):
            parser.error("--cores works on Linux only")
        if args.cores > (here := len(os.sched_getaffinity(0))):
            parser.error(f"--cores {args.cores}: this process may use {here}")
    if args.out:
        check_out(parser, args.out)
    args.turns = args.turns or (QUICK_TURNS if args.quick else args.usual["turns"])
    args.steps = args.steps or (1 if args.quick else args.usual["steps"])
    python = args.peers_python or os.environ.get("MINIDIFF_PEERS")
    named = bool(args.peers) and "all" not in args.peers
    peers = list(usual if args.peers is None else needs if "all" in args.peers else args.peers)
    args.peers, args.peers_python = [], python or sys.executable
    modules = sorted({module for peer in peers for module in needs[peer]})
    lacking = missing(parser, args.peers_python, modules) if peers else set()
    for peer in dict.fromkeys(peers):
        if lack := lacking.intersection(needs[peer]):
            if not named:
                continue
            parser.error(f"{peer} needs {' and '.join(sorted(lack))}, not in {args.peers_python}")
        args.peers.append(peer)
    names = " and ".join(sorted(lacking))
    if peers and not args.peers and python:
        parser.error(f"{python} has no peers: {names} not installed there")
    if lacking:
        rest = "leaving out what needs it" if args.peers else "timing ours alone"
        print(f"{names} not installed in {'that' if python else 'this'} Python: {rest}", flush=True)


def check_out(parser: Parser, out: Path) -> None:
    """Complain now, not after the work."""
    if not out.parent.is_dir():
        parser.error(f"--out: there is no folder {out.parent}")
    try:
        if out.exists() and not isinstance(json.loads(out.read_text()), dict):
            raise ValueError
    except (OSError, ValueError):
        parser.error(f"--out: {out} holds no results of benchmarks")


def missing(parser: Parser, python: str, modules: Sequence[str]) -> set[str]:
    """Those of the modules that an interpreter does not find."""
    code = "import sys; from importlib.util import find_spec as f; "
    code += "print(*[m for m in sys.argv[1:] if not f(m)])"
    try:
        answer = subprocess.run(
            [python, "-c", code, *modules], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        parser.error(f"--peers-python: {python} is no Python that runs")
    return set(answer.stdout.split())
