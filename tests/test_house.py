"""How the house is built: who may import whom, what stands beside what, and what an import costs.

Each rule is a function from a root folder to a list of complaints, so that the tests can also show
that it catches a planted fault.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

ROOT = Path(__file__).parents[1]

MATHEMATICS = {
    "contrastive",
    "schedules",
    "noising",
    "objectives",
    "sampling",
    "solvers",
    "guidance",
}
NETWORKS = {"vit", "text", "unet", "vae"}

# Lowest first. A module imports only from floors below its own. Two exceptions: a package's files
# may import each other (recipes may not), and so may the modules of MATHEMATICS. Networks and
# mathematics share a floor because they never meet: a sampler sees any denoiser.
FLOORS = [
    {"errors", "runtime", "keys", "compiled", "tables"},
    {"added_tokens", "files", "memory", "settings"},
    {"vocabulary"},
    {"kernels", "tokenizer"},
    {"layers"},
    {"transformer"},
    {"blocks"},
    {"autoencoder"},
    MATHEMATICS | NETWORKS,
    {"clip", "layouts", "retrieval", "editing", "likelihood"},
    {"pipeline", "savings"},
    {"data", "weights", "plot"},
    {"training"},
    {"trained"},
    {"measure"},
    {"recipes", "checks", "lesson"},
    {"grading"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}

STANDS_ON = {"text_to_image"}  # recipes that begin with the run of another

# Flat in minidiff/ lies what is taught, and these, which serve it.
SERVING = {
    "__init__",
    "__main__",
    "added_tokens",
    "cli",
    "compiled",
    "errors",
    "files",
    "keys",
    "lesson",
    "memory",
    "runtime",
    "settings",
    "tables",
    "vocabulary",
}

# What a docstring says of a module without a lesson of its own: one that uses it, or one to read before.
READ = re.compile(r"\bread (in|after)\s+lesson\s+(\d\d)\b")

MOST_LINES = 300
MOST_TAUGHT_LINES = 250
LONGER_YET = {"tokenizer", "transformer"}


def modules(root):
    return sorted((root / "minidiff").rglob("*.py"))


def taught(root):
    """What lies flat in minidiff/ and is not there to serve."""
    return [path for path in (root / "minidiff").glob("*.py") if path.stem not in SERVING]


def imported(tree):
    """Names just below ``minidiff`` that a file imports, in functions too, with line numbers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = ["minidiff.(relative import)"]
        elif isinstance(node, ast.ImportFrom) and node.module == "minidiff":
            names = [f"minidiff.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "minidiff" and rest and not rest.startswith("__version"):
                yield rest.partition(".")[0], node.lineno


def wrong_imports(root):
    complaints = []
    for path in modules(root):
        where = path.relative_to(root)
        unit = where.parts[1].removesuffix(".py")
        if unit not in FLOOR and unit != "__init__":
            complaints.append(
                f"{where}: which floor is it on? Add {unit!r} to FLOORS in {__file__}"
            )
            continue
        for name, line in imported(ast.parse(path.read_text())):
            if unit == "__init__":
                allowed = name == "runtime"  # everything else loads when it is first used
            elif name not in FLOOR:
                allowed = False
            elif name == unit:
                allowed = unit != "recipes" or where.stem in STANDS_ON
            else:
                mathematics = {unit, name} <= MATHEMATICS
                allowed = mathematics or FLOOR[name] < FLOOR[unit]
            if not allowed:
                complaints.append(f"{where}:{line}: {unit} may not import {name}")
    return complaints


def missing_companions(root):
    """One name, four places: module, lesson, test and check."""

    def has(*places):
        return any((root / place).is_file() for place in places)

    complaints = []

    def expect(because, *places):
        if not has(*places):
            complaints.append(f"{' or '.join(places)} is missing: {because}")

    for path in taught(root):
        expect(f"minidiff/{path.name} is taught", f"tests/test_{path.name}")
    checks = (root / "minidiff" / "checks").glob("[!_]*.py")
    for name in sorted({path.stem for path in checks} - {"exercise"}):  # what an exercise is
        because = f"there is minidiff/checks/{name}.py"
        expect(because, f"minidiff/{name}.py", f"minidiff/data/{name}.py")
    notebooks = [*(root / "lessons").glob("*.ipynb"), *(root / "lessons" / "src").glob("*.py")]
    for lesson in sorted({path.stem for path in notebooks}):
        because = f"there is a lesson {lesson}"
        expect(because, f"lessons/{lesson}.ipynb")
        expect(because, f"lessons/src/{lesson}.py")
        numbered = re.fullmatch(r"\d\d_(\w+)", lesson)
        if not numbered:
            complaints.append(f"lesson {lesson!r} is not called NN_name")
            continue
        name = numbered[1]
        expect(because, f"minidiff/{name}.py", f"minidiff/data/{name}.py")
        expect(because, f"minidiff/checks/{name}.py")
        expect(because, f"tests/test_{name}.py")
    return complaints


def read_nowhere(root):
    """A taught module has a lesson of its name, or says in which one it is read."""
    lessons = {path.stem for path in (root / "lessons" / "src").glob("*.py")}
    complaints = []
    for path in taught(root):
        if any(lesson.partition("_")[2] == path.stem for lesson in lessons):
            continue
        said = READ.search(ast.get_docstring(ast.parse(path.read_text())) or "")
        where = path.relative_to(root)
        if not said:
            complaints.append(
                f"{where}: no lesson, and its docstring names none that it is read in"
            )
            continue
        how, number = said.groups()
        found = [lesson for lesson in lessons if lesson.startswith(f"{number}_")]
        if not found:
            complaints.append(
                f"{where}: is read {how} lesson {number}, and there is no such lesson"
            )
        elif how == "in":
            lesson = (root / "lessons" / "src" / f"{found[0]}.py").read_text()
            if not re.search(rf"\b{path.stem}\b", lesson):
                complaints.append(f"{where}: is read in lesson {number}, which does not name it")
    return complaints


def long_modules(root):
    complaints, short = [], {path for path in taught(root) if path.stem not in LONGER_YET}
    for path in modules(root):
        lines = len(path.read_text().splitlines())
        most = MOST_TAUGHT_LINES if path in short else MOST_LINES
        if lines > most:
            where = path.relative_to(root)
            complaints.append(f"{where}: {lines} lines cannot be read in one sitting, {most} can")
    return complaints


def undocumented(root):
    complaints = []
    for path in modules(root):
        tree = ast.parse(path.read_text())
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        public = [
            node
            for node in tree.body
            if isinstance(node, definitions) and not node.name.startswith("_")
        ]
        complaints += [
            f"{path.relative_to(root)}: {getattr(node, 'name', 'the module')} has no docstring"
            for node in [tree, *public]
            if not ast.get_docstring(node)
        ]
    return complaints


def cut_short(root):
    """Docstrings whose first paragraph, which is all that a list of them shows, ends in mid-sentence."""
    complaints = []
    for path in modules(root):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = (ast.get_docstring(node) or ".").split("\n\n")[0].rstrip()
                if not text.endswith((".", "?", "!", ":", ")", '"')):
                    name = getattr(node, "name", "the module")
                    complaints.append(f"{path.relative_to(root)}: {name} ends at {text[-20:]!r}")
    return complaints


RULES = [
    wrong_imports,
    missing_companions,
    read_nowhere,
    long_modules,
    undocumented,
    cut_short,
]


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_the_rule(rule):
    assert not rule(ROOT)


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("layers.py", "def f():\n    from minidiff.data.scenes import x", "layers.py:2"),
        ("layers.py", "import minidiff.unet", "layers may not import unet"),
        ("kernels/a.py", "from minidiff import layers", "kernels may not import layers"),
        ("sampling.py", "from minidiff.unet import UNet", "sampling may not import unet"),
        ("unet.py", "from minidiff.noising import add_noise", "unet may not import noising"),
        ("vit.py", "from minidiff.unet import UNet", "vit may not import unet"),
        ("schedules.py", "from minidiff.unet import UNet", "schedules may not import unet"),
        ("objectives.py", "from minidiff.unet import UNet", "objectives may not import unet"),
        ("recipes/a.py", "from minidiff.recipes import b", "recipes may not import recipes"),
        ("unet.py", "from .layers import Conv", "relative import"),
        ("layers.py", "from minidiff.nowhere import x", "layers may not import nowhere"),
        ("__init__.py", "from minidiff import unet", "__init__ may not import unet"),
        ("attic.py", "", "which floor is it on?"),
        ("data/__init__.py", "import minidiff.training", "data may not import training"),
    ],
)
def test_a_wrong_import_is_caught(tmp_path, path, text, complaint):
    file = tmp_path / "minidiff" / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    [found] = wrong_imports(tmp_path)
    assert complaint in found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("sampling.py", "from minidiff.schedules import Schedule"),
        ("unet.py", "import jax\nfrom minidiff.layers import Conv"),
        ("data/scenes.py", "from minidiff.data import shapes"),
        ("cli.py", "from minidiff import __version__, commands"),
    ],
)
def test_a_right_import_is_not(tmp_path, path, text):
    file = tmp_path / "minidiff" / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert wrong_imports(tmp_path) == []


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        (["minidiff/unet.py"], ["tests/test_unet.py"]),
        (["minidiff/checks/attic.py"], ["minidiff/attic.py"]),
        (["lessons/intro.ipynb", "lessons/src/intro.py"], ["NN_name"]),
        (
            ["lessons/src/03_scenes.py", "minidiff/data/scenes.py"],
            ["03_scenes.ipynb", "checks/scenes.py", "tests/test_scenes.py"],
        ),
    ],
)
def test_a_missing_companion_is_caught(tmp_path, present, missing):
    for name in present:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = missing_companions(tmp_path)
    assert len(found) == len(missing)
    assert all(part in complaint for part, complaint in zip(missing, found, strict=True))


