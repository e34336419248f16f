"""Figures of lesson 00: fitted curves, draws from keys, spread by depth, what a norm does."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure


def fits(
    x: Float[np.ndarray, " batch"],
    y: Float[np.ndarray, " batch"],
    panels: dict[str, dict[str, Float[np.ndarray, " batch"]]],
) -> Figure:
    """The points of a curve, and the named lines that try to follow it; a panel for each set."""
    figure = Figure(figsize=(max(4.2 * len(panels) + 0.6, 6), 3.2), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, lines) in zip(grid, panels.items(), strict=True):
        axes.plot(x, y, "o", color="black", markersize=3, label="points")
        for name, values in lines.items():
            axes.plot(x, values, label=name)
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="x")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    grid[0].set_ylabel("y")
    return figure


def pairs(
    panels: dict[str, tuple[Float[np.ndarray, " batch"], Float[np.ndarray, " batch"]]],
) -> Figure:
    """Two draws of numbers against each other, a point for each pair; a panel for each two draws."""
    figure = Figure(figsize=(3.0 * len(panels) + 0.6, 3.2), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, (first, second)) in zip(grid, panels.items(), strict=True):
        axes.scatter(first, second, s=8, alpha=0.6)
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="first draw", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))
        axes.grid(alpha=0.3)
    grid[0].set_ylabel("second draw")
    return figure


def spreads(curves: dict[str, Sequence[float]], marks: dict[str, float]) -> Figure:
    """The spread of the numbers after each block, the first before any; ``marks`` are dotted."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(np.arange(len(values)), values, marker="o", markersize=3, label=name)
    for name, height in marks.items():
        axes.axhline(height, color="black", linestyle=":", linewidth=1)
        axes.text(0, height, name, fontsize=8, va="bottom", ha="left")
    axes.set(xlabel="blocks passed", ylabel="spread of the numbers", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    axes.set_xticks(range(0, len(values), 4))
    return figure


def channels(panels: dict[str, Float[np.ndarray, "examples channels"]]) -> Figure:
    """Examples as rows and channels as columns: blue below zero, red above, on one scale each."""
    figure = Figure(figsize=(3.3 * len(panels), 2.5), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        most = np.abs(values).max()
        shown = axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        figure.colorbar(shown, ax=axes, shrink=0.9)
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="channel", xticks=range(0, values.shape[1], 4), yticks=[])
    grid[0].set_ylabel("example")
    return figure
