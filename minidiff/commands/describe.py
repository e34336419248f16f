"""Show what a U-Net is made of: a table of its blocks."""

import argparse

from minidiff.commands import _found


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which network."""
    parser.add_argument("layout", choices=_found.layouts())


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    from minidiff import layouts

    print(layouts.table(layouts.LAYOUTS[args.layout], layouts.SIDES[args.layout]))
