"""Figures of lesson 03: small matrices with their numbers, attention over pictures, accuracies."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from minidiff.plot import Images, grouped_bars, tile


def numbers(
    panels: Sequence[tuple[str, Float[np.ndarray, "rows columns"], str, str]],
) -> Figure:
    """Small matrices with every number written in: (title, matrix, name of rows, of columns)."""
    figure = Figure(figsize=(3.1 * len(panels), 3.2), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for (title, matrix, rows, columns), axes in zip(panels, grid, strict=True):
        axes.imshow(matrix, cmap="Blues", vmin=matrix.min(), vmax=1.6 * matrix.max())
        for (i, j), value in np.ndenumerate(matrix):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=9)
        axes.set(xlabel=columns, ylabel=rows)
        axes.set_xticks(range(matrix.shape[1]) if columns else [])
        axes.set_yticks(range(matrix.shape[0]))
        axes.set_title(title, fontsize=10)
    return figure


def attention_maps(
    images: Images,
    names: Sequence[str],
    columns: dict[str, Float[np.ndarray, "count side side"]],
) -> Figure:
    """Named images, one a row, each beside its attention maps; bright is much, scale per map."""
    rows, count = len(images), 1 + len(columns)
    figure = Figure(figsize=(1.5 * count + 0.6, 1.45 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, count, squeeze=False)
    for i, line in enumerate(grid):
        line[0].imshow(tile(images[i : i + 1], gap=0), interpolation="nearest")
        line[0].set_ylabel(names[i], fontsize=8)
        for axes, maps in zip(line[1:], columns.values(), strict=True):
            axes.imshow(maps[i], cmap="magma", vmin=0, interpolation="nearest")
    for axes, name in zip(grid[0, 1:], columns, strict=True):
        axes.set_title(name, fontsize=8)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
    return figure


def accuracies(
    runs: dict[str, Sequence[float]], tasks: Sequence[str], chances: Sequence[float]
) -> Figure:
    """A group of bars for each task, a bar for each run; the black line is guessing."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(tasks))
    grouped_bars(axes, runs, "{:.0%}")
    axes.hlines(chances, places - 0.45, places + 0.45, color="black", label="guessing")
    axes.set(ylim=(0, 1.35), ylabel="right on test scenes")
    axes.set_xticks(places, tasks)
    axes.legend(fontsize=8, ncols=len(runs) + 1, loc="upper center")
    return figure
