"""``minidiff check``: students' notebooks get the marks they deserve, whatever they do."""

import csv
import hashlib
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import jupytext
import nbformat
import pytest

from minidiff import checks
from minidiff.cli import main
from minidiff.errors import InputError
from minidiff.grading import grade as grading
from minidiff.grading import marks, report
from minidiff.grading.notebook import Notebook, find, plain, read
from minidiff.grading.process import Limits

SETUP = """
import jax.numpy as jnp
import numpy as np
from minidiff import checks, noising
from minidiff.lesson import Lesson
lesson = Lesson("07_noising")
"""
RIGHT = {
    "alpha_bar": "def my_alpha_bar(beta):\n    return np.cumprod(1 - beta)",
    "add_noise": """
def my_add_noise(schedule, x0, t, eps):
    share = schedule.alpha_bar[t].reshape(-1, *[1] * (x0.ndim - 1))
    return jnp.sqrt(share) * x0 + jnp.sqrt(1 - share) * eps
""",
    "predict_x0": """
def my_predict_x0(schedule, xt, t, eps):
    share = schedule.alpha_bar[t].reshape(-1, *[1] * (xt.ndim - 1))
    return (xt - jnp.sqrt(1 - share) * eps) / jnp.sqrt(share)
""",
}
BLANK = {name: f"def my_{name}(*args):\n    raise NotImplementedError" for name in RIGHT}
NO_ROOT = RIGHT["add_noise"].replace("jnp.sqrt(1 - share)", "(1 - share)")
HALF = {"add_noise": NO_ROOT, "alpha_bar": RIGHT["alpha_bar"], "predict_x0": BLANK["predict_x0"]}


def cells(answers):
    """The code cells of a lesson with these answers."""
    checked = [f"{source}\n\nchecks.{name}(my_{name})" for name, source in answers.items()]
    return [SETUP, "%matplotlib inline\n!ls", *checked, 'print("✓ add_noise: right")']


def hand_in(path, sources):
    """A notebook file, .ipynb or .py."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell("# 07 · Noising")]
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in sources]
    jupytext.write(notebook, path, fmt="ipynb" if path.suffix == ".ipynb" else "py:percent")
    return path


def graded(*sources, limits=None):
    """What is said of a notebook of these cells."""
    notebook = Notebook(Path("student.ipynb"), "student", (SETUP, *sources))
    return grading.grade(notebook, notebook.exercises(checks.exercises()), limits or Limits())


def statuses(result):
    return {r.name: r.status for r in result.results}


ALL_RIGHT = dict.fromkeys(RIGHT, "right")
HALF_RIGHT = {"add_noise": "wrong", "alpha_bar": "right", "predict_x0": "not attempted"}


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    """A folder of four students' work, one of it unreadable, and what the other three deserve."""
    folder = tmp_path_factory.mktemp("class")
    paths = [
        hand_in(folder / "ann.ipynb", cells(RIGHT)),
        hand_in(folder / "bob" / "07.py", cells(HALF)),
        hand_in(folder / "cid.ipynb", cells(BLANK)),
    ]
    before = [path.read_bytes() for path in paths]
    known, made = checks.exercises(), {}
    for path, name in find([str(folder)]):
        notebook = read(path, name)
        made[name] = grading.grade(notebook, notebook.exercises(known), Limits())
    assert [path.read_bytes() for path in paths] == before
    (folder / "dot.ipynb").write_text("{}")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "ann.ipynb").write_text("{}")
    (folder / "helper.py").write_text("x = 1")
    return folder, made


@pytest.fixture
def told(classroom, monkeypatch, capsys):
    """What the command prints of that folder, which is not run again."""
    folder, made = classroom
    monkeypatch.setattr(report, "grade", lambda notebook, *rest: made[notebook.name])

    def tell(*options):
        assert main(["check", str(folder), *options]) == 0
        return capsys.readouterr().out

    return tell


def test_solved_half_and_blank(classroom):
    _, made = classroom
    assert statuses(made["ann"]) == ALL_RIGHT
    assert statuses(made["bob/07"]) == HALF_RIGHT
    assert set(statuses(made["cid"]).values()) == {"not attempted"}
    assert not any(work.cells for work in made.values())  # nothing went wrong in a cell
    assert [r.name for r in made["bob/07"].results] == list(HALF)  # in the notebook's order
    assert (
        "did you forget the square root over 1 - alpha_bar?" in made["bob/07"].results[0].sentence
    )


