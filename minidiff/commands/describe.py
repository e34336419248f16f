"""Show what a network is made of: a table of its blocks.

Of an autoencoder also what it saves a U-Net that diffuses in its latents.
"""

import argparse

from minidiff.commands import _found


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which network."""
    parser.add_argument("layout", choices=_found.layouts())


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    from minidiff import layouts, savings
    from minidiff.vae import VAEConfig

    config, side = layouts.LAYOUTS[args.layout], layouts.SIDES[args.layout]
    print(layouts.table(config, side))
    if isinstance(config, VAEConfig):
        print(f"\n{savings.table(config, side)}")
