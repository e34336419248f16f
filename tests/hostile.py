"""What hostile input may do: be refused in one line with exit status 2, or be handled. Nothing else.

Every case runs in an empty folder with a neighbour, with a limit on time and on memory, and what
lies around is compared afterwards.
"""

import contextlib
import faulthandler
import hashlib
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from minidiff.cli import main
from minidiff.errors import MOST_CHARACTERS, InputError

SECONDS = 60  # far more than any case takes: what is over it hangs
SPARE = 4 * 2**30  # bytes that a case may take: what is over it was led by a claim in a file


def contents(folder):
    """Everything below a folder: kinds, and digests of files; links are not followed."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        mode = path.lstat().st_mode
        digest = ""
        if stat.S_ISREG(mode) and os.access(path, os.R_OK) and path.stat().st_size < 2**26:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), digest)
    return found


class Hung(BaseException):
    """A case took longer than any can; no exception that something would catch."""


def _hung(*_):
    raise Hung


@contextlib.contextmanager
def bounded(seconds=SECONDS, spare=SPARE):
    """Limits on the time, and on the address space beyond what the process has already."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = Path("/proc/self/statm")
    if pages.exists():
        now = int(pages.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + spare, before[1]))
    old = signal.signal(signal.SIGALRM, _hung)
    signal.alarm(seconds)
    # Where no signal comes through.
    faulthandler.dump_traceback_later(3 * seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, before)


def status(arguments):
    """The exit status of a command, however it ends."""
    with bounded():
        try:
            return main([str(text) for text in arguments])
        except SystemExit as end:
            return end.code


def is_one_line(text):
    """Fit for any terminal."""
    line = text.removesuffix("\n")
    return line.isprintable() and text.count("\n") == 1 and len(line) <= MOST_CHARACTERS + 200


def refused(capsys, place, arguments, *named):
    """Exit status 2 after one line on stderr that names all of ``named``; nothing was changed."""
    before = contents(place)
    capsys.readouterr()
    code = status(arguments)
    out, err = capsys.readouterr()
    assert code == 2, (code, out, err)
    assert err.startswith("minidiff"), err
    assert is_one_line(err), err
    for name in named:
        assert str(name) in err, err
    assert out == ""
    assert contents(place) == before


def handled(capsys, place, arguments, *named, made=()):
    """Exit status 0, with all of ``named`` in what is printed; only ``made`` is new in work/."""
    before = contents(place)
    capsys.readouterr()
    code = status(arguments)
    out, err = capsys.readouterr()
    assert code == 0, err
    for name in named:
        assert str(name) in out + err
    new = {name: what for name, what in contents(place).items() if before.get(name) != what}
    assert set(new) == {f"work/{name}" for name in made}
    return out


def value_or_complaint(action, *arguments):
    """What an action returns, or the line it ends with; any other exception is passed on."""
    with bounded():
        try:
            return action(*arguments)
        except InputError as error:
            return str(error)
