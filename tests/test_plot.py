"""Figures: what pixels become, and that every figure can be drawn and saved."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from minidiff import plot
from minidiff.data.arrays import to_float


def images(count, side=8, channels=3, seed=0):
    shape = (count, side, side, channels)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_pixels():
    values = np.array([-1.0, 0.0, 1.0, -7.0, 3.0], np.float32)
    assert plot.to_uint8(values).tolist() == [0, 128, 255, 0, 255]
    assert plot.to_uint8(values).dtype == np.uint8


def test_pixels_come_back_from_floats():
    pixels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(plot.to_uint8(np.asarray(to_float(jnp.asarray(pixels)))), pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (4, 2, 2), (5, 3, 2), (16, 4, 4)]
)
def test_tile_lays_images_in_rows(count, columns, rows, channels):
    made = images(count, channels=channels)
    sheet = plot.tile(made)
    assert sheet.shape == (rows * 9 + 1, columns * 9 + 1, 3)
    for i, image in enumerate(plot.to_uint8(made)):
        row, column = divmod(i, columns)
        top, left = 1 + 9 * row, 1 + 9 * column
        found = sheet[top : top + 8, left : left + 8]
        assert np.array_equal(found, np.broadcast_to(image, (8, 8, 3)))
    assert (sheet[::9] == 255).all()
    assert (sheet[:, ::9] == 255).all()


def test_tile_as_it_is_told():
    made = images(6)
    assert plot.tile(made, columns=6, gap=0).shape == (8, 48, 3)
    assert plot.tile(made, columns=1, gap=2).shape == (6 * 10 + 2, 12, 3)
    one = plot.tile(made[:1], gap=0)
    assert np.array_equal(one, plot.to_uint8(made[0]))


@pytest.mark.parametrize(("side", "factor"), [(17, 38), (100, 6), (2000, 1)])
def test_enlarge_keeps_pixels_square(side, factor):
    picture = np.zeros((4, side, 3), np.uint8)
    picture[1, 2] = 200
    large = np.asarray(plot.enlarge(picture))
    assert large.shape == (4 * factor, side * factor, 3)
    assert np.array_equal(large, picture.repeat(factor, axis=0).repeat(factor, axis=1))


LINES = [{"step": 1, "loss": 1.0}, {"step": 20, "loss": 0.3}, {"step": 40, "loss": 0.1}]
CAPTIONS = ["a robot", "costs $5 or $6_", "", "{curly} \\alpha", "w" * 200, "naïve café"]
CHANCES = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
FIGURES = {
    "captions": lambda: plot.contact_sheet(images(6), CAPTIONS, "scenes"),
    "no captions": lambda: plot.contact_sheet(images(17, channels=1)),
    "one image": lambda: plot.contact_sheet(images(1), ["alone"]),
    "strips": lambda: plot.strips(
        [("x", images(3)), ("", images(3, channels=1))], ["a", "b", "c"], "forward"
    ),
    "one strip": lambda: plot.strips([("x", images(1))]),
    "side by side": lambda: plot.side_by_side([("a", images(4)), ("b", images(4))], "both"),
    "one panel": lambda: plot.side_by_side([("a", images(1))]),
    "loss": lambda: plot.loss_curve(LINES),
    "one loss": lambda: plot.loss_curve(LINES[:1], "short"),
    "similarities": lambda: plot.similarity_matrices(
        [("before", np.eye(4)), ("after", 2 * np.eye(5))], "cosines"
    ),
    "one similarity": lambda: plot.similarity_matrices([("alone", np.arange(4.0).reshape(2, 2))]),
    "probabilities": lambda: plot.probabilities(
        images(2), ["$5_", "a dog", "\\alpha"], CHANCES, ["a_$1.png", "b.png"]
    ),
    "one probability": lambda: plot.probabilities(
        images(1, channels=1), ["a", "b"], CHANCES[:1, :2]
    ),
    "galleries": lambda: plot.galleries(
        [("costs $5_", images(3), CAPTIONS[:3]), ("a", images(2, channels=1), CAPTIONS[3:5])], "s"
    ),
    "one gallery": lambda: plot.galleries([("q", images(1), ["found"])]),
    "arithmetic": lambda: plot.arithmetic(
        images(4), images(3), ["$h$at", "_cap"], [0.5, -0.1], "d"
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn(name, tmp_path):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    plot.save(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as saved:
        assert saved.format == "PNG"
        width, height = saved.size
        pixels = np.asarray(saved.convert("L"))
    assert min(width, height) > 60
    assert np.ptp(pixels) > 100  # something is on it


def test_titles_and_captions_are_on_the_sheet():
    sheet = plot.contact_sheet(images(2), ["a red cat", "a blue star"], "two scenes")
    shown = {text.get_text() for axes in sheet.axes for text in axes.texts}
    assert shown == {"a red cat", "a blue star"}
    assert sheet.get_suptitle() == "two scenes"


def test_strips_name_their_rows_and_columns():
    figure = plot.strips([("x", images(2)), ("y", images(2))], ["t = 0", "t = 9"])
    assert [axes.get_title() for axes in figure.axes] == ["t = 0", "t = 9", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["x", "", "y", ""]


def test_the_loss_curve_shows_every_line():
    (axes,) = plot.loss_curve(LINES).axes
    (curve,) = axes.lines
    assert curve.get_xydata().tolist() == [[1, 1.0], [20, 0.3], [40, 0.1]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_similarity_matrices_share_one_scale():
    figure = plot.similarity_matrices([("a", np.eye(3)), ("b", 5 * np.eye(2) - 2)], "cosines")
    shown = [axes.images[0] for axes in figure.axes[:2]]
    assert [image.get_clim() for image in shown] == [(-2, 3)] * 2
    assert np.array_equal(shown[0].get_array(), np.eye(3))
    assert [axes.get_title() for axes in figure.axes[:2]] == ["a", "b"]
    assert figure.axes[0].get_xlabel() == "caption"
    assert figure.axes[0].get_ylabel() == "image"


def test_each_bar_stands_at_its_label():
    figure = plot.probabilities(images(2), ["cat", "dog", "man"], CHANCES, ["1.png", "2.png"])
    assert [axes.get_title() for axes in figure.axes[::2]] == ["1.png", "2.png"]
    for axes, chances in zip(figure.axes[1::2], CHANCES, strict=True):
        names = [label.get_text() for label in axes.get_yticklabels()]
        widths = [bar.get_width() for bar in axes.patches]
        expected = dict(zip(["cat", "dog", "man"], chances, strict=True))
        assert dict(zip(names, widths, strict=True)) == expected
        assert widths == sorted(widths)  # the most likely on top
        assert axes.get_xlim() == (0, 1)


def test_galleries_tell_query_and_notes():
    rows = [("red cats", images(2), ["1.png 0.90", "2.png 0.80"]), ("hats", images(1), ["3.png"])]
    figure = plot.galleries(rows, "search")
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["red cats", "hats"]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["", "1.png 0.90", "2.png 0.80", "", "3.png", ""]
    assert [len(axes.images) for axes in figure.axes] == [0, 1, 1, 0, 1, 0]


def test_arithmetic_names_the_nearest_word_first():
    figure = plot.arithmetic(images(1), images(2, seed=1), ["hat", "cap"], [0.9, 0.4])
    left, middle, right = figure.axes
    assert np.array_equal(left.images[0].get_array(), plot.tile(images(2, seed=1)))
    assert np.array_equal(middle.images[0].get_array(), plot.tile(images(1)))
    heights = {bar.get_y() + bar.get_height() / 2: bar.get_width() for bar in right.patches}
    assert heights == {1: 0.9, 0: 0.4}
    names = dict(
        zip(right.get_yticks(), (n.get_text() for n in right.get_yticklabels()), strict=True)
    )
    assert names == {1: "hat", 0: "cap"}
