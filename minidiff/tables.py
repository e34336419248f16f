"""Tables of text, as Markdown or plain: one writer for reports, benchmarks and the command."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "<") -> str:
    """A Markdown table whose columns stand one below the other.

    Args:
        header: the columns' names.
        rows: cells as text, as many in each row as in the header.
        align: "<" or ">" for each column; the last one stands for all that follow.
    """
    lines = _padded([header, *rows], align, least=3)  # "--:" is the shortest mark
    sides = _sides(align, len(header))
    marks = [
        "-" * (len(cell) - 1) + ("-" if side == "<" else ":")
        for cell, side in zip(lines[0], sides, strict=True)
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], marks, *lines[1:]))


def plain(rows: Iterable[Sequence[str]], align: str = "<") -> str:
    """Columns, two blanks apart, for a terminal; ``align`` as of ``markdown``."""
    return "\n".join("  ".join(cells).rstrip() for cells in _padded(rows, align))


def _padded(rows: Iterable[Sequence[str]], align: str, least: int = 0) -> list[list[str]]:
    """All cells, filled up to their columns' widths. ValueError if rows differ in length."""
    rows = [list(row) for row in rows]
    widths = [max(least, *map(len, column)) for column in zip(*rows, strict=True)]
    sides = _sides(align, len(widths))
    return [
        [f"{cell:{side}{w}}" for cell, side, w in zip(row, sides, widths, strict=True)]
        for row in rows
    ]


def _sides(align: str, count: int) -> str:
    return align[:count].ljust(count, align[-1:] or "<")
