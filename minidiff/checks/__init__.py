"""Exercise checks, one file per lesson: ``checks.add_noise(my_add_noise)``.

A check prints a tick or one sentence that helps; ``checks.add_noise.hint()`` prints hints in steps.
The tests hand every planted mistake to its check, and ``minidiff check`` grades notebooks with them.
"""

import importlib
import pkgutil
from functools import cache


@cache
def exercises() -> dict:
    """Every exercise by its name, lesson by lesson."""
    from minidiff.checks.exercise import Exercise

    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    found = [e for module in modules for e in vars(module).values() if isinstance(e, Exercise)]
    return {exercise.name: exercise for exercise in found}


def __getattr__(name: str):
    if not name.startswith("_") and name in exercises():
        return exercises()[name]
    raise AttributeError(f"there is no check {name!r}: choose from {', '.join(exercises())}")
