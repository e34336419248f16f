"""What is found and not listed: verbs, recipes, samplers, layouts, lessons; and what CONTRIBUTING says of it.

Rules are functions of a folder, so that a fault can be planted in a copy.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from minidiff import layouts
from minidiff.commands import _found
from minidiff.solvers import SAMPLERS
from minidiff.trained.diffusion import Diffusion
from minidiff.trained.encoder import Encoder

ROOT = Path(__file__).parents[1]
VERBS = _found.files(_found.COMMANDS)


# What is found is what is there.


def test_tables_are_read_as_they_are():
    assert _found.samplers() == tuple(SAMPLERS)
    assert _found.layouts() == tuple(layouts.LAYOUTS)
    assert set(layouts.SIDES) == set(layouts.LAYOUTS)


@pytest.mark.parametrize("name", _found.recipes())
def test_every_recipe_has_its_parts(name):
    recipe = _found.recipe(name)
    assert _found.presets(name) == tuple(recipe.PRESETS)
    assert {type(config) for config in recipe.PRESETS.values()} == {recipe.Config}
    assert set(recipe.MINUTES) <= set(recipe.PRESETS)
    assert f"minidiff train {name} --preset" in recipe.__doc__
    made = typing.get_type_hints(recipe.load)["return"]
    assert name in _found.recipes(made.__name__)
    assert callable(recipe.run)


def test_recipes_by_what_they_make():
    assert "clip" in _found.recipes(Encoder.__name__)
    assert {"ddpm", "text_to_image"} <= set(_found.recipes(Diffusion.__name__))
    assert not set(_found.recipes(Encoder.__name__)) & set(_found.recipes(Diffusion.__name__))
    assert _found.recipes("Violin") == ()


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("A = {'b': 1, 'a': 2}", ("b", "a")),
        ("B = {'c': 1}\nA = {'a': B}", ("a",)),
        ("def f():\n    A = {'a': 1}\n", None),
        ("B = {'a': 1}", None),
    ],
)
def test_keys_of_a_dict_that_is_written_out(tmp_path, text, keys):
    path = tmp_path / "module.py"
    path.write_text(text)
    if keys is None:
        with pytest.raises(LookupError, match="no dict A"):
            _found.keys(path, "A")
    else:
        assert _found.keys(path, "A") == keys


# Verbs cost nothing until they run.

BLOCKED = """
import sys
sys.modules.update(dict.fromkeys(["jax", "jaxlib", "numpy", "matplotlib", "PIL", "flax", "optax"]))
from minidiff.cli import main
for words in {lines!r}:
    try:
        main(words)
    except SystemExit as end:
        print("status", end.code)
    else:
        print("status of none")
"""


def test_help_and_usage_errors_of_all_verbs_import_nothing_heavy():
    lines = [words for verb in VERBS for words in ([verb, "--help"], [verb, "--no-such"])]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKED.format(lines=lines)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^status (\d)", done.stdout, re.MULTILINE) == ["0", "2"] * len(VERBS)
    assert [f"usage: minidiff {verb} " in done.stdout for verb in VERBS] == [True] * len(VERBS)
    told = done.stderr.splitlines()
    assert [line.split(":")[0] for line in told] == [f"minidiff {verb}" for verb in VERBS]


def test_no_verb_imports_much_at_its_top():
    for path in VERBS.values():
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import)]
        names = {alias.name.partition(".")[0] for node in top for alias in node.names}
        assert names <= sys.stdlib_module_names, path


# Lessons: README's table and the links from one to the next.


def wrong_rows(root):
    """What README's table of lessons does not have, or has too much."""
    table = re.findall(
        r"^\| \[(\d\d \w+)\]\(lessons/(\w+)\.ipynb\) \| \S", (root / "README.md").read_text(), re.M
    )
    rows = [name for _, name in table]
    lessons = sorted(path.stem for path in (root / "lessons" / "src").glob("*.py"))
    return [
        *(f"{text} leads to {name}" for text, name in table if text.replace(" ", "_") != name),
        *(f"{name} has no row" for name in lessons if name not in rows),
        *(f"{name} is no lesson" for name in rows if name not in lessons),
        *(["the rows are not in order"] if rows != sorted(rows) else []),
    ]


def wrong_next(root):
    """Lessons whose link Next does not lead to the one after."""
    sources = sorted((root / "lessons" / "src").glob("*.py"))
    complaints = []
    for source, after in zip(sources, [*sources[1:], None], strict=True):
        lines = re.findall(r"^# \*\*Next:\*\*.*$", source.read_text(), re.MULTILINE)
        links = [link for line in lines for link in re.findall(r"\((\w+)\.ipynb\)", line)]
        if len(lines) != 1 or links != ([after.stem] if after else []):
            complaints.append(f"{source.stem}: Next leads to {links}")
    return complaints


def wrong_tree(root):
    """What README's section "What is where" names and is not there, or the other way round."""
    part = (root / "README.md").read_text().partition("## What is where")[2].split("```")[1]
    inside = part.partition("minidiff/\n")[2].partition("\nlessons/")[0]
    names = {
        name
        for line in inside.splitlines()
        for name in re.findall(r"[\w/]+(?:\.py|/)(?=[ ,]|$)", re.split(r"   +", line.strip())[0])
    }
    there = {path.name for path in (root / "minidiff").glob("[!_]*.py")}
    there |= {f"{path.parent.name}/" for path in (root / "minidiff").glob("*/__init__.py")}
    lost = [
        f"{name} is not there" for name in sorted(names) if not (root / "minidiff" / name).exists()
    ]
    return lost + [f"{name} is not told" for name in sorted(there - names)]


