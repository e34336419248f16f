"""Every figure: functions from arrays to matplotlib figures. Save one with ``save``.

Figures are made without pyplot: no window, no global state, the same in a script and a notebook.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from minidiff.plot.canvas import Figure

Images = Float[np.ndarray, "count height width channels"]


def to_uint8(images: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Values from [-1, 1], clipped, as 0..255."""
    return np.round((np.clip(np.asarray(images), -1, 1) + 1) * 127.5).astype(np.uint8)


def tile(images: Images, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """One uint8 (height, width, 3) picture of many images in rows, white lines between them."""
    pixels = to_uint8(images)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
    count, height, width, _ = pixels.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def enlarge(picture: UInt8[np.ndarray, "height width 3"], pixels: int = 640) -> Image.Image:
    """A PIL image at a whole multiple of its size, about ``pixels`` wide, pixels kept square."""
    factor = max(1, round(pixels / picture.shape[1]))
    return Image.fromarray(picture).resize(
        (picture.shape[1] * factor, picture.shape[0] * factor), Image.Resampling.NEAREST
    )


def _show(axes, picture, title: str = "") -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def contact_sheet(images: Images, captions: Sequence[str] | None = None, title: str = "") -> Figure:
    """Images side by side, each with its caption below if there are captions."""
    columns = min(len(images), 4 if captions else 8)
    rows = -(-len(images) // columns)
    height = 1.9 if captions else 1.2
    figure = Figure(figsize=(max(columns * (2.2 if captions else 1.2), 4), rows * height + 0.5))
    figure.suptitle(drawable(title), fontsize=10, parse_math=False)
    for i, axes in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False))):
        axes.axis("off")
        if i < len(images):
            _show(axes, tile(images[i : i + 1], gap=0))
            if captions:
                axes.text(
                    0.5, -0.04, wrap(captions[i], 28), fontsize=7, ha="center", va="top",
                    transform=axes.transAxes, parse_math=False,
                )  # fmt: skip
    figure.tight_layout()
    return figure


def drawable(text: str) -> str:
    """A text that matplotlib can draw: a question mark for what is no letter of Unicode."""
    return text.encode(errors="replace").decode()


def wrap(text: str, width: int) -> str:
    """A text in at most three lines of this many characters."""
    import textwrap

    lines = textwrap.wrap(drawable(text), width)
    return "\n".join(lines[:3]) + (" ..." if len(lines) > 3 else "")


def strips(
    rows: Sequence[tuple[str, Float[np.ndarray, "count height width _"]]],
    columns: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Named rows of images, with a heading over each column: noising strips and filmstrips."""
    count = len(rows[0][1])
    figure = Figure(figsize=(1.1 * count + 1.2, 1.25 * len(rows) + 0.6))
    figure.suptitle(title, fontsize=10, parse_math=False)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for (name, images), line in zip(rows, grid, strict=True):
        for axes, image in zip(line, images, strict=True):
            _show(axes, tile(image[None], gap=0))
        line[0].set_ylabel(name, fontsize=9)
    if columns:
        for axes, heading in zip(grid[0], columns, strict=True):
            axes.set_title(heading, fontsize=9)
    figure.tight_layout()
    return figure


def side_by_side(panels: Sequence[tuple[str, Images]], title: str = "") -> Figure:
    """A grid of images per panel, panels next to each other under their names."""
    figure = Figure(figsize=(4.2 * len(panels), 4.6))
    figure.suptitle(title, fontsize=10, parse_math=False)
    for (name, images), axes in zip(panels, np.ravel(figure.subplots(1, len(panels))), strict=True):
        _show(axes, tile(images), name)
    figure.tight_layout()
    return figure


def loss_curve(lines: Sequence[dict], title: str = "loss") -> Figure:
    """Training loss against steps, from the lines of metrics.jsonl; both axes logarithmic."""
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    axes.loglog([line["step"] for line in lines], [line["loss"] for line in lines])
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3, which="both")
    figure.tight_layout()
    return figure


def curves(
    panels: Sequence[tuple[str, dict[str, Sequence[float]]]],
    x: Sequence[float],
    xlabel: str,
    title: str = "",
) -> Figure:
    """Named lines over the same x, a panel for each (name of the y axis, {line: values})."""
    figure = Figure(figsize=(4.6 * len(panels), 3.6))
    figure.suptitle(title, fontsize=10, parse_math=False)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for (name, lines), axes in zip(panels, grid, strict=True):
        for line, values in lines.items():
            axes.plot(x, values, marker="o", markersize=3, label=line)
        axes.set(xlabel=xlabel, ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.tight_layout()
    return figure


def similarity_matrices(
    panels: Sequence[tuple[str, np.ndarray]],
    title: str = "",
    rows: str = "image",
    columns: str = "caption",
) -> Figure:
    """Several matrices side by side, under their names and on one scale."""
    figure = Figure(figsize=(3.4 * len(panels) + 0.8, 3.9), layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    low, high = min(score.min() for _, score in panels), max(score.max() for _, score in panels)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for (name, score), axes in zip(panels, grid, strict=True):
        shown = axes.imshow(score, cmap="magma", vmin=low, vmax=high, interpolation="nearest")
        axes.set(xlabel=columns, ylabel=rows, xticks=[], yticks=[])
        axes.set_title(name, fontsize=9)
    figure.colorbar(shown, ax=list(grid), shrink=0.8)
    return figure


def probabilities(
    images: Images,
    labels: Sequence[str],
    chances: Float[np.ndarray, "count labels"],
    names: Sequence[str] = (),
) -> Figure:
    """Each image beside a bar for the probability of every label."""
    rows, tall = len(images), max(1.3, 0.24 * len(labels) + 0.5)
    figure = Figure(figsize=(6.4, tall * rows + 0.2))
    grid = figure.subplots(rows, 2, squeeze=False, width_ratios=(1, 2.6))
    for i, (left, right) in enumerate(grid):
        _show(left, tile(images[i : i + 1], gap=0))
        left.set_title(drawable(names[i]) if names else "", fontsize=8, parse_math=False)
        order = np.argsort(chances[i])
        bars = right.barh(np.arange(len(labels)), chances[i][order], color="tab:blue")
        bars[-1].set_color("tab:orange")
        _name_bars(right, np.arange(len(labels)), [wrap(labels[j], 30) for j in order])
        right.set_xlim(0, 1)
        right.tick_params(axis="x", labelsize=7)
    figure.tight_layout()
    return figure


def _name_bars(axes, places: np.ndarray, names: Sequence[str]) -> None:
    """Texts of the user's, as they are, beside horizontal bars."""
    axes.set_yticks(places, [drawable(name) for name in names], fontsize=8)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)


