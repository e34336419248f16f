"""The ``minidiff`` command. ``--help`` imports neither JAX nor NumPy."""

import argparse
import importlib
import sys
from pathlib import Path

from minidiff.errors import InputError

RECIPES = ("ddpm", "judge")
PRESETS = ("smoke", "cpu", "gpu", "full")


class _Parser(argparse.ArgumentParser):
    """Bad usage is told in one line, with exit status 2."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is out of range: it must be from 1 to 1000000")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is out of range: it must be from 0 to 4294967295")
    return number


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(prog="minidiff", description="CLIP and diffusion, from scratch, in JAX.")
    top.add_argument("--version", action="store_true", help="print the version")
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", parser_class=_Parser)

    verb = verbs.add_parser("quickstart", help="train and sample a diffusion model in five minutes")
    verb.add_argument("--out", default="quickstart", help="folder for its pictures and report")
    verb.add_argument("--preset", default="cpu", choices=PRESETS, help="default: cpu")

    verb = verbs.add_parser(
        "train",
        help="train a recipe",
        description="Train a recipe in a folder; the same command again goes on where it stopped. "
        "Any field of the recipe can be set by field=value; --fields lists them.",
    )
    verb.add_argument("recipe", choices=RECIPES)
    verb.add_argument("--preset", default="cpu", choices=PRESETS, help="default: cpu")
    verb.add_argument("--data", help="scenes (default), digits, tfds:NAME or folder:PATH")
    verb.add_argument("--out", help="folder of the run; default: runs/RECIPE")
    verb.add_argument("--fields", action="store_true", help="list the recipe's fields and leave")
    verb.add_argument("--quiet", action="store_true", help="no progress bar")
    verb.add_argument("settings", nargs="*", metavar="field=value")

    verb = verbs.add_parser("sample", help="draw images with a trained model")
    verb.add_argument("run", help="folder of a run")
    verb.add_argument("--count", type=_count, default=16)
    verb.add_argument("--out", default="samples.png", help="a PNG file; default: samples.png")
    verb.add_argument("--seed", type=_seed, default=0)
    verb.add_argument("--sampler", choices=("ddim", "ddpm"), default="ddim")
    verb.add_argument("--steps", type=_count, help="of ddim; default: as the run was told")

    verb = verbs.add_parser("data", help="look at a source: contact sheet, numbers, problems")
    verb.add_argument("source", help="scenes, digits, tfds:NAME or folder:PATH")
    verb.add_argument("--split", default="train")
    verb.add_argument("--size", type=_count, help="pixels on a side")
    verb.add_argument("--count", type=_count, default=32, help="images on the sheet")
    verb.add_argument("--out", default="data.png", help="the sheet; default: data.png")
    verb.add_argument(
        "--write", metavar="DIR", help="instead, prepare a TFDS data set (array_record) in DIR"
    )

    verbs.add_parser("doctor", help="versions, devices, a speed probe, minutes per preset here")
    return top


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; what is wrong with it is told in one line, with exit status 2."""
    args, rest = parser().parse_known_args(arguments)
    # argparse takes field=value up to the first option only and leaves over those after it.
    if rest and (args.verb != "train" or any(text.startswith("-") for text in rest)):
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.settings += rest
    return args


def _train(args: argparse.Namespace) -> None:
    recipe = importlib.import_module(f"minidiff.recipes.{args.recipe}")
    config_module = importlib.import_module("minidiff.training.config")
    if args.fields:
        print(config_module.presets_table(recipe.PRESETS))
        return
    settings = [*([f"data={args.data}"] if args.data else []), *args.settings]
    config = config_module.override(recipe.PRESETS[args.preset], settings)
    folder = recipe.run(args.out or f"runs/{args.recipe}", config, progress=not args.quiet)
    print((folder.path / "report.md").read_text(encoding="utf-8"))
    print(f"The run is in {folder.path}, its report in {folder.path / 'report.md'}")


def _png(text: str) -> Path:
    """A path to write a picture to, checked before any work is done."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise InputError(f"--out {text} must end in .png")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--out {text} cannot be written: there is no folder {path.parent}")
    return path


def _sample(args: argparse.Namespace) -> None:
    out = _png(args.out)
    from minidiff.recipes import ddpm
    from minidiff.sampling import ddpm_sample

    model = ddpm.load(args.run)
    if args.sampler == "ddpm":
        if args.steps:
            raise InputError("--steps belongs to --sampler ddim: ddpm takes every step")
        settings = {"sampler": ddpm_sample}
    else:
        settings = {"steps": args.steps or model.config.sample_steps}
        if settings["steps"] > model.config.timesteps:
            raise InputError(
                f"--steps {args.steps} is more than the model's {model.config.timesteps}"
            )
    import jax

    from minidiff import plot

    images = ddpm.draw(jax.random.key(args.seed), model, args.count, **settings)
    plot.enlarge(plot.tile(images)).save(out)
    print(f"{args.count} samples of {args.run} are in {out}")


def _data(args: argparse.Namespace) -> None:
    if args.write:
        from minidiff.data.builders import prepare

        print(f"prepared in {prepare(_tfds_name(args.source), args.write)}")
        return
    out = _png(args.out)
    import numpy as np

    from minidiff import plot
    from minidiff.data.describe import describe
    from minidiff.data.sources import captions_of, open_source

    source = open_source(args.source, split=args.split, size=args.size, batch_size=args.count)
    report = describe(source)
    batch = source.batch(0)
    captions = captions_of(source, batch)
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


def _quickstart(args: argparse.Namespace) -> None:
    importlib.import_module("minidiff.quickstart").run(args.out, args.preset)


def _doctor(args: argparse.Namespace) -> None:
    importlib.import_module("minidiff.doctor").run()


VERBS = {
    "quickstart": _quickstart,
    "train": _train,
    "sample": _sample,
    "data": _data,
    "doctor": _doctor,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 after one line about bad input."""
    args = parse(arguments)
    if args.version:
        from minidiff import __version__

        print(__version__)
        return 0
    if args.verb is None:
        parser().print_help()
        return 0
    try:
        VERBS[args.verb](args)
    except InputError as error:
        return _complain(str(error))
    except OSError as error:  # a full disk, a folder that may not be written
        where = f": {error.filename}" if error.filename else ""
        return _complain(f"{error.strerror or error}{where}")
    except KeyboardInterrupt:
        print(
            "minidiff: stopped; the same command goes on from the last checkpoint", file=sys.stderr
        )
        return 130
    return 0


def _complain(message: str) -> int:
    print("minidiff: " + " ".join(message.split()), file=sys.stderr)
    return 2
