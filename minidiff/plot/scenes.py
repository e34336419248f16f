"""Figures of lesson 01: factors, distances, coverage, slopes of a picture, pairs that were drawn."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from minidiff.plot import grouped_bars, to_uint8


def variations(
    rows: Sequence[tuple[str, Float[np.ndarray, "_ height width 3"], Sequence[str]]],
) -> Figure:
    """For each factor a row: its name, then a picture of every value with the value's name."""
    count = max(len(images) for _, images, _ in rows)
    figure = Figure(figsize=(0.95 * count + 0.9, 1.12 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for (name, images, values), line in zip(rows, grid, strict=True):
        for axes in line:
            axes.axis("off")
        for axes, image, value in zip(line, images, values, strict=False):
            axes.imshow(to_uint8(image), interpolation="nearest")
            axes.set_title(value, fontsize=7, pad=2)
        line[0].text(
            -0.15, 0.5, name, fontsize=9, ha="right", va="center", transform=line[0].transAxes
        )
    return figure


def fields(
    panels: dict[str, Float[np.ndarray, "height width"]], *, contour: bool = False
) -> Figure:
    """A number for each pixel, named panels side by side on one scale.

    Numbers from 0 to 1 are grey, black at 0. With ``contour`` blue is below zero and red above, each
    on a scale of its own, with a black line where zero is crossed.
    """
    figure = Figure(figsize=(2.5 * len(panels) + 0.8, 2.7), layout="constrained")
    values = [np.asarray(value) for value in panels.values()]
    colours = {"cmap": "gray", "norm": Normalize(0.0, 1.0)}
    if contour:
        low, high = min(value.min() for value in values), max(value.max() for value in values)
        colours = {"cmap": "RdBu_r", "norm": TwoSlopeNorm(0.0, min(low, -1e-6), max(high, 1e-6))}
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, name, value in zip(grid, panels, values, strict=True):
        shown = axes.imshow(value, interpolation="nearest", **colours)
        if contour and value.min() < 0 < value.max():
            axes.contour(value, levels=[0.0], colors="black", linewidths=1.5)
        axes.set_title(name, fontsize=9)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=list(grid), shrink=0.8)
    return figure


def slopes(
    image: Float[np.ndarray, "height width 3"],
    panels: dict[str, Float[np.ndarray, "height width 3"]],
) -> Figure:
    """A picture, and how each pixel's brightness changes with the numbers it was drawn from.

    Red pixels become brighter as the number grows, blue ones darker; each panel has its own scale.
    """
    figure = Figure(figsize=(2.5 * (len(panels) + 1), 2.7), layout="constrained")
    first, *grid = figure.subplots(1, len(panels) + 1)
    first.imshow(to_uint8(image), interpolation="nearest")
    first.set_title("the picture", fontsize=9)
    for axes, (name, values) in zip(grid, panels.items(), strict=True):
        brightness = np.asarray(values).mean(axis=-1)
        most = np.abs(brightness).max()
        axes.imshow(brightness, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        axes.set_title(name, fontsize=9)
    for axes in (first, *grid):
        axes.set(xticks=[], yticks=[])
    return figure


def pair_counts(
    panels: dict[str, Int[np.ndarray, "rows columns"]], rows: Sequence[str], columns: Sequence[str]
) -> Figure:
    """How often each pair occurs, a table for each panel, each with its own scale."""
    figure = Figure(figsize=(3.5 * len(panels) + 0.4, 3.7), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, counts) in zip(grid, panels.items(), strict=True):
        axes.imshow(counts, cmap="Blues", vmin=0, vmax=1.4 * counts.max())
        for (i, j), count in np.ndenumerate(counts):
            axes.text(j, i, count, ha="center", va="center", fontsize=7)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(columns)), columns, fontsize=7, rotation=45)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
    return figure


def shares(groups: dict[str, dict[str, float]]) -> Figure:
    """Bars from 0 to 1 in groups: {name of the bar's colour: {name below the bars: share}}."""
    figure = Figure(figsize=(6, 3.0), layout="constrained")
    axes = figure.subplots()
    grouped_bars(axes, {name: list(values.values()) for name, values in groups.items()}, "%.2f")
    names = list(next(iter(groups.values())))
    axes.set_xticks(np.arange(len(names)), names)
    axes.set(ylabel="share that is right", ylim=(0, 1.3), yticks=np.linspace(0, 1, 6))
    axes.legend(fontsize=8, loc="upper center", ncols=len(groups))
    return figure
