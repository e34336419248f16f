"""Figures of lesson 10: guided points in the plane."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Circle


def clouds(
    panels: dict[str, Float[np.ndarray, "points 2"]],
    middles: Float[np.ndarray, "clouds 2"],
    spread: float,
) -> Figure:
    """Samples, a panel for each setting; circles around where most of each cloud's data lie.

    The first cloud, which is asked for, has a thick circle.
    """
    figure = Figure(figsize=(2.7 * len(panels), 3.1), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (name, points) in zip(grid, panels.items(), strict=True):
        axes.plot(*points.T, ".", markersize=2, color="tab:blue")
        for i, middle in enumerate(middles):
            width = 2.5 if i == 0 else 1
            axes.add_patch(Circle(middle, 2 * spread, fill=False, linewidth=width, color="C1"))
        axes.plot(*points.mean(axis=0), "X", color="tab:red", markersize=9)
        axes.set_title(name, fontsize=10)
        axes.set_aspect("equal")
        axes.grid(alpha=0.3)
    return figure
