"""An exercise: what is asked, what is right, and the mistakes that people make.

A check compares the student's function with the module's on a few inputs. Where they differ, it tries
the known mistakes on the same inputs: the one that gives the student's numbers is what went wrong, and
its sentence is what the student reads. So every sentence is tested, by handing in the mistake itself.
"""

import dataclasses
import os
import traceback
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import plot
from minidiff.plot.canvas import Figure
from minidiff.plot.show import show

GRADING = "MINIDIFF_GRADING"  # set where a notebook is graded: what its own cells check is silent
MARKS = {"right": "✓", "wrong": "✗", "not attempted": "○"}


class Wrong(Exception):
    """Raised by an exercise's ``also``: the sentence that helps, and a picture where one says more."""

    def __init__(self, sentence: str, figure: Figure | None = None):
        super().__init__(sentence)
        self.figure = figure


class CandidateError(Exception):
    """A student's function in another process raised: one line that says what, and where."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a check found."""

    exercise: str
    status: str  # "right", "wrong" or "not attempted"
    sentence: str = ""
    figure: Figure | None = None

    def __str__(self) -> str:
        return f"{MARKS[self.status]} {self.exercise}: {self.sentence or self.status}"


@dataclasses.dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson. Call it with a function; it prints a tick or a sentence that helps.

    Attributes:
        name: ``checks.NAME``; the student's function is called ``my_NAME``.
        task: what the function has to do, in one sentence.
        solution: the module's own function.
        cases: makes the inputs, a tuple of arguments each. Arguments are arrays, numbers, strings
            and pytrees of classes that are defined in a module (a grader sends them elsewhere).
        mistakes: what people do instead, under the sentence that helps; at least three.
        hints: in steps, the last nearly a solution.
        level: 1 to 3.
        minutes: that it takes.
        rtol, atol: how near is right.
        also: more that must hold, called with the function where ``cases`` agree; raises ``Wrong``.
        draw: (arguments, got, wanted) -> Figure, where a picture says more; none draws nothing.
    """

    name: str
    task: str
    solution: Callable
    cases: Callable[[], Sequence[tuple]]
    mistakes: dict[str, Callable]
    hints: tuple[str, ...]
    level: int = 1
    minutes: int = 5
    rtol: float = 1e-4
    atol: float = 1e-5
    also: Callable[[Callable], None] = lambda candidate: None
    draw: Callable[[tuple, object, object], Figure] | None = None
    _told: list = dataclasses.field(default_factory=list, repr=False)  # hints given so far

    @property
    def answer(self) -> str:
        """The name of the student's function."""
        return f"my_{self.name}"

    def __call__(self, candidate: object) -> None:
        """Print what is to be said of a student's function, and draw it where a picture says more."""
        if os.environ.get(GRADING):
            return
        verdict = self.judge(candidate)
        print(verdict)
        if verdict.status == "wrong" and len(self._told) < len(self.hints):
            print(f"  For a hint: checks.{self.name}.hint()")
        if verdict.figure is not None:
            show(verdict.figure)

    def hint(self) -> None:
        """Print the next hint."""
        if len(self._told) < len(self.hints):
            self._told.append(self.hints[len(self._told)])
        for number, text in enumerate(self._told, 1):
            print(f"Hint {number} of {len(self.hints)}: {text}")

    def judge(self, candidate: object) -> Verdict:
        """What is to be said of a function, without printing it; raises nothing."""
        try:
            self._compare(candidate)
            self.also(candidate)
        except NotImplementedError:
            return Verdict(self.name, "not attempted", "not attempted yet")
        except Wrong as wrong:
            return Verdict(self.name, "wrong", str(wrong), wrong.figure)
        except CandidateError as error:
            return Verdict(self.name, "wrong", str(error))
        except Exception as error:
            return Verdict(self.name, "wrong", describe_error(error, self.answer))
        return Verdict(self.name, "right")

    def _compare(self, candidate: object) -> None:
        if not callable(candidate):
            raise Wrong(f"{self.answer} must be a function, not {type(candidate).__name__}")
        cases = list(self.cases())
        got = [candidate(*case) for case in cases]
        wanted = [self.solution(*case) for case in cases]
        for case, mine, right in zip(cases, got, wanted, strict=True):
            fault = self._fault(mine, right)
            if fault:
                drawn = self.draw and mine is not None
                figure = _try(self.draw, case, mine, right) if drawn else None
                raise Wrong(self._diagnosis(cases, got) or fault, figure)

    def _diagnosis(self, cases: list[tuple], got: list) -> str | None:
        """The sentence of the mistake that gives these very numbers."""
        for sentence, mistake in self.mistakes.items():
            try:
                made = [mistake(*case) for case in cases]
            except Exception:  # this mistake cannot be made here
                continue
            if not any(self._fault(g, m) for g, m in zip(got, made, strict=True)):
                return sentence
        return None

    def _fault(self, got: object, wanted: object) -> str | None:
        """How ``got`` differs from what was wanted, in a sentence; none if it does not."""
        return difference(got, wanted, self.answer, self.rtol, self.atol)


