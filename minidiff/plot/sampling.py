"""Figures of lesson 08: best guesses, ways back from noise, points in the plane."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure


def best_guess(
    x: Float[np.ndarray, " batch"],
    y: Float[np.ndarray, " batch"],
    line: tuple[Sequence[float], Sequence[float]],
    xlabel: str,
    ylabel: str,
    name: str,
) -> Figure:
    """Pairs as points, and through them a curve: for each x the mean of the y that belong to it."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x, y, s=3, alpha=0.35, color="tab:gray")
    axes.plot(*line, color="tab:orange", linewidth=2.5, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def ways(
    panels: Sequence[tuple[str, Float[np.ndarray, "times samples"]]], shown: int = 24
) -> Figure:
    """Panels of x_t from noise (left) to data (right), and beside each where all samples ended."""
    figure = Figure(figsize=(4.6 * len(panels), 3.4), layout="constrained")
    grid = figure.subplots(1, 2 * len(panels), sharey=True, width_ratios=(4, 1) * len(panels))
    bins = np.linspace(-2.6, 2.6, 105)
    for (name, x), left, right in zip(panels, grid[::2], grid[1::2], strict=True):
        t = np.arange(len(x))[::-1]
        every = slice(None, None, 5)  # dots that nobody could tell apart only make the file larger
        left.plot(t[every], x[every, :shown], linewidth=0.7)
        left.set(xlabel="steps left", ylim=(-2.6, 2.6))
        left.set_title(name, fontsize=10)
        left.invert_xaxis()
        left.grid(alpha=0.3)
        right.hist(x[-1], bins=bins, orientation="horizontal", color="tab:orange")
        right.set(xticks=[])
        right.set_title("the end", fontsize=9)
    return figure


def plane(
    panels: Sequence[tuple[str, Float[np.ndarray, "points 2"]]],
    marks: Float[np.ndarray, "modes 2"] | None = None,
) -> Figure:
    """Points in the plane, a panel each; ``marks`` are drawn as crosses in all of them."""
    figure = Figure(figsize=(3 * len(panels), 3.2), layout="constrained")
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for (name, points), axes in zip(panels, grid, strict=True):
        axes.scatter(*points.T, s=5, alpha=0.4, zorder=3)
        if marks is not None:
            axes.plot(*marks.T, "+", color="tab:red", markersize=6, alpha=0.7)
        axes.set(aspect="equal", xlim=(-2, 2), ylim=(-2, 2), xticks=[], yticks=[])
        axes.set_title(name, fontsize=9)
    return figure
