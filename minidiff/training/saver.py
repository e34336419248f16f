"""Checkpoints written beside the training: a thread writes while the next steps are computed."""

from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from minidiff.errors import InputError
from minidiff.training.run import Run
from minidiff.training.state import TrainState


class Saver:
    """Writes the checkpoints of a run, one at a time; what goes wrong is raised by the next call.

    In the run's folder stay the last ``keep`` checkpoints and the best, whose loss was the lowest.
    """

    def __init__(self, run: Run, keep: int):
        self.run, self.keep = run, keep
        self.thread = ThreadPoolExecutor(1)
        self.pending: Future | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()
        except Exception:
            if error is None:  # else that is what the caller should hear of
                raise
        finally:
            self.thread.shutdown()

    def save(self, state: TrainState, loss: float) -> None:
        """Begin to write a checkpoint, when the one before it is written. All processes must ask.

        ``loss`` is the mean over the steps since that one.
        """
        self.wait()
        # A copy: the arrays themselves are given to the next step.
        whole = self.run.devices.gather(state)
        if self.run.writes:
            self.pending = self.thread.submit(self._write, whole, loss)

    def wait(self) -> None:
        """Until the last checkpoint is on the disk. OSError if it could not be written."""
        pending, self.pending = self.pending, None
        if pending:
            pending.result()

    def _write(self, state: TrainState, loss: float) -> None:
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(state)):
            step = int(state.step)
            raise InputError(
                f"the weights after step {step} are not finite: they were not saved; the last good "
                f"checkpoint is kept in {self.run.checkpoints}"
            )
        self.run.save(state, loss)
        self.run.thin_out(self.keep)
