"""Figures of lesson 04: sentences in pieces, matrices with names, where tokens look."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

COLOURS = ("#cfe2f3", "#fce5cd", "#d9ead3", "#ead1dc", "#fff2cc")


def pieces(rows: Sequence[tuple[str, Sequence[str]]], end: str = "</w>") -> Figure:
    """Named rows of tokens, a coloured box each; a token that ends a word has a gap behind it."""
    figure = Figure(figsize=(9, 0.42 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots()
    rightmost = 0.0
    for row, (name, tokens) in enumerate(rows):
        x = 0.0
        axes.text(-1, row, name, ha="right", va="center", fontsize=9, parse_math=False)
        for i, token in enumerate(tokens):
            text = token.removesuffix(end)
            wide = len(text) + 0.6
            axes.add_patch(_box(x, row, wide, COLOURS[i % len(COLOURS)]))
            axes.text(
                x + wide / 2, row, text, ha="center", va="center", fontsize=9,
                family="monospace", parse_math=False,
            )  # fmt: skip
            x += wide + (0.8 if token.endswith(end) else 0.0)
        rightmost = max(rightmost, x)
    longest = max(len(name) for name, _ in rows)
    axes.set(xlim=(-1 - 0.85 * longest, rightmost + 0.5), ylim=(len(rows) - 0.4, -0.6))
    axes.axis("off")
    return figure


def _box(x: float, row: int, wide: float, colour: str):
    from matplotlib.patches import Rectangle

    return Rectangle((x, row - 0.36), wide, 0.72, facecolor=colour, edgecolor="gray", linewidth=0.6)


def matrices(
    panels: Sequence[
        tuple[str, Float[np.ndarray, "rows columns"] | Bool[np.ndarray, "rows columns"]]
    ],
    names: Sequence[str] = (),
    *,
    numbers: bool = False,
    size: float = 3.6,
) -> Figure:
    """Square matrices side by side on one scale, rows and columns under the same names.

    ``numbers`` writes its value into each cell; ``size`` is a panel's side in inches, without names.
    """
    labels = 0.085 * max(map(len, names), default=0) + 0.3
    figure = Figure(
        figsize=(size * len(panels) + labels, size + labels + 0.2), layout="constrained"
    )
    low = min(0.0, *(float(np.min(values)) for _, values in panels))
    high = max(1.0, *(float(np.max(values)) for _, values in panels))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for (title, values), axes in zip(panels, grid, strict=True):
        values = np.asarray(values, np.float64)
        axes.imshow(values, cmap="magma", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        places = np.arange(len(names))
        axes.set_xticks(places, names, rotation=90, fontsize=8)
        axes.set_yticks(places, names, fontsize=8)
        if numbers:
            for (i, j), value in np.ndenumerate(values):
                dark = value < low + 0.6 * (high - low)
                axes.text(
                    j, i, f"{round(value, 1) + 0.0:.1f}", ha="center", va="center", fontsize=7,
                    color="white" if dark else "black",
                )  # fmt: skip
    return figure
