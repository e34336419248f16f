"""A notebook's verdicts: its cells are run, its functions are judged, whatever they do."""

import dataclasses
import tempfile
from pathlib import Path

from minidiff.checks.exercise import Exercise, Verdict
from minidiff.grading.notebook import Notebook
from minidiff.grading.process import Allowance, Died, Limits, Remote, Worker
from minidiff.grading.wire import foreign

MOST_DEATHS = 5  # of cells that end the process; the cells after them are not run
BORROWED = "uses the module's own function"


@dataclasses.dataclass(frozen=True)
class Result:
    """What is to be said of one exercise: a verdict, and a note for the instructor."""

    name: str
    status: str  # "right", "wrong" or "not attempted"
    sentence: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Graded:
    """What is to be said of one notebook."""

    name: str
    file: str
    results: tuple[Result, ...] = ()
    cells: tuple[str, ...] = ()  # what went wrong in them
    error: str = ""  # why it could not be read

    @property
    def right(self) -> int:
        """How many exercises are."""
        return sum(result.status == "right" for result in self.results)


class Session:
    """A student's process that is started again, without the cell that ended it, when it is needed."""

    def __init__(self, cells: tuple[str, ...], limits: Limits, folder: Path, last: int = 0):
        self.limits, self.failed = limits, {}  # cells by number, and what happened
        self._cells, self._folder = dict(enumerate(cells, 1)), folder
        self._last = last or len(cells)  # no exercise is defined after it
        self._left, self._deaths, self._starts, self._worker = limits.notebook, 0, 0, None

    def worker(self) -> Worker:
        """A process in which all cells have been run that can be."""
        while not (self._worker and self._worker.alive):
            self._starts += 1
            home = self._folder / str(self._starts)  # nothing of an earlier process lies there
            home.mkdir(parents=True)
            self._worker = Worker(home, self.limits)
            self._run_cells()
        return self._worker

    def end(self) -> None:
        """End the process."""
        if self._worker:
            self._worker.end()

    def run_the_rest(self) -> bool:
        """Run the cells after the last exercise, too; false if there are none."""
        if self._last >= max(self._cells, default=0):
            return False
        begun, self._last = self._last, max(self._cells)
        if self._worker and self._worker.alive:
            self._run_cells(begun)
        return True

    def _run_cells(self, after: int = 0) -> None:
        for number in [n for n in self._cells if after < n <= self._last]:
            if self._left <= 0:
                self._leave_out(number, f"the notebook took longer than {self.limits.notebook:g} s")
                return
            allowance = Allowance(min(self.limits.cell, self._left))
            try:
                answer = self._worker.ask(allowance, "cell", number, self._cells[number])
                if str(answer.get("raised")).startswith("MemoryError"):  # and it may hold it still
                    self._worker.end()
                    raise Died(f"took more than {self.limits.memory:g} GiB of memory")
            except Died as death:
                self._deaths += 1
                del self._cells[number]
                self.failed[number] = f"cell {number} {death}"
                if self._deaths == MOST_DEATHS:
                    self._leave_out(number + 1, f"{MOST_DEATHS} cells ended the process before it")
                return
            finally:
                self._left -= allowance.spent
            if "raised" in answer:
                self.failed[number] = f"cell {number} raised {answer['raised']}"

    def _leave_out(self, first: int, why: str) -> None:
        for number in [number for number in self._cells if number >= first]:
            del self._cells[number]
            self.failed[number] = f"cell {number} was not run: {why}"


def grade(notebook: Notebook, exercises: list[Exercise], limits: Limits) -> Graded:
    """Run a notebook and judge these exercises of it; what it does there changes no other's marks.

    InputError if a process cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="minidiff-", ignore_cleanup_errors=True) as scratch:
        session = Session(notebook.cells, limits, Path(scratch), notebook.last(exercises))
        try:
            verdicts = [_judge_whole(exercise, notebook, session) for exercise in exercises]
        finally:
            session.end()
    results = [
        Result(
            verdict.exercise,
            verdict.status,
            tidy(verdict.sentence or verdict.status),
            BORROWED if notebook.borrows(exercise) else "",
        )
        for verdict, exercise in zip(verdicts, exercises, strict=True)
    ]
    failed = [tidy(session.failed[number]) for number in sorted(session.failed)]
    return Graded(notebook.name, str(notebook.path), tuple(results), tuple(failed))


def _judge_whole(exercise: Exercise, notebook: Notebook, session: Session) -> Verdict:
    """A verdict; an answer that needs what a later cell defines is judged again after that."""
    verdict = _judge(exercise, notebook, session)
    if "NameError" in verdict.sentence and session.run_the_rest():
        return _judge(exercise, notebook, session)
    return verdict


def _judge(exercise: Exercise, notebook: Notebook, session: Session) -> Verdict:
    name, worker = exercise.answer, session.worker()
    allowance = Allowance(session.limits.exercise)
    try:
        found = worker.ask(allowance, "look", name)
    except Died as death:  # something that a cell left running
        return Verdict(exercise.name, "wrong", f"the notebook {death}")
    if found.get("there") is not True:
        why = [session.failed[n] for n in notebook.defines(name) if n in session.failed]
        return Verdict(exercise.name, *(("wrong", why[-1]) if why else ("not attempted",)))
    candidate = Remote(worker, name, allowance)
    if found.get("callable") is not True:
        candidate = foreign(found.get("kind"))
    verdict = dataclasses.replace(exercise, draw=None).judge(candidate)
    if not worker.alive and verdict.status != "wrong":  # a check that forgives exceptions
        return Verdict(exercise.name, "wrong", f"{name} ended its process")
    return verdict


def tidy(text: str) -> str:
    """Untrusted text as one printable line of bounded length."""
    text = "".join(letter if letter.isprintable() else " " for letter in text[:4000])
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:299] + "…"
