"""One writer a folder: a lock that the operating system frees when its holder ends, however it ends.

The lock is on the file ``.lock`` in the folder, which names its holder and is removed by ``release``.
One that a killed process left behind is locked by nobody and in nobody's way. A process that holds a
folder may take it again. Over NFS and SMB the lock holds between machines, if the server keeps locks;
on a file system that has none, that is said on standard error, and the work goes on.
"""

import contextlib
import errno
import functools
import os
import platform
import stat
from collections.abc import Callable
from pathlib import Path

from minidiff.errors import InputError, complain

NAME = ".lock"
MOST_NAMED = 200  # bytes that are read of who holds it
BEYOND = 2**20  # on Windows what is locked cannot be read: a byte behind the holder's name
HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_held: dict[tuple[int, Path], int] = {}  # (process, folder) -> descriptor of the open file


def acquire(folder: Path) -> None:
    """Make the folder, which exists, this process's own.

    InputError, naming the process, where it is another's; OSError where nothing can be written.
    """
    key = os.getpid(), os.path.realpath(folder)
    while key not in _held:
        opened = os.open(
            folder / NAME, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644
        )
        try:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise InputError(f"{folder / NAME} is no file: remove it")
            _lock(opened, folder)
            if _is_there(opened, folder):  # else its holder has removed it since it was opened
                os.truncate(opened, 0)
                os.write(opened, f"{os.getpid()} {platform.node()}".encode())
                _held[key] = opened
        finally:
            if key not in _held:
                os.close(opened)


def release(folder: Path) -> None:
    """Let another process have the folder; nothing happens if this one does not hold it."""
    opened = _held.pop((os.getpid(), os.path.realpath(folder)), None)
    if opened is None:
        return
    path = folder / NAME
    if os.name != "nt" and _is_there(opened, folder):
        path.unlink()  # while it is still locked: nobody else's can stand there
    os.close(opened)
    if os.name == "nt":  # an open file cannot be removed there
        with contextlib.suppress(OSError):
            path.unlink()


def one_writer(work: Callable) -> Callable:
    """A decorator: however ``work(out, ...)`` ends, the folder ``out`` is given back."""

    @functools.wraps(work)
    def held(out, *arguments, **settings):
        try:
            return work(out, *arguments, **settings)
        finally:
            release(Path(out))

    return held


def _lock(opened: int, folder: Path) -> None:
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(opened, BEYOND, os.SEEK_SET)
            msvcrt.locking(opened, msvcrt.LK_NBLCK, 1)
            os.lseek(opened, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD_BY_ANOTHER:
            raise InputError(
                f"{folder} is in use: {_holder(opened)} writes there, and only one can; wait for it, "
                "or choose another --out"
            ) from None
        complain(
            f"{folder} lies where files cannot be locked: start nothing else that writes there"
        )


def _holder(opened: int) -> str:
    """Who the file says holds it."""
    os.lseek(opened, 0, os.SEEK_SET)
    number, _, host = os.read(opened, MOST_NAMED).decode(errors="replace").partition(" ")
    if not number.isdecimal():
        return "another process"
    return f"process {number}" + (f" on {host}" if host != platform.node() else "")


def _is_there(opened: int, folder: Path) -> bool:
    """Whether the folder's lock is still the file that was opened."""
    try:
        return os.path.samestat(os.fstat(opened), os.stat(folder / NAME, follow_symlinks=False))
    except FileNotFoundError:
        return False
