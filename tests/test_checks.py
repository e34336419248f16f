"""The checks have teeth: each accepts the module's function and tells every planted mistake."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wrong_answers import in_tiers

from minidiff import checks
from minidiff.checks import exercise
from minidiff.checks.diagnosis.faults import difference
from minidiff.checks.diagnosis.relations import relation
from minidiff.checks.diagnosis.slips import slips
from minidiff.checks.exercise import drawn_anew, normal, transformed

EXERCISES = checks.exercises()
MISTAKES = [(name, sentence) for name, e in EXERCISES.items() for sentence in e.mistakes]


def blank(*args):
    raise NotImplementedError


def returns_nothing(*args):
    pass


@pytest.mark.parametrize("name", EXERCISES)
class TestEveryExercise:
    def test_the_module_is_right(self, name):
        assert str(EXERCISES[name].judge(EXERCISES[name].solution)) == f"✓ {name}: right"

    def test_a_blank_is_not_attempted(self, name):
        assert EXERCISES[name].judge(blank).status == "not attempted"

    def test_nothing_returned_is_wrong(self, name):
        verdict = EXERCISES[name].judge(returns_nothing)
        assert verdict.status == "wrong"
        assert "None" in verdict.sentence

    def test_no_function_at_all_is_wrong(self, name):
        assert EXERCISES[name].judge(3).status == "wrong"

    def test_it_says_what_it_wants(self, name):
        exercise = EXERCISES[name]
        assert len(exercise.mistakes) >= 3
        assert len(exercise.hints) >= 2
        assert exercise.level in (1, 2, 3)
        assert 1 <= exercise.minutes <= 20
        assert exercise.task.endswith(".")


@pytest.mark.parametrize(("name", "sentence"), in_tiers(MISTAKES))
def test_a_planted_mistake_is_told_in_its_sentence(name, sentence):
    verdict = EXERCISES[name].judge(EXERCISES[name].mistakes[sentence])
    assert verdict.status == "wrong"
    assert verdict.sentence == sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("got", "wanted", "part"),
    [
        (None, 1.0, "return"),
        ("text", np.zeros(3), "array of numbers"),
        (np.zeros(2), np.zeros(3), "shape (2,), wanted (3,)"),
        (np.array([np.nan]), np.zeros(1), "NaN"),
        (np.array([0.0, 1.0]), np.array([0.0, 2.0]), "50% of its numbers: 1 at [1], wanted 2"),
        (np.array([1j]), np.zeros(1), "root of a negative number"),
        ((1.0,), (1.0, 2.0), "2 values, not 1"),
        ({"a": 1}, {"b": 1}, "keys b"),
        ({"a": 1.0}, {"a": 2.0}, "f['a']"),
        ("cat", "dog", "'cat', wanted 'dog'"),
    ],
)
def test_a_difference_is_a_sentence(got, wanted, part):
    assert part in difference(got, wanted, "f")


@pytest.mark.parametrize(
    "value", [1.0, "a", (1.0, 2.0), {"a": np.ones(3)}, np.array([np.inf, 1.0]), jnp.ones(2)]
)
def test_there_is_none_between_equals(value):
    assert difference(value, value, "f") is None


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.long)])
def test_the_written_answer_is_right_with_any_arguments(name, seed):
    with drawn_anew(seed), jax.numpy_rank_promotion("allow"):  # as for students
        verdict = EXERCISES[name].judge(EXERCISES[name].written)
    assert (verdict.status, verdict.sentence) == ("right", "")


def test_a_slow_loop_is_told_so(monkeypatch):
    def my_coverage(distance, pixels_per_unit):
        while True:
            pass

    monkeypatch.setattr(exercise, "SECONDS", 0.2)
    assert "took longer than 0.2 s" in EXERCISES["coverage"].judge(my_coverage).sentence


def test_none_is_a_number_and_nan_is_not():
    assert difference(np.ones(2), np.array([1.0, np.nan]), "f")
    assert difference(np.array([1.0, np.nan]), np.array([1.0, np.nan]), "f") is None
    assert difference(np.ones(2), np.array([1.0, np.inf]), "f")
    assert difference(np.array([1.0, -np.inf]), np.array([1.0, np.inf]), "f")
    assert difference(np.array([1.0, np.inf]), np.array([1.0, np.inf]), "f") is None


def test_slips_of_a_written_answer():
    def written(a, b):
        return (a - b) / np.sqrt(1 - b)

    made = dict(slips(written))
    parentheses = "parentheses are missing: these are the numbers of `a - b / np.sqrt(1 - b)`"
    assert made[parentheses](2.0, 0.75) == 0.5
    assert any("`sqrt` round `1 - b` is missing" in sentence for sentence in made)
    assert any("`a` and `b` are exchanged" in sentence for sentence in made)
    assert any(sentence.startswith("plus stands where minus belongs") for sentence in made)
    assert list(slips(endless)) == []


def endless(symbols):
    for symbol in symbols:
        symbols.append(symbol)


@pytest.mark.parametrize(
    ("got", "told"),
    [
        (lambda x: -x, "the sign is turned round"),
        (lambda x: 3 * x, "everything is 3 times"),
        (lambda x: x + 1, "1 too much, everywhere"),
        (lambda x: x[::-1], "the order of the rows is turned round"),
        (lambda x: x.at[1].set(0.0), "right but for t = 7"),
        (lambda x: jnp.clip(x, -0.5, 0.5), "right, but cut off"),
        (lambda x: jnp.tanh(x), "it is bent"),
        (lambda x: x.reshape(-1), "only their axes are not"),
        (lambda x: jnp.zeros_like(x), "all its numbers are the same"),
    ],
)
def test_how_numbers_are_related_is_a_sentence(got, told):
    wanted = normal(0, 4, 3)
    case = (jnp.array([5, 7, 8, 9]),)
    assert told in relation([case], [got(wanted)], [wanted], close, ["t"])


def close(a, b):
    return difference(a, b, "f") is None


def test_of_single_numbers_it_is_told_what_holds_from_case_to_case():
    cases, wanted = [(x,) for x in range(6)], [0.5, -1.0, 2.0, 3.0, 0.0, 0.7]
    cut = [min(max(w, 0.0), 1.0) for w in wanted]
    told = relation(cases, cut, wanted, close, ["x"])
    assert told == "in all cases: right, but cut off: nothing is below 0 or above 1"
    tripled = relation(cases, [3 * w for w in wanted], wanted, close, ["x"])
    assert tripled == "in all cases: everything is 3 times what it should be"
    assert relation(cases[:2], [7.0, 8.0], wanted[:2], close, ["x"]) is None  # nothing lies between


def test_entries_of_a_dict_are_arguments():
    params, wanted = (
        {"w": normal(0, 3, 2), "b": normal(1, 2)},
        {"w": normal(2, 3, 2), "b": normal(3, 2)},
    )
    told = relation([(params,)], [{**wanted, "w": params["w"]}], [wanted], close, ["params"])
    assert told == "only ['w'] is wrong: this is `params['w']` as it was given"
    assert relation([(params,)], [params["w"]], [wanted], close, ["params"]) is None


def test_rows_that_are_not_right_are_told_with_the_numbers_that_differ_most():
    wanted = jnp.zeros((3, 4))
    told = relation([()], [wanted.at[1].set(jnp.array([0, 0, 5, 1]))], [wanted], close, [])
    assert told == "right but for row 1: there is 5, wanted 0"


def test_what_a_function_raises_is_told_in_one_line():
    def my_add_noise(schedule, x0, t, eps):
        raise TypeError("add got\nincompatible shapes")

    verdict = EXERCISES["add_noise"].judge(my_add_noise)
    assert verdict.status == "wrong"
    assert "raised TypeError in line" in verdict.sentence
    assert "add got incompatible shapes" in verdict.sentence


def test_calling_a_check_prints_and_points_to_a_hint(capsys):
    check = EXERCISES["alpha_bar"]
    assert check(lambda beta: 1 - beta) is None
    out = capsys.readouterr().out
    assert out.startswith("✗ alpha_bar: this is what is left by one step alone")
    assert "checks.alpha_bar.hint()" in out
    check.hint()
    assert "Hint 1 of 2" in capsys.readouterr().out
    check.hint()
    assert "Hint 2 of 2" in capsys.readouterr().out


def test_a_picture_comes_where_one_says_more():
    wrong = EXERCISES["add_noise"].judge(lambda schedule, x0, t, eps: x0)
    assert wrong.figure is not None
    assert EXERCISES["add_noise"].judge(EXERCISES["add_noise"].solution).figure is None


def test_transformed_is_jax_here():
    assert transformed(lambda x: x**2, "grad")(3.0) == 6.0
    assert transformed(lambda x: x + 1, "jit")(3.0) == 4.0


def test_a_check_that_is_not_there_names_those_that_are():
    with pytest.raises(AttributeError, match="add_noise"):
        checks.attic  # noqa: B018
