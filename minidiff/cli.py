"""The ``minidiff`` command. ``--help`` imports neither JAX nor NumPy."""

import argparse
import contextlib
import importlib
import sys
import warnings

from minidiff.errors import InputError, one_line, tell

RECIPES = ("clip", "ddpm", "text_to_image", "judge")
LAYOUTS = ("compact", "ddpm-cifar10", "stable-diffusion-1")
SAMPLERS = ("ddim", "ddpm", "euler", "heun", "dpm++", "ancestral")
LISTS = {
    "bench": "names",
    "train": "settings",
    "sample": "prompts",
    "search": "queries",
    "check": "files",
}
PRESETS = ("smoke", "cpu", "gpu", "full")
PLACES = ("model", "run", "folder", "data", "out", "to", "write", "image", "mask", "index")


class _Parser(argparse.ArgumentParser):
    """Bad usage is told in one line, with exit status 2."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {one_line(message)} (see {self.prog} --help)\n")


def _number(kind: type, low: int | float, high: int | float):
    """Reads a number of this kind in this range."""

    def read(text: str):
        number = kind(text)
        if not low <= number <= high:
            reason = f"{text} is out of range: it must be from {low} to {high}"
            raise argparse.ArgumentTypeError(reason)
        return number

    read.__name__ = kind.__name__  # argparse names it where the text is no number at all
    return read


_count = _number(int, 1, 1_000_000)
_sheet = _number(int, 1, 1024)
_row = _number(int, 1, 100)
_seed = _number(int, 0, 2**32 - 1)
_scale = _number(float, 0, 1000)
_share = _number(float, 0.001, 1)


def _model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "model", help="a run of train clip, a Hugging Face folder, or OpenAI's .safetensors"
    )


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
    many = verb.add_argument_group("many devices", "see docs/scaling.md")
    many.add_argument(
        "--mesh", metavar="data=N,model=M",
        help="devices that divide batches; along model also weights; default: data=all of a cluster",
    )  # fmt: skip
    many.add_argument(
        "--cluster", action="store_true", help="join the processes of SLURM, Open MPI, a TPU slice"
    )
    many.add_argument("--coordinator", metavar="HOST:PORT", help="join by hand: where process 0 is")
    many.add_argument("--processes", type=_count, metavar="N", help="how many there are")
    many.add_argument("--process", type=_number(int, 0, 999_999), metavar="I", help="which this is")
    verb.add_argument("settings", nargs="*", metavar="field=value")

    verb = verbs.add_parser(
        "sample",
        help="draw images with a trained model",
        description="Draw images: of nothing in particular, of prompts, between two prompts or two "
        "noises, from a picture, or in a part of one.",
    )
    verb.add_argument(
        "run",
        help="a run of train ddpm or text_to_image, RUN@best or RUN@STEP for one of its "
        "checkpoints, or a diffusers folder",
    )
    verb.add_argument("prompts", nargs="*", metavar="PROMPT", help='"a blue cat wearing a hat"')
    verb.add_argument("--count", type=_count, help="default: 16, or 4 for each prompt")
    verb.add_argument("--out", default="samples.png", help="a PNG file; default: samples.png")
    verb.add_argument("--seed", type=_seed, default=0)
    verb.add_argument("--sampler", choices=SAMPLERS, help="default: as the run was told")
    verb.add_argument("--steps", type=_count, help="default: as the run was told; ddpm: all")
    verb.add_argument("--scale", type=_scale, help="of guidance; default: as the run was told")
    verb.add_argument(
        "--negative", default="", metavar="TEXT", help="what guidance leads away from"
    )
    verb.add_argument(
        "--between", type=_number(int, 2, 64), metavar="N", help="N images on the way"
    )
    verb.add_argument("--image", metavar="FILE", help="a picture to begin with")
    verb.add_argument("--strength", type=_share, help="how far it is noised, 0 to 1; default: 0.6")
    verb.add_argument("--mask", metavar="FILE", help="keep FILE of --image but where this is white")

    verb = verbs.add_parser(
        "compare",
        help="what guidance and samplers cost and bring, as the judge of scenes sees it",
        description="Draw captions of scenes that training never saw at several guidance scales, and "
        "with several samplers in several steps; measure faithfulness, coverage, Frechet distance.",
    )
    verb.add_argument("run", help="a run of train text_to_image or ddpm on scenes")
    verb.add_argument("--count", type=_count, default=128, help="images each; default: 128")
    verb.add_argument("--scales", type=_scale, nargs="+", default=[0.0, 1.0, 2.0, 3.0, 5.0, 8.0])
    verb.add_argument("--steps", type=_count, nargs="+", default=[10, 20, 50, 100])
    verb.add_argument("--scale", type=_scale, help="of samplers; default: as the run was told")
    verb.add_argument(
        "--spacing", choices=("trailing", "leading", "linspace"), default="trailing",
        help="of the steps; the DDIM paper's is leading; default: trailing",
    )  # fmt: skip
    verb.add_argument("--seed", type=_seed, default=0)
    verb.add_argument("--out", default="compare", help="a folder; default: compare")

    verb = verbs.add_parser("classify", help="zero-shot: which of these labels fits an image best?")
    _model(verb)
    verb.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG and others, any size")
    verb.add_argument(
        "--labels", nargs="+", required=True, metavar="LABEL", help='"a house" "a dog"'
    )
    verb.add_argument(
        "--templates",
        nargs="+",
        metavar="TEXT",
        help='sentences with {} for the label, averaged; default: "a {}", "a picture of a {}" ...',
    )
    verb.add_argument("--out", default="classify.png", help="picture; default: classify.png")

    verb = verbs.add_parser("search", help="find images of a folder by text, or by another image")
    _model(verb)
    verb.add_argument("folder", help="images, at any depth")
    verb.add_argument("queries", nargs="*", metavar="TEXT")
    verb.add_argument("--image", nargs="+", default=[], metavar="FILE", help="images to look for")
    verb.add_argument("--count", type=_row, default=6, help="images per query; default: 6")
    verb.add_argument("--index", metavar="FILE", help="where the folder's embeddings are kept")
    verb.add_argument("--out", default="search.png", help="picture; default: search.png")

    verb = verbs.add_parser("arithmetic", help="the words that name the difference of two images")
    _model(verb)
    verb.add_argument(
        "--plus", nargs="+", default=[], metavar="IMAGE", help="default: men with hats"
    )
    verb.add_argument("--minus", nargs="+", default=[], metavar="IMAGE", help="default: without")
    verb.add_argument("--words", nargs="+", metavar="WORD", help="default: all words of the scenes")
    verb.add_argument("--not-centred", action="store_true", help="do not take the words' mean away")
    verb.add_argument("--seed", type=_seed, default=0)
    verb.add_argument("--out", default="arithmetic.png", help="picture; default: arithmetic.png")

    verb = verbs.add_parser("data", help="look at a source: contact sheet, numbers, problems")
    verb.add_argument("source", help="scenes, digits, [stream:]tfds:NAME or folder:PATH")
    verb.add_argument("--split", default="train")
    verb.add_argument("--size", type=_count, help="pixels on a side")
    verb.add_argument("--count", type=_sheet, default=32, help="images on the sheet")
    verb.add_argument("--out", default="data.png", help="the sheet; default: data.png")
    verb.add_argument(
        "--write", metavar="DIR", help="instead, prepare a TFDS data set (array_record) in DIR"
    )

    verb = verbs.add_parser("describe", help="what a U-Net is made of: a table of its blocks")
    verb.add_argument("layout", choices=LAYOUTS)

    verb = verbs.add_parser(
        "lessons", help="list the lessons with their minutes here, or open one in a copy of yours"
    )
    verb.add_argument("action", nargs="?", choices=("open",), help="open a copy of one")
    verb.add_argument("lesson", nargs="?", metavar="NN", help="its number, such as 07")
    verb.add_argument("--to", default=".", metavar="FOLDER", help="of the copy; default: this one")
    verb.add_argument("--no-start", action="store_true", help="copy it, do not start Jupyter")

    verb = verbs.add_parser(
        "check",
        help="grade the exercises of students' notebooks",
        description="Run students' notebooks, each in a process and an empty folder of its own, with "
        "limits, and judge their exercises here. For people you know: it is no prison.",
    )
    verb.add_argument("files", nargs="+", metavar="NOTEBOOK", help=".ipynb or .py, or folders")
    form = verb.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, for a program")
    form.add_argument("--junit", action="store_true", help="as test results, in XML")
    form.add_argument("--csv", action="store_true", help="points, for a spreadsheet")
    verb.add_argument("--feedback", metavar="FOLDER", help="write a file there for each student")
    verb.add_argument("--jobs", type=_number(int, 1, 64), default=1, metavar="N", help="at a time")
    verb.add_argument(
        "--fail-under", type=_number(float, 0, 100), default=0, metavar="PERCENT",
        help="exit status 1 if a notebook has fewer exercises right",
    )  # fmt: skip
    verb.add_argument("--seed", type=_seed, default=0, help="draw the arguments anew; 0: as ever")
    verb.add_argument("--out", metavar="FILE", help="write it there instead of printing it")
    verb.add_argument(
        "--lesson", metavar="NN", help="whose exercises are due; default: the notebook tells"
    )
    verb.add_argument(
        "--cell-seconds", type=_number(float, 1, 86_400), default=60, metavar="N",
        help="that a cell may run; the calls for an exercise a third; default: 60",
    )  # fmt: skip
    verb.add_argument(
        "--memory", type=_number(float, 0.1, 1024), default=4, metavar="GIB",
        help="that a notebook may take; default: 4",
    )  # fmt: skip

    verb = verbs.add_parser(
        "bench", help="measure speed here, or compare it with an earlier result"
    )
    verb.add_argument("names", nargs="*", metavar="NAME", help="default: all of them, in short")
    verb.add_argument("--list", action="store_true", help="list the benchmarks and leave")
    verb.add_argument("--quick", action="store_true", help="named ones in short, too")
    verb.add_argument("--out", default="bench.json", help="JSON to write or add to")
    verb.add_argument("--compare", metavar="OLD", help="an older JSON: print new / old afterwards")
    verb.add_argument("--with", dest="new", metavar="NEW", help="run nothing, compare OLD with NEW")
    verb.add_argument("--across-machines", action="store_true", help="compare different machines")
    verb.add_argument(
        "--peers", metavar="PYTHON", help="interpreter that has torch, diffusers, ..."
    )

    verbs.add_parser("doctor", help="versions, devices, a speed probe, minutes per preset here")
    return top


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; what is wrong with it is told in one line, with exit status 2."""
    args, rest = parser().parse_known_args(arguments)
    # argparse takes a list up to the first option only and leaves over what comes after it.
    if rest and (args.verb not in LISTS or any(text.startswith("-") for text in rest)):
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        getattr(args, LISTS[args.verb]).extend(rest)
    empty = [name for name in PLACES if getattr(args, name, None) in ("", [""])]
    if empty:  # as where a shell's variable is not set
        parser().error(f"argument {empty[0]}: it is empty")
    return args


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
    for stream in (sys.stdout, sys.stderr):  # a file's name may hold what cannot be printed
        with contextlib.suppress(AttributeError, ValueError):  # it may be no stream of Python's own
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            # Letters that matplotlib's font has not: boxes stand there.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            importlib.import_module("minidiff.commands").VERBS[args.verb](args)
    except (InputError, OSError, MemoryError, RuntimeError, KeyboardInterrupt) as error:
        return tell(error)
    return 0