def test_a_class_is_a_table(told):
    rows = [line.split() for line in told().splitlines()]
    assert rows[0] == ["alpha_bar", "add_noise", "predict_x0", "right"]
    assert rows[1] == ["ann", "✓", "✓", "✓", "3/3"]
    assert rows[2] == ["bob/07", "✓", "✗", "○", "1/3"]
    assert rows[3] == ["cid", "○", "○", "○", "0/3"]
    assert rows[4] == ["dot", "·", "·", "·", "0/0"]
    assert rows[5] == ["right", "2/3", "1/3", "1/3", "4/9"]
    assert rows[7][0] == "dot:"
    assert rows[9][:2] == ["bob/07:", "add_noise:"]  # with the sentence
    assert len(rows) == 10  # no mistake is common: one student made it


def test_a_student_whose_process_does_not_start(told, monkeypatch, classroom):
    def fail(notebook, *rest):
        if notebook.name == "ann":
            raise InputError("does not start")
        return classroom[1][notebook.name]

    monkeypatch.setattr(report, "grade", fail)
    rows = told().splitlines()
    assert rows[1].split() == ["ann", "·", "·", "·", "0/0"]
    assert "ann: does not start" in rows


def test_a_class_as_json(told):
    students = json.loads(told("--json"))["students"]
    assert [student["student"] for student in students] == ["ann", "bob/07", "cid", "dot"]
    assert [student["right"] for student in students] == [3, 1, 0, 0]
    assert {e["name"]: e["status"] for e in students[1]["exercises"]} == HALF_RIGHT
    assert "dot.ipynb cannot be read" in students[3]["error"]


def test_a_class_as_csv(told):
    rows = list(csv.reader(told("--csv").splitlines()))
    assert rows[0] == [
        "student",
        "alpha_bar",
        "add_noise",
        "predict_x0",
        "right",
        "of",
        "percent",
        "error",
    ]
    assert rows[1] == ["ann", "1", "1", "1", "3", "3", "100", ""]
    assert rows[2][:7] == ["bob/07", "1", "0", "0", "1", "3", "33"]
    assert rows[3][:7] == ["cid", "0", "0", "0", "0", "3", "0"]
    assert rows[4][:7] == ["dot", "", "", "", "0", "0", "0"]
    assert "cannot be read" in rows[4][7]


def test_a_file_of_feedback_for_each_student(told, tmp_path):
    told("--feedback", str(tmp_path / "back"))
    files = {path.name: path.read_text() for path in (tmp_path / "back").iterdir()}
    assert sorted(files) == ["ann.md", "bob-07.md", "cid.md", "dot.md"]
    assert "3 of 3 right" in files["ann.md"]
    assert "✗ **add_noise**: did you forget the square root" in files["bob-07.md"]
    assert "cannot be read" in files["dot.md"]


@pytest.mark.parametrize(
    ("percent", "below"), [("0", None), ("30", "cid, dot"), ("40", "bob/07, cid, dot")]
)
def test_a_blank_submission_fails_a_classrooms_check(told, capsys, percent, below):
    if below is None:
        told("--fail-under", percent)
        return
    with pytest.raises(SystemExit) as ended:
        told("--fail-under", percent)
    assert ended.value.code == 1
    assert f"below {percent}% right: {below}" in capsys.readouterr().err


def test_the_most_common_mistakes():
    wrong = grading.Result("a", "wrong", "no root")
    class_ = [grading.Graded(name, "", (wrong,)) for name in ("x", "y")]
    class_ += [grading.Graded("z", "", (grading.Result("a", "wrong", "no sign"),))]
    assert marks.common_mistakes(class_) == ["2 x a: no root"]
    assert "most common:\n2 x a: no root" in report.table(class_)


def test_two_students_of_one_file_name_are_refused(tmp_path, capsys):
    for folder in ("a", "a-b"):
        hand_in(tmp_path / folder / ("b-c.ipynb" if folder == "a" else "c.ipynb"), cells(BLANK))
    assert main(["check", str(tmp_path), "--feedback", str(tmp_path / "back")]) == 2
    assert "a-b-c.md" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def test_two_at_a_time_with_arguments_drawn_anew(tmp_path, capsys):
    """In their order; what was learned by heart for the usual arguments is wrong for others."""
    by_heart = """
usual = iter([np.asarray(checks.alpha_bar.solution(*case)) for case in checks.alpha_bar.cases()])
def my_alpha_bar(beta):
    return next(usual)
"""
    hand_in(tmp_path / "1.ipynb", [SETUP, by_heart])
    hand_in(tmp_path / "2.ipynb", [SETUP, RIGHT["alpha_bar"]])
    found = {}
    for seed in ("0", "7"):
        assert main(["check", str(tmp_path), "--jobs", "2", "--seed", seed, "--json"]) == 0
        out = json.loads(capsys.readouterr().out)["students"]
        found[seed] = [
            next(e["status"] for e in student["exercises"] if e["name"] == "alpha_bar")
            for student in out
        ]
    assert found == {"0": ["right", "right"], "7": ["wrong", "right"]}