@pytest.mark.parametrize(
    ("docstring", "complaint"),
    [
        ("Noise.", "names none"),
        ("Noise. It is read in lesson 8.", "names none"),
        ("Noise. It is read in lesson 09.", "no such lesson"),
        ("Noise. It is read after lesson 09.", "no such lesson"),
        ("Noise. It is read in lesson 08.", "which does not name it"),
        ("Noise. It is read after lesson 08.", None),
        ("Noise. It is read in\nlesson 07.", None),
    ],
)
def test_a_module_that_no_lesson_reads_is_caught(tmp_path, docstring, complaint):
    (tmp_path / "minidiff").mkdir()
    (tmp_path / "lessons" / "src").mkdir(parents=True)
    (tmp_path / "minidiff" / "schedules.py").write_text(f'"""{docstring}"""')
    (tmp_path / "minidiff" / "noising.py").write_text('"""With a lesson of its own."""')
    (tmp_path / "minidiff" / "errors.py").write_text('"""Not taught."""')
    (tmp_path / "lessons" / "src" / "07_noising.py").write_text("from minidiff import schedules")
    (tmp_path / "lessons" / "src" / "08_sampling.py").write_text(
        "from minidiff import schedulesque"
    )
    found = read_nowhere(tmp_path)
    assert len(found) == (complaint is not None)
    assert all(complaint in text for text in found)


