"""A run is a folder: what was asked, what was measured, what was learned.

    config.json    the recipe, its settings, what else it depends on and the versions that began it
    metrics.jsonl  a line of numbers for every dispatch
    checkpoints/   step_00000500.safetensors: the whole training state, the last ones and the best
    figures/       pictures made on the way and at the end
    report.json, report.md   what the run achieved

Everything but metrics.jsonl is written whole or not at all, so a run that is killed at any moment
goes on from its last checkpoint, and ends with the weights it would have had anyway. It does not go
on where what it depends on has changed, and only one process writes there (``training.lock``).
"""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np

from minidiff import files, weights
from minidiff.errors import InputError, naming
from minidiff.training import lock
from minidiff.training.config import check_fact
from minidiff.training.devices import ONE, Devices
from minidiff.training.state import TrainState

CHECKPOINT = re.compile(r"step_([0-9]{8,10})\.safetensors")
CHOSEN = re.compile(r"(.+)@(best|[0-9]{1,10})")
MOST_METRICS = 2**28  # bytes of metrics.jsonl: millions of lines


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder; make one with ``opening.open_run``. Of several processes only one writes there.

    ``chosen`` is the checkpoint that its weights are read from: a step, "best", or "" for the last.
    """

    path: Path
    devices: Devices = ONE
    chosen: str = ""

    @classmethod
    def named(cls, text: Path | str) -> "Run":
        """The run that a command line names: "FOLDER", "FOLDER@best" or "FOLDER@STEP"."""
        found = CHOSEN.fullmatch(str(text))
        if found and not Path(text).exists():
            return cls(Path(found[1]), chosen=found[2])
        return cls(Path(text))

    @property
    def writes(self) -> bool:
        return self.devices.writes

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def read_json(self, name: str) -> dict:
        """A JSON file of the folder. InputError if it is missing or damaged."""
        if not (self.path / name).exists():
            raise InputError(f"{self.path} is not a run folder: it has no {name}")
        return files.read_json(self.path / name)

    def read_config(self, recipe: str) -> dict:
        """config.json of a run of this recipe. InputError if it is another's."""
        there = self.read_json("config.json")
        if there.get("recipe") != recipe:
            raise InputError(f"{self.path} is a run of {there.get('recipe')}, not of {recipe}")
        return there

    def read_settings(self, recipe: str, kind: type, *facts: str) -> tuple:
        """(settings, facts ...) of a run of this recipe; ``kind`` is its Config. InputError if damaged."""
        there = self.read_config(recipe)
        path = self.path / "config.json"
        try:
            fields = {name: _plain(value) for name, value in there["config"].items()}
            with naming(path):
                found = [check_fact(name, _plain(there[name])) for name in facts]
                return kind(**fields), *found
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not of this version: {error}") from None

    def close(self) -> None:
        """Another process may write to the folder from now on."""
        lock.release(self.path)

    def write_json(self, name: str, content: dict) -> None:
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, content: str) -> None:
        if self.writes:
            weights.write_atomically(self.path / name, content.encode())

    def append_line(self, name: str, content: dict) -> None:
        """Add a line of JSON to a file."""
        if self.writes:
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.write(json.dumps(content) + "\n")

    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl; a last line that was cut short is left out.

        InputError names a line that is damaged.
        """
        path = self.path / "metrics.jsonl"
        lines = files.read_bytes(path, MOST_METRICS).split(b"\n")[:-1] if path.exists() else []
        return [_numbers(path, number, line) for number, line in enumerate(lines, start=1)]

    def measured(self) -> list[dict]:
        """The lines of metrics.jsonl of a run that has been trained. InputError if there are none."""
        lines = self.metrics()
        if not lines:
            where = self.path / "metrics.jsonl"
            raise InputError(f"{where} holds no line: there is nothing to report of this training")
        return lines

    def saved_steps(self) -> list[int]:
        """Steps at which there is a checkpoint, ascending."""
        names = (path.name for path in self.checkpoints.glob("step_*"))
        return sorted(int(found[1]) for name in names if (found := CHECKPOINT.fullmatch(name)))

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step_{step:08d}.safetensors"

    def save(self, state: TrainState, loss: float) -> None:
        """Write a checkpoint; ``loss`` is the mean over the steps since the one before."""
        weights.save(self.checkpoint(int(state.step)), state, {"loss": repr(loss)})

    def thin_out(self, keep: int) -> None:
        """Drop all checkpoints but the last ``keep`` and the best."""
        best = self.best_step()
        for step in self.saved_steps()[:-keep]:
            if step != best:
                self.checkpoint(step).unlink()

    def best_step(self) -> int:
        """The checkpoint that was saved with the lowest loss; there must be one."""

        def loss(step: int) -> float:
            try:
                found = float(weights.load_metadata(self.checkpoint(step)).get("loss", "inf"))
            except (InputError, ValueError):  # damaged, or not ours
                return math.inf
            return found if math.isfinite(found) else math.inf

        return min(self.saved_steps(), key=loss)

    def chosen_step(self) -> int:
        """The step of the checkpoint that is to be read. InputError if it is not there."""
        steps = self.saved_steps()
        if not steps:
            raise InputError(f"{self.path} has no checkpoint yet: train it first")
        if not self.chosen:
            return steps[-1]
        step = self.best_step() if self.chosen == "best" else int(self.chosen)
        if step not in steps:
            there = ", ".join(map(str, steps[-5:]))
            raise InputError(f"{self.path} has no checkpoint of step {step}: there are {there}")
        return step

    def restore(self, state: TrainState) -> TrainState:
        """The last checkpoint, on the run's devices, or ``state`` itself where there is none yet."""
        steps = self.saved_steps()
        if not steps:
            return state
        # Into the memory of the host: no device need hold what is divided among all.
        found = weights.load(self.checkpoint(steps[-1]), state, make=np.asarray)
        return self.devices.place(found)

    def load_ema(self, template: object) -> object:
        """The averaged weights of the chosen checkpoint, shaped like ``template``."""
        return weights.load(self.checkpoint(self.chosen_step()), template, prefix="ema.")

    def copy_ema(self, target: "Run", dtype: str | None = None) -> None:
        """The settings and the averaged weights of the chosen checkpoint, to another folder.

        ``dtype`` is that of the numbers there; none: as they are.
        """
        step = self.chosen_step()
        arrays, _ = weights.load_arrays(self.checkpoint(step))
        target.checkpoints.mkdir(parents=True, exist_ok=True)
        ema = {name: array for name, array in arrays.items() if name.startswith("ema.")}
        ema = {name: array.astype(dtype or array.dtype) for name, array in ema.items()}
        weights.save(target.checkpoint(step), ema)
        target.write_json("config.json", self.read_json("config.json"))  # the seal


def _numbers(path: Path, number: int, line: bytes) -> dict:
    """A line of metrics.jsonl: an object of numbers, among them what every line has."""
    try:
        found = json.loads(line)
        kinds = {name: type(found[name]) for name in {*found, "step", "seconds", "loss"}}
    except (ValueError, TypeError, LookupError, RecursionError):
        kinds = {"": None}
    if not set(kinds.values()) <= {int, float} or kinds["step"] is not int:
        raise InputError(f"{path} line {number} is damaged: it holds no step, seconds and loss")
    return found


def _plain(value: object) -> object:
    """What JSON made a list was a tuple."""
    return tuple(value) if isinstance(value, list) else value
