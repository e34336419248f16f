"""An exercise: what is asked, what is right, and the mistakes that people make.

A check compares the student's function with the module's on a few inputs. Where they differ, it tries
the known mistakes on the same inputs: the one that gives the student's numbers is what went wrong, and
its sentence is what the student reads. So every sentence is tested, by handing in the mistake itself.
If none does, it tries every slip of the pen in the written answer (``diagnosis.slips``), and then asks
how the numbers are related to the right ones (``diagnosis.relations``).
"""

import contextlib
import contextvars
import dataclasses
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import plot
from minidiff.checks.diagnosis.faults import describe_error, difference
from minidiff.checks.diagnosis.relations import arguments_of, lists, relation
from minidiff.checks.diagnosis.slips import slips
from minidiff.plot.canvas import Figure
from minidiff.plot.show import show

GRADING = "MINIDIFF_GRADING"  # set where a notebook is graded: what its own cells check is silent
MARKS = {"right": "✓", "wrong": "✗", "not attempted": "○"}
SECONDS = 20.0  # that a student's function may take for all cases together
SEED = contextvars.ContextVar("seed", default=0)  # of the arguments; 0: those of every day


class Wrong(Exception):
    """Raised by an exercise's ``also``: the sentence that helps, and a picture where one says more."""

    def __init__(self, sentence: str, figure: Figure | None = None):
        super().__init__(sentence)
        self.figure = figure


class CandidateError(Exception):
    """A student's function in another process raised: one line that says what, and where."""


