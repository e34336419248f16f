r"""Contestants of one operation that take turns in one process: what most benchmarks share.

A case names contestants, functions that must answer alike, and their arguments. Before anything is
timed each is held to the reference, in value and gradients; a case in which one disagrees is not
timed. Then they take turns, so that what else the machine does falls on all of them. What a row of
the result holds:

    compile_s        tracing, lowering and compiling, without any cache
    memory_bytes     XLA's own count of temporaries: what a program needs beside arguments and results
    repeats          calls in a turn, enough for 20 ms
    turns_s          seconds per call, in each turn; of these min_s and quartiles_s
    ratio_quartiles  of (its turn / ours in the same turn); above 1: it takes longer than ours
    gflops           by the formula of the case, at the median; ceiling_share is its part of the
                     fastest large matrix product in the same run
    per_second       where a case counts what it makes
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

TURN_SECONDS = 0.02
FORWARD, BOTH = "forward", "forward + backward"
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}  # of the largest entry


@dataclass
class Contestant:
    """Something to be timed. ``call()`` does it once and returns arrays to wait for."""

    call: Callable[[], object]
    compile_s: float | None = None
    memory_bytes: int | None = None
    repeats: int | None = None  # calls in a turn; None: as many as fill one
    program: Callable | None = None  # what ``compiled`` compiled, to be called with other arguments


@dataclass
class Case:
    """One comparison. A contestant is a function of ``args``, or a Contestant made elsewhere."""

    name: str
    contestants: dict[str, Callable | Contestant]
    args: tuple = ()
    gradients: bool = False  # also time value and gradients by all arguments, which are floats
    forward: bool = True  # time the value alone
    flops: float = 0.0  # of one call; the gradients of a product take twice as many again
    dtype: str = "float32"  # of that arithmetic: which ceiling to compare with
    items: int = 0  # made by one call
    tolerance: float | None = None  # None: TOLERANCE of dtype
    turns: int | None = None  # at most so many
    ours: str = "ours"
    reference: str = "reference"
    same: Callable[[object], object] = field(
        default=lambda out: out
    )  # what of an answer must agree


class Disagrees(Exception):
    """A contestant computes something else than the reference, in one line."""


def twins(operation: Callable, kernels: object, *names: str) -> dict[str, Callable]:
    """An operation as models call it ("ours"), as it is written, and those of these twins there are."""
    found = {"ours": operation, "reference": operation.reference}
    return found | {name: getattr(kernels, name) for name in names if hasattr(kernels, name)}


def on_accelerator() -> bool:
    """Larger sizes then, and bfloat16."""
    return jax.default_backend() != "cpu"


def normal(seed: int, *shape: int, dtype: str = "float32") -> jax.Array:
    """Random numbers that every run draws alike."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def with_gradients(function: Callable) -> Callable:
    """(slope, *args) -> the value, and the gradients of (value * slope).sum() by all of args."""

    def both(slope, *args):
        value, back = jax.vjp(function, *args)
        return value, back(slope)

    return both


def compiled(function: Callable, *args) -> Contestant:
    """Compile for these arguments, apart from running. A jitted function keeps its settings."""
    jitted = function if hasattr(function, "lower") else jax.jit(function)
    began = time.perf_counter()
    program = jitted.lower(*args).compile()
    seconds = time.perf_counter() - began
    memory = program.memory_analysis()
    held = memory and memory.temp_size_in_bytes
    return Contestant(lambda: program(*args), seconds, held, program=program)


def carrying(step: Callable, state: object, *args, calls: int = 1) -> Contestant:
    """``step(state, *args) -> state``, compiled once; every call goes on from the last one's state.

    The state is donated, so this keeps a copy of its own. A call is ``calls`` steps.
    """
    state = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(state)
    contestant = compiled(jax.jit(step, donate_argnums=0), state, *args)

    def call():
        nonlocal state
        for _ in range(calls):
            state = contestant.program(state, *args)
        return state

    contestant.call = call
    return contestant


def difference(found: object, expected: object) -> float:
    """The largest difference in any array, of that array's largest entry; inf where shapes differ."""
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    if len(found) != len(expected):
        return math.inf
    return max(map(_difference, found, expected), default=0.0)


