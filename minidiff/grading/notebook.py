"""What a student handed in: its cells, the exercises it holds, the module's functions it uses."""

import ast
import dataclasses
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from minidiff import checks
from minidiff.checks.exercise import Exercise
from minidiff.errors import InputError
from minidiff.files import read_bytes

KINDS = (".ipynb", ".py")
MOST_BYTES = 2**27  # of a notebook with its pictures
LESSON = re.compile(r"""\bLesson\(\s*["']\d\d_(\w+)["']""")
# Their bodies are Python all the same.
TRANSPARENT = ("%%time", "%%timeit", "%%capture", "%%prun")


@dataclasses.dataclass(frozen=True)
class Notebook:
    """A student's notebook: where it lies, what to call it, and the source of its code cells."""

    path: Path
    name: str
    cells: tuple[str, ...]

    def exercises(self, known: dict[str, Exercise], lesson: str = "") -> list[Exercise]:
        """Those that it mentions, in its order, and those of its lesson: a deleted one counts."""
        source = "\n".join(self.cells)
        due = {
            name
            for lesson in (*LESSON.findall(source), lesson)
            for name in checks.of_lesson(lesson)
        }
        places = {}
        for name, exercise in known.items():
            found = re.search(rf"\b({exercise.answer}\b|checks\.{name}\s*\()", source)
            if found or name in due:
                places[name] = found.start() if found else len(source)
        return [known[name] for name in sorted(places, key=places.get)]

    def defines(self, name: str) -> list[int]:
        """The cells that define a name, by number from 1, though they may be no valid Python."""
        line = re.compile(rf"^\s*(def\s+{name}\b|{name}\s*[:=])", re.MULTILINE)
        return [number for number, cell in enumerate(self.cells, 1) if line.search(cell)]

    def last(self, exercises: list[Exercise]) -> int:
        """The number of the last cell that names an answer; 0 if none does."""
        names = "|".join(exercise.answer for exercise in exercises)
        word = re.compile(rf"\b({names})\b")
        return max((n for n, cell in enumerate(self.cells, 1) if word.search(cell)), default=0)

    def borrows(self, exercise: Exercise) -> bool:
        """Whether its answer is or names the module's own function, as far as its source shows it."""
        trees = [tree for tree in map(_tree, self.cells) if tree]
        made, renamed = {}, {}
        for node in (node for tree in trees for node in tree.body):
            for name, value in _definitions(node):
                made.setdefault(name, []).append(value)
        for node in (node for tree in trees for node in ast.walk(tree)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minidiff"):
                renamed |= {alias.asname or alias.name: alias.name for alias in node.names}
        return _reaches(exercise, made, renamed)


def _reaches(exercise: Exercise, made: dict[str, list[ast.AST]], renamed: dict[str, str]) -> bool:
    """Whether a definition of the answer, or of a function in it, names the solution."""
    own = getattr(exercise.solution, "__name__", "")
    own = "solution" if own.startswith(("_", "<")) or not own else own  # private: it has no name
    todo, seen = [exercise.answer], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if renamed.get(name) == own:
            return True
        for node in (node for value in made.get(name, []) for node in ast.walk(value)):
            if isinstance(node, ast.Attribute) and node.attr in (own, "solution"):
                return True
            if isinstance(node, ast.Constant) and node.value == own:  # getattr(noising, "...")
                return True
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                todo.append(node.id)
    return False


def _definitions(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The functions that a statement makes, and the names it gives to other things.

    What a call returns is left out: ``xt = add_noise(...)`` is no function, and an answer may well
    have a variable of the same name.
    """
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name, node
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            named = isinstance(target, ast.Name)
            if named and (target.id.startswith("my_") or not isinstance(node.value, ast.Call)):
                yield target.id, node.value


def _tree(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def plain(source: str) -> str:
    """A cell as Python: what only IPython understands does nothing. Lines keep their numbers."""
    if _tree(source) is not None:
        return source
    lines = source.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if first.startswith("%%") and first.split()[0] not in TRANSPARENT:
        return ""
    for number, line in enumerate(lines):
        if re.match(r"\s*[%!?]|.*\w\?{1,2}\s*$", line):
            lines[number] = re.match(r"\s*", line)[0] + "pass"
        else:
            lines[number] = re.sub(r"^(\s*[\w, ]+=)\s*[%!].*", r"\1 None", line)
    return "\n".join(lines)


def read(path: Path, name: str = "") -> Notebook:
    """A notebook, .ipynb or py:percent. InputError if it is none, or jupytext is not there."""
    try:
        import jupytext
    except ModuleNotFoundError:
        raise InputError('jupytext reads notebooks: pip install -e ".[lessons]"') from None
    if path.suffix not in KINDS:
        raise InputError(f"{path} is not a notebook: .ipynb, or .py in cells marked by # %%")
    try:
        text = read_bytes(path, MOST_BYTES).decode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old notebooks: cells without ids
            form = "ipynb" if path.suffix == ".ipynb" else "py:percent"
            cells = [
                c.source for c in jupytext.reads(text, fmt=form).cells if c.cell_type == "code"
            ]
        cells = tuple(plain("".join(cell)) for cell in cells)
    except (OSError, InputError):
        raise
    except Exception as error:  # each depth of nbformat has its own
        raise InputError(f"{path} cannot be read as a notebook: {type(error).__name__}") from None
    return Notebook(path, name or path.stem, cells)


def find(places: list[str]) -> list[tuple[Path, str]]:
    """The files to grade and their names: those given, and all notebooks in folders.

    InputError if there is no such file, or a folder has none.
    """
    found = []
    for place in map(Path, places):
        if not place.exists():
            raise InputError(f"there is no {place}")
        if not place.is_dir():
            found.append((place, place.stem))
            continue
        inside = [path for path in sorted(place.rglob("*")) if _is_notebook(path, place)]
        if not inside:
            raise InputError(f"{place} holds no notebooks")
        found += [(path, path.relative_to(place).with_suffix("").as_posix()) for path in inside]
    return list(dict.fromkeys(found))


def _is_notebook(path: Path, root: Path) -> bool:
    """Of the files in a folder; a script beside a notebook of its name is the same work twice."""
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    if hidden or path.suffix not in KINDS or not path.is_file():
        return False
    is_twin = path.suffix == ".py" and path.with_suffix(".ipynb").exists()
    return path.suffix == ".ipynb" or (not is_twin and b"# %%" in path.read_bytes())
