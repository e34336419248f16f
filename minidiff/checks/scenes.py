"""Exercises of lesson 01: a circle, its edge in pixels, and the pairs that training never shows."""

import jax.numpy as jnp
import numpy as np

from minidiff.checks.exercise import Exercise, integers, normal
from minidiff.data import pictures, shapes
from minidiff.data.scenes import UNSEEN_PAIRS
from minidiff.plot import scenes as draw


def _grid(size: int) -> tuple:
    """x and y of the pixels' centres, y upwards."""
    line = (jnp.arange(size) + 0.5) * (2.0 / size) - 1.0
    return tuple(jnp.meshgrid(line, -line))


# A circle -------------------------------------------------------------------------------------------


def _circles() -> list[tuple]:
    return [(*_grid(16), 0.25, -0.125, 0.5), (normal(0, 5, 3), normal(1, 5, 3), -0.4, 0.3, 1.2)]


def _shape(distance):
    """A ``circle_distance`` made of the offsets from the centre and the radius."""
    return lambda x, y, centre_x, centre_y, radius: distance(x - centre_x, y - centre_y, radius)


def _from_the_edge(x, y, centre_x, centre_y, radius):
    return jnp.sqrt((x - centre_x) ** 2 + (y - centre_y) ** 2) - radius


circle_distance = Exercise(
    name="circle_distance",
    task="The signed distance of each point (x, y) to a circle: below zero inside it.",
    solution=shapes.disc,
    cases=_circles,
    mistakes={
        "did you forget the square root?": _shape(lambda u, v, r: u**2 + v**2 - r),
        "this is zero on the circle, but grows like a square: a distance is a root": _shape(
            lambda u, v, r: u**2 + v**2 - r**2
        ),
        "the sign is turned round: inside is below zero": _shape(
            lambda u, v, r: r - jnp.sqrt(u**2 + v**2)
        ),
        "this is the distance to the *centre*: did you forget the radius?": _shape(
            lambda u, v, r: jnp.sqrt(u**2 + v**2)
        ),
        "inside and outside look the same: the distance inside is below zero": _shape(
            lambda u, v, r: jnp.abs(jnp.sqrt(u**2 + v**2) - r)
        ),
        "the circle is on the wrong side: take the centre away from x and y": (
            lambda x, y, cx, cy, r: jnp.sqrt((x + cx) ** 2 + (y + cy) ** 2) - r
        ),
        "the circle is in the middle: did you forget the centre?": (
            lambda x, y, cx, cy, r: jnp.sqrt(x**2 + y**2) - r
        ),
        "this is a diamond: |x| + |y| is no distance in the plane": _shape(
            lambda u, v, r: jnp.abs(u) + jnp.abs(v) - r
        ),
        "this is a square: the larger of |x| and |y| is no distance in the plane": _shape(
            lambda u, v, r: jnp.maximum(jnp.abs(u), jnp.abs(v)) - r
        ),
    },
    written=_from_the_edge,
    hints=(
        "How far is the point from the centre? Pythagoras knows.",
        "On the circle that is the radius; inside it is less.",
        "jnp.sqrt((x - centre_x) ** 2 + (y - centre_y) ** 2) - radius",
    ),
    minutes=4,
    # The module adds 1e-8 under the root, which moves the distance by 1e-4 at the centre itself.
    atol=2e-4,
    draw=lambda case, got, wanted: draw.fields({"yours": got, "wanted": wanted}, contour=True),
)


# Its edge in pixels ---------------------------------------------------------------------------------


def _distances() -> list[tuple]:
    return [
        (shapes.disc(*_grid(16), 0.1, -0.05, 0.6), 8.0),
        (shapes.box(*_grid(9), 0.0, 0.1, 0.4, 0.7), 4.5),
    ]


def _coverage(distance, pixels_per_unit):
    """White paint on a black canvas."""
    black = jnp.zeros((*distance.shape, 1))
    return pictures._paint(black, 1.0, distance, pixels_per_unit)[:, :, 0]


def _ramp(value):
    """A ``coverage`` that clips something else; ``value`` is told distance and pixels per unit."""
    return lambda distance, scale: jnp.clip(value(distance, scale), 0.0, 1.0)


def _covered(distance, pixels_per_unit):
    return jnp.clip(0.5 - distance * pixels_per_unit, 0, 1)


