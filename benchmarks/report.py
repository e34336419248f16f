r"""Write benchmarks/README.md anew from results/*.json and NOTES.md, with a chart for each machine.

    python benchmarks/report.py

NOTES.md holds what a person has to say about the numbers; it is taken over as it is.
"""

import json
import re
from pathlib import Path

import quality
from matplotlib.figure import Figure

from minidiff.measure import results as measured

FOLDER = Path(__file__).parent
MOST_BARS = 60  # in a chart a person can read
METHOD = """\
# Benchmarks

<!-- Written by benchmarks/report.py. Edit NOTES.md or run a benchmark instead. -->

    minidiff bench                      # all of them, short, in less than ten minutes on two cores
    minidiff bench conv attention       # these, in full
    minidiff bench --compare OLD.json   # and what changed since
    python benchmarks/bench_conv.py     # one of them, with options of its own: see --help
    python benchmarks/report.py         # this page, from results/*.json

How they measure:

- **A gate first.** Contestants of one operation must agree with the reference in value and gradients,
  networks of two frameworks in their parameters and in what they answer. One that does not is not
  timed, and the script ends with status 1.
- **Taking turns.** All contestants are ready before the first is timed; then they take turns, so that
  what else the machine does falls on all. What runs in PyTorch or is a process by nature has a process
  of its own (`turns.py`); the others share one (`contest.py`), in turns of at least 20 ms.
- **Medians, with quartiles** over the turns. Compilation is timed apart, without any cache.
- **A ratio is a contestant's time divided by ours in the same turn**, then the median. Above 1 it takes
  longer than ours, below 1 it is faster.
- **Memory** is XLA's own count of what a program needs beside its arguments and results, or the peak of
  a process where the contestants are processes.
- **GFLOP/s** come from a formula, so that a twin which saves operations may pass its ceiling. The
  **ceiling** is the fastest large matrix product in the same run.

Results of different machines say nothing about the software: `minidiff bench --compare` refuses them
unless `--across-machines` is given. Times of different runs share no turns; a ratio within one run is
worth more than a quotient of two runs.

For PyTorch, diffusers, transformers and open_clip make an environment of their own
(`pip install -e ".[bench]"`, the CPU build of PyTorch first if there is no GPU), and name it:
`minidiff bench --peers PYTHON`.
"""


QUALITY = """\
`python benchmarks/quality.py NAME`: quickstart from the start of its process to its last picture, with an
empty compile cache, each row one run. Then the judge looks at 1,024 samples for test captions (guidance 3,
25 steps of DDIM); the shares have a standard error of 1.5% at most."""


def chart(results: dict[str, dict], name: str) -> Figure:
    """A bar for each contestant but ours: its ratio to ours, quartiles as whiskers, a line at 1."""
    bars = []
    for key, result in results.items():
        found = list(measured.rows(result))
        both = {case for case, _, _ in found if case.endswith("forward + backward")}
        for case, contender, row in found:
            twice = case.endswith(", forward") and f"{case} + backward" in both
            if contender != "ours" and not twice:  # forward is in the tables
                label = ", ".join(filter(None, [_words(key), case.split(", forward")[0]]))
                bars.append((f"{label}: {contender}", row["ratio_quartiles"], _colour(contender)))
    if len(bars) > MOST_BARS:
        name += f" (the first {MOST_BARS} of {len(bars)}; all are in the tables)"
        bars = bars[:MOST_BARS]
    figure = Figure(figsize=(10, 1.2 + 0.22 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, (low, middle, high), colour) in enumerate(bars):
        axes.barh(place, middle - 1, left=1, color=colour, height=0.7)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
        axes.text(max(high, 1) * 1.03, place, f"{middle:.2f}", va="center", fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.1)
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("time / ours; right of the line: slower than ours")
    axes.set_title(name, fontsize=9)
    return figure


def _colour(contender: str) -> str:
    return "tab:gray" if contender == "reference" else "tab:blue"


def _words(key: str) -> str:
    """A key as words, without the number of cores."""
    return re.sub(r"_(\d+_cores|gpu|tpu)$", "", key).replace("_", " ")


def section(key: str, result: dict) -> str:
    """One benchmark of one machine: what it is, its command, conditions, table."""
    machine = result["machine"]
    told = [result["date"][:10], f"{result['cores']} cores"]
    told += [f"{name} {machine[name]}" for name in ("jax", "jaxlib", "flax") if name in machine]
    peers = {
        f"{name} {row[name]}"
        for _, _, row in measured.rows(result)
        for name in ("torch", "diffusers", "transformers", "open_clip")
        if isinstance(row.get(name), str)
    }
    told += sorted(peers)
    ceilings = result.get("ceiling_gflops", {})
    told += [f"ceiling {dtype} {value:.0f} GFLOP/s" for dtype, value in ceilings.items()]
    heading = f"### {_words(key).capitalize()}"
    parts = [heading, result.get("title", ""), f"`{result['command']}`", ", ".join(told) + "."]
    return "\n\n".join([*filter(None, parts), measured.report(result)])


def write(folder: Path = FOLDER) -> Path:
    """README.md and results/*.png, from results/*.json and NOTES.md."""
    parts = [METHOD.rstrip()]
    notes = folder / "NOTES.md"
    if notes.exists():
        parts.append(notes.read_text(encoding="utf-8").strip())
    for path in sorted((folder / "results").glob("*.json")):
        results = dict(sorted(measured.read(path).items()))
        if not results:
            continue
        widest = max((r["machine"] for r in results.values()), key=lambda m: m["cpu_count"])
        name = measured.named(widest)
        picture = path.with_suffix(".png")
        chart(results, name).savefig(picture, dpi=100, metadata={"Software": None})
        parts += [f"## {name}", f"![time / ours](results/{picture.name})"]
        parts += [section(key, result) for key, result in results.items()]
        rows = folder / "results" / "quality" / path.name
        if rows.exists():
            table = quality.table(json.loads(rows.read_text(encoding="utf-8")))
            parts += ["### Quality against seconds", QUALITY, table]
    readme = folder / "README.md"
    readme.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return readme


if __name__ == "__main__":
    print(f"wrote {write()}")
