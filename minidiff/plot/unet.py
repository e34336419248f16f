"""Figures of lesson 09: the ladder of a U-Net, waves that tell the time, errors step by step."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Patch

COLOURS = {
    "convolution": "tab:gray",
    "ResBlock": "tab:blue",
    "ResBlock and attention": "tab:orange",
    "halving or doubling": "tab:green",
}


def _kind(name: str, attention: Sequence[int], levels: int) -> str:
    if name == "middle":
        return "ResBlock and attention"
    if ".resample" in name:
        return "halving or doubling"
    if ".blocks." not in name:
        return "convolution"
    side, level, *_ = name.split(".")
    n = int(level) if side == "down" else levels - 1 - int(level)
    return "ResBlock and attention" if n in attention else "ResBlock"


def ladder(
    rows: Sequence[tuple[str, tuple[int, ...], int]], attention: Sequence[int], title: str = ""
) -> Figure:
    """A bar per stage, from the noisy image to the guess: as high as its image is large.

    ``rows`` are those of ``layouts.describe``, and ``attention`` is the levels that have it. Numbers
    are channels; each grey line is a skip, from where it is kept to where it is read.
    """
    rows = [row for row in rows if row[0] != "time"]
    levels = len({name.split(".")[1] for name, _, _ in rows if name.startswith("down.")})
    heights = [np.log2(shape[0]) + 1 for _, shape, _ in rows]
    figure = Figure(figsize=(min(11, 2.5 + 0.36 * len(rows)), 3.4), layout="constrained")
    axes = figure.subplots()
    kinds = [_kind(name, attention, levels) for name, _, _ in rows]
    axes.bar(range(len(rows)), heights, width=0.75, color=[COLOURS[kind] for kind in kinds])
    for i, (_, shape, _) in enumerate(rows):
        axes.text(i, heights[i] + 0.08, shape[2], ha="center", fontsize=6)
    names = [name for name, _, _ in rows]
    kept = [i for i, name in enumerate(names) if name == "conv_in" or name.startswith("down")]
    read = [i for i, name in enumerate(names) if name.startswith("up") and "blocks" in name]
    for a, b in zip(reversed(kept), read, strict=True):
        level = heights[a] - 0.5 * (kept.index(a) % 3 + 1) / 2
        axes.plot([a, b], [level, level], color="black", linewidth=0.8, alpha=0.45)
    sides = sorted({shape[0] for _, shape, _ in rows})
    axes.set_yticks([np.log2(s) + 1 for s in sides], [f"{s} x {s}" for s in sides], fontsize=8)
    axes.set(xticks=[], ylim=(0, max(heights) + 1.6))
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title(title, fontsize=10)
    handles = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items()]
    axes.legend(handles=handles, ncols=4, fontsize=7, loc="upper center", frameon=False)
    return figure


def waves(
    embedding: Float[np.ndarray, "T width"], t: Sequence[int], compared: Sequence[int]
) -> Figure:
    """Left: the embedding of every t as a row of colours. Right: how like each other's two t are."""
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = left.imshow(
        embedding, aspect="auto", cmap="RdBu", interpolation="nearest", vmin=-1, vmax=1
    )
    places = np.linspace(0, len(t) - 1, 6).astype(int)
    left.set_yticks(places, [t[i] for i in places])
    left.set(xlabel="number (sines, then cosines)", ylabel="t")
    figure.colorbar(shown, ax=left, shrink=0.8)
    norms = np.linalg.norm(embedding, axis=1)
    for one in compared:
        here = int(np.argmin(np.abs(np.asarray(t) - one)))
        right.plot(t, embedding @ embedding[here] / (norms * norms[here]), label=f"t = {one}")
    right.set(xlabel="other t", ylabel="cosine of the two embeddings")
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    return figure
