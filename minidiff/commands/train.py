"""Train a recipe.

Train a recipe in a folder; the same command again goes on where it stopped. Any field of the recipe
can be set by field=value; --fields lists them.
"""

import argparse

from minidiff.commands import _found
from minidiff.commands._arguments import count, number, place
from minidiff.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to train, on what, where, on how many devices."""
    parser.add_argument("recipe", choices=_found.recipes())
    parser.add_argument(
        "--preset", default="cpu", choices=_found.presets(), help="default: %(default)s"
    )
    parser.add_argument(
        "--data", type=place, help="scenes (default), digits, tfds:NAME or folder:PATH"
    )
    parser.add_argument("--out", type=place, help="folder of the run; default: runs/RECIPE")
    parser.add_argument("--fields", action="store_true", help="list the recipe's fields and leave")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    many = parser.add_argument_group("many devices", "see docs/scaling.md")
    many.add_argument(
        "--mesh", metavar="data=N,model=M",
        help="devices that divide batches; along model also weights; default: data=all of a cluster",
    )  # fmt: skip
    many.add_argument(
        "--cluster", action="store_true", help="join the processes of SLURM, Open MPI, a TPU slice"
    )
    many.add_argument("--coordinator", metavar="HOST:PORT", help="join by hand: where process 0 is")
    many.add_argument("--processes", type=count, metavar="N", help="how many there are")
    many.add_argument("--process", type=number(int, 0, 999_999), metavar="I", help="which this is")
    parser.add_argument("settings", nargs="*", default=[], metavar="field=value")


def run(args: argparse.Namespace) -> None:
    """Train, and print the report. InputError for settings that will not do."""
    from minidiff.training import config as settings

    recipe = _found.recipe(args.recipe)
    if args.preset not in recipe.PRESETS:
        have = ", ".join(recipe.PRESETS)
        raise InputError(f"{args.recipe} has no preset {args.preset}: choose from {have}")
    if args.fields:
        print(settings.presets_table(recipe.PRESETS))
        return
    told = [*([] if args.data is None else [f"data={args.data}"]), *args.settings]
    config = settings.override(recipe.PRESETS[args.preset], told)
    from minidiff.training import processes
    from minidiff.training.devices import Devices

    out = args.out or f"runs/{args.recipe}"
    with processes.joined(args.coordinator, args.processes, args.process, args.cluster):
        devices = Devices.parse(args.mesh)
        folder = recipe.run(out, config, devices=devices, progress=not args.quiet)
        if not folder.writes:
            return
    print((folder.path / "report.md").read_text(encoding="utf-8"))
    print(f"The run is in {folder.path}, its report in {folder.path / 'report.md'}")
