"""Settings of a run: frozen dataclasses whose fields know their range, and ``field=value`` text."""

import dataclasses
import math
import types
import typing

from minidiff.errors import InputError


def setting(default, text: str, *, low=None, high=None, choices: tuple = (), free: bool = False):
    """A dataclass field with a line of help and the values it allows.

    One that is ``free`` changes no weights: a run may go on with another value.
    """
    limits = {"help": text, "low": low, "high": high, "choices": choices, "free": free}
    return dataclasses.field(default=default, metadata=limits)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What every recipe is told about training. InputError names the first value out of range."""

    steps: int = setting(1000, "training steps", low=1, high=2**31 - 1)
    batch_size: int = setting(64, "images per step", low=1, high=65_536)
    optimizer: str = setting("adamw", "what moves the weights", choices=("adamw", "muon"))
    learning_rate: float = setting(1e-3, "highest learning rate", low=0.0, high=1.0)
    warmup: int = setting(100, "steps to reach it", low=0)
    weight_decay: float = setting(0.0, "AdamW's decay of matrices", low=0.0)
    clip: float = setting(1.0, "largest norm of the gradient", low=0.0)
    ema_decay: float = setting(0.999, "of the averaged weights", low=0.0, high=1.0)
    dtype: str = setting("float32", "compute in", choices=("float32", "bfloat16"))
    seed: int = setting(0, "of weights, data and noise", low=0, high=2**32 - 1)
    log_every: int = setting(25, "steps per dispatch and per line of metrics", low=1, high=10_000)
    picture_every: int = setting(0, "steps between pictures; 0: only at the end", low=0, free=True)
    checkpoint_every: int = setting(500, "steps between checkpoints", low=1, free=True)
    keep: int = setting(2, "last checkpoints that are kept, beside the best", low=1, free=True)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))

    @property
    def steps_per_call(self) -> int:
        """The largest number up to log_every that divides steps: one compiled program serves all."""
        return max(d for d in range(1, min(self.log_every, self.steps) + 1) if self.steps % d == 0)


def free_fields(config: TrainConfig) -> set[str]:
    """Names of the settings that a run may change when it goes on."""
    return {field.name for field in dataclasses.fields(config) if field.metadata.get("free")}


def _check(field: dataclasses.Field, value) -> None:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    choices = field.metadata.get("choices")
    if value is None:
        return
    if choices and value not in choices:
        raise InputError(f"{field.name}={value} is not one of {', '.join(map(str, choices))}")
    below = low is not None and not value >= low  # not >=: NaN is out of every range
    above = low is not None and (value == math.inf if high is None else not value <= high)
    if below or above:
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        allowed += ", and finite" if value == math.inf and high is None else ""
        raise InputError(f"{field.name}={value} is out of range: it must be {allowed}")


def override(config: TrainConfig, assignments: list[str]) -> TrainConfig:
    """The config with ``field=value`` texts applied. InputError, one line, on any that do not fit."""
    kinds = typing.get_type_hints(type(config))
    changes = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} is not of the form field=value")
        if name not in kinds:
            raise InputError(f"there is no field {name!r}: choose from {', '.join(kinds)}")
        changes[name] = _parse(name, value, kinds[name])
    return dataclasses.replace(config, **changes)


def _parse(name: str, text: str, kind):
    if isinstance(kind, types.UnionType):  # int | None
        if text.lower() == "none":
            return None
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    if kind is str:
        return text
    try:
        if typing.get_origin(kind) is tuple:
            item = typing.get_args(kind)[0]
            return tuple(item(part) for part in text.split(",") if part)
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        meaning = {int: "a whole number", float: "a number", bool: "true or false"}
        several = "numbers" if kind == tuple[float, ...] else "whole numbers"
        wanted = meaning.get(kind, f"{several} with commas between")
        raise InputError(f"{name}={text}: {name} must be {wanted}") from None


def presets_table(presets: dict[str, TrainConfig]) -> str:
    """The fields of a recipe, a line each: name, its value in every preset, meaning."""
    first = next(iter(presets.values()))
    rows = [("field", *presets, "meaning")]
    for field in dataclasses.fields(first):
        values = (str(getattr(config, field.name)) for config in presets.values())
        rows.append((field.name, *values, field.metadata["help"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
