r"""Quality by the judge against wall seconds: quickstart, as it is or with other settings.

    python benchmarks/quality.py "as it is" --out quality.json
    python benchmarks/quality.py "10 steps of dpm++" --draw sampler=dpm++ sample_steps=10 --out quality.json
    python benchmarks/quality.py "last year's" --checkout ../older --out quality.json

Each run is a process of its own with an empty compile cache, timed from its start to its last picture;
only then the judge looks at more samples than quickstart's own report has. A row a run is added to --out.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNT = 1024  # judged samples: the shares below have a standard error of 1.5% at most
SHOWN = ("subject", "colour", "accessory", "position", "all")


def measure(folder: Path, clip: dict, draw: dict) -> dict:
    """Run quickstart in ``folder`` with these settings changed, and judge what it trained."""
    began = time.monotonic()
    from minidiff.commands import _quickstart as quickstart

    quickstart.SHORTER_CLIP["cpu"] |= clip
    quickstart.SHORTER["cpu"] |= draw
    quickstart.run(folder)
    seconds = time.monotonic() - began
    from minidiff.measure import compare
    from minidiff.recipes import text_to_image

    report = json.loads((folder / "report.json").read_text())
    model = text_to_image.load(folder / "text_to_image")
    prompts = compare.captions("scenes", 1, "test", model.image_shape[0], COUNT)
    judged = compare.Measure(model, prompts, 1)(sampler="ddim", steps=25)[1]
    zero_shot = report["clip"]["zero_shot"]["test"]
    return {
        "seconds": {**report["seconds"], "process": round(seconds, 1)},
        "training_seconds": {
            name: report[name]["training_seconds"] for name in ("clip", "text_to_image")
        },
        "judge": judged,
        "zero_shot": zero_shot,
    }


def child(args: argparse.Namespace) -> dict:
    """``measure`` in a new process, with an empty cache, from another checkout if one is named."""
    with tempfile.TemporaryDirectory() as scratch:
        here = {"XDG_CACHE_HOME": f"{scratch}/cache", "MPLBACKEND": "Agg"}
        if args.checkout:
            here["PYTHONPATH"] = str(Path(args.checkout).resolve())
        answer = Path(scratch, "answer.json")
        command = [sys.executable, __file__, args.name, "--answer", str(answer)]
        command += ["--folder", f"{scratch}/quickstart", "--clip", *args.clip, "--draw", *args.draw]
        kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        subprocess.run(command, env=kept | here, check=True)
        return json.loads(answer.read_text())


def settings(texts: list[str]) -> dict:
    """``field=value`` texts as a dict; values are Python's, or else strings."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    from minidiff.tables import markdown

    header, lines = ["what", "CLIP s", "diffusion s", "all s", *SHOWN, "zero-shot"], []
    for row in rows:
        took = row["seconds"]
        cells = [row["name"], *(f"{took[part]:.0f}" for part in ("clip", "text_to_image", "all"))]
        cells += [f"{100 * row['judge'][name]:.1f}%" for name in SHOWN]
        both = row["zero_shot"]
        cells.append(" / ".join(f"{100 * both[name]:.1f}%" for name in ("subject", "colour")))
        lines.append(cells)
    return markdown(header, lines, "<>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="what this run tries, for the table")
    parser.add_argument("--clip", nargs="*", default=[], metavar="field=value")
    parser.add_argument("--draw", nargs="*", default=[], metavar="field=value")
    parser.add_argument("--checkout", metavar="FOLDER", help="of another version of minidiff")
    parser.add_argument("--out", default="quality.json", help="JSON to add a row to")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer:
        found = measure(Path(args.folder), settings(args.clip), settings(args.draw))
        Path(args.answer).write_text(json.dumps(found))
        return
    out = Path(args.out)
    rows = json.loads(out.read_text()) if out.exists() else []
    tried = {"clip": args.clip, "draw": args.draw}
    rows.append({"name": args.name, **tried, **child(args)})
    out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
