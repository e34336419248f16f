"""Grade the exercises of students' notebooks.

Run students' notebooks, each in a process and an empty folder of its own, with limits, and judge their
exercises here. For people you know: it is no prison.
"""

import argparse
import os
import sys

from minidiff.commands import lessons
from minidiff.commands._arguments import number, place, seed


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which notebooks, how to tell of them, within which limits."""
    parser.add_argument("files", nargs="+", metavar="NOTEBOOK", help=".ipynb or .py, or folders")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, for a program")
    form.add_argument("--junit", action="store_true", help="as test results, in XML")
    form.add_argument("--csv", action="store_true", help="points, for a spreadsheet")
    parser.add_argument(
        "--feedback", type=place, metavar="FOLDER", help="write a file there for each student"
    )
    parser.add_argument("--jobs", type=number(int, 1, 64), default=1, metavar="N", help="at a time")
    parser.add_argument(
        "--fail-under", type=number(float, 0, 100), default=0, metavar="PERCENT",
        help="exit status 1 if a notebook has fewer exercises right",
    )  # fmt: skip
    parser.add_argument("--seed", type=seed, default=0, help="draw the arguments anew; 0: as ever")
    parser.add_argument(
        "--out", type=place, metavar="FILE", help="write it there instead of printing it"
    )
    parser.add_argument(
        "--lesson", metavar="NN", help="whose exercises are due; default: the notebook tells"
    )
    parser.add_argument(
        "--cell-seconds", type=number(float, 1, 86_400), default=60, metavar="N",
        help="that a cell may run; the calls for an exercise a third; default: 60",
    )  # fmt: skip
    parser.add_argument(
        "--memory", type=number(float, 0.1, 1024), default=4, metavar="GIB",
        help="that a notebook may take; default: 4",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Grade them and print, or write, the verdicts."""
    if "jax" not in sys.modules:  # judge where the student's process runs: on the CPU
        os.environ["JAX_PLATFORMS"] = "cpu"
    from minidiff.grading import report

    report.run(args, lessons.find(args.lesson).stem.partition("_")[2] if args.lesson else "")
