"""The lessons: every source runs offline, every notebook is its source, and the command opens them."""

import base64
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from minidiff import checks
from minidiff.cli import main
from minidiff.commands import lessons
from minidiff.errors import InputError
from minidiff.lesson import Lesson

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "lessons" / "src").glob("*.py"))
NAMES = [source.stem for source in SOURCES]
CLAIM = re.compile(r"lesson\.(expect|claim|agree)\(")

specification = importlib.util.spec_from_file_location("build", ROOT / "lessons" / "build.py")
build = importlib.util.module_from_spec(specification)
specification.loader.exec_module(build)

# Any connection is refused: a lesson needs no network.
OFFLINE = """
import runpy, socket, sys
def refuse(*args, **kwargs):
    raise OSError("a lesson needs no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def run(source, folder, preset):
    """What a lesson prints, and what it shows and claims."""
    log = folder / "log.jsonl"
    environment = {**os.environ, "MINIDIFF_PRESET": preset, "MINIDIFF_LESSON_LOG": str(log)}
    if preset != "smoke":
        environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)  # these are measured
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", OFFLINE, str(source)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return ended, events


def markdown(source):
    cells = jupytext.read(source, fmt="py:percent").cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


def code(source):
    cells = jupytext.read(source, fmt="py:percent").cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def exercises_of(source):
    """The exercises of a lesson, by its checks module."""
    return checks.of_lesson(source.stem[3:])


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
class TestEveryLesson:
    @pytest.mark.long
    def test_it_runs_offline_at_the_smoke_preset(self, source, tmp_path):
        ended, events = run(source, tmp_path, "smoke")
        assert ended.stderr == ""
        figures = [event for event in events if event["event"] == "figure"]
        assert len(figures) >= 3
        assert all(event["holds"] for event in events if event.get("binding"))
        assert ended.stdout.count("not attempted yet") == len(exercises_of(source))

    @pytest.mark.slow
    def test_what_it_claims_holds_at_the_cpu_preset(self, source, tmp_path):
        _, events = run(source, tmp_path, "cpu")
        claims = [event for event in events if event["event"] == "claim"]
        assert claims
        assert all(claim["holds"] for claim in claims)

    def test_it_keeps_to_its_length(self, source):
        texts = markdown(source)
        assert len(texts) + len(code(source)) <= 45
        assert sum(len(text.split()) for text in texts) <= 2000

    def test_it_has_its_parts(self, source):
        whole = "\n".join(markdown(source))
        number, name = source.stem[:2], source.stem[3:]
        assert markdown(source)[0].startswith(f"# {number} · ")
        module = next(p for p in ("", "data/") if (ROOT / f"minidiff/{p}{name}.py").exists())
        assert f"(../minidiff/{module}{name}.py)" in whole
        assert "https://" in whole  # the paper
        assert whole.count("<details>") == whole.count("</details>") >= 3  # the quiz
        for part in ("## Recap", "Pitfalls", "## Quiz", "## References"):
            assert part in whole
        following = [other for other in NAMES if other > source.stem][:1]
        assert all(f"({other}.ipynb)" in whole for other in following)

    def test_no_claim_stands_in_the_cell_that_a_prediction_waits_for(self, source):
        cells = jupytext.read(source, fmt="py:percent").cells
        for i, cell in enumerate(cells):
            if cell.cell_type == "markdown" and re.search(
                r"\*\*(Predict|Before you run)", cell.source
            ):
                run = next(c.source for c in cells[i:] if c.cell_type == "code")
                assert run.startswith('lesson.predict("...")\n'), cell.source
                assert not CLAIM.search(run), run

    def test_its_claims_stop_no_reader(self, source):
        """An assert would, where a number was changed: see Lesson.expect, claim and agree."""
        assert not re.search(r"\bassert\b|\bnp\.testing\b", "\n".join(code(source)))
        assert CLAIM.search("\n".join(code(source)))

    def test_its_links_lead_somewhere(self, source):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", "\n".join(markdown(source))):
            if not target.startswith("https://"):
                file = ROOT / "lessons" / target
                built = ROOT / "lessons" / "src" / file.with_suffix(".py").name
                assert file.exists() or built.exists(), target

    def test_its_exercises_are_those_of_its_checks(self, source):
        cells = [cell for cell in code(source) if "raise NotImplementedError" in cell]
        asked = [re.search(r"^checks\.(\w+)\(my_\1\)$", cell, re.MULTILINE)[1] for cell in cells]
        assert sorted(asked) == sorted(exercises_of(source))
        assert 2 <= len(asked) <= 3
        assert all(f"def my_{name}(" in cell for name, cell in zip(asked, cells, strict=True))

    def test_difficulty_and_minutes_are_those_of_the_check(self, source):
        told = re.findall(
            r"### Exercise [^(\n]*\((★+), (\d+) minutes\)", "\n".join(markdown(source))
        )
        have = [("★" * e.level, str(e.minutes)) for e in exercises_of(source).values()]
        assert sorted(told) == sorted(have)

    def test_its_notebook_is_its_source_executed(self, source):
        assert build.check([source]) == []

    def test_it_was_measured_and_is_quick_enough(self, source):
        took = json.loads(build.MEASURED.read_text())["lessons"][source.stem]
        assert took["seconds"] <= 6 * 60
        assert took["first_figure"] <= 30


# What a reader who knows NumPy does not know, and the lesson that explains it, in bold.
TERMS = {
    "pytree": "00", "tracing": "00", "GroupNorm": "00", "LayerNorm": "00",
    "factors": "01", "signed distance": "01", "splits": "01", "compositional generalisation": "01",
    "embedding": "02", "softmax": "02", "logits": "02", "cross-entropy": "02", "temperature": "02",
    "patch": "03", "token": "03", "attention": "03", "heads": "03", "class token": "03",
    "byte pairs": "04", "padding": "04", "causal mask": "04",
    "projection": "05", "recall at 1": "05",
    "zero-shot": "06", "modality gap": "06", "linear probe": "06", "binding": "06",
    "schedule": "07", "total noise": "07", "ResBlock": "09", "classifier-free guidance": "10",
}  # fmt: skip


def used_too_soon(terms, lessons):
    """Terms that no lesson explains in bold, or that one before uses."""
    complaints = []
    for term, number in terms.items():
        word = re.compile(rf"(?<![\w-]){re.escape(term)}s?(?![\w-])", re.IGNORECASE)
        for name, prose in lessons.items():
            if name[:2] < number and word.search(prose):
                complaints.append(f"{name} uses {term!r}, which lesson {number} explains")
            if name[:2] == number and not re.search(rf"\*\*{word.pattern}", prose, re.IGNORECASE):
                complaints.append(f"{name} does not explain {term!r} in bold")
    return complaints


def test_no_term_is_used_before_it_is_explained():
    lessons = {}
    for source in SOURCES:
        text = "\n".join(markdown(source)).split("## References")[0]
        text = re.sub(r"\]\([^)]*\)", "", text)  # addresses are no prose
        lessons[source.stem] = " ".join(text.split())
    assert used_too_soon(TERMS, lessons) == []


def test_a_term_used_too_soon_is_found():
    lessons = {"01_a": "All logits are equal.", "02_b": "The **logits** say so. A softmax."}
    assert used_too_soon({"logits": "02"}, lessons) == [
        "01_a uses 'logits', which lesson 02 explains"
    ]
    assert used_too_soon({"softmax": "02"}, lessons) == ["02_b does not explain 'softmax' in bold"]
    assert used_too_soon({"logit": "02"}, {"02_b": lessons["02_b"]}) == []


def test_all_checks_belong_to_a_lesson():
    taught = [name for source in SOURCES for name in exercises_of(source)]
    assert sorted(taught) == sorted(checks.exercises())


def test_notebooks_are_small_together():
    assert sum(path.stat().st_size for path in lessons.notebooks()) <= build.MOST_IN_ALL


SOURCE = """# %% [markdown]
# # 42 · Answers
#
# See [the module](../minidiff/errors.py) and [the next](43_more.ipynb).