def difference(got, wanted, name: str, rtol: float = 1e-4, atol: float = 1e-5) -> str | None:
    """How what ``name`` returned differs from what was wanted, in a sentence; none if it does not."""
    if got is None:
        return f"{name} returned None: does it end with `return`?"
    if isinstance(wanted, dict | tuple | list):
        return _difference_of_parts(got, wanted, name, rtol, atol)
    if isinstance(wanted, str | bool):
        return None if got == wanted else f"{name} returned {got!r}, wanted {wanted!r}"
    try:
        mine, right = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    except (TypeError, ValueError):
        return f"{name} returned {type(got).__name__}, wanted an array of numbers"
    if mine.shape != right.shape:
        return f"{name} returned an array of shape {mine.shape}, wanted {right.shape}"
    if np.isnan(mine).any() and not np.isnan(right).any():
        return f"{name} returned NaN: is something divided by zero, or the log of it taken?"
    with np.errstate(invalid="ignore"):  # infinity less infinity
        off = np.where(mine == right, 0, np.abs(mine - right)) - atol - rtol * np.abs(right)
    if not (off > 0).any():
        return None
    place = np.unravel_index(np.argmax(off), off.shape)
    where = f" at [{', '.join(map(str, place))}]" if place else ""
    share = f" in {np.mean(off > 0):.0%} of its numbers" if place else ""
    return f"{name} is off{share}: {mine[place]:.4g}{where}, wanted {right[place]:.4g}"


def _difference_of_parts(got, wanted, name: str, rtol: float, atol: float) -> str | None:
    if isinstance(wanted, dict):
        if not isinstance(got, dict) or got.keys() != wanted.keys():
            return f"{name} must return a dict with the keys {', '.join(map(str, wanted))}"
        pairs = {f"{name}[{key!r}]": (got[key], wanted[key]) for key in wanted}
    else:
        if not isinstance(got, tuple | list) or len(got) != len(wanted):
            many = f"{len(got)}" if isinstance(got, tuple | list) else type(got).__name__
            return f"{name} must return {len(wanted)} values, not {many}"
        pairs = {f"{name}[{i}]": pair for i, pair in enumerate(zip(got, wanted, strict=True))}
    faults = (difference(*pair, part, rtol, atol) for part, pair in pairs.items())
    return next((fault for fault in faults if fault), None)


def describe_error(error: Exception, name: str) -> str:
    """One line on what a student's function raised and in which of its lines."""
    text = " ".join(str(error).split()) or "no message"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.name == name]
    where = f" in line {lines[-1]} of its cell" if lines else ""
    return f"{name} raised {type(error).__name__}{where}: {text[:200]}"


def transformed(candidate: Callable, how: str) -> Callable:
    """The function under ``how``: "jit", or "grad" to its first argument.

    A function of another process is transformed there: see ``minidiff.grading``.
    """
    if hasattr(candidate, "transformed"):
        return candidate.transformed(how)
    return {"jit": jax.jit, "grad": jax.grad}[how](candidate)


def yours_and_wanted(got: jax.Array, wanted: jax.Array, title: str = "") -> Figure:
    """Two matrices or two batches of images side by side."""
    pair = [("yours", np.asarray(got)), ("wanted", np.asarray(wanted))]
    if np.ndim(wanted) == 2:
        return plot.similarity_matrices(pair, title, "row", "column")
    return plot.side_by_side(pair, title)


def _try(draw: Callable, *args) -> Figure | None:
    """A picture of what is wrong may itself go wrong: then there is none."""
    try:
        return draw(*args)
    except Exception:
        return None


def normal(seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers, float32, for cases."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)
