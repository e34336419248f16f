"""SIGTERM and SIGINT as a question that a loop may ask between two steps."""

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """Training was told to stop and has saved what it had; ``number`` is the signal's."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class Interrupts:
    """While the block lasts, a signal is noted in ``caught``; a second one interrupts at once.

    In threads other than the main one, which cannot handle signals, nothing is noted.
    """

    caught: int | None = None

    def __enter__(self) -> "Interrupts":
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            raise KeyboardInterrupt
        self.caught = number
