"""Look at a source: contact sheet, numbers, problems."""

import argparse

from minidiff.commands._arguments import count, number, place, png
from minidiff.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which source, and how much of it."""
    parser.add_argument("source", help="scenes, digits, [stream:]tfds:NAME or folder:PATH")
    parser.add_argument("--split", default="train")
    parser.add_argument("--size", type=count, help="pixels on a side")
    parser.add_argument(
        "--count", type=number(int, 1, 1024), default=32, help="images on the sheet"
    )
    parser.add_argument(
        "--out", type=place, default="data.png", help="the sheet; default: data.png"
    )
    parser.add_argument(
        "--write", type=place, metavar="DIR",
        help="instead, prepare a TFDS data set (array_record) in DIR",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Draw the sheet and print what was understood; or prepare a data set."""
    if args.write:
        from minidiff.data.builders import prepare

        print(f"prepared in {prepare(_tfds_name(args.source), args.write)}")
        return
    out = png(args.out)
    import numpy as np

    from minidiff import plot
    from minidiff.data.describe import describe
    from minidiff.data.sources import open_source

    source = open_source(args.source, split=args.split, size=args.size, batch_size=args.count)
    report = describe(source)
    batch = source.batch(0)
    captions = source.captions(batch)
    title = f"{args.source}, {args.split}"
    plot.save(plot.contact_sheet(np.asarray(batch["image"]), captions, title), out)
    for name, value in report.items():
        if name != "problems":
            print(f"{name}: {value if value is not None else 'endless'}")
    for problem in report["problems"] or ["none found"]:
        print(f"problem: {problem}")
    print(f"contact sheet: {out}")


def _tfds_name(source: str) -> str:
    if source == "scenes":
        return "minidiff_scenes"
    if source.startswith("tfds:"):
        return source.removeprefix("tfds:")
    raise InputError(f"--write prepares scenes or tfds:NAME, not {source!r}")
