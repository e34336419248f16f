"""Kinds of arguments that verbs share; what does not fit is told in one line before any work."""

import argparse
from collections.abc import Callable
from pathlib import Path

from minidiff.errors import InputError
from minidiff.files import check_output

NOISY = ("ddpm", "ancestral")  # samplers with fresh noise at every step


def number(kind: type, low: int | float, high: int | float) -> Callable[[str], int | float]:
    """Reads a number of this kind in this range."""

    def read(text: str):
        value = kind(text)
        if not low <= value <= high:
            reason = f"{text} is out of range: it must be from {low} to {high}"
            raise argparse.ArgumentTypeError(reason)
        return value

    read.__name__ = kind.__name__  # argparse names it where the text is no number at all
    return read


count = number(int, 1, 1_000_000)
seed = number(int, 0, 2**32 - 1)
scale = number(float, 0, 1000)


def place(text: str) -> str:
    """The name of a file or a folder. It is empty where a shell's variable is not set."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def png(text: str) -> Path:
    """Where --out writes a picture. InputError, before any work is done, where it cannot."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise InputError(f"--out {text} must end in .png")
    check_output("--out", path)
    return path


def add_model(parser: argparse.ArgumentParser) -> None:
    """The first argument of verbs that use a CLIP."""
    parser.add_argument(
        "model",
        type=place,
        help="a run of train clip, a Hugging Face folder, or OpenAI's .safetensors",
    )
