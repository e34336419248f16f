r"""Contenders that take turns: what every benchmark with a peer from another framework shares.

A contender is a process of its own, since JAX's and PyTorch's thread pools would compete in one. It
answers one line of JSON about itself after its warm-up, then one for every turn. Ours runs in the
interpreter that runs the script; the peers may have one of their own, which needs neither minidiff
nor JAX: this file, and what a script imports at its top, need NumPy alone.
"""

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

TOLERANCE = {"cpu": 1e-4, "gpu": 2e-2, "tpu": 2e-2}  # float32; bfloat16 has 8 bits
DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # JAX's name of a backend -> PyTorch's
CLEAN = {
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # the first step shall show what compilation costs
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the peers need memory on the same device
}


class Unlike(Exception):
    """A contender is not the network that ours is."""


def work(
    build: Callable[[], tuple[Callable[[int], float], dict]],
    cores: int | None,
    warm_up: int = 8,
    per_call: int = 1,
) -> None:
    """A contender's process. ``build()`` gives (take, facts); take(k) does k steps -> their value.

    Where a step of ``take`` is a call of several, ``per_call`` says of how many.

    The value is the last loss, or another number that must be finite. The facts hold "parameters"
    and perhaps "probe", a number that must be equal for all. Steps may add to them while warming up.
    """
    pin(cores)
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer

    def answer(what) -> None:
        print(json.dumps(what), file=answers, flush=True)

    try:
        take, facts = build()
    except Unlike as difference:
        return answer({"unlike": str(difference)})
    start = time.perf_counter()
    values = [take(1)]
    facts["first_step_s"] = time.perf_counter() - start
    facts["losses"] = values + [take(1) for _ in range(warm_up - 1)]
    answer(facts)
    ready = {1}
    for line in sys.stdin:
        steps = int(line)
        if steps not in ready:  # ours has a program for so many steps, compiled now
            take(steps)
            ready.add(steps)
        start = time.perf_counter()
        take(steps)
        seconds = (time.perf_counter() - start) / (steps * per_call)
        answer({"seconds": seconds, "peak": peak_rss(), "held": held_rss()})


