"""Settings of a run: frozen dataclasses whose fields know their range, and ``field=value`` text."""

import dataclasses
import math
import types
import typing

from minidiff import tables
from minidiff.errors import InputError

MOST_SIDE = 4096  # of images
MOST_FACT = 2**20
CHANNELS = range(8, 2**14 + 1, 8)  # of a level: GroupNorm has eight groups
MOST_LEVELS = 12


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
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _is_a(value, kinds[field.name]):
                raise InputError(
                    f"{field.name}={_short(value)}: it must be {_meaning(kinds[field.name])}"
                )
            _check(field, value)

    @property
    def steps_per_call(self) -> int:
        """The largest number up to log_every that divides steps: one compiled program serves all."""
        return max(d for d in range(1, min(self.log_every, self.steps) + 1) if self.steps % d == 0)


def free_fields(config: TrainConfig) -> set[str]:
    """Names of the settings that a run may change when it goes on."""
    return {field.name for field in dataclasses.fields(config) if field.metadata.get("free")}


def _is_a(value: object, kind) -> bool:
    """Whether a value, which may come from a file, is of a field's kind; whole numbers are numbers."""
    if isinstance(kind, types.UnionType):
        return any(_is_a(value, part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return type(value) is tuple and all(_is_a(x, typing.get_args(kind)[0]) for x in value)
    if kind is float:
        return type(value) is float or (type(value) is int and abs(value) < 2**63)
    return type(value) is kind


def _meaning(kind) -> str:
    """A kind of value in words."""
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_meaning, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        several = "numbers" if typing.get_args(kind)[0] is float else "whole numbers"
        return f"{several} with commas between"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(kind, "none")


def _short(value: object) -> str:
    """A value, fit for one line."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def check_channels(name: str, channels: tuple[int, ...]) -> None:
    """InputError unless these can be the channels of a network's levels."""
    if not channels or any(c not in CHANNELS for c in channels):
        raise InputError(
            f"{name}={channels}: each must be a multiple of 8 from 8 to {CHANNELS[-1]}"
        )
    if len(channels) > MOST_LEVELS:
        raise InputError(f"{name}: {len(channels)} levels are more than {MOST_LEVELS}")


def check_fact(name: str, value: object) -> object:
    """What config.json says beside the settings, as it is. InputError unless it can be."""
    if name == "image_shape":
        right = _is_a(value, tuple[int, ...]) and len(value) == 3 and value[0] == value[1]
        right = right and 1 <= value[0] <= MOST_SIDE and value[2] in (1, 3)
        wanted = f"(side, side, 1 or 3) with a side up to {MOST_SIDE}"
    else:
        right = type(value) is int and 1 <= value <= MOST_FACT
        wanted = f"a whole number from 1 to {MOST_FACT}"
    if not right:
        raise InputError(f"{name} is {_short(value)}, not {wanted}")
    return value


def _check(field: dataclasses.Field, value) -> None:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    choices = field.metadata.get("choices")
    if value is None:
        return
    if choices and value not in choices:
        raise InputError(
            f"{field.name}={_short(value)} is not one of {', '.join(map(str, choices))}"
        )
    if value == "":
        raise InputError(f"{field.name}= is empty: {field.metadata['help']}")
    below = low is not None and not value >= low  # not >=: NaN is out of every range
    above = low is not None and (value == math.inf if high is None else not value <= high)
    if below or above:
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        allowed += ", and finite" if value == math.inf and high is None else ""
        raise InputError(f"{field.name}={_short(value)} is out of range: it must be {allowed}")


def override(config: TrainConfig, assignments: list[str]) -> TrainConfig:
    """The config with ``field=value`` texts applied. InputError, one line, on any that do not fit."""
    kinds = typing.get_type_hints(type(config))
    changes = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{_short(text)!r} is not of the form field=value")
        if name not in kinds:
            raise InputError(f"there is no field {_short(name)!r}: choose from {', '.join(kinds)}")
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
        raise InputError(f"{name}={_short(text)}: {name} must be {_meaning(kind)}") from None


def presets_table(presets: dict[str, TrainConfig]) -> str:
    """The fields of a recipe, a line each: name, its value in every preset, meaning."""
    first = next(iter(presets.values()))
    rows = [("field", *presets, "meaning")]
    for field in dataclasses.fields(first):
        values = (str(getattr(config, field.name)) for config in presets.values())
        rows.append((field.name, *values, field.metadata["help"]))
    return tables.plain(rows)
