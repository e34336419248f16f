"""The ``minidiff`` command. Help and bad usage need neither JAX nor NumPy."""

import argparse
import contextlib
import sys
import warnings
from collections.abc import Sequence

from minidiff.commands import _found
from minidiff.errors import one_line, tell


class _Parser(argparse.ArgumentParser):
    """Bad usage is told in one line, with exit status 2."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {one_line(message)} (see {self.prog} --help)\n")


def parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The command line up to the verb, and a parser for each verb, still without its arguments."""
    top = _Parser(prog="minidiff", description="CLIP and diffusion, from scratch, in JAX.")
    top.add_argument("--version", action="store_true", help="print the version")
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", parser_class=_Parser)
    for name, path in _found.files(_found.COMMANDS).items():
        first, _, rest = _found.docstring(path).partition("\n")
        verbs.add_parser(name, help=first.rstrip("."), description=rest.strip() or first)
    return top, verbs.choices


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; what is wrong with it is told in one line, with exit status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
    top, verbs = parser()
    args = top.parse_args(words[: first + 1])
    if args.verb is None:
        return args
    verb, words = verbs[args.verb], words[first + 1 :]
    _found.verb(args.verb).arguments(verb)
    found, rest = verb.parse_known_args(words, argparse.Namespace(**vars(args)))
    # A list ends at the first option unless they may be intermixed; then what is missing is told in part.
    return verb.parse_intermixed_args(words, args) if rest else found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 after one line about bad input."""
    args = parse(arguments)
    if args.version:
        from minidiff import __version__

        print(__version__)
        return 0
    if args.verb is None:
        parser()[0].print_help()
        return 0
    for stream in (sys.stdout, sys.stderr):  # a file's name may hold what cannot be printed
        with contextlib.suppress(AttributeError, ValueError):  # it may be no stream of Python's own
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            # Letters that matplotlib's font has not: boxes stand there.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            _found.verb(args.verb).run(args)
    except (Exception, KeyboardInterrupt) as error:
        return tell(error)
    return 0