def pin(cores: int | None) -> None:
    """Use the last so many cores: to be called before a framework counts them."""
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def peak_rss() -> int | None:
    """The most bytes of memory that this process has held; none where nobody tells (Windows)."""
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def held_rss() -> int | None:
    """The bytes of memory that this process holds now; none but on Linux."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * resource.getpagesize()


def carry_over(network, file: Path) -> None:
    """Give a PyTorch network the weights in a safetensors file. Unlike if they are not its own."""
    from safetensors.torch import load_file

    ours = load_file(file)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    if wanted != found:
        count = sum(tensor.numel() for tensor in ours.values())
        names = sorted(name for name, _ in wanted.items() ^ found.items())
        raise Unlike(
            f"{sum(w.numel() for w in network.parameters()):,} parameters, ours has {count:,}; "
            f"they differ in {names[0]} and {len(set(names)) - 1} more"
        )
    network.load_state_dict(ours)


class Contender:
    """The other end of ``work``: a process, and the seconds per step of each of its turns."""

    def __init__(self, name: str, command: Sequence[str]):
        self.name, self.seconds, self.held = name, [], []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | CLEAN,
        )
        line = self.process.stdout.readline()
        self.facts = json.loads(line) if line else None  # none: it could not start

    def turn(self, steps: int) -> None:
        print(steps, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name}: stopped early")
        answer = json.loads(line)
        self.seconds.append(answer["seconds"])
        self.held.append(answer["held"])
        self.facts["peak_rss_bytes"] = answer["peak"]

    def close(self) -> None:
        self.process.stdin.close()  # ends its loop over the lines
        self.process.stdout.close()
        self.process.wait()

    def report(self, ours: "Contender") -> dict:
        """Facts, times and ratios to ours; a ratio above 1 means slower than ours."""
        ratios = [a / b for a, b in zip(self.seconds, ours.seconds, strict=True)]
        row = {
            **self.facts,
            "turns_s": self.seconds,
            "held_bytes": self.held,
            "min_s": min(self.seconds),
            "quartiles_s": statistics.quantiles(self.seconds, n=4),
            "ratio_quartiles": statistics.quantiles(ratios, n=4),
            "ratio_of_minima": min(self.seconds) / min(ours.seconds),
        }
        if flops := ours.facts.get("flops_per_step"):  # the same for the same network
            row["gflops"] = flops / row["quartiles_s"][1] / 1e9
        return row


def refuse_unlike(contenders: Sequence[Contender], tolerance: float, falls: bool) -> None:
    """Leave unless all are the same network at the same weights, and their losses fall.

    ``tolerance`` is how much a probe may differ from ours, as a part of it. Without ``falls`` the
    values need only be finite.
    """
    for one in contenders:
        if "unlike" in one.facts:
            sys.exit(f"{one.name}: not the same network, so not timed: {one.facts['unlike']}")
    ours = contenders[0].facts
    counts = {one.name: one.facts["parameters"] for one in contenders}
    if len(set(counts.values())) > 1:
        sys.exit(f"not the same network, so not timed: parameters {counts}")
    for one in contenders:
        losses, probe = one.facts["losses"], one.facts.get("probe", 0.0)
        if not abs(probe - ours.get("probe", 0.0)) <= tolerance * abs(ours.get("probe", 0.0)):
            sys.exit(
                f"{one.name}: not the same network, so not timed: at the same weights it gives "
                f"{probe:.6g}, ours {ours['probe']:.6g}"
            )
        if falls and not losses[-1] < losses[0]:  # nor if one is not a number
            sys.exit(f"{one.name}: the loss does not fall, so it is not timed: {losses}")
        if not all(abs(loss) < float("inf") for loss in losses):
            sys.exit(f"{one.name}: not finite, so it is not timed: {losses}")


def compare(
    args: argparse.Namespace,
    script: str,
    key: str,
    options: Sequence[str],
    settings: dict,
    *,
    falls: bool = True,
    tolerance: float | None = None,
    accelerated: int = 1,
) -> dict:
    """Start ours and the peers, refuse unlike ones, let them take turns, print and save the result.

    ``options`` are the script's own, for its workers; ``settings`` are kept in the result. On an
    accelerator a turn has ``accelerated`` times as many steps. ``tolerance`` of their probes is the
    device's in TOLERANCE if none is given.
    """
    cores = ["--cores", str(args.cores)] if args.cores else []
    contenders, left_out = [], []
    with tempfile.TemporaryDirectory() as folder:
        common = [
            *options,
            *cores,
            "--weights",
            folder,
        ]  # where ours puts its weights for the peers
        for name in ("ours", *args.peers):
            python = args.peers_python if contenders else sys.executable
            one = Contender(name, [python, script, "--worker", name, *common])
            if one.facts:
                contenders.append(one)
            elif not contenders:
                sys.exit("ours: stopped early")
            else:
                left_out.append(name)
                print(f"{name}: could not start, so it is left out", flush=True)
                continue
            if name == "ours":
                machine = one.facts.pop("machine")
                backend = machine["backend"]
                common += ["--device", DEVICES.get(backend, backend)]
                if backend not in DEVICES and args.peers:
                    print(f"no peers on a {backend}: timing ours alone", flush=True)
                    break
    ours = contenders[0]
    if tolerance is None:
        tolerance = TOLERANCE.get(backend, TOLERANCE["gpu"])
    refuse_unlike(contenders, tolerance, falls)
    steps = args.steps * (1 if backend == "cpu" else accelerated)
    for _ in range(args.turns):
        for one in contenders:
            one.turn(steps)
    for one in contenders:
        one.close()

    words = [f"python benchmarks/{Path(script).name}", *sys.argv[1:]]  # paths tell others nothing
    cores = args.cores or machine["cpu_count"]
    where = f"{cores}_cores" if backend == "cpu" else backend
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": re.sub(r"(--(out|peers-python)[ =])\S+", r"\1...", " ".join(words)),
        **settings,
        "batch": ours.facts.get("batch", settings.get("batch")),  # larger on accelerators
        "cores": cores,
        "steps_per_turn": steps,
        "machine": machine,
        "contenders": {one.name: one.report(ours) for one in contenders},
    }
    place = machine["cpu"] if backend == "cpu" else machine["devices"][0]
    print(f"{key}: {place}, {cores} cores; {ours.facts['parameters']:,} parameters, {settings}")
    print(table(result["contenders"]))
    print(f"wrote {save(args.out, f'{key}_{where}', machine, result)}", flush=True)
    if left_out:
        sys.exit(f"left out: {', '.join(left_out)}")
    return result


def table(rows: dict[str, dict]) -> str:
    """The contenders' reports as a Markdown table."""
    from minidiff.tables import markdown  # not where PyTorch runs

    header = ("", "s/step, median (quartiles)", "minimum", "first step")
    header += ("ratio to ours (quartiles)", "of minima", "peak MiB", "GFLOP/s")
    lines = []
    for name, row in rows.items():
        low, middle, high = row["ratio_quartiles"]
        first, median, third = row["quartiles_s"]
        peak, gflops = row.get("peak_rss_bytes"), row.get("gflops")
        lines.append(
            [
                name,
                f"{median:.3g} ({first:.3g} to {third:.3g})",
                f"{row['min_s']:.3g}",
                f"{row['first_step_s']:.1f}",
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
                f"{row['ratio_of_minima']:.2f}",
                f"{round(peak / 2**20)}" if peak else "",
                f"{round(gflops)}" if gflops else "",
            ]
        )
    return markdown(header, lines, "<>")


def save(out: Path | None, key: str, machine: dict, result: dict) -> Path:
    """Put the result under its key in the machine's file, beside those of other benchmarks."""
    device = "" if machine.get("backend", "cpu") == "cpu" else f" {machine['devices'][0]}"
    slug = re.sub(r"\W+", "-", f"{machine['cpu']} {os.cpu_count()} cores{device}".lower())
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
