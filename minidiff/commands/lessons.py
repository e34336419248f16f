"""List the lessons with their minutes here, or open one in a copy of yours."""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from minidiff.commands._arguments import place
from minidiff.errors import InputError

HOUSE = Path(__file__).parents[1]
# Beside the package in the repository; a wheel holds a copy among the assets (setup.py).
PACKAGED = HOUSE / "assets" / "lessons"
FOLDER = PACKAGED if PACKAGED.is_dir() else HOUSE.parent / "lessons"
TO_A_FILE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")  # a link that a copy elsewhere would break


def arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing for the list; "open", and which one."""
    parser.add_argument("action", nargs="?", choices=("open",), help="open a copy of one")
    parser.add_argument("lesson", nargs="?", metavar="NN", help="its number, such as 07")
    parser.add_argument(
        "--to", type=place, default=".", metavar="FOLDER", help="of the copy; default: this one"
    )
    parser.add_argument("--no-start", action="store_true", help="copy it, do not start Jupyter")


def run(args: argparse.Namespace) -> None:
    """Print the list, or copy a lesson and start Jupyter on it."""
    if args.action is None:
        notebooks()  # none here? then no probe either
        from minidiff.measure.speed import speed_probe

        print(listing(speed_probe()))
        print("minidiff lessons open NN makes a copy of one for you to work in")
        return
    if args.lesson is None:
        raise InputError("which lesson? give its number: minidiff lessons open 07")
    mine, is_new = copy(args.lesson, args.to)
    print(f"{mine}: " + ("a fresh copy" if is_new else "your work, as you left it"))
    if not args.no_start and not start(mine):
        print('Jupyter is not installed: pip install -e ".[lessons]", or open the file elsewhere')


def notebooks(folder: Path = FOLDER) -> list[Path]:
    """All lessons, in order. InputError where they were left out of the installation."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise InputError(
            "the lessons are not here: clone minidiff, and install by `pip install -e .`"
        )
    return found


def find(number: str, folder: Path = FOLDER) -> Path:
    """The notebook of a lesson by its number ("7", "07") or name. InputError names what there is."""
    for path in notebooks(folder):
        if path.stem in (number, number.removesuffix(".ipynb")) or (
            number.isdecimal() and int(path.stem[:2]) == int(number)
        ):
            return path
    have = ", ".join(path.stem for path in notebooks(folder))
    raise InputError(f"there is no lesson {number!r}: choose from {have}")


def read(path: Path) -> dict:
    """A notebook as JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def title(notebook: dict) -> str:
    """The heading of its first cell, without the number."""
    return "".join(notebook["cells"][0]["source"]).splitlines()[0].split("·")[-1].strip()


def listing(speed: float | None = None, folder: Path = FOLDER) -> str:
    """A line for each lesson: number, title, minutes.

    Minutes are those of lessons/measured.json, scaled to a machine whose ``minidiff doctor``
    measures ``speed`` GFLOP/s; as they were measured if None.
    """
    measured = json.loads((folder / "measured.json").read_text())
    scale = measured["gflops"] / speed if speed else 1.0
    rows = []
    for path in notebooks(folder):
        seconds = measured["lessons"].get(path.stem, {}).get("seconds")
        minutes = f"{max(seconds * scale / 60, 0.1):4.1f} min" if seconds else "not measured"
        rows.append(f"{path.stem:16} {minutes}  {title(read(path))}")
    return "\n".join(rows)


def as_begun(notebook: dict) -> dict:
    """A notebook for a student: nothing has been run yet, and no link leads out of its folder."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
        else:
            cell["source"] = TO_A_FILE.sub(r"`\1`", "".join(cell["source"]))
    return notebook


def copy(number: str, to: Path | str, folder: Path = FOLDER) -> tuple[Path, bool]:
    """Where a student's copy of a lesson lies, and whether it is new: an older one is kept.

    InputError if ``to`` is no folder.
    """
    lesson, to = find(number, folder), Path(to)
    if to.exists() and not to.is_dir():
        raise InputError(f"{to} is not a folder")
    to.mkdir(parents=True, exist_ok=True)
    mine = to / lesson.name
    if mine.resolve() == lesson.resolve():
        raise InputError(f"{to} holds the lessons themselves: choose another folder by --to")
    content = json.dumps(as_begun(read(lesson)), indent=1, ensure_ascii=False) + "\n"
    try:
        with open(mine, "x", encoding="utf-8") as file:  # x: never over a student's work
            file.write(content)
    except FileExistsError:
        return mine, False
    return mine, True


def start(notebook: Path, command: Sequence[str] = ("jupyter", "lab")) -> bool:
    """Open a notebook in Jupyter and wait for it to be closed; False where there is no Jupyter."""
    beside = Path(sys.executable).parent / command[0]  # the one of this environment
    program = str(beside) if beside.exists() else shutil.which(command[0])
    if program is None:
        return False
    subprocess.run([program, *command[1:], str(notebook)], check=False)
    return True
