"""Train and sample a diffusion model in five minutes."""

import argparse

from minidiff.commands import _found
from minidiff.commands._arguments import place


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, and how large."""
    parser.add_argument(
        "--out", type=place, default="quickstart", help="folder for its pictures and report"
    )
    parser.add_argument(
        "--preset", default="cpu", choices=_found.presets("text_to_image"), help="default: cpu"
    )


def run(args: argparse.Namespace) -> None:
    """The whole story."""
    from minidiff.commands import _quickstart

    _quickstart.run(args.out, args.preset)
