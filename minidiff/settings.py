"""Settings that somebody else wrote: each one read, refused by name, or known to change nothing.

A ``Table`` lists what a kind of file may say. ``Settings`` holds what one file does say and compares
it with the table before the first value is asked for, so no setting that changes the result is
passed over: not one that we do not follow, nor one that nobody here has heard of.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from minidiff.errors import InputError

MOST = 2**20  # of any size that a configuration names
SHOWN = 40  # characters of a value that a message repeats


def names(text: str) -> frozenset[str]:
    """The words of a text: many names in a few lines."""
    return frozenset(text.split())


# What the libraries note about themselves beside the settings of any model.
LIBRARY_NOTES = names("architectures auto_map dtype torch_dtype transformers_version")

TABLES: dict[str, "Table"] = {}  # every one there is, by name


@dataclass(frozen=True)
class Table:
    """What one kind of settings file may say. Names that begin with _ are a library's own notes."""

    name: str
    read: Mapping[str, object] = field(default_factory=dict)  # followed; each with its default
    # Has to be one of these values, the default first: for the others we have no part.
    fixed: Mapping[str, tuple] = field(default_factory=dict)
    # Not followed, each with its default: whoever reads the file tells of another value.
    noted: Mapping[str, object] = field(default_factory=dict)
    idle: frozenset[str] = frozenset()  # changes nothing that we do with it, whatever its value

    def __post_init__(self):
        kinds = [self.read.keys(), self.fixed.keys(), self.noted.keys(), self.idle]
        if sum(map(len, kinds)) > len(set().union(*kinds)):
            raise ValueError(f"a setting of {self.name} is of two kinds")
        TABLES[self.name] = self

    def default(self, key: str) -> object:
        """What a setting is where the file is silent. KeyError for one that nobody may ask for."""
        return self.fixed[key][0] if key in self.fixed else self.read[key]


@dataclass(frozen=True)
class Settings:
    """Settings from a JSON file, each checked when asked for. InputError names what is wrong.

    Where a ``table`` is given, the file is compared with it at once, and defaults come from there.
    """

    facts: dict
    source: str  # the file, and the place in it
    table: Table | None = None

    def __post_init__(self):
        for key, value in self.facts.items() if self.table else ():
            self._check(key, value)

    def _check(self, key: str, value: object) -> None:
        table = self.table
        if key in table.fixed:
            allowed = table.fixed[key]
            if not any(same(value, x) for x in allowed):
                raise self.wrong(key, value, " or ".join(map(json.dumps, allowed)))
            return
        known = (table.read, table.noted, table.idle)
        if value is None or key[:1] == "_" or any(key in kind for kind in known):
            return  # null switches off whatever it is
        raise InputError(
            f"{self.source}: {key} is {_cut(value)}, and that setting is unknown here: "
            "it may change the result"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the file asks for and is not followed, a phrase each."""
        return tuple(
            f"{key} {str(self.facts[key])[:SHOWN]!r} is not followed"
            for key, default in self.table.noted.items()
            if self.facts.get(key) is not None and not same(self.facts[key], default)
        )

    def get(self, key: str) -> object:
        """A value as it stands there, or the table's default."""
        return self.facts.get(key, self.table.default(key))

    def section(self, key: str, table: Table | None = None) -> "Settings":
        """The settings within one; none if it is absent or null."""
        value = self.facts.get(key)
        if not isinstance(value, dict | None):
            raise self.wrong(key, value, "settings in braces")
        return Settings(value or {}, f"{self.source}: {key}", table)

    def whole(self, key: str, default: int = ..., low: int = 1, high: int = MOST) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._value(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, value, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, default: float = ..., low: float = 0.0, high: float = 1.0) -> float:
        """A number above ``low``, below ``high``."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not low < value < high:
            raise self.wrong(key, value, f"a number above {low} and below {high}")
        return float(value)

    def numbers(
        self, key: str, default: tuple[float, ...] = ..., count: int = 3
    ) -> tuple[float, ...]:
        """As many numbers as ``count``."""
        value = self._value(key, default)
        if (
            not isinstance(value, list | tuple)
            or len(value) != count
            or any(type(x) not in (int, float) or not abs(x) <= MOST for x in value)
        ):
            raise self.wrong(key, value, f"a list of {count} numbers")
        return tuple(float(x) for x in value)

    def flag(self, key: str, default: bool = ...) -> bool:
        """True or false."""
        value = self._value(key, default)
        if type(value) is not bool:
            raise self.wrong(key, value, "true or false")
        return value

    def choice(self, key: str, default: str = ..., options: Iterable[str] = ()) -> str:
        """One of some words."""
        value = self._value(key, default)
        if value not in tuple(options):
            raise self.wrong(key, value, " or ".join(options))
        return value

    def _value(self, key: str, default: object) -> object:
        return self.get(key) if default is ... else self.facts.get(key, default)

    def wrong(self, key: str, value: object, wanted: str) -> InputError:
        """What to raise for a value that will not do."""
        return InputError(f"{self.source}: {key} is {_cut(value)}, not {wanted}")


def same(a: object, b: object) -> bool:
    """Equal, where true is not 1, and a list is as good as a tuple."""
    a, b = (list(x) if isinstance(x, tuple) else x for x in (a, b))
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _cut(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
