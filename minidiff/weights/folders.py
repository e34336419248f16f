"""Folders in the style of Hugging Face: settings in JSON, tensors in safetensors. Never pickle."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from minidiff.errors import InputError
from minidiff.files import read_json
from minidiff.weights.files import TEMPORARY

MOST = 2**20  # of any size that a configuration names
PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def weight_files(path: Path, stem: str = "model") -> list[Path]:
    """The safetensors files of a folder: ``stem``'s, its shards, or the only one; or a file itself.

    InputError if there are none or several, or only pickled ones, which can run any code when read.
    """
    if path.is_file():
        if path.suffix in PICKLED:
            raise InputError(f"{path} is pickled, and unpickling runs code: save it as safetensors")
        return [path]
    if not path.is_dir():
        raise InputError(f"there is no folder {path}")
    whole, index = path / f"{stem}.safetensors", path / f"{stem}.safetensors.index.json"
    if whole.exists():
        return [whole]
    if index.exists():
        return _shards(index)
    files = [f for f in sorted(path.glob("*.safetensors")) if not f.name.startswith(TEMPORARY)]
    if len(files) == 1:
        return files
    if files:
        raise InputError(f"{path} holds several safetensors files: give the path of one")
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
    if pickled:
        raise InputError(
            f"{path} holds only {pickled[0]}, which is pickled, and unpickling runs code: "
            f"save it as {whole.name}"
        )
    raise InputError(f"{path} holds no {whole.name}")


def _shards(index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"{index} has no weight_map")
    names = list(dict.fromkeys(places.values())) if _all_names(places.values()) else []
    if not names:
        raise InputError(f"{index} names something else than safetensors files beside it")
    return [index.parent / name for name in names]


def _all_names(values: Iterable[object]) -> bool:
    """Plain names of safetensors files: nothing that leads out of the folder."""
    return all(
        isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")
        for name in values
    )


@dataclass(frozen=True)
class Settings:
    """Settings from a JSON file, each checked when asked for. InputError names what is wrong."""

    facts: dict
    source: str  # the file, and the place in it

    def section(self, key: str) -> "Settings":
        """The settings within one; none if it is absent or null."""
        value = self.facts.get(key)
        if not isinstance(value, dict | None):
            raise self.wrong(key, value, "settings in braces")
        return Settings(value or {}, f"{self.source}: {key}")

    def whole(self, key: str, default: int, low: int = 1, high: int = MOST) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self.facts.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, value, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number above ``low``, below ``high``."""
        value = self.facts.get(key, default)
        if type(value) not in (int, float) or not low < value < high:
            raise self.wrong(key, value, f"a number above {low} and below {high}")
        return float(value)

    def numbers(self, key: str, default: tuple[float, ...], count: int) -> tuple[float, ...]:
        """As many numbers as ``count``."""
        value = self.facts.get(key, default)
        if (
            not isinstance(value, list | tuple)
            or len(value) != count
            or any(type(x) not in (int, float) or not abs(x) <= MOST for x in value)
        ):
            raise self.wrong(key, value, f"a list of {count} numbers")
        return tuple(float(x) for x in value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.facts.get(key, default)
        if type(value) is not bool:
            raise self.wrong(key, value, "true or false")
        return value

    def choice(self, key: str, default: str, options: Iterable[str]) -> str:
        """One of some words."""
        value = self.facts.get(key, default)
        if value not in tuple(options):
            raise self.wrong(key, value, " or ".join(options))
        return value

    def wrong(self, key: str, value: object, wanted: str) -> InputError:
        """What to raise for a value that will not do."""
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
        return InputError(f"{self.source}: {key} is {shown}, not {wanted}")
