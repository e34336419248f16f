"""Figures of lesson 06: labels on a circle, and what a few examples are worth."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure


def circle(
    labels: dict[str, Float[np.ndarray, "2"]], images: Float[np.ndarray, "images 2"]
) -> Figure:
    """Directions in the plane: labels as arrows, images as dots coloured by their label."""
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    axes = figure.subplots()
    turn = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(turn), np.sin(turn), color="0.8", linewidth=1)
    arrows = np.stack([vector / np.linalg.norm(vector) for vector in labels.values()])
    dots = images / np.linalg.norm(images, axis=1, keepdims=True)
    nearest = np.argmax(dots @ arrows.T, axis=1)
    for i, (name, arrow) in enumerate(zip(labels, arrows, strict=True)):
        colour = f"C{i}"
        axes.annotate("", arrow, (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "lw": 2})
        axes.text(*1.12 * arrow, name, color=colour, ha="center", va="center", fontsize=10)
        axes.plot(*dots[nearest == i].T, "o", color=colour, markersize=9)
    for i, dot in enumerate(dots):
        axes.text(*0.86 * dot, str(i), ha="center", va="center", fontsize=9)
    axes.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)
    return figure


def few_shot(
    counts: Sequence[int],
    panels: dict[str, dict[str, Sequence[float]]],
    zero_shot: dict[str, float],
) -> Figure:
    """Accuracy against examples per class, a panel for each task; zero-shot as a dotted line."""
    figure = Figure(figsize=(4.4 * len(panels), 3.5), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (task, curves) in zip(grid, panels.items(), strict=True):
        for name, accuracy in curves.items():
            axes.plot(counts, accuracy, marker="o", label=name)
        axes.axhline(zero_shot[task], color="black", linestyle=":", label="zero-shot: only words")
        axes.set(xlabel="examples per class", xscale="log", ylim=(0, 1.04))
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_title(task, fontsize=10)
        axes.grid(alpha=0.3)
    grid[0].set_ylabel("accuracy on test scenes")
    grid[-1].legend(fontsize=8, loc="lower right")
    return figure
