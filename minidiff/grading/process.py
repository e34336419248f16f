"""The grader's end of the student's process: it is asked, it is timed, and it is ended."""

import contextlib
import dataclasses
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import minidiff
from minidiff.checks.exercise import GRADING, CandidateError
from minidiff.errors import InputError
from minidiff.grading import wire
from minidiff.lesson import PRESET
from minidiff.plot import canvas
from minidiff.plot.show import FOLDER, LOG

START_SECONDS = 120
GROUPS = hasattr(os, "killpg")  # not on Windows


class Died(CandidateError):
    """The student's process hung, ended or sent nonsense, and is no more: how, as a sentence."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a notebook may take."""

    cell: float = 60  # seconds of a cell
    exercise: float = 20  # seconds of all calls for one exercise
    notebook: float = 600  # seconds of all cells, started again or not
    memory: float = 4  # GiB above what JAX takes


@dataclasses.dataclass
class Allowance:
    """Seconds for one request, or for several together."""

    seconds: float
    spent: float = 0


def environment(folder: Path) -> dict[str, str]:
    """Of the student's process: at home in its folder, on the CPU, without a screen."""
    paths = [str(Path(minidiff.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    paths = os.pathsep.join(
        os.path.abspath(p) for p in os.pathsep.join(paths).split(os.pathsep) if p
    )
    told = {
        **{"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg"},
        "MPLCONFIGDIR": canvas.matplotlib.get_cachedir(),  # or each process looks for all fonts again
        **{PRESET: "smoke", GRADING: "1"},
        # Students' programs are alike and small: the next process takes them from the compile cache.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP"), str(folder)),
    }
    kept = {name: value for name, value in os.environ.items() if name not in (FOLDER, LOG)}
    return {**kept, **told}


class Worker:
    """A student's process in an empty folder. InputError if it cannot be started."""

    def __init__(self, folder: Path, limits: Limits):
        self.alive, self._asked = True, -1
        command = [sys.executable, "-P", "-m", "minidiff.grading.worker", str(limits.memory)]
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment(folder), bufsize=0, start_new_session=GROUPS,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            self.ask(Allowance(START_SECONDS))
        except Died as death:
            said = self._process.stderr.read().decode(errors="replace").split("\n")
            why = next((line for line in reversed(said) if line.strip()), death)
            raise InputError(f"the student's process does not start: {why}") from None
        finally:
            self._process.stderr.close()

    def ask(self, allowance: Allowance, *request) -> dict:
        """The answer to a request. Died if there is none in time, and the process is ended."""
        if not self.alive:
            raise Died("had ended its process")
        self._asked += 1
        data = pickle.dumps((self._asked, *request)) if request else b""
        answers = queue.SimpleQueue()
        # In a thread: a pipe that a runaway grandchild holds open can be neither read nor closed.
        thread = threading.Thread(target=self._exchange, args=(data, answers), daemon=True)
        thread.start()
        began = time.monotonic()
        try:
            answer = answers.get(timeout=max(allowance.seconds - allowance.spent, 0.01))
        except queue.Empty:
            answer = None
        allowance.spent += time.monotonic() - began
        if isinstance(answer, dict):
            return answer
        death = self._death(answer, float(allowance.seconds))
        self.end(thread)
        raise death

    def _exchange(self, data: bytes, answers: queue.SimpleQueue) -> None:
        try:
            if data:
                wire.write(self._process.stdin, data)
            answer = wire.load(wire.read(self._process.stdout))
            if not isinstance(answer, dict) or str(answer.get("id")) != str(self._asked):
                raise wire.Malformed
            answers.put(answer)
        except (wire.Malformed, EOFError, OSError, ValueError, MemoryError) as error:
            answers.put(error)
        if not self.alive:  # this thread outlived the process
            self._close()

    def _death(self, fault: Exception | None, seconds: float) -> Died:
        if fault is None:
            return Died(f"took longer than {seconds:.3g} s")
        if isinstance(fault, wire.Malformed):
            return Died("wrote nonsense into the grader's connection")
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return Died("closed its connection to the grader")
        if status >= 0:
            return Died(f"ended the process (exit status {status})")
        names = {number.value: number.name for number in signal.Signals}
        return Died(f"ended the process ({names.get(-status, f'signal {-status}')})")

    def end(self, thread: threading.Thread | None = None) -> None:
        """Kill the process and those it started. Harmless to call again."""
        if not self.alive:
            return
        self.alive = False
        if GROUPS:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        if thread:
            thread.join(timeout=1)
        if not (thread and thread.is_alive()):
            self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
            self._process.stdout.close()


@dataclasses.dataclass
class Remote:
    """A student's function, called in its own process. Raises CandidateError with a sentence."""

    worker: Worker
    name: str
    allowance: Allowance  # for all calls
    how: tuple[str, ...] = ()

    def __call__(self, *args, **kwargs):
        """What the function returns; NotImplementedError where the student has not begun."""
        try:
            answer = self.worker.ask(self.allowance, "call", self.name, self.how, args, kwargs)
        except Died as death:
            raise Died(f"{self.name} {death}") from None
        if answer.get("blank") is True:
            raise NotImplementedError
        if "value" not in answer:
            raise CandidateError(str(answer.get("raised")))
        return answer["value"]

    def transformed(self, how: str) -> "Remote":
        """The function under "jit" or "grad"."""
        return dataclasses.replace(self, how=(*self.how, how))