RULES = [wrong_rows, wrong_next, wrong_tree]


@pytest.mark.parametrize("rule", RULES)
def test_readme_and_lessons_say_what_is_there(rule):
    assert rule(ROOT) == []


@pytest.fixture
def house(tmp_path):
    """A copy of the house to plant things in."""
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.ipynb")
    for name in ("minidiff", "lessons"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("rule", "path", "complaints"),
    [
        (wrong_rows, "lessons/src/98_planted.py", ["98_planted has no row"]),
        (
            wrong_next,
            "lessons/src/98_planted.py",
            ["10_guidance: Next leads to []", "98_planted: "],
        ),
        (wrong_tree, "minidiff/planted.py", ["planted.py is not told"]),
        (wrong_tree, "minidiff/planted/__init__.py", ["planted/ is not told"]),
    ],
)
def test_what_is_not_told_of_is_noticed(house, rule, path, complaints):
    (house / path).parent.mkdir(exist_ok=True)
    (house / path).touch()
    found = rule(house)
    assert len(found) == len(complaints)
    assert all(map(str.startswith, found, complaints))


@pytest.mark.parametrize(
    ("rule", "old", "new", "complaint"),
    [
        (
            wrong_rows,
            "[09 unet](lessons/09_unet",
            "[09 unet](lessons/09_unets",
            "09_unet has no row",
        ),
        (wrong_rows, "[09 unet]", "[09 vit]", "09 vit leads to 09_unet"),
        (wrong_tree, "  layers.py  ", "  players.py  ", "players.py is not there"),
    ],
)
def test_a_wrong_word_in_readme_is_noticed(house, rule, old, new, complaint):
    text = (house / "README.md").read_text()
    assert text.count(old) == 1
    (house / "README.md").write_text(text.replace(old, new))
    assert complaint in rule(house)


# CONTRIBUTING: which files a new thing touches.


def kinds(text):
    """Of each section "### A KIND, such as EXAMPLE": the example and the files that it lists."""
    sections = re.findall(r"^### An? ([\w ]+), such as (\w+)\n(.*?)(?=^##|\Z)", text, re.M | re.S)
    return {
        kind: (example, re.findall(r"^- `([^`]+)`", body, re.MULTILINE))
        for kind, example, body in sections
    }


KINDS = kinds((ROOT / "CONTRIBUTING.md").read_text())


def test_contributing_knows_what_people_add():
    assert set(KINDS) == {"recipe", "verb", "sampler", "source", "network", "lesson"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_that_contributing_names_are_those_of_its_example(kind):
    example, paths = KINDS[kind]
    assert len(paths) > 1
    bare = re.sub(r"^\d\d_", "", example)
    for path in paths:
        assert (ROOT / path.replace("NN_NAME", example).replace("NAME", bare)).exists(), path


def minidiff(house, *words):
    """The command of a copy; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "minidiff", *words],
        cwd=house, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_planted_recipe_is_found(house):
    assert KINDS["recipe"][1] == ["minidiff/recipes/NAME.py", "tests/test_NAME.py"]
    text = (house / "minidiff/recipes/ddpm.py").read_text().replace('"smoke": ', '"tiny": ')
    (house / "minidiff/recipes/planted.py").write_text(text)
    assert ",planted," in minidiff(house, "train", "--help")
    fields = minidiff(house, "train", "planted", "--preset", "tiny", "--fields")
    assert fields.split()[:2] == ["field", "tiny"]


def test_a_planted_verb_is_found(house):
    assert KINDS["verb"][1] == ["minidiff/commands/NAME.py", "tests/test_NAME.py"]
    (house / "minidiff/commands/planted.py").write_text(
        '"""Greet somebody.\n\nBy name."""\n\n'
        "def arguments(parser):\n    parser.add_argument('whom', nargs='*')\n"
        "    parser.add_argument('--loud', action='store_true')\n\n"
        "def run(args):\n    print('hello', *args.whom, '!' * args.loud)\n"
    )
    assert re.search(r"planted +Greet somebody\n", minidiff(house, "--help"))
    assert "By name." in minidiff(house, "planted", "--help")
    assert minidiff(house, "planted", "a", "--loud", "b") == "hello a b !\n"


def test_a_planted_sampler_is_found(house):
    [path] = [path for path in KINDS["sampler"][1] if "SAMPLERS = {" in (ROOT / path).read_text()]
    text = (house / path).read_text()
    (house / path).write_text(text.replace("SAMPLERS = {", 'SAMPLERS = {\n    "planted": None,'))
    assert "{planted," in minidiff(house, "sample", "--help")


def test_a_planted_lesson_is_found(house):
    cell = {"cell_type": "markdown", "source": "# 98 · Planted"}
    (house / "lessons/98_planted.ipynb").write_text(json.dumps({"cells": [cell]}))
    said = minidiff(house, "lessons", "open", "98", "--to", "mine", "--no-start")
    assert said.endswith("98_planted.ipynb: a fresh copy\n")
