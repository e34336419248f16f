"""metadata.csv and metadata.jsonl of a folder of images: which caption belongs to which of them.

They may come from a spreadsheet, so nothing is guessed: what could be read in two ways is refused, with
the line. A file names images relative to the folder in which it lies, in the columns ``file_name`` and
``text``. Commas, semicolons or tabs separate, as the first line shows.
"""

import codecs
import csv
import functools
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from minidiff.data.images import complain
from minidiff.errors import InputError, naming
from minidiff.files import read_bytes

NAMES = ("metadata.jsonl", "metadata.csv")
COLUMNS = ("file_name", "text")
SEPARATORS = (",", ";", "\t")
MOST_BYTES = 2**28
NAMED_AT_MOST = 6  # columns in an error line
QUOTES = (
    'a text with separators or quotes stands in quotes, and a quote in it is written twice ("")'
)


def read_captions(root: Path, files: list[Path], names: Iterable[str]) -> dict[str, str]:
    """Captions by image name, of ``names``, from all these files; InputError names the lines."""
    known, texts, bad = Names(names), {}, []
    for path in files:
        inside = PurePosixPath(path.relative_to(root).as_posix())
        with naming(inside):
            text = read_text(path, MOST_BYTES)
        here = functools.partial(known.find, inside.parent)
        rows = _json_rows(text) if path.suffix == ".jsonl" else _csv_rows(text, here)
        for line, row in rows:
            reason = row if isinstance(row, str) else known.fault(inside.parent, row[0])
            image = None if reason else here(row[0])
            if image in texts:
                reason = f"a second caption for {row[0]!r}"
            if reason:
                bad.append((f"{inside} line {line}", reason))
            else:
                texts[image] = row[1]
    complain(bad, "metadata row(s)")
    return texts


def read_text(path: Path, most: int) -> str:
    """A file in UTF-8, with or without a byte-order mark. InputError, without its name, if it is none."""
    try:
        content = read_bytes(path, most)
    except InputError:
        raise InputError(f"more than {most} bytes") from None
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror})") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        hint = "it begins as UTF-16 does: " if wide else ""
        raise InputError(f"not readable as UTF-8 text ({hint}save it as UTF-8)") from None


def normal(name: str) -> str:
    """A name as it is compared: letters with accents in one form, the suffix in lower case."""
    path = PurePosixPath(unicodedata.normalize("NFC", name))
    return str(path.with_suffix(path.suffix.lower())) if path.suffix else str(path)


class Names:
    """The names of images, found by what a table calls them: the same file, written differently."""

    def __init__(self, names: Iterable[str]):
        self.names, self.alike = set(names), {}
        for name in sorted(self.names):
            self.alike.setdefault(normal(name), []).append(name)

    def find(self, folder: PurePosixPath, name: str) -> str | None:
        """The image that ``name`` means in a table in this folder; None if none, or several, might be."""
        found = self._alike(folder, name)
        return found[0] if len(found) == 1 else None

    def fault(self, folder: PurePosixPath, name: str) -> str:
        """Why ``find`` finds nothing; "" if it does."""
        found = self._alike(folder, name)
        if len(found) > 1:
            return f"{name!r} may be any of {', '.join(map(repr, found))}"
        either = PurePosixPath(name), PureWindowsPath(name)
        if not found and any(path.is_absolute() or ".." in path.parts for path in either):
            return f"file_name {name!r} must be a path inside the folder"
        return "" if found else f"there is no image {name!r} in the folder"

    def _alike(self, folder: PurePosixPath, name: str) -> list[str]:
        for spelt in (name, name.replace("\\", "/")):
            whole = str(folder / spelt)
            if whole in self.names:
                return [whole]
        return self.alike.get(normal(whole), [])


def _json_rows(text: str) -> Iterator[tuple[int, tuple[str, str] | str]]:
    """(line number, (file_name, text)) for each line, or (line number, what is wrong with it)."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                yield number, "not a JSON object"
            elif all(isinstance(row.get(name), str) for name in COLUMNS):
                yield number, tuple(row[name] for name in COLUMNS)
            else:
                yield number, f"wants file_name and text, both strings; it has {_listed(row)}"


def _csv_rows(
    text: str, find: Callable[[str], str | None]
) -> Iterator[tuple[int, tuple[str, str] | str]]:
    """The same for each record, with the line that it begins in; ``find`` knows names of images."""
    lines = list(io.StringIO(text, newline=""))
    separator, header = _header(lines)
    missing = [name for name in COLUMNS if name not in header]
    twice = [name for name in COLUMNS if header.count(name) > 1]
    if missing or twice:
        wrong = f"{twice[0]} twice" if twice else _listed(header)
        yield 1, f"the first line must name the columns file_name and text, once; it names {wrong}"
        return

    def is_row(line: str) -> bool:
        return any(find(cell.strip(' "\r\n')) for cell in line.split(separator)[: len(header)])

    reader = _reader(lines, separator)
    next(reader)
    begun = reader.line_num + 1
    try:
        for cells in reader:
            more = [number for number in range(begun, reader.line_num) if is_row(lines[number])]
            if more:
                yield begun, f"a quote that is opened here takes in line {more[0] + 1}: {QUOTES}"
            elif any(cell.strip() for cell in cells):
                yield begun, _row(cells, header)
            begun = reader.line_num + 1
    except csv.Error as error:
        yield begun, f"not CSV ({error}): {QUOTES}"


def _row(cells: list[str], header: list[str]) -> tuple[str, str] | str:
    """(file_name, text) of a record, or what is wrong with it."""
    places = [header.index(name) for name in COLUMNS]
    if [cell.strip() for cell in cells] == header:
        return "the header stands here again"
    if len(cells) > len(header):
        return f"{len(cells)} cells where the header names {len(header)}: {QUOTES}"
    if len(cells) <= max(places):
        return f"wants file_name and text, both strings; it has {len(cells)} cell(s)"
    return tuple(cells[place] for place in places)


def _header(lines: list[str]) -> tuple[str, list[str]]:
    """The separator with which the first line names both columns, and its names; else a comma."""
    for separator in (*SEPARATORS, ","):
        try:
            header = [cell.strip() for cell in next(_reader(lines[:1], separator), [])]
        except csv.Error:
            header = []
        if set(COLUMNS) <= set(header):
            break
    return separator, header


def _reader(lines: list[str], separator: str):
    # Strict: what stands behind a closing quote, and a quote that is never closed, are errors.
    return csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)


def _listed(names: Iterable[object]) -> str:
    names = [str(name) for name in names]
    more = " ..." if len(names) > NAMED_AT_MOST else ""
    return (", ".join(names[:NAMED_AT_MOST]) or "none") + more
