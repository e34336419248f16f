"""Answers as students write them: the right ones pass, the wrong ones are told what is wrong.

The table is tests/answers/*.txt. Each hint and instruction taken literally is among the right ones.
"""

import ast
import collections
import functools
import inspect
import re
from pathlib import Path

import jax
import jupytext
import pytest
from wrong_answers import answers, in_tiers

from minidiff import checks
from minidiff.checks import exercise
from minidiff.checks.diagnosis.relations import relation

EXERCISES = checks.exercises()
SOURCES = sorted((Path(__file__).parents[1] / "lessons" / "src").glob("*.py"))
ANSWERS = collections.defaultdict(list)
for one in answers():
    ANSWERS[one.exercise].append(one)
NUMBERS_ONLY = re.compile(r" is off| returned an array of shape")


def bare(text):
    return re.sub(r"\s+", "", text).replace("'", '"')


def test_every_exercise_has_a_dozen_wrong_answers():
    assert ANSWERS.keys() == EXERCISES.keys()
    for name, given in ANSWERS.items():
        assert sum(not answer.right for answer in given) >= 12, name
        assert any(answer.right for answer in given), name


def test_hardly_any_is_told_numbers_only():
    wrong = [answer for given in ANSWERS.values() for answer in given if not answer.right]
    bare_numbers = [
        answer for answer in wrong if answer.told in ("is off", "returned an array of shape")
    ]
    assert len(bare_numbers) <= 0.1 * len(wrong)


@pytest.fixture
def nothing_hidden(monkeypatch):
    """What fails in finding a relation fails here; a student would be told numbers only."""
    try_ = exercise._try
    monkeypatch.setattr(
        exercise, "_try", lambda told, *a: told(*a) if told is relation else try_(told, *a)
    )


def judged(answer):
    with jax.numpy_rank_promotion("allow"):  # as for students
        return EXERCISES[answer.exercise].judge(answer.function)


@pytest.mark.parametrize("name", EXERCISES)
def test_each_right_answer_passes(name):
    for answer in ANSWERS[name]:
        if answer.right:
            assert str(judged(answer)) == f"✓ {name}: right", answer.source


@pytest.mark.parametrize("name", in_tiers((name,) for name in EXERCISES))
@pytest.mark.usefixtures("nothing_hidden")
def test_each_wrong_answer_is_told_what_is_wrong_with_it(name):
    for answer in ANSWERS[name]:
        if answer.right:
            continue
        verdict = judged(answer)
        assert verdict.status == "wrong", answer.source
        assert answer.told in verdict.sentence, (answer.source, verdict.sentence)
        if answer.told not in ("is off", "returned an array of shape"):
            assert not NUMBERS_ONLY.search(verdict.sentence), answer.source


def is_code(text):
    """Whether a text is Python, and more than a name, a number or a shape."""
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return False
    plain = (ast.Name, ast.Constant, ast.Tuple)
    return not all(isinstance(part, ast.Expr) and isinstance(part.value, plain) for part in body)


def code_of(hint):
    """What a hint or an exercise spells in code, between backticks or not."""
    if is_code(hint):
        return [hint]
    quoted = re.findall(r"`([^`]+)`", hint)
    rest = " ".join(re.split(r"`[^`]+`", hint))
    calls = re.findall(r"[\w.]+\.\w+\((?:[^()]|\([^()]*\))*\)", rest)
    sums = [part for part in re.findall(r"\w+ = [^:;,]+", rest) if is_code(part.rstrip(". "))]
    shapes = re.findall(r"reshape it to\s+`?(\([^)]*\))", hint)
    return [*quoted, *calls, *(s.rstrip(". ") for s in sums), *(f"reshape{s}" for s in shapes)]


@functools.cache
def exercise_texts():
    """The texts in which lessons set their exercises."""
    cells = [cell for source in SOURCES for cell in jupytext.read(source, fmt="py:percent").cells]
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return [text.partition("### Exercise")[2] for text in texts if "### Exercise" in text]


def taught(name):
    """What the text of the exercise in its lesson spells in code that can be called or asked for."""
    (told,) = [text for text in exercise_texts() if f"my_{name}(" in text]
    asked = [code for code in code_of(told) if re.search(r"\w\.\w|^reshape", code)]
    return [code for code in asked if not code.startswith("checks.")]


@pytest.mark.parametrize("name", EXERCISES)
def test_what_hints_and_lessons_say_in_code_is_in_an_answer_that_passes(name):
    """Literally: the answers that hold it are judged above, each day. "..." in it may be anything."""
    asked = EXERCISES[name]
    right = [bare(answer.source) for answer in ANSWERS[name] if answer.right]
    right.append(bare(inspect.getsource(asked.written)))
    spelled = [code for hint in asked.hints for code in code_of(hint)]
    for code in [*spelled, *taught(name)]:
        pattern = ".*?".join(map(re.escape, bare(code).split("...")))
        assert any(re.search(pattern, text) for text in right), code


def test_code_is_found_in_a_hint():
    assert code_of("(x - mean) / jnp.sqrt(variance + eps)") == [
        "(x - mean) / jnp.sqrt(variance + eps)"
    ]
    assert code_of("Take `a @ b.T`, then reshape it to (batch, 1).") == [
        "a @ b.T",
        "reshape(batch, 1)",
    ]
    assert code_of("jnp.clip(x, f(0), 1) keeps it.") == ["jnp.clip(x, f(0), 1)"]
    assert code_of("The right answer is i: labels = jnp.arange(N).") == [
        "jnp.arange(N)",
        "labels = jnp.arange(N)",
    ]
