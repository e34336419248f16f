"""Rebuild the notebooks from their sources, executed, with their figures:

    python lessons/build.py              all of them, at the preset cpu
    python lessons/build.py 07 09        these
    python lessons/build.py --check      build nothing: say what is wrong with those that are there

lessons/src/NN_name.py is what is edited (jupytext's py:percent format); lessons/NN_name.ipynb is what is
read. What each took is written to lessons/measured.json: run this on a machine that does nothing else.
"""

import argparse
import base64
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from minidiff.lesson import PRESET
from minidiff.measure.speed import speed_probe
from minidiff.plot.show import LOG, MOST_BYTES

HERE = Path(__file__).parent
MEASURED = HERE / "measured.json"
MOST_IN_ALL = 8_000_000  # bytes of all notebooks
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# Of a person's disk, or of the interpreter that ran it.
PRIVATE = re.compile(r"(?<![\w.:/])/(home|root|Users|tmp|private|var|usr|opt|work|mnt)/|[A-Z]:\\\\")


def from_source(source: Path) -> nbformat.NotebookNode:
    """The notebook of a source, not run: the same cells, ids and metadata every time."""
    notebook = jupytext.read(source, fmt="py:percent")
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"{source.stem[:2]}-{i:02d}", nbformat.NotebookNode()
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def build(source: Path) -> tuple[nbformat.NotebookNode, dict]:
    """The executed notebook, and how many seconds it and its first figure took.

    It runs in an empty folder, and compiles everything afresh. nbclient's CellExecutionError if a
    cell raises.
    """
    notebook = from_source(source)
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log.jsonl"
        environment = {**os.environ, PRESET: "cpu", LOG: str(log)}
        environment["JAX_COMPILATION_CACHE_DIR"] = str(Path(scratch) / "cache")
        client = NotebookClient(
            notebook, timeout=1800, kernel_name="python3", record_timing=False,
            resources={"metadata": {"path": scratch}},
        )  # fmt: skip
        began = time.time()
        client.execute(env=environment)
        seconds = time.time() - began
        events = [json.loads(line) for line in log.read_text().splitlines()]
    first = next(event["time"] for event in events if event["event"] == "figure")
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode()
    notebook.metadata["language_info"] = {"name": "python"}
    took = {"seconds": round(seconds, 1), "first_figure": round(first - began, 1)}
    return nbformat.from_dict(notebook), took


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Of all its cells."""
    return [out for cell in notebook.cells for out in cell.get("outputs", [])]


def text_of(output: nbformat.NotebookNode) -> str:
    """What is to be read in an output, pictures left out."""
    if output.output_type == "stream":
        return output.text
    texts = {kind: data for kind, data in output.get("data", {}).items() if "image" not in kind}
    return "\n".join(map(str, [*texts.values(), *output.get("traceback", [])]))


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    """The figures, PNG."""
    found = [out.get("data", {}).get("image/png") for out in outputs(notebook)]
    return [base64.b64decode(data) for data in found if data]


def faults(notebook: nbformat.NotebookNode, source: Path) -> list[str]:
    """What is wrong with a committed notebook, a phrase each."""
    fresh, name = from_source(source), f"{source.stem}.ipynb"
    found = []
    cells = [[(c.id, c.cell_type, c.source) for c in of.cells] for of in (notebook, fresh)]
    if cells[0] != cells[1]:
        found.append(f"{name}: its cells differ from {source.name}: run lessons/build.py")
    if notebook.metadata != fresh.metadata or any(cell.metadata for cell in notebook.cells):
        found.append(f"{name}: it has other metadata than lessons/build.py writes")
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        found.append(f"{name}: its cells were not all run once, in order")
    for out in outputs(notebook):
        if out.output_type == "error":
            found.append(f"{name}: a cell ends in {out.ename}")
        if out.get("name") == "stderr":
            found.append(f"{name}: a cell writes to stderr: {out.text[:80]!r}")
        if any("widget" in kind or "javascript" in kind for kind in out.get("data", {})):
            found.append(f"{name}: an output holds a widget")
        if PRIVATE.search(text_of(out)):
            place = PRIVATE.search(text_of(out))[0]
            found.append(f"{name}: an output names a path of one machine ({place})")
    figures = pictures(notebook)
    if not figures:
        found.append(f"{name}: it shows no figure")
    found += [
        f"{name}: a figure of {len(figure)} bytes is more than {MOST_BYTES}"
        for figure in figures
        if len(figure) > MOST_BYTES
    ]
    return found


def check(sources: list[Path]) -> list[str]:
    """What is wrong with the notebooks of these sources."""
    found, total = [], 0
    for source in sources:
        path = HERE / f"{source.stem}.ipynb"
        if not path.exists():
            found.append(f"{path.name} is missing: run lessons/build.py")
            continue
        total += path.stat().st_size
        found += faults(nbformat.read(path, as_version=4), source)
    if total > MOST_IN_ALL:
        found.append(f"the notebooks take {total} bytes, more than {MOST_IN_ALL}")
    return found


def write(notebook: nbformat.NotebookNode, took: dict, source: Path, gflops: float) -> None:
    """The notebook and what it took."""
    nbformat.validate(notebook)
    nbformat.write(notebook, HERE / f"{source.stem}.ipynb")
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {"lessons": {}}
    measured["gflops"] = round(gflops)
    measured["lessons"][source.stem] = took
    measured["lessons"] = dict(sorted(measured["lessons"].items()))
    MEASURED.write_text(json.dumps(measured, indent=2) + "\n")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="of lessons; default: all")
    parser.add_argument("--check", action="store_true", help="only say what is wrong")
    args = parser.parse_args()
    sources = [
        source
        for source in sorted((HERE / "src").glob("*.py"))
        if not args.numbers or source.stem[:2] in args.numbers
    ]
    if not args.check:
        gflops = speed_probe()
        for source in sources:
            notebook, took = build(source)
            write(notebook, took, source, gflops)
            print(f"{source.stem}: {took['seconds']} s, first figure {took['first_figure']} s")
    found = check(sources)
    print("\n".join(found) or "nothing is wrong")
    return len(found) > 0


if __name__ == "__main__":
    sys.exit(main())
