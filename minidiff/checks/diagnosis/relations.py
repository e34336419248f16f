"""How what a student's function returned is related to what was wanted, in a sentence.

Where no known mistake gives the same numbers, the numbers may still say what is wrong: all of one sign
too many, all twice too large, right but for the images at t = 0, or of the noise too little. Each sentence
here states what has been found to hold for these numbers.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from minidiff.checks.diagnosis.places import (
    amounts,
    counts,
    is_array,
    picked,
    rows,
    truth,
    whole_cases,
)

Close = Callable[[object, object], bool]


def relation(
    cases: Sequence[tuple], got: list, wanted: list, close: Close, names: Sequence[str]
) -> str | None:
    """What holds between all that was returned and all that was wanted; none if nothing is found.

    ``close`` says whether two answers are equal within the exercise's tolerance, ``names`` what its
    arguments are called.
    """
    parts = _parts(got, wanted)
    if parts is None:
        return None
    cases, names = _unpacked(cases, names)
    wrong = {key: pair for key, pair in parts.items() if not all(map(close, *pair))}
    for key, (mine, right) in wrong.items():
        where = "" if key is None else f"{key}: "
        if len(wrong) < len(parts):
            where = f"only {key} is wrong: "
        said = _of_one(cases, mine, right, close, names)
        if said:
            return where + said
    return None


def arguments_of(function: Callable) -> list[str]:
    """What they are called; none where that cannot be known."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _unpacked(cases: Sequence[tuple], names: Sequence[str]) -> tuple[list[tuple], list[str]]:
    """The entries of arguments that are dicts as arguments of their own."""
    spread = [
        [
            pair
            for name, value in zip(names, case, strict=False)
            for pair in (
                [(f"{name}[{key!r}]", entry) for key, entry in value.items()]
                if isinstance(value, dict)
                else [(name, value)]
            )
        ]
        for case in cases
    ]
    return [tuple(v for _, v in pairs) for pairs in spread], [n for n, _ in spread[0]]


def _parts(got: list, wanted: list) -> dict | None:
    """Answers with several parts, part by part."""
    first = wanted[0]
    if not all(isinstance(g, type(first)) for g in got) and isinstance(first, dict | tuple):
        return None
    if isinstance(first, dict):
        return {f"[{key!r}]": ([g[key] for g in got], [w[key] for w in wanted]) for key in first}
    if isinstance(first, tuple):
        return {f"[{i}]": ([g[i] for g in got], [w[i] for w in wanted]) for i in range(len(first))}
    if isinstance(first, list | str):
        return None
    return {None: (got, wanted)}


def _of_one(cases, got: list, wanted: list, close: Close, names: Sequence[str]) -> str | None:
    mine = [np.asarray(g, np.float64) for g in got]
    right = [np.asarray(w, np.float64) for w in wanted]
    if any(m.shape != r.shape for m, r in zip(mine, right, strict=True)):
        return _arguments(cases, mine, right, close, names) or _of_shapes(mine, right, close)
    if not all(np.isfinite(m).all() for m in mine):
        return _of_infinite(mine, right)
    with np.errstate(all="ignore"):
        for say in SAYINGS:
            said = say(cases, mine, right, close, names)
            if said:
                return said
        if len(right) > 4 and all(r.ndim == 0 for r in right):  # what holds from case to case
            for say in (_functions, _multiples, _cut):
                said = say((), [np.stack(mine)], [np.stack(right)], close, names)
                if said:
                    return f"in all cases: {said}"
        return whole_cases(cases, mine, right, close, names)


def _all(close: Close, mine: list, right: list) -> bool:
    return all(m.shape == r.shape and close(m, r) for m, r in zip(mine, right, strict=True))