def _difference(found: object, expected: object) -> float:
    if isinstance(expected, str):
        return 0.0 if found == expected else math.inf
    a, b = (np.asarray(x).astype("float64") for x in (found, expected))
    if a.shape != b.shape or not np.isfinite(a).all():
        return math.inf
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))


def hold(case: Case, contestants: dict[str, Contestant]) -> None:
    """Run each once, which also warms it up. Disagrees unless all answer as the reference does."""
    answers = {name: case.same(contestant.call()) for name, contestant in contestants.items()}
    tolerance = TOLERANCE[case.dtype] if case.tolerance is None else case.tolerance
    for name, answer in answers.items():
        error = difference(answer, answers[case.reference])
        if not error <= tolerance:
            raise Disagrees(
                f"{case.name}: {name} differs from {case.reference} by {error:.1e} of the largest "
                f"entry (allowed: {tolerance:.0e}), so nothing of this case is timed"
            )


def turn(contestant: Contestant, repeats: int) -> float:
    """Seconds per call."""
    each = not on_accelerator()  # a CPU would run several calls at once, an accelerator queues them
    began = time.perf_counter()
    for _ in range(repeats):
        out = contestant.call()
        if each:
            jax.block_until_ready(out)
    jax.block_until_ready(out)
    return (time.perf_counter() - began) / repeats


def enough(contestant: Contestant) -> int:
    """How many calls take TURN_SECONDS."""
    repeats = 1
    while (seconds := turn(contestant, repeats) * repeats) < TURN_SECONDS:
        repeats = math.ceil(repeats * min(10, 1.2 * TURN_SECONDS / seconds))
    return repeats


def race(contestants: dict[str, Contestant], ours: str, turns: int) -> dict[str, dict]:
    """Let them take turns, every second time in reverse; a row for each."""
    repeats = {name: one.repeats or enough(one) for name, one in contestants.items()}
    taken = {name: [] for name in contestants}
    for i in range(turns):
        for name in list(contestants)[:: -1 if i % 2 else 1]:
            taken[name].append(turn(contestants[name], repeats[name]))
    return {
        name: {
            "compile_s": contestant.compile_s,
            "memory_bytes": contestant.memory_bytes,
            "repeats": repeats[name],
            **summary(taken[name], taken[ours]),
        }
        for name, contestant in contestants.items()
    }


def summary(seconds: list[float], ours: list[float]) -> dict:
    """Times and their ratios to ours, turn by turn."""
    ratios = [a / b for a, b in zip(seconds, ours, strict=True)]
    return {
        "turns_s": seconds,
        "min_s": min(seconds),
        "quartiles_s": statistics.quantiles(seconds, n=4, method="inclusive"),
        "ratio_quartiles": statistics.quantiles(ratios, n=4, method="inclusive"),
        "ratio_of_minima": min(seconds) / min(ours),
    }


def ready(case: Case, both: bool) -> dict[str, Contestant]:
    """Compile all and run each once. One that cannot run here is left out, and a line says so."""
    args, found = case.args, {}
    if both:
        out = jax.eval_shape(case.contestants[case.reference], *args)
        args = (normal(99, *out.shape, dtype=out.dtype), *args)
    for name, one in case.contestants.items():
        try:
            if not isinstance(one, Contestant):
                one = compiled(with_gradients(one) if both else one, *args)
                jax.block_until_ready(one.call())
        except Exception as error:  # a twin for another device, too little memory
            if name in (case.ours, case.reference):
                raise
            why = " ".join(str(error).split())[:200]
            print(f"{case.name}: {name} does not run here: {why}", file=sys.stderr)
        else:
            found[name] = one
    return found


def compare(case: Case, turns: int, ceilings: dict[str, float]) -> dict[str, dict[str, dict]]:
    """name of the case -> contestant -> row; a second case holds the gradients if they are wanted."""
    found = {}
    for both in [False] * case.forward + [True] * case.gradients:
        contestants = ready(case, both)
        hold(case, contestants)
        rows = race(contestants, case.ours, min(turns, case.turns or turns))
        for row in rows.values():
            seconds = row["quartiles_s"][1]
            if case.flops:
                row["gflops"] = (3 if both else 1) * case.flops / seconds / 1e9
                row["ceiling_share"] = row["gflops"] / ceilings[case.dtype]
            if case.items:
                row["per_second"] = case.items / seconds
        mode = f", {BOTH if both else FORWARD}" if case.gradients else ""
        found[case.name + mode] = rows
    return found