coverage = Exercise(
    name="coverage",
    task="How much of each pixel a shape covers, from 0 to 1, given the signed distance.",
    solution=_coverage,
    cases=_distances,
    mistakes={
        "this edge is hard: let the coverage fall from 1 to 0 over the width of one pixel": (
            lambda distance, scale: (distance < 0) * 1.0
        ),
        "this paints the outside: coverage is 1 where the distance is below zero": _ramp(
            lambda distance, scale: 0.5 + distance * scale
        ),
        "the edge is far too soft: did you forget to turn the distance into pixels?": _ramp(
            lambda distance, scale: 0.5 - distance
        ),
        "the edge is far too soft: multiply by pixels_per_unit, where you divide": _ramp(
            lambda distance, scale: 0.5 - distance / scale
        ),
        "the shape is half a pixel too small: on its edge a pixel is covered by half": _ramp(
            lambda distance, scale: -distance * scale
        ),
        "the shape is half a pixel too large: on its edge a pixel is covered by half": _ramp(
            lambda distance, scale: 1.0 - distance * scale
        ),
        "no pixel is covered by more than all or less than nothing: clip to 0 and 1": (
            lambda distance, scale: 0.5 - distance * scale
        ),
        "the ramp is two pixels wide: from half a pixel inside to half a pixel outside": _ramp(
            lambda distance, scale: 0.5 - distance * scale / 2
        ),
    },
    written=_covered,
    hints=(
        "distance * pixels_per_unit is the distance in pixels.",
        "Half a pixel inside the coverage is 1, on the edge 1/2, half a pixel outside 0.",
        "A straight line through these three, cut off by jnp.clip(..., 0, 1).",
    ),
    level=2,
    draw=lambda case, got, wanted: draw.fields({"yours": got, "wanted": wanted}),
)


# Pairs that training never shows --------------------------------------------------------------------


def _pairs() -> list[tuple]:
    subject, colour = (a.ravel() for a in np.meshgrid(np.arange(8), np.arange(8)))
    drawn = np.array([(0, 1), (1, 1), (2, 1), (1, 3), (3, 1), (0, 5), (4, 6)])
    some = [tuple(map(int, pair)) for pair in integers(2, 0, 4, 5, 2)]
    return [
        (UNSEEN_PAIRS, subject, colour),
        (((0, 1), (2, 1), (1, 3)), *drawn.T),
        (tuple(some), *integers(3, 0, 4, 2, 20)),
    ]


def _is_unseen(pairs, subject, colour):
    mine, theirs = np.stack([subject, colour], axis=1), np.asarray(pairs)
    return np.any(np.all(mine[:, None] == theirs[None], axis=2), axis=1)


def _of_pairs(said):
    """An ``is_unseen`` made of two tables (scenes, pairs): subjects agree, colours agree."""

    def mistake(pairs, subject, colour):
        subjects, colours = np.asarray(pairs).T
        return said(subject[:, None] == subjects[None], colour[:, None] == colours[None])

    return mistake


def _met(pairs, subject, colour):
    subjects, colours = np.asarray(pairs).T
    same = (subject[:, None] == subjects[None, :]) & (colour[:, None] == colours[None, :])
    return same.any(axis=1)


is_unseen = Exercise(
    name="is_unseen",
    task="Whether the pair (subject, colour) of each scene is one of the pairs.",
    solution=_is_unseen,
    cases=_pairs,
    mistakes={
        "subject and colour must be found in the *same* pair: each alone occurs in some pair": (
            _of_pairs(lambda s, c: s.any(axis=1) & c.any(axis=1))
        ),
        "one of the two is not enough: subject *and* colour must agree": _of_pairs(
            lambda s, c: (s | c).any(axis=1)
        ),
        "this looks at the subject alone": _of_pairs(lambda s, c: s.any(axis=1)),
        "subject and colour are exchanged: a pair is (subject, colour)": (
            lambda pairs, subject, colour: _is_unseen(pairs, colour, subject)
        ),
        "this says which pairs are *seen*: turn it round": (
            lambda pairs, subject, colour: ~_is_unseen(pairs, subject, colour)
        ),
        "this says whether *all* scenes are unseen: one answer for each scene is wanted": (
            lambda pairs, subject, colour: np.full(
                len(subject), _is_unseen(pairs, subject, colour).all()
            )
        ),
    },
    written=_met,
    hints=(
        "np.asarray(pairs) is a table: its columns are the subjects and the colours of the pairs.",
        "Compare every scene with every pair: subject[:, None] == subjects[None, :].",
        "A pair is met where both agree (&), and a scene is unseen where any pair is met.",
    ),
    level=2,
)