def _of_shapes(mine: list, right: list, close: Close) -> str | None:
    shapes = f"shape {mine[0].shape}, wanted {right[0].shape}"
    pairs = list(zip(mine, right, strict=True))
    if all(m.size == r.size and close(m.reshape(r.shape), r) for m, r in pairs):
        return f"the numbers are right, only their axes are not: {shapes}"
    if all(m.T.shape == r.shape and close(m.T, r) for m, r in pairs):
        return f"rows and columns are exchanged: {shapes}"
    if all(m.ndim == 0 < r.ndim for m, r in pairs):
        return f"this is one number for everything: {shapes}. Which axis must stay?"
    if all(m.ndim > r.ndim for m, r in pairs):
        return f"there is an axis too many: {shapes}. Must one be summed, or was keepdims too much?"
    if all(m.ndim < r.ndim for m, r in pairs):
        return f"there is an axis too few: {shapes}. Was one summed that must stay?"
    if all(m.shape == r.shape[::-1] for m, r in pairs):
        return f"the axes are in the wrong order: {shapes}"
    sizes = [
        f"axis {i} has {a}, where {b} is right"
        for i, (a, b) in enumerate(zip(mine[0].shape, right[0].shape, strict=False))
        if a != b
    ]
    return f"{' and '.join(sizes)}: {shapes}" if sizes else None


def _of_infinite(mine: list, right: list) -> str | None:
    finite = all(np.isfinite(r).all() for r in right)
    if not finite:
        return None
    some = next(m for m in mine if not np.isfinite(m).all())
    if np.isnan(some).any():
        return (
            "there is NaN in it: 0 divided by 0, infinity less infinity, the root or the log of a "
            "negative number, or nan itself"
        )
    return "there is an infinity in it: a division by 0, the log of 0, an exp that overflows, or inf itself"


def _arguments(cases, mine, right, close, names) -> str | None:
    """Made of an argument in some simple way."""
    for i, name in enumerate(names):
        given = [case[i] if i < len(case) else None for case in cases]
        if not all(map(is_array, given)):
            continue
        given = [np.asarray(g, np.float64) for g in given]
        if _all(close, mine, given):
            return f"this is `{name}` as it was given"
        if all(g.shape == r.shape for g, r in zip(given, right, strict=True)):
            for word, sign in (("with", 1), ("without", -1)):
                if _all(close, mine, [r + sign * g for r, g in zip(right, given, strict=True)]):
                    return f"this is the right answer {word} `{name}` added"
        for how in (np.sum, np.mean, np.max, np.min):
            for axis in range(given[0].ndim):
                if all(g.ndim > axis and g.size for g in given) and _all(
                    close, mine, [how(g, axis=axis) for g in given]
                ):
                    return f"this is the {how.__name__} of `{name}` over axis {axis}"
        if said := picked(name, given, mine, right, close):
            return said
    return None


def _functions(cases, mine, right, close, names) -> str | None:
    if all(np.ptp(m) == 0 for m in mine) and any(np.ptp(r) > 0 for r in right):
        return f"all its numbers are the same, {mine[0].flat[0]:.4g}"
    if all(np.unique(m).size == 2 for m in mine) and all(np.unique(r).size > 2 for r in right):
        low, high = np.unique(mine[0])
        return f"there are only two numbers in it, {low:.4g} and {high:.4g}: is it a comparison?"
    for told, change in (
        ("the sign is turned round: this is minus the right answer", lambda r: -r),
        ("this is 1 minus the right answer", lambda r: 1 - r),
        ("this is the square of the right answer", np.square),
        ("this is the square root of the right answer", np.sqrt),
        ("this is 1 divided by the right answer", lambda r: 1 / r),
        ("this is the exp of the right answer", np.exp),
        ("this is the log of the right answer", np.log),
        ("the right answer without its sign", np.abs),
        ("this is the right answer, but what is below 0 is cut off", lambda r: np.maximum(r, 0)),
        ("this is the right answer, but rounded", np.round),
        ("these are sums along the right answer", lambda r: np.cumsum(r, axis=-1)),
    ):
        if _all(close, mine, [change(r) for r in right]):
            return told
    return None


def _cut(cases, mine, right, close, names) -> str | None:
    edges = [(m.min(), m.max()) for m in mine]
    kept = [(low < r) & (r < high) for r, (low, high) in zip(right, edges, strict=True)]
    cut = [np.clip(r, *e) for r, e in zip(right, edges, strict=True)]
    if any(map(np.any, kept)) and _all(close, mine, cut):
        return f"right, but cut off: nothing is below {edges[0][0]:.4g} or above {edges[0][1]:.4g}"
    return None