def grouped_bars(axes, groups: dict[str, Sequence[float]], number: str) -> None:
    """Bars at 0, 1, 2 ..., one of each group, each with its value above it, written as ``number``."""
    width = 0.8 / len(groups)
    for i, (name, values) in enumerate(groups.items()):
        places = np.arange(len(values)) + (i - (len(groups) - 1) / 2) * width
        axes.bar_label(axes.bar(places, values, width, label=name), fmt=number, fontsize=8)


def galleries(
    rows: Sequence[tuple[str, Float[np.ndarray, "_ height width _"], Sequence[str]]],
    title: str = "",
) -> Figure:
    """For each query a row: its text, then the images found, each with what is written below it."""
    count = max(len(images) for _, images, _ in rows)
    figure = Figure(figsize=(1.35 * count + 2.2, 1.75 * len(rows) + 0.5))
    figure.suptitle(drawable(title), fontsize=10, parse_math=False)
    grid = figure.subplots(len(rows), count + 1, squeeze=False)
    for (query, images, notes), line in zip(rows, grid, strict=True):
        for axes in line:
            axes.axis("off")
        line[0].text(
            1.0, 0.5, wrap(query, 22), fontsize=8, ha="right", va="center", parse_math=False,
            transform=line[0].transAxes,
        )  # fmt: skip
        for axes, image, note in zip(line[1:], images, notes, strict=False):
            _show(axes, tile(image[None], gap=0))
            axes.set_title(wrap(note, 18), fontsize=7, parse_math=False)
    figure.tight_layout()
    return figure


def arithmetic(
    before: Float[np.ndarray, "some height width channels"],
    after: Float[np.ndarray, "others height width channels"],
    words: Sequence[str],
    cosines: Sequence[float] | Float[np.ndarray, " words"],
    title: str = "",
) -> Figure:
    """Images after minus images before, and the words that name the difference best."""
    figure = Figure(figsize=(8, 3.2))
    figure.suptitle(title, fontsize=10, parse_math=False)
    grid = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    _show(grid[0], tile(after), "these")
    _show(grid[1], tile(before), "minus these")
    places = np.arange(len(words))[::-1]
    grid[2].barh(places, cosines, color="tab:blue")
    _name_bars(grid[2], places, words)
    grid[2].set_title("nearest words (cosine)", fontsize=9)
    figure.tight_layout()
    return figure


def save(figure: Figure, path: Path | str) -> None:
    """Write the figure as PNG (dots per inch chosen so that 16-pixel images stay crisp)."""
    figure.savefig(path, dpi=110)