# %%
print(6 * 7)
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "42_answers.py"
    path.write_text(SOURCE)
    return path


def executed(source):
    """A notebook as a build would leave it."""
    notebook = build.from_source(source)
    picture = {"image/png": base64.b64encode(b"not really").decode(), "text/plain": "a figure"}
    notebook.cells[1].outputs = [
        nbformat.v4.new_output("stream", text="42\n"),
        nbformat.v4.new_output("display_data", data=picture),
    ]
    notebook.cells[1].execution_count = 1
    return notebook


def test_a_good_notebook_has_no_faults(source):
    assert build.faults(executed(source), source) == []
    nbformat.validate(executed(source))


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda cell: cell.update(source="print(43)"), "cells differ"),
        (lambda cell: cell.update(id="other"), "cells differ"),
        (lambda cell: cell.update(metadata={"tags": ["x"]}), "metadata"),
        (lambda cell: cell.update(execution_count=2), "in order"),
        (lambda cell: cell.update(outputs=[]), "no figure"),
        (lambda cell: cell.outputs[0].update(text="/home/me/x.py"), "path of one machine (/home/)"),
        (lambda cell: cell.outputs[0].update(text="in C:\\\\Users"), "path of one machine"),
        (lambda cell: cell.outputs[0].update(name="stderr"), "stderr"),
        (
            lambda cell: cell.outputs.append(
                nbformat.v4.new_output("error", ename="KeyError", evalue="", traceback=[])
            ),
            "ends in KeyError",
        ),
        (
            lambda cell: cell.outputs[1].data.update(
                {"application/vnd.jupyter.widget-view+json": {}}
            ),
            "widget",
        ),
        (
            lambda cell: cell.outputs[1].data.update(
                {"image/png": base64.b64encode(bytes(70_000)).decode()}
            ),
            "70000 bytes",
        ),
    ],
)
def test_a_fault_of_a_notebook_is_found(source, spoil, part):
    notebook = executed(source)
    spoil(notebook.cells[1])
    assert any(part in fault for fault in build.faults(notebook, source))


