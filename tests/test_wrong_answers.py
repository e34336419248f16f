"""Answers as students write them: the right ones pass, the wrong ones are told what is wrong.

The table is tests/answers/*.txt. A hint taken literally is among the right ones.
"""

import collections
import inspect
import re

import jax
import pytest
from wrong_answers import answers

from minidiff import checks

EXERCISES = checks.exercises()
ANSWERS = collections.defaultdict(list)
for one in answers():
    ANSWERS[one.exercise].append(one)
# Judged on every day; the rest are slow.
DAILY = ("alpha_bar", "add_noise", "predict_x0", "reverse_mean", "is_unseen", "merge_pair")
NUMBERS_ONLY = re.compile(r" is off| returned an array of shape")


def bare(text):
    return re.sub(r"\s+", "", text)


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


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in DAILY else pytest.mark.slow) for n in EXERCISES]
)
def test_each_is_told_what_is_wrong_with_it(name):
    for answer in ANSWERS[name]:
        with jax.numpy_rank_promotion("allow"):  # as for students
            verdict = EXERCISES[name].judge(answer.function)
        assert verdict.status == ("right" if answer.right else "wrong"), answer.source
        assert answer.told in verdict.sentence, (answer.source, verdict.sentence)
        if answer.told not in ("is off", "returned an array of shape"):
            assert not NUMBERS_ONLY.search(verdict.sentence), answer.source


@pytest.mark.parametrize("name", EXERCISES)
def test_the_code_of_each_hint_is_in_an_answer_that_passes(name):
    """What a hint spells in code stands in a right answer of the table, or in the written one."""
    exercise = EXERCISES[name]
    right = [bare(answer.source) for answer in ANSWERS[name] if answer.right]
    right.append(bare(inspect.getsource(exercise.written)))
    for code in re.findall(r"`([^`]+)`", " ".join(exercise.hints)):
        name_alone = code.rpartition(".")[2].partition("(")[0]
        assert any(bare(code) in text or bare(name_alone) in text for text in right), code