class TooSlow(Exception):
    """A student's function took longer than it may."""


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
        written: the answer as a student may write it, whose slips are known mistakes as well.
        hints: in steps, the last nearly a solution.
        level: 1 to 3.
        minutes: that it takes.
        rtol, atol: how near is right.
        traced: whether JAX must be able to compile it. The lesson says so beside the exercise.
        also: more that must hold, called with the function where ``cases`` agree; raises ``Wrong``.
        draw: (arguments, got, wanted) -> Figure, where a picture says more; none draws nothing.
    """

    name: str
    task: str
    solution: Callable
    cases: Callable[[], Sequence[tuple]]
    mistakes: dict[str, Callable]
    hints: tuple[str, ...]
    written: Callable
    level: int = 1
    minutes: int = 5
    rtol: float = 1e-4
    atol: float = 1e-5
    traced: bool = False
    also: Callable[[Callable], None] = lambda candidate: None
    draw: Callable[[tuple, object, object], Figure] | None = None
    _told: list = dataclasses.field(default_factory=list, repr=False)  # hints given so far
    _known: dict = dataclasses.field(
        default_factory=dict, repr=False
    )  # answers by seed and mistake

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
        with at_most(
            SECONDS, candidate
        ):  # cases are made anew: a function may change its arguments
            got = [candidate(*case) for case in self.cases()]
        cases = list(self.cases())
        wanted = [self._answer(None, self.solution, i, cases) for i in range(len(cases))]
        for case, mine, right in zip(cases, got, wanted, strict=True):
            fault = self._fault(mine, right)
            if fault:
                drawn = self.draw and mine is not None
                figure = _try(self.draw, case, mine, right) if drawn else None
                raise Wrong(self._diagnosis(cases, got, wanted) or fault, figure)
        if self.traced:
            _trace(candidate, next(iter(self.cases())))

    def _answer(self, key: object, function: Callable, i: int, cases: list[tuple]) -> object:
        """What a function of our own answers to a case, computed once; none where it cannot."""
        key = (SEED.get(), key, i)
        if key not in self._known:
            try:
                with np.errstate(all="ignore"):
                    self._known[key] = function(*cases[i])
            except Exception:  # this mistake cannot be made here
                self._known[key] = None
        return self._known[key]

    def _gives(self, got: list, cases: list[tuple], key: object, function: Callable) -> bool:
        """Whether a mistake gives these very numbers."""
        for i, mine in enumerate(got):
            made = self._answer(key, function, i, cases)
            if made is None or self._fault(mine, made):
                return False
        return True

    def _diagnosis(self, cases: list[tuple], got: list, wanted: list) -> str | None:
        """What went wrong: the mistake or the slip that gives these very numbers, or their relation."""
        if any(g is None for g in got):
            return None
        for sentence, mistake in (*self.mistakes.items(), *self._slips()):
            if self._gives(got, cases, sentence, mistake) and not self._gives(
                wanted, cases, sentence, mistake
            ):
                return sentence
        if isinstance(wanted[0], list):
            bad = next(i for i, g in enumerate(got) if self._fault(g, wanted[i]))
            return next(lists(got[bad], wanted[bad]), None)
        names = arguments_of(self.written)
        return _try(relation, cases, got, wanted, lambda g, w: not self._fault(g, w), names)

    def _slips(self) -> list[tuple[str, Callable]]:
        """Those of the written answer that do change it."""
        if "slips" not in self._known:
            self._known["slips"] = [
                (sentence, made)
                for sentence, made in dict(slips(self.written)).items()
                if sentence not in self.mistakes
            ]
        return self._known["slips"]

    def _fault(self, got: object, wanted: object) -> str | None:
        """How ``got`` differs from what was wanted, in a sentence; none if it does not."""
        return difference(got, wanted, self.answer, self.rtol, self.atol)


def _trace(candidate: Callable, case: tuple) -> None:
    """Wrong if JAX cannot compile a function whose numbers are right."""
    try:
        transformed(candidate, "trace")(*case)
    except Exception as error:
        text = f"{type(error).__name__} {error}"
        why = "use jnp in place of np" if "TracerArray" in text else (
            "an `if`, a loop or float() asks for a number that is not there yet; `jnp.where` chooses"
        )  # fmt: skip
        raise Wrong(f"the numbers are right, but JAX cannot compile it: {why}") from None


def transformed(candidate: Callable, how: str) -> Callable:
    """The function under ``how``: "jit", "grad" to its first argument, or "trace" for nothing but shapes.

    A function of another process is transformed there: see ``minidiff.grading``.
    """
    if hasattr(candidate, "transformed"):
        return candidate.transformed(how)
    if how == "trace":
        return functools.partial(jax.eval_shape, candidate)
    return {"jit": jax.jit, "grad": jax.grad}[how](candidate)


@contextlib.contextmanager
def at_most(seconds: float, candidate: object) -> Iterator[None]:
    """Wrong after so long, where the platform can tell; another process has a clock of its own.

    Seconds of computing, not of waiting: on a busy machine a right answer takes longer.
    """
    here = threading.current_thread() is threading.main_thread()
    if hasattr(candidate, "transformed") or not here or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_):
        raise TooSlow

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except TooSlow:
        raise Wrong(
            f"it took longer than {seconds:g} s for a handful of small arguments: compute with whole "
            "arrays in place of a loop over their numbers"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def drawn_anew(seed: int) -> Iterator[None]:
    """Other arguments in all cases: whatever ``normal`` and ``integers`` draw depends on the seed."""
    token = SEED.set(seed)
    try:
        yield
    finally:
        SEED.reset(token)


def yours_and_wanted(got: jax.Array, wanted: jax.Array, title: str = "") -> Figure:
    """Two matrices or two batches of images side by side."""
    pair = [("yours", np.asarray(got)), ("wanted", np.asarray(wanted))]
    if np.ndim(wanted) == 2:
        return plot.similarity_matrices(pair, title, "row", "column")
    return plot.side_by_side(pair, title)


def _try(told: Callable, *args) -> Figure | str | None:
    """What says or shows what is wrong may itself go wrong: then there is none."""
    try:
        return told(*args)
    except Exception:
        return None


def _draws(seed: int) -> np.random.Generator:
    return np.random.default_rng((seed, SEED.get()) if SEED.get() else seed)


def normal(seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers, float32, for cases."""
    return jnp.asarray(_draws(seed).standard_normal(shape), jnp.float32)


def integers(seed: int, low: int, high: int, *shape: int) -> np.ndarray:
    """Whole numbers from low to below high, for cases."""
    return _draws(seed).integers(low, high, shape)
