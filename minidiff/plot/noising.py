"""Figures of lesson 07: schedules, the walk of a hundred steps, losses."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure


def lines(
    x: Sequence[float],
    curves: dict[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    *,
    level: float | None = None,
    log: bool = False,
    backwards: bool = False,
) -> Figure:
    """Named curves over one x; ``level`` is a dotted line for comparison, ``log`` is of the y axis.

    ``backwards`` turns the x axis round, as where steps are counted down.
    """
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(x, values, label=name)
    if level is not None:
        axes.axhline(level, color="black", linestyle=":", linewidth=1)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    if backwards:
        axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def walk(path: Float[np.ndarray, "places 2"]) -> Figure:
    """A walk in the plane: every small step, and the one arrow from where it began to its end."""
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    small, whole = np.diff(path, axis=0), path[-1] - path[0]
    arrow = {"angles": "xy", "scale_units": "xy", "scale": 1}
    axes.quiver(*path[:-1].T, *small.T, color="tab:gray", width=0.004, **arrow)
    axes.quiver(*path[0], *whole, color="tab:orange", width=0.012, label="total", **arrow)
    axes.plot(*path[0], "o", color="tab:blue", label="$x_0$")
    axes.plot(*path[-1], "o", color="tab:red", label=f"$x_{{{len(path) - 1}}}$")
    axes.set_aspect("equal")
    axes.legend(fontsize=8)
    axes.set_title(f"{len(path) - 1} small arrows, or one", fontsize=10)
    return figure


def explained(
    end: Float[np.ndarray, " walks"],
    targets: dict[str, Float[np.ndarray, " walks"]],
    r2: Sequence[float],
) -> Figure:
    """Each target against where the walk ended, with the best straight line and its R squared."""
    figure = Figure(figsize=(4.2 * len(targets), 3.6), layout="constrained")
    grid = figure.subplots(1, len(targets), squeeze=False)[0]
    for axes, (name, values), share in zip(grid, targets.items(), r2, strict=True):
        axes.scatter(end, values, s=4, alpha=0.3)
        slope = np.dot(end, values) / np.dot(end, end)
        edge = np.array([end.min(), end.max()])
        axes.plot(edge, slope * edge, color="tab:orange")
        axes.set(xlabel="where the walk ended", ylabel=name)
        axes.set_title(f"explained: R² = {share:.3f}", fontsize=10)
        axes.grid(alpha=0.3)
    return figure
