"""Answers to exercises as students write them, from tests/answers/LESSON.txt: right ones and wrong ones.

In hints.txt are what hints and exercises say in code, taken literally.

    ## name(arguments) | lines before the answer, parted by "; "
    = an answer that must pass, such as a hint taken literally
    a wrong answer  =>  a part of what it is told

An answer is an expression; what comes before its last "; " are statements.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minidiff import contrastive, layers, noising, sampling, tokenizer, transformer

FOLDER = Path(__file__).parent / "answers"
NAMES = {
    **{"jax": jax, "jnp": jnp, "np": np, "math": math, "L": layers},
    **{"contrastive": contrastive, "noising": noising, "sampling": sampling},
    **{"tokenizer": tokenizer, "transformer": transformer, "Linear": layers.Linear},
    # What lessons import by name.
    **{"cosine_similarity": contrastive.cosine_similarity, "normalize": contrastive.normalize},
    **{"cross_entropy": contrastive.cross_entropy},
}

# An exercise or two of each lesson, cheap ones, whose mistakes are judged in the first tier. The rest are
# long: an answer that is wrong is compared with hundreds, and JAX compiles a program for each operation.
DAILY = (
    *("block_weights", "is_unseen", "cosine_similarity", "attention", "merge_pair", "recall_at_1"),
    *("difference", "alpha_bar", "add_noise", "predict_x0", "reverse_mean", "count_resblocks"),
    "classifier_free",
)


def in_tiers(parameters: Iterable[tuple]) -> list:
    """Parameters of a test that begin with an exercise's name: long where it is not judged daily."""
    return [
        pytest.param(*some, marks=[] if some[0] in DAILY else pytest.mark.long)
        for some in parameters
    ]


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer to an exercise, and what it must be told; nothing if it is right."""

    exercise: str
    source: str
    told: str
    right: bool
    function: Callable


def made(name: str, arguments: str, before: str, source: str) -> Callable:
    """The function ``my_name`` whose last line returns the answer."""
    *lines, last = [line for part in (before, source) if part for line in part.split("; ")]
    body = "".join(f"    {line}\n" for line in lines)
    space = dict(NAMES)
    exec(f"def my_{name}({arguments}):\n{body}    return {last}\n", space)
    return space[f"my_{name}"]


def answers() -> list[Answer]:
    """All of them."""
    found = []
    for path in sorted(FOLDER.glob("*.txt")):
        for line in filter(None, map(str.strip, path.read_text().splitlines())):
            if line.startswith("## "):
                head, _, before = line[3:].partition(" | ")
                name, _, arguments = head.rstrip(")").partition("(")
                continue
            source, _, told = line.partition("  => ")
            right = source.startswith("= ")
            source = source.removeprefix("= ").strip()
            function = made(name, arguments, before, source)
            whole = f"{before}; {source}" if right else source
            found.append(Answer(name, whole, told.strip(), right, function))
    return found