def _bent(cases, mine, right, close, names) -> str | None:
    """The right order of numbers that are not right."""
    if any(np.unique(r).size < 4 for r in right):
        return None
    lines = [np.polyfit(r.ravel(), m.ravel(), 1) for m, r in zip(mine, right, strict=True)]
    if _all(close, mine, [a * r + b for (a, b), r in zip(lines, right, strict=True)]):
        a, b = lines[0]
        return f"each number is {a:.4g} times the right one {'+' if b > 0 else '-'} {abs(b):.4g}"
    for sign, told in ((1, "larger"), (-1, "smaller")):
        if all(
            np.all(np.diff(sign * m.ravel()[np.argsort(r, axis=None, kind="stable")]) >= -1e-7)
            for m, r in zip(mine, right, strict=True)
        ):
            return (
                f"the larger a number should be, the {told} it is, but it is bent: is a root, a square, "
                "a log, an exp or a division too much in it, or missing?"
            )
    return None


def _multiples(cases, mine, right, close, names) -> str | None:
    """Too large by a factor, or by a constant."""
    factors = [np.vdot(r, m) / np.vdot(r, r) for m, r in zip(mine, right, strict=True)]
    same = np.ptp(factors) < 1e-3 * abs(factors[0])
    enough = any(r.size > 1 for r in right)  # one number is always a multiple of another
    if _all(close, mine, [f * r for f, r in zip(factors, right, strict=True)]):
        if same:
            return f"everything is {factors[0]:.4g} times what it should be"
        if enough:
            told = ", ".join(f"{f:.4g}" for f in factors)
            return f"right up to a factor in each case ({told}): is a scale, a sum or a mean amiss?"
    steps = [np.mean(m - r) for m, r in zip(mine, right, strict=True)]
    if _all(close, mine, [r + s for s, r in zip(steps, right, strict=True)]):
        if np.ptp(steps) < 1e-3 * (1e-3 + abs(steps[0])):
            return f"{abs(steps[0]):.4g} too {'much' if steps[0] > 0 else 'little'}, everywhere"
        if enough:
            return "right up to a constant in each case: something is added that should not be"
    return None


def _orders(cases, mine, right, close, names) -> str | None:
    """The right numbers in other places."""
    for told, change in (
        ("rows and columns are exchanged", lambda r: r.T),
        ("the order of the rows is turned round", lambda r: r[::-1] if r.ndim else r),
        ("the order along the last axis is turned round", lambda r: r[..., ::-1] if r.ndim else r),
        ("the last two axes are exchanged", lambda r: r.swapaxes(-1, -2) if r.ndim > 1 else r),
        ("all is moved by one place, forwards", lambda r: np.roll(r, 1, -1) if r.ndim else r),
        ("all is moved by one place, backwards", lambda r: np.roll(r, -1, -1) if r.ndim else r),
    ):
        if _all(close, mine, [change(r) for r in right]):
            return told
    many = all(np.unique(r).size > 2 for r in right)
    if many and _all(close, [np.sort(m, None) for m in mine], [np.sort(r, None) for r in right]):
        return "the numbers are right, their order is not"
    return None


SAYINGS = (
    *(_arguments, _functions, _multiples, _orders, amounts, truth, counts, _cut, _bent),
    rows,
)


def lists(got: object, wanted: list) -> Iterator[str]:
    """What can be said of a list of strings that is not the one wanted."""
    if not isinstance(got, list | tuple):
        yield f"a list is wanted, this is a {type(got).__name__}"
        return
    if "".join(map(str, got)) != "".join(wanted):
        yield f"symbols are lost or made up: {list(got)}, wanted {wanted}"
    elif len(got) > len(wanted):
        yield f"not joined all that must be: {list(got)}, wanted {wanted}"
    else:
        yield f"joined what must not be: {list(got)}, wanted {wanted}"
