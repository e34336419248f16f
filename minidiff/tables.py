"""Tables of text, as Markdown or plain: one writer for reports, benchmarks and the command."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "<") -> str:
    """A Markdown table whose columns stand one below the other.

    Args:
        header: the columns' names.
        rows: cells as text, as many in each row as in the header.
        align: "<" or ">" for each column; the last one stands for all that follow.
    """
    widths, sides, lines = _padded([header, *rows], align, least=3)  # "--:" is the shortest mark
    marks = [
        "-" * (w - 1) + ":" if side == ">" else "-" * w
        for w, side in zip(widths, sides, strict=True)
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], marks, *lines[1:]))


def plain(rows: Iterable[Sequence[str]], align: str = "<") -> str:
    """Columns, two blanks apart, for a terminal; ``align`` as of ``markdown``."""
    return "\n".join("  ".join(cells).rstrip() for cells in _padded(rows, align)[2])


def _padded(
    rows: Iterable[Sequence[str]], align: str, least: int = 0
) -> tuple[list[int], str, list[list[str]]]:
    """The columns' widths, their sides, and all cells filled up to them. ValueError if ragged."""
    rows = [list(row) for row in rows]
    widths = [max(least, *map(len, column)) for column in zip(*rows, strict=True)]
    sides = align.ljust(len(widths), align[-1])[: len(widths)]
    return (
        widths,
        sides,
        [
            [f"{cell:{side}{w}}" for cell, side, w in zip(row, sides, widths, strict=True)]
            for row in rows
        ],
    )
