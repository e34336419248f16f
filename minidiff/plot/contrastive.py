"""Figures of lesson 02: pairs on a circle, what pulls and what pushes, losses beside log N."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure


def circles(
    panels: Sequence[tuple[str, Float[np.ndarray, "2 pairs 2"]]], title: str = ""
) -> Figure:
    """Directions of pairs as points on a circle: squares are images, dots are texts.

    A pair has one colour, and a line from its image to its text.
    """
    figure = Figure(figsize=(3.2 * len(panels), 3.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    angle = np.linspace(0, 2 * np.pi, 200)
    for (name, points), axes in zip(panels, grid, strict=True):
        axes.plot(np.cos(angle), np.sin(angle), color="0.8", linewidth=1)
        directions = points / np.linalg.norm(points, axis=2, keepdims=True)
        for i, (image, text) in enumerate(directions.swapaxes(0, 1)):
            colour = f"C{i}"
            axes.plot(*np.stack([image, text]).T, color=colour, linewidth=1, alpha=0.6)
            axes.plot(*image, "s", markersize=11, markerfacecolor="none", color=colour)
            axes.plot(*text, "o", markersize=5, color=colour)
        axes.set_aspect("equal")
        axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
        axes.axis("off")
        axes.set_title(name, fontsize=9)
    return figure


def slopes(
    panels: Sequence[tuple[str, Float[np.ndarray, "images texts"]]], title: str = ""
) -> Figure:
    """Matrices of slopes, each on its own scale: blue where more helps, red where less does."""
    figure = Figure(figsize=(3.4 * len(panels), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for (name, matrix), axes in zip(panels, grid, strict=True):
        most = np.abs(matrix).max()
        shown = axes.imshow(matrix, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        axes.set(xlabel="text", ylabel="image", xticks=[], yticks=[])
        axes.set_title(name, fontsize=9)
        figure.colorbar(shown, ax=axes, shrink=0.8)
    return figure


def losses(
    runs: dict[str, tuple[Sequence[float], Sequence[float]]], level: float, name: str
) -> Figure:
    """Loss and scale of each named run by step; ``level`` is a dotted line called ``name``."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run, (loss, scale) in runs.items():
        left.plot(np.arange(len(loss)), loss, label=run)
        right.plot(np.arange(len(scale)), scale, label=run)
    left.axhline(level, color="black", linestyle=":", linewidth=1, label=name)
    left.set(xlabel="step", ylabel="loss")
    right.set(xlabel="step", ylabel="scale", yscale="log")
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