def test_cells_after_the_last_exercise_are_run_only_if_an_answer_needs_them():
    endless = "while True: pass"
    assert statuses(graded(RIGHT["alpha_bar"], endless))["alpha_bar"] == "right"
    late = "def my_alpha_bar(beta):\n    return left(beta)"
    result = graded(late, "def left(beta):\n    return np.cumprod(1 - beta)")
    assert statuses(result)["alpha_bar"] == "right"


def test_a_class_as_junit(told, tmp_path):
    assert "written" in told("--junit", "--out", str(tmp_path / "marks.xml"))
    suites = ElementTree.parse(tmp_path / "marks.xml").getroot()
    counts = [
        [s.get(k) for k in ("name", "tests", "failures", "skipped", "errors")] for s in suites
    ]
    assert counts[:3] == [
        ["ann", "3", "0", "0", "0"],
        ["bob/07", "3", "1", "1", "0"],
        ["cid", "3", "0", "3", "0"],
    ]
    assert counts[3][0] == "dot"
    assert counts[3][4] == "1"
    failure = suites.find(".//failure")
    assert "square root" in failure.get("message")


def test_the_command_on_one_notebook(tmp_path, monkeypatch, capsys):
    """End to end; the lesson of the command makes an exercise due that is not in the notebook."""
    monkeypatch.setattr(
        "minidiff.commands.lessons.find", lambda number: Path(f"{number}_noising.ipynb")
    )
    path = hand_in(tmp_path / "eve.ipynb", ["import numpy as np", RIGHT["alpha_bar"]])
    digest = hashlib.sha256(path.read_bytes()).digest()
    assert main(["check", str(path), "--lesson", "07", "--cell-seconds", "90"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out[:1]] == [["✓", "alpha_bar", "right"]]
    assert {line.split()[1] for line in out[1:3]} == {"add_noise", "predict_x0"}
    assert all(line.startswith("○") for line in out[1:3])
    assert out[3:] == ["1 of 3 right"]
    assert hashlib.sha256(path.read_bytes()).digest() == digest
    assert [file.name for file in tmp_path.iterdir()] == ["eve.ipynb"]


# What is no notebook


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("check", "NOTEBOOK"),
        ("check nowhere.ipynb", "there is no nowhere.ipynb"),
        ("check text.ipynb", "text.ipynb cannot be read as a notebook"),
        ("check list.ipynb", "list.ipynb cannot be read as a notebook"),
        ("check latin.py", "latin.py cannot be read as a notebook"),
        ("check notes.txt", "notes.txt is not a notebook"),
        ("check other.ipynb", "other.ipynb has no exercise"),
        ("check empty", "empty holds no notebooks"),
        ("check broken", "cannot be read as a notebook"),
        ("check good.ipynb nowhere.ipynb", "nowhere.ipynb"),
        ("check good.ipynb --out good.ipynb", "good.ipynb"),
        ("check good.ipynb --out nowhere/marks.txt", "nowhere"),
        ("check good.ipynb --json --junit", "--junit"),
        ("check good.ipynb --cell-seconds 0", "--cell-seconds"),
        ("check good.ipynb --memory much", "--memory"),
        ("check good.ipynb --lesson 99", "lesson"),
        ("check good.ipynb --feedback good.ipynb", "--feedback"),
        ("check good.ipynb --fail-under 101", "--fail-under"),
        ("check good.ipynb --jobs 0", "--jobs"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, line, part):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken").mkdir()
    for name in ("text.ipynb", "broken/text.ipynb", "notes.txt"):
        Path(name).write_text("hello")
    Path("list.ipynb").write_text("[1, 2]")
    Path("latin.py").write_bytes(b"# %%\nname = '\xff'\n")
    hand_in(tmp_path / "other.ipynb", ["x = 1"])
    good = hand_in(tmp_path / "good.ipynb", cells(RIGHT)).read_bytes()
    try:
        status = main(line.split())
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert status == 2
    assert err.count("\n") == 1, err
    assert part in err
    assert out == ""
    assert Path("good.ipynb").read_bytes() == good


def test_without_jupytext(capsys, tmp_path, monkeypatch):
    path = hand_in(tmp_path / "good.ipynb", cells(RIGHT))
    monkeypatch.setitem(sys.modules, "jupytext", None)
    assert main(["check", str(path)]) == 2
    assert 'pip install -e ".[lessons]"' in capsys.readouterr().err


# What is read of a notebook


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("x = 7\n% 2", "x = 7\npass"),
        ("x = (7\n% 2)", "x = (7\n% 2)"),
        ("%matplotlib inline\nx = 1", "pass\nx = 1"),
        ("if 1:\n    !ls", "if 1:\n    pass"),
        ("files = !ls *.py\nx = 1", "files = None\nx = 1"),
        ("%%time\nx = 1", "pass\nx = 1"),
        ("%%bash\nrm -r *", ""),
        ("jnp.sqrt?\nx = 1", "pass\nx = 1"),
        ("def f(:", "def f(:"),
    ],
)
def test_what_only_ipython_understands_does_nothing(source, wanted):
    assert plain(source) == wanted


