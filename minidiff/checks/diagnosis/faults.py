"""What is wrong with an answer, as a sentence: how it differs from the right one, or what was raised."""

import traceback

import numpy as np


def difference(got, wanted, name: str, rtol: float = 1e-4, atol: float = 1e-5) -> str | None:
    """How what ``name`` returned differs from what was wanted, in a sentence; none if it does not."""
    if got is None:
        return f"{name} returned None: does it end with `return`?"
    if isinstance(wanted, dict | tuple | list):
        return _difference_of_parts(got, wanted, name, rtol, atol)
    if isinstance(wanted, str | bool):
        return None if got == wanted else f"{name} returned {got!r}, wanted {wanted!r}"
    try:
        if np.iscomplexobj(got) != np.iscomplexobj(wanted):  # as (-1.0) ** 0.5 is in Python
            return f"{name} returned complex numbers: the root of a negative number was taken"
        mine, right = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    except (TypeError, ValueError):
        return f"{name} returned {type(got).__name__}, wanted an array of numbers"
    if mine.shape != right.shape:
        return f"{name} returned an array of shape {mine.shape}, wanted {right.shape}"
    if np.isnan(mine).any() and not np.isnan(right).any():
        return f"{name} returned NaN: is something divided by zero, or the log of it taken?"
    if np.any(np.isnan(mine) != np.isnan(right)):
        return f"{name} is off: a number stands where none can be, or none where one is wanted"
    with np.errstate(invalid="ignore"):  # infinity less infinity
        off = np.abs(mine - right) - atol - rtol * np.abs(right)
    off = np.where(mine == right, 0, np.where(np.isinf(right), np.inf, off))
    off = np.where(np.isnan(right), 0, off)  # at the same places in both
    if not (off > 0).any():
        return None
    place = np.unravel_index(np.argmax(off), off.shape)
    where = f" at [{', '.join(map(str, place))}]" if place else ""
    share = f" in {np.mean(off > 0):.0%} of its numbers" if place else ""
    return f"{name} is off{share}: {mine[place]:.4g}{where}, wanted {right[place]:.4g}"


def _difference_of_parts(got, wanted, name: str, rtol: float, atol: float) -> str | None:
    if isinstance(wanted, dict):
        if not isinstance(got, dict) or got.keys() != wanted.keys():
            return f"{name} must return a dict with the keys {', '.join(map(str, wanted))}"
        pairs = {f"{name}[{key!r}]": (got[key], wanted[key]) for key in wanted}
    else:
        if not isinstance(got, tuple | list) or len(got) != len(wanted):
            many = f"{len(got)}" if isinstance(got, tuple | list) else type(got).__name__
            return f"{name} must return {len(wanted)} values, not {many}"
        pairs = {f"{name}[{i}]": pair for i, pair in enumerate(zip(got, wanted, strict=True))}
    faults = (difference(*pair, part, rtol, atol) for part, pair in pairs.items())
    return next((fault for fault in faults if fault), None)


def describe_error(error: Exception, name: str) -> str:
    """One line on what a student's function raised and in which of its lines."""
    text = " ".join(str(error).split()) or "no message"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.name == name]
    where = f" in line {lines[-1]} of its cell" if lines else ""
    shapes = any(word in text for word in ("shape", "broadcast", "rank"))
    why = (
        " (print the shapes: two arrays meet only where each axis is equal or 1)" if shapes else ""
    )
    return f"{name} raised {type(error).__name__}{where}: {text[:200]}{why}"
