"""What every lesson notebook begins with: its preset, its pictures, its claims, its weights."""

import inspect
import os
from pathlib import Path

import jax
import numpy as np

from minidiff.errors import InputError
from minidiff.plot.show import LOG, log, show

PRESET = "MINIDIFF_PRESET"  # of lessons: cpu where it is not set
PRESETS = ("smoke", "cpu")
REFERENCE = Path(__file__).parent / "assets" / "reference"
# Where the reference weights of a recipe lie. Those of text_to_image hold the CLIP that they read.
PLACES = {"text_to_image": REFERENCE, "clip": REFERENCE / "clip"}


class Lesson:
    """One run of a lesson.

    ``smoke`` runs everything with hardly any training, to see that it runs; ``cpu`` is the lesson.
    The environment variable MINIDIFF_PRESET chooses. InputError for any other preset.
    """

    def __init__(self, name: str):
        self.name, self.preset = name, os.environ.get(PRESET, "cpu")
        self._predicted = ""
        if self.preset not in PRESETS:
            raise InputError(f"{PRESET}={self.preset} is not one of {', '.join(PRESETS)}")
        place = f"jax {jax.__version__} on {jax.default_backend()}"
        print(f"Lesson {name}, preset {self.preset}, {place}")

    def pick(self, *, smoke: object, cpu: object) -> object:
        """A setting that depends on the preset."""
        return {"smoke": smoke, "cpu": cpu}[self.preset]

    show = staticmethod(show)

    def expect(
        self, what: str, value: float, low: float, high: float, *, trained: bool = False
    ) -> None:
        """Print a result beside the band that the text claims for it.

        Where it lies outside, a remark; AssertionError where a lesson is built or tested, that is
        where MINIDIFF_LESSON_LOG is set. ``trained=True`` marks a result of training, which the
        preset smoke does not reach and only prints.
        """
        value, binding = float(value), not (trained and self.preset == "smoke")
        holds = low <= value <= high
        print(f"{what}: {value:.4g} (expected {low:.4g} to {high:.4g})")
        fault = f"{what} is {value:.4g}, outside {low:.4g} to {high:.4g}"
        _claimed(holds, what, fault, value=value, low=low, high=high, binding=binding)

    @staticmethod
    def claim(holds: object) -> None:
        """Say nothing if what the text claims holds; else as ``expect``, with the line of the call."""
        _claimed(bool(holds), _line_of_caller())

    @staticmethod
    def agree(got: object, wanted: object, rtol: float = 1e-7, atol: float = 0.0) -> None:
        """As ``claim``, that each number of an array is within ``atol + rtol * |wanted|`` of the wanted."""
        try:
            np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol)
            fault = ""
        except AssertionError as error:
            fault = str(error)
        _claimed(not fault, _line_of_caller(), fault)

    def predict(self, yours: str) -> None:
        """Keep what the reader predicts, for ``outcome``; "..." is nothing yet."""
        self._predicted = yours if yours.strip(". ") else ""
        if not self._predicted and not os.environ.get(LOG):
            print("You predicted nothing: write it in place of the dots, and run the cell again.")

    def outcome(self, what: str) -> None:
        """Print what came out, beside what was predicted last."""
        wrote = f"You wrote: {self._predicted}. It is: " if self._predicted else "It is: "
        print(f"{wrote}{what}")

    @staticmethod
    def source(thing: object) -> None:
        """Print the source of a function or class of minidiff as it is now."""
        print(inspect.getsource(inspect.unwrap(thing)).rstrip())

    def weights(self, recipe: str, whose: str = "reference") -> Path:
        """The folder of a trained run: "reference", or "mine" from an earlier lesson or command.

        The reference weights came from ``minidiff train text_to_image --preset cpu`` by
        lessons/reference.py. InputError where there are none.
        """
        if whose not in ("reference", "mine"):
            raise InputError(f"whose={whose!r} is neither 'reference' nor 'mine'")
        if recipe not in PLACES:
            raise InputError(f"there are weights of {', '.join(PLACES)}, not of {recipe!r}")
        if whose == "reference":
            return PLACES[recipe]
        mine = self.folder(recipe)
        if not (mine / "config.json").exists():
            command = f"minidiff train {recipe} --out {mine}"
            raise InputError(f"there is no run in {mine} yet: make one by `{command}`")
        return mine

    def folder(self, recipe: str) -> Path:
        """Where a lesson trains a run, and ``weights(recipe, "mine")`` looks for it."""
        return Path("runs") / (f"smoke-{recipe}" if self.preset == "smoke" else recipe)


def _claimed(holds: bool, what: str, fault: str = "", *, binding: bool = True, **numbers) -> None:
    """Log a claim. One that binds and does not hold ends a build or a test; a reader reads a remark."""
    log(event="claim", what=what, holds=holds, binding=binding, **numbers)
    if binding and not holds:
        if os.environ.get(LOG):
            raise AssertionError(f"{what}: {fault}" if fault else what)
        if not numbers:  # else they are printed already
            print(f"This does not hold: {what}")
        print("  This is not what the text says: it speaks of the lesson as it was written.")


def _line_of_caller() -> str:
    """The line of the lesson that calls us: a notebook or a script, so the module is called __main__."""
    frame = inspect.currentframe()
    while frame and frame.f_globals.get("__name__") != "__main__":
        frame = frame.f_back
    lines = inspect.getframeinfo(frame).code_context if frame else None
    return lines[0].strip() if lines else "a claim"