def exercises_in(*sources, lesson=""):
    notebook = Notebook(Path("x.py"), "x", sources)
    return [exercise.name for exercise in notebook.exercises(checks.exercises(), lesson)]


def test_which_exercises_are_due():
    assert exercises_in("x = 1") == []
    assert exercises_in("my_predict_x0 = 1", "checks.alpha_bar(f)") == ["predict_x0", "alpha_bar"]
    assert exercises_in("not_my_alpha_bar, my_alpha_bar2, checks.alpha_bar.hint()") == []
    assert set(exercises_in('Lesson("07_noising")')) == set(RIGHT)
    assert set(exercises_in("x = 1", lesson="noising")) == set(RIGHT)
    assert exercises_in("Lesson('07_exercise')", "Lesson('99_attic')") == []


@pytest.mark.parametrize(
    "source",
    [
        "my_add_noise = noising.add_noise",
        "my_add_noise = checks.add_noise.solution",
        "from minidiff.noising import add_noise as my_add_noise",
        "from minidiff.noising import add_noise\nmy_add_noise = add_noise",
        "from minidiff.noising import add_noise as f\ndef my_add_noise(*a):\n    return f(*a)",
        "def my_add_noise(*args):\n    return noising.add_noise(*args)",
        "def my_add_noise(*args):\n    return checks.exercises()['add_noise'].solution(*args)",
        "def my_add_noise(*args):\n    return getattr(noising, 'add_noise')(*args)",
        "from functools import partial\nmy_add_noise = partial(noising.add_noise)",
        "def help(*a):\n    return noising.add_noise(*a)\ndef my_add_noise(*a):\n    return help(*a)",
        "f = noising.add_noise\nmy_add_noise = lambda *a: f(*a)",
    ],
)
def test_the_modules_own_function_is_noted(source):
    notebook = Notebook(Path("x.py"), "x", (source,))
    assert notebook.borrows(checks.exercises()["add_noise"])


@pytest.mark.parametrize(
    "source",
    [
        RIGHT["add_noise"] + "checks.add_noise(my_add_noise)",
        "xt = noising.add_noise(s, x, t, e)\ndef my_add_noise(s, x, t, e):\n    xt = x\n    return xt",
        "def my_add_noise(s, x, t, e):\n    return noising.at(s.alpha_bar, t, x) * x",
        "def my_predict_x0(*a):\n    return noising.add_noise(*a)",
        "def add_noise(*a):\n    return 0\nmy_add_noise = add_noise",
        "def my_add_noise(:",
    ],
)
def test_ones_own_work_is_not(source):
    notebook = Notebook(Path("x.py"), "x", (source,))
    assert not notebook.borrows(checks.exercises()["add_noise"])


# How a notebook is run


def test_a_stub_that_is_gone_or_no_python():
    odd = "def my_alpha_bar(beta):\n    return beta.attic"
    result = graded("def my_add_noise(x0:\n    return x0", odd)
    syntax, attribute, gone = result.results
    assert (syntax.name, syntax.status) == ("add_noise", "wrong")
    assert "cell 2 raised SyntaxError in line 1" in syntax.sentence
    assert (attribute.name, attribute.status) == ("alpha_bar", "wrong")
    assert "my_alpha_bar raised AttributeError in line 2 of its cell" in attribute.sentence
    assert (gone.name, gone.status) == ("predict_x0", "not attempted")


