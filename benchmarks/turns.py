r"""Contenders that take turns: what every benchmark with a peer from another framework shares.

A contender is a process of its own, since JAX's and PyTorch's thread pools would compete in one. It
answers one line of JSON about itself after its warm-up, then one for every turn.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

WARM_UP = 8  # steps that also show that the loss falls
NO_CACHE = {"MINIDIFF_CACHE": "0", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}


def work(build: Callable[[], tuple[Callable[[int], float], dict]], cores: int | None) -> None:
    """A contender's process. ``build()`` gives (take, facts); take(k) does k steps -> the loss."""
    if cores:  # before a framework counts the cores that it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    take, facts = build()
    start = time.perf_counter()
    losses = [take(1)]
    facts["first_step_s"] = time.perf_counter() - start
    facts["losses"] = losses + [take(1) for _ in range(WARM_UP - 1)]
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        steps = int(line)
        start = time.perf_counter()
        take(steps)
        print(json.dumps((time.perf_counter() - start) / steps), file=answers, flush=True)


class Contender:
    """The other end of ``work``: a process, and the seconds per step of each of its turns."""

    def __init__(self, name: str, command: Sequence[str]):
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | NO_CACHE,  # the first step shall show what compilation costs
        )
        self.name, self.seconds = name, []
        self.facts = self.answer()
        losses = self.facts["losses"]
        if not losses[-1] < losses[0]:  # nor if one is not a number
            sys.exit(f"{name}: the loss does not fall, so it is not timed: {losses}")

    def answer(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else sys.exit(f"{self.name}: stopped early")

    def turn(self, steps: int) -> None:
        print(steps, file=self.process.stdin, flush=True)
        self.seconds.append(self.answer())

    def report(self, ours: "Contender") -> dict:
        """Facts, times and ratios to ours; a ratio above 1 means slower than ours."""
        ratios = [a / b for a, b in zip(self.seconds, ours.seconds, strict=True)]
        return {
            **self.facts,
            "turns_s": self.seconds,
            "min_s": min(self.seconds),
            "quartiles_s": statistics.quantiles(self.seconds, n=4),
            "ratio_quartiles": statistics.quantiles(ratios, n=4),
            "ratio_of_minima": min(self.seconds) / min(ours.seconds),
        }


def table(rows: dict[str, dict]) -> str:
    """The contenders' reports as a Markdown table."""
    lines = [
        "| | s/step, median | minimum | first step | ratio to ours (quartiles) | of minima |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        low, middle, high = row["ratio_quartiles"]
        lines.append(
            f"| {name} | {row['quartiles_s'][1]:.3f} | {row['min_s']:.3f} "
            f"| {row['first_step_s']:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) "
            f"| {row['ratio_of_minima']:.2f} |"
        )
    return "\n".join(lines)


def save(out: Path | None, key: str, machine: dict, result: dict) -> Path:
    """Put the result under its key in the machine's file, beside those of other benchmarks."""
    slug = re.sub(r"\W+", "-", f"{machine['cpu']} {os.cpu_count()} cores".lower())
    out = out or Path(__file__).parent / "results" / f"{slug}.json"
    out.parent.mkdir(exist_ok=True)
    results = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps(results | {key: result}, indent=1) + "\n")
    return out


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")  # one line, without the usage


def at_least(lowest: int) -> Callable[[str], int]:
    """An argparse type."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {lowest}")
        return int(text)

    return convert
