"""Exercise checks, one file per lesson: ``checks.add_noise(my_add_noise)``.

A check prints a tick or one sentence that helps; ``checks.add_noise.hint()`` prints hints in steps.
The tests hand every planted mistake to its check, and ``minidiff check`` grades notebooks with them.
"""

import importlib
import pkgutil
from functools import cache


@cache
def of_lesson(lesson: str) -> dict:
    """A lesson's exercises by their name, in its order; none if no lesson is called so."""
    from minidiff.checks.exercise import Exercise

    if lesson not in _modules():
        return {}
    things = vars(importlib.import_module(f"{__name__}.{lesson}")).values()
    return {thing.name: thing for thing in things if isinstance(thing, Exercise)}


@cache
def exercises() -> dict:
    """Every exercise by its name, lesson by lesson."""
    return {name: e for lesson in _modules() for name, e in of_lesson(lesson).items()}


def _modules() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name: str):
    if not name.startswith("_") and name in exercises():
        return exercises()[name]
    raise AttributeError(f"there is no check {name!r}: choose from {', '.join(exercises())}")