def test_a_missing_notebook_is_found(source):
    assert "missing" in build.check([source])[0]


@pytest.fixture
def folder(source, tmp_path):
    """A folder of lessons with one lesson."""
    nbformat.write(executed(source), tmp_path / "42_answers.ipynb")
    measured = {"gflops": 100, "lessons": {"42_answers": {"seconds": 120.0}}}
    (tmp_path / "measured.json").write_text(json.dumps(measured))
    return tmp_path


class TestTheCommand:
    def test_the_list_scales_minutes_to_the_machine(self, folder):
        assert lessons.listing(None, folder) == "42_answers        2.0 min  Answers"
        assert lessons.listing(50.0, folder) == "42_answers        4.0 min  Answers"

    @pytest.mark.parametrize("number", ["42", "42_answers", "42_answers.ipynb"])
    def test_a_copy_is_not_run_and_has_no_broken_links(self, folder, number):
        mine, is_new = lessons.copy(number, folder / "work", folder)
        assert (mine, is_new) == (folder / "work" / "42_answers.ipynb", True)
        notebook = nbformat.read(mine, as_version=4)
        nbformat.validate(notebook)
        assert notebook.cells[1].outputs == []
        assert "`the module` and [the next](43_more.ipynb)" in notebook.cells[0].source

    def test_a_students_work_is_kept(self, folder):
        mine, _ = lessons.copy("42", folder / "work", folder)
        mine.write_text("my work")
        assert lessons.copy("42", folder / "work", folder) == (mine, False)
        assert mine.read_text() == "my work"

    def test_the_lessons_themselves_are_never_the_copy(self, folder):
        before = (folder / "42_answers.ipynb").read_bytes()
        with pytest.raises(InputError, match="another folder"):
            lessons.copy("42", folder, folder)
        assert (folder / "42_answers.ipynb").read_bytes() == before

    @pytest.mark.parametrize("number", ["43", "x", ""])
    def test_an_unknown_lesson_names_those_there_are(self, folder, number):
        with pytest.raises(InputError, match="42_answers"):
            lessons.find(number, folder)

    def test_a_file_is_no_folder(self, folder):
        (folder / "file").touch()
        with pytest.raises(InputError, match="not a folder"):
            lessons.copy("42", folder / "file", folder)

    def test_without_the_repository_it_says_so(self, tmp_path):
        with pytest.raises(InputError, match="clone minidiff"):
            lessons.notebooks(tmp_path)

    def test_open_copies(self, tmp_path, capsys):
        assert main(["lessons", "open", "07", "--to", str(tmp_path), "--no-start"]) == 0
        assert (tmp_path / "07_noising.ipynb").exists()
        assert "a fresh copy" in capsys.readouterr().out
        assert main(["lessons", "open", "7", "--to", str(tmp_path), "--no-start"]) == 0
        assert "as you left it" in capsys.readouterr().out

    def test_list(self, capsys):
        assert main(["lessons"]) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in NAMES)

    @pytest.mark.parametrize("arguments", [["open"], ["open", "77"], ["close"]])
    def test_bad_input_is_one_line(self, arguments, capsys):
        try:
            status = main(["lessons", *arguments])
        except SystemExit as ended:
            status = ended.code
        assert status == 2
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_jupyter_is_started_on_the_copy(self, folder):
        program = (sys.executable, "-c", "import sys; open(sys.argv[1] + '.seen', 'w')")
        assert lessons.start(folder / "a.ipynb", program)
        assert (folder / "a.ipynb.seen").exists()
        assert not lessons.start(folder / "a.ipynb", ("no-such-program",))