def test_cells_that_raise_or_end_the_process_are_noted_and_left_out():
    evil = {
        "raise ValueError('one\\ntwo')": "raised ValueError in line 1: one two",
        "exit()": "raised SystemExit",
        "import os\nos._exit(0)": "ended the process (exit status 0)",
        "import os\nos.kill(os.getpid(), 9)": "ended the process (SIGKILL)",
        "for fd in range(3, 100):\n    try:\n        os.write(fd, b'garbage' * 9)\n"
        "    except OSError:\n        pass": "wrote nonsense into the grader's connection",
        "input()": "raised EOFError",
    }
    if Path("/proc/self/statm").exists():  # memory is limited on Linux
        hog = "many = []\nwhile True:\n    many.append(np.empty(1 << 26))"
        evil[hog] = "took more than 2 GiB"
    result = graded("import os", *evil, *RIGHT.values(), limits=Limits(memory=2))
    assert statuses(result) == ALL_RIGHT
    for number, (found, part) in enumerate(zip(result.cells, evil.values(), strict=True), 3):
        assert found.startswith(f"cell {number} {part}")


def test_a_cell_without_end_and_files_deleted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("student.ipynb").write_text("my work")
    delete = """
import os, shutil
for path in ("student.ipynb", "../student.ipynb", os.environ["HOME"]):
    try:
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    except FileNotFoundError:
        pass
"""
    result = graded(delete, "while True: pass", RIGHT["alpha_bar"], limits=Limits(cell=5))
    assert statuses(result)["alpha_bar"] == "right"
    assert result.cells == ("cell 3 took longer than 5 s",)
    assert Path("student.ipynb").read_text() == "my work"


def test_enough_is_enough(monkeypatch):
    monkeypatch.setattr(grading, "MOST_DEATHS", 2)
    death = "import os\nos._exit(1)"
    result = graded(RIGHT["alpha_bar"], death, death, death, RIGHT["add_noise"])
    assert result.cells[2] == "cell 5 was not run: 2 cells ended the process before it"
    assert statuses(result)["alpha_bar"] == "right"
    assert statuses(result)["add_noise"] == "wrong"


def test_the_time_of_a_notebook_ends():
    result = graded("import time\ntime.sleep(2)", RIGHT["alpha_bar"], limits=Limits(notebook=1))
    assert statuses(result)["alpha_bar"] == "wrong"
    assert "took longer than 1 s" in result.cells[0]


def test_patched_checks_and_printed_ticks_persuade_nobody():
    patch = """
from minidiff.checks import exercise
from minidiff.grading import process, wire
right = exercise.Verdict("add_noise", "right")
exercise.Exercise.judge = lambda self, candidate: right
exercise.Exercise.__call__ = lambda self, candidate: print("✓ add_noise: right")
exercise.Exercise._compare = exercise.Exercise._fault = lambda *args: None
exercise.difference = lambda *args: None
np.allclose = lambda *args: True
noising.add_noise = lambda schedule, x0, t, eps: x0
print("✓ add_noise: right", flush=True)
"""
    wrong = "def my_add_noise(schedule, x0, t, eps):\n    return x0\nchecks.add_noise(my_add_noise)"
    assert statuses(graded(patch, wrong))["add_noise"] == "wrong"


def test_a_check_says_nothing_where_it_is_graded(monkeypatch, capsys):
    monkeypatch.setenv("MINIDIFF_GRADING", "1")
    checks.exercises()["alpha_bar"](abs)
    assert capsys.readouterr().out == ""


def test_answers_that_are_out_of_their_mind():
    forge = """
from minidiff.grading import wire
dump = wire.dump
odd = {"there": True, "callable": np.ones(2), "kind": [True], "raised": {"a": None}}
wire.dump = lambda answer: dump({**answer, **(odd if "there" in answer else {})})
"""
    result = graded(forge, RIGHT["alpha_bar"])
    assert result.results[0].sentence == "my_alpha_bar must be a function, not object"


def test_one_hopeless_exercise_costs_no_other_its_mark():
    endless = "def my_add_noise(*args):\n    while True: pass"
    fatal = "def my_predict_x0(*args):\n    import os; os._exit(0)"
    result = graded(endless, fatal, RIGHT["alpha_bar"], limits=Limits(exercise=4))
    assert [r.sentence for r in result.results] == [
        "my_add_noise took longer than 4 s",
        "my_predict_x0 ended the process (exit status 0)",
        "right",
    ]


def test_tidy_is_one_short_line():
    assert grading.tidy("a\n\x1b[31mb\ud800\x00 c") == "a [31mb c"
    assert len(grading.tidy("x" * 10_000)) == 300