def test_a_long_or_undocumented_module_is_caught(tmp_path):
    (tmp_path / "minidiff").mkdir()
    (tmp_path / "minidiff" / "a.py").write_text("def f(): pass\n" + "#\n" * MOST_LINES)
    (tmp_path / "minidiff" / "errors.py").write_text("#\n" * (MOST_TAUGHT_LINES + 1))
    assert len(long_modules(tmp_path)) == 1
    (tmp_path / "minidiff" / "b.py").write_text("#\n" * (MOST_TAUGHT_LINES + 1))
    assert len(long_modules(tmp_path)) == 2
    (tmp_path / "minidiff" / "b.py").unlink()
    (tmp_path / "minidiff" / "errors.py").unlink()
    assert len(undocumented(tmp_path)) == 2  # the module and f
    (tmp_path / "minidiff" / "b.py").write_text('"""Such as\n\nthis."""\n')
    assert len(cut_short(tmp_path)) == 1


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_minidiff_imports_nothing_heavy():
    run = python("import minidiff, sys; print(sorted({n.split('.')[0] for n in sys.modules}))")
    assert run.returncode == 0, run.stderr
    loaded = set(ast.literal_eval(run.stdout))
    assert "minidiff" in loaded
    assert not loaded & {"jax", "jaxlib", "numpy", "matplotlib", "flax", "optax", "PIL", "scipy"}


def test_help_needs_no_jax():
    run = python(
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(['jax', 'jaxlib', 'numpy', 'matplotlib']))\n"
        "sys.argv = ['minidiff', '--help']\n"
        "runpy.run_module('minidiff', run_name='__main__')\n"
    )
    assert run.returncode == 0, run.stderr
    assert "usage: minidiff" in run.stdout


def test_modules_load_when_first_used():
    run = python(
        "import minidiff as md, sys\n"
        "assert 'minidiff.errors' not in sys.modules\n"
        "md.errors.InputError\n"
        "assert not hasattr(md, 'attic')\n"
        "from minidiff import attic\n"
    )
    assert "cannot import name 'attic'" in run.stderr


def test_shapes_are_checked_while_tests_run():
    from minidiff.noising import add_noise
    from minidiff.schedules import linear_schedule

    schedule, images = linear_schedule(), jnp.zeros((2, 4, 4, 3))
    add_noise(schedule, images, jnp.array([0, 1]), images)
    with pytest.raises(TypeCheckError):
        add_noise(schedule, images, jnp.array([0, 1, 2]), images)


def test_ranks_are_not_promoted_while_tests_run():
    with pytest.raises(ValueError, match="rank"):
        jnp.zeros(3) + jnp.zeros((3, 3))
