"""The student's process: ``python -m minidiff.grading.worker GIB``.

It is started by ``minidiff.grading.process``, in a scratch folder. It runs the cells it is sent in one
namespace and then calls the functions it is asked for. Nothing it says is trusted.
"""

import linecache
import os
import pickle
import sys
import types

import jax.numpy as jnp

from minidiff.checks.diagnosis.faults import describe_error
from minidiff.checks.exercise import transformed
from minidiff.grading import wire


class _Nothing:
    """In place of IPython: whatever is asked of it, nothing happens."""

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: None


class Student:
    """The namespace of a student's notebook."""

    def __init__(self):
        module = types.ModuleType("__main__")  # classes of the notebook say that they live there
        sys.modules["__main__"] = module
        self.names = vars(module)
        self.names.update(get_ipython=_Nothing, display=lambda *things, **options: None)
        self.names.update(exit=sys.exit, quit=sys.exit)  # Python's own close standard input too
        self.transformed = {}

    def cell(self, number: int, source: str) -> dict:
        """Run a cell. What it raised is told; a call of exit() is no more than that."""
        file = f"<cell {number}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        try:
            exec(compile(source, file, "exec"), self.names)
        except BaseException as error:
            return {"raised": _told(error, file)}
        return {}

    def look(self, name: str) -> dict:
        """What there is of that name."""
        thing = self.names.get(name)
        kind = type(thing).__name__
        return {"there": name in self.names, "callable": callable(thing), "kind": kind}

    def call(self, name: str, how: tuple[str, ...], args: tuple, kwargs: dict) -> dict:
        """What a function returns; ``how`` it is transformed first."""
        function = self.names[name]
        for step in how:
            key = (id(function), step)
            if key not in self.transformed:  # or every call would compile again
                self.transformed[key] = (function, transformed(function, step))
            _, function = self.transformed[key]
        return {"value": function(*args, **kwargs)}

    def answer(self, number: int, what: str, *about) -> bytes:
        """The answer to a request; what a function raises is an answer as well."""
        try:
            return wire.dump({"id": number, **getattr(self, what)(*about)})
        except NotImplementedError:
            said = {"blank": True}
        except wire.TooLarge:
            said = {"raised": f"{about[0]} returned more than {wire.MOST_BYTES >> 20} MB"}
        except BaseException as error:
            try:
                said = {"raised": describe_error(error, about[0])}
            except BaseException:  # its message raises as well
                said = {"raised": f"{about[0]} raised {type(error).__name__}"}
        return wire.dump({"id": number, **said})


def _told(error: BaseException, file: str) -> str:
    """What a cell raised and in which line, in one line."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        line = error.lineno
    try:
        text = " ".join(str(error).split())[:200]
    except BaseException:
        text = ""
    return (
        f"{type(error).__name__}{f' in line {line}' * (line is not None)}: {text or 'no message'}"
    )


def limit_memory(gib: float) -> None:
    """At most this much more than now, where the platform has such a limit; no core files."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))  # one file cannot fill the disk
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # macOS, which would not keep the limit
        return
    most = now + int(gib * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _take_pipes() -> tuple:
    """The grader's pipes, moved away from standard input and output, which become nothing."""
    requests, answers = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    return requests, answers


def main() -> None:
    """Answer requests until there are no more."""
    jnp.zeros(1).block_until_ready()  # the backend, and its threads, before memory is limited
    limit_memory(float(sys.argv[1]))
    requests, answers = _take_pipes()
    me, student = os.getpid(), Student()
    wire.write(answers, wire.dump({"id": 0}))  # ready
    while True:
        try:
            request = pickle.loads(wire.read(requests, None))
        except EOFError:
            break
        answer = student.answer(*request)
        if os.getpid() != me:  # a fork made by the student: one answer is enough
            os._exit(0)
        wire.write(answers, answer)


if __name__ == "__main__":
    main()