class TestALesson:
    def test_the_preset_chooses(self, monkeypatch):
        monkeypatch.setenv("MINIDIFF_PRESET", "smoke")
        assert Lesson("x").pick(smoke=1, cpu=2) == 1
        monkeypatch.delenv("MINIDIFF_PRESET")
        assert Lesson("x").pick(smoke=1, cpu=2) == 2
        monkeypatch.setenv("MINIDIFF_PRESET", "gpu")
        with pytest.raises(InputError, match="smoke, cpu"):
            Lesson("x")

    def test_a_claim_outside_its_band_stops_a_build(self, monkeypatch, tmp_path):
        monkeypatch.setenv("MINIDIFF_PRESET", "smoke")
        monkeypatch.setenv("MINIDIFF_LESSON_LOG", str(tmp_path / "log"))  # as in a build
        lesson = Lesson("x")
        lesson.expect("a share", 0.5, 0.4, 0.6)
        lesson.expect("what training brings", 0.1, 0.4, 0.6, trained=True)
        with pytest.raises(AssertionError, match="outside"):
            lesson.expect("a share", 0.7, 0.4, 0.6)
        with pytest.raises(AssertionError, match="nan"):
            lesson.expect("a share", float("nan"), 0.4, 0.6)
        monkeypatch.setenv("MINIDIFF_PRESET", "cpu")
        with pytest.raises(AssertionError, match="outside"):
            Lesson("x").expect("what training brings", 0.1, 0.4, 0.6, trained=True)

    def test_a_claim_outside_its_band_is_a_remark_to_a_reader(self, monkeypatch, capsys):
        monkeypatch.delenv("MINIDIFF_LESSON_LOG", raising=False)
        Lesson("x").expect("a share", 0.7, 0.4, 0.6)
        out = capsys.readouterr().out
        assert "a share: 0.7 (expected 0.4 to 0.6)" in out
        assert "not what the text says" in out

    @pytest.mark.parametrize(
        "line",
        [
            "lesson.claim(np.ones(2).sum() == 3)",
            "lesson.agree([1.0, 2.0], [1.0, 3.0])",
            "lesson.agree([1.0], [1.0, 3.0, 5.0, 7.0][:2])",
            "lesson.agree(np.nan, 1.0, rtol=1.0)",
        ],
    )
    def test_other_claims_stop_a_build_and_are_remarks_to_a_reader(
        self, line, monkeypatch, capsys, tmp_path
    ):
        script, told = tmp_path / "lesson.py", tmp_path / "log"
        right = (
            "lesson.claim(np.ones(2).sum() == 2)\nlesson.agree([1.0, 2.01], [1, 2], rtol=0.01)\n"
        )
        begin = "import numpy as np\nfrom minidiff.lesson import Lesson\nlesson = Lesson('x')\n"
        script.write_text(f"{begin}{right}{line}\nprint('on it goes')\n")
        monkeypatch.delenv("MINIDIFF_LESSON_LOG", raising=False)
        runpy.run_path(str(script), run_name="__main__")
        remark = "  This is not what the text says: it speaks of the lesson as it was written."
        out = capsys.readouterr().out.splitlines()[1:]
        assert out == [f"This does not hold: {line}", remark, "on it goes"]
        monkeypatch.setenv("MINIDIFF_LESSON_LOG", str(told))  # as in a build
        with pytest.raises(AssertionError, match=re.escape(line)):
            runpy.run_path(str(script), run_name="__main__")
        events = [json.loads(event) for event in told.read_text().splitlines()]
        assert [event["holds"] for event in events] == [True, True, False]

    def test_a_prediction_stands_beside_the_result(self, monkeypatch, capsys):
        monkeypatch.delenv("MINIDIFF_LESSON_LOG", raising=False)
        lesson = Lesson("x")
        capsys.readouterr()
        lesson.predict("about 300")
        lesson.outcome("1024")
        assert capsys.readouterr().out == "You wrote: about 300. It is: 1024\n"
        lesson.predict("...")
        assert "in place of the dots" in capsys.readouterr().out
        lesson.outcome("0.5")
        assert capsys.readouterr().out == "It is: 0.5\n"
        monkeypatch.setenv("MINIDIFF_LESSON_LOG", "log")
        lesson.predict("...")
        assert capsys.readouterr().out == ""

    def test_source_is_printed(self, capsys):
        Lesson.source(InputError)
        assert "class InputError" in capsys.readouterr().out

    def test_reference_weights_load_and_draw(self):
        import jax
        import numpy as np

        from minidiff.recipes import clip, text_to_image
        from minidiff.trained.diffusion import draw

        lesson = Lesson("x")
        encoder = clip.load(lesson.weights("clip"))
        model = text_to_image.load(lesson.weights("text_to_image"))
        hat, cap, star = encoder.texts(["a man wearing a hat", "a man wearing a cap", "a red star"])
        assert hat @ cap > hat @ star
        image = draw(jax.random.key(0), model, 1, prompts=["a red star"], steps=2)
        assert np.isfinite(image).all()

    def test_mine_are_what_was_trained_here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        lesson = Lesson("x")
        with pytest.raises(InputError, match="minidiff train clip --out"):
            lesson.weights("clip", "mine")
        lesson.folder("clip").mkdir(parents=True)
        (lesson.folder("clip") / "config.json").touch()
        assert lesson.weights("clip", "mine") == lesson.folder("clip")

    @pytest.mark.parametrize(
        ("arguments", "part"), [(("attic",), "text_to_image"), (("clip", "yours"), "neither")]
    )
    def test_weights_there_are_not_are_refused(self, arguments, part):
        with pytest.raises(InputError, match=part):
            Lesson("x").weights(*arguments)
