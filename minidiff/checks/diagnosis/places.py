"""Where, and of what too much or too little: the rows, the cases and the shares that are not right.

Each function is told all cases, what was returned, what was wanted, what counts as equal and what the
arguments are called, and says what holds; none where that is nothing. See ``relations``.
"""

from collections.abc import Callable, Sequence

import numpy as np

Close = Callable[[object, object], bool]


def is_array(thing: object) -> bool:
    """Whether it is an array of numbers, and no array of keys."""
    return isinstance(getattr(thing, "dtype", None), np.dtype) and thing.dtype.kind in "fiub"


def picked(name: str, given: list, mine: list, right: list, close: Close) -> str | None:
    """Each row is one of an argument's: which, and which is wanted?"""
    for g, m, r in zip(given, mine, right, strict=True):
        if g.ndim != m.ndim + 1 or g.shape[:1] + g.shape[2:] != m.shape or m.shape != r.shape:
            return None
        for row in range(len(m)):
            mine_at = [j for j in range(g.shape[1]) if close(g[row, j], m[row])]
            right_at = [j for j in range(g.shape[1]) if close(g[row, j], r[row])]
            if not mine_at or not right_at:
                return None
            if mine_at != right_at:
                return f"in row {row} this is {name}[{row}, {mine_at[0]}]: place {right_at[0]} is wanted"
    return None


def _told(case: tuple, row: int, names: Sequence[str], count: int) -> str:
    """Row by row what an argument of integers says: "t = 300"."""
    for name, value in zip(names, case, strict=False):
        if getattr(value, "shape", None) == (count,) and np.asarray(value).dtype.kind in "iu":
            return f"{name} = {np.asarray(value)[row]}"
    return f"row {row}"


def amounts(cases, mine, right, close, names) -> str | None:
    """Where the answer is so much of one argument and so much of another: which is amiss?"""
    for case, m, r in zip(cases, mine, right, strict=True):
        given = {
            name: np.asarray(value, np.float64)
            for name, value in zip(names, case, strict=False)
            if getattr(value, "shape", None) == m.shape and m.ndim > 1
        }
        if not given:
            continue
        for row in range(len(m)):
            basis = np.stack([value[row].ravel() for value in given.values()], axis=1)
            if len(basis) <= len(given):
                break
            want, whole = _shares(basis, r[row].ravel())
            have, fits = _shares(basis, m[row].ravel())
            if not (whole and fits):
                break
            amiss = np.flatnonzero(np.abs(want - have) > 1e-3 * (1 + np.abs(want)))
            if not len(amiss):
                continue
            some = list(given)
            told = " and ".join(
                f"{_number(have[i])} times {some[i]} is in it, where {_number(want[i])} is right"
                for i in amiss
            )
            rest = [some[i] for i in range(len(some)) if i not in amiss]
            fine = f"; the share of {' and '.join(rest)} is right" if rest else ""
            return f"at {_told(case, row, names, len(m))}: {told}{fine}"
    return None


def _number(share: float) -> str:
    return f"{share:.3g}" if abs(share) > 1e-6 else "0"


def _shares(basis: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, bool]:
    """How much of each column is in y, and whether that is all of it."""
    share = np.linalg.lstsq(basis, y, rcond=None)[0]
    rest = np.abs(basis @ share - y).max()
    return share, bool(rest <= 1e-3 * (1 + np.abs(y).max()))


def rows(cases, mine, right, close, names) -> str | None:
    """Right but for some rows, columns or channels."""
    for case, m, r in zip(cases, mine, right, strict=True):
        if close(m, r):
            continue
        for axis in range(m.ndim):
            ms, rs = np.moveaxis(m, axis, 0), np.moveaxis(r, axis, 0)
            good = [i for i in range(len(ms)) if close(ms[i], rs[i])]
            if not good:
                continue
            bad = [i for i in range(len(ms)) if i not in good]
            if axis == 0:
                told = [
                    _told(case, i, names, len(m)) for i in (bad if len(bad) <= len(good) else good)
                ]
            else:
                told = [f"[{':, ' * axis}{i}]" for i in (bad if len(bad) <= len(good) else good)]
            more = ", ..." if len(told) > 4 else ""
            if len(bad) <= len(good):
                pair = _farthest(ms[bad[0]], rs[bad[0]])
                return f"right but for {', '.join(told[:4])}{more}: {pair}"
            return f"right for {', '.join(told[:4])}{more} alone"
        return None
    return None


def _farthest(mine: np.ndarray | np.generic, right: np.ndarray | np.generic) -> str:
    """The two numbers that differ most."""
    mine, right = np.ravel(mine), np.ravel(right)
    place = np.argmax(np.abs(mine - right))
    return f"{'got' if mine.size == 1 else 'there is'} {mine[place]:.4g}, wanted {right[place]:.4g}"


def whole_cases(cases, mine, right, close, names) -> str | None:
    """Right in some cases, wrong in others: which?"""
    good = [close(m, r) for m, r in zip(mine, right, strict=True)]
    if not any(good):
        return None
    bad = good.index(False)
    numbers = [
        f"{name} = {float(value):.4g}"
        for name, value in zip(names, cases[bad], strict=False)
        if isinstance(value, int | float) or (is_array(value) and value.ndim == 0)
    ]
    shapes = [
        f"{name} of shape {value.shape}"
        for name, value in zip(names, cases[bad], strict=False)
        if getattr(value, "ndim", 0)
    ]
    where = ", ".join(numbers or shapes[:2]) or f"case {bad + 1}"
    return f"right in {sum(good)} of {len(good)} cases, not with {where}"


def truth(cases, mine, right, close, names) -> str | None:
    """Of True and False: too many, or too few."""
    if not all(np.isin(a, (0, 1)).all() for a in (*mine, *right)):
        return None
    more = any(np.any(m > r) for m, r in zip(mine, right, strict=True))
    less = any(np.any(m < r) for m, r in zip(mine, right, strict=True))
    if more != less:
        bad = next(i for i, (m, r) in enumerate(zip(mine, right, strict=True)) if np.any(m != r))
        place = ", ".join(map(str, np.argwhere(mine[bad] != right[bad])[0]))
        some = "is True that must be False" if more else "is False that must be True"
        return f"the rest is right, but some {some}, first [{place}] of case {bad + 1}"
    return None


def counts(cases, mine, right, close, names) -> str | None:
    """A whole number that is off by so much of its arguments."""
    whole = all(r.ndim == 0 for r in right) and all(
        all(isinstance(value, int) for value in case) for case in cases
    )
    if not whole or len(cases[0]) != 2:
        return None
    one, two = names[:2]
    terms = {"1": 1, one: None, two: None, f"{one} * {two}": None}
    table = np.array([[1, a, b, a * b] for a, b in cases], float)
    off = np.array([float(m - r) for m, r in zip(mine, right, strict=True)])
    share, *_ = np.linalg.lstsq(table, off, rcond=None)
    if np.abs(table @ np.round(share) - off).max() > 1e-6:
        return None
    told = [
        f"{round(c):+d} * {t}".replace(" * 1", "")
        for c, t in zip(share, terms, strict=True)
        if round(c)
    ]
    return f"this is the right number {' '.join(told)}: which part is that?"
