"""What there is to choose from, read from the files themselves: nothing is listed, nothing imported.

A verb is a file of this folder, a recipe a file of ``minidiff/recipes/``; one that begins with an
underscore is neither. Presets, layouts and samplers are the keys of a dict that a module writes out.
"""

import ast
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

HOUSE = Path(__file__).parents[1]
COMMANDS, RECIPES = HOUSE / "commands", HOUSE / "recipes"


def files(folder: Path) -> dict[str, Path]:
    """The modules of a folder by their names, in the order of the alphabet."""
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstring(path: Path) -> str:
    """What a module says of itself."""
    return ast.get_docstring(_tree(path)) or ""


def keys(path: Path, name: str) -> tuple[str, ...]:
    """The keys of the dict that a module writes out under a name. LookupError if there is none."""
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and name in {getattr(x, "id", "") for x in node.targets}:
            return tuple(ast.literal_eval(key) for key in node.value.keys)
    raise LookupError(f"{path} has no dict {name}")


def presets(recipe: str = "") -> tuple[str, ...]:
    """The presets of a recipe; without a name, those that any recipe has."""
    paths = [files(RECIPES)[recipe]] if recipe else files(RECIPES).values()
    return tuple(dict.fromkeys(key for path in paths for key in keys(path, "PRESETS")))


def layouts() -> tuple[str, ...]:
    """The names of the networks that ``describe`` knows."""
    return keys(HOUSE / "layouts.py", "LAYOUTS")


def samplers() -> tuple[str, ...]:
    """The names of the samplers that ``sample`` takes."""
    return keys(HOUSE / "solvers.py", "SAMPLERS")


def recipes(made: str = "") -> tuple[str, ...]:
    """The recipes; those whose ``load`` returns the class of this name, if one is given."""
    return tuple(name for name, path in files(RECIPES).items() if not made or made in _loads(path))


def _loads(path: Path) -> set[str]:
    """The class that a recipe's ``load`` returns, by its annotation."""
    functions = [node for node in _tree(path).body if isinstance(node, ast.FunctionDef)]
    return {ast.unparse(node.returns) for node in functions if node.name == "load" and node.returns}


def recipe(name: str) -> ModuleType:
    """A recipe, imported."""
    return importlib.import_module(f"minidiff.recipes.{name}")


def verb(name: str) -> ModuleType:
    """A verb, imported."""
    return importlib.import_module(f"minidiff.commands.{name}")
