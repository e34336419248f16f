"""The shapes: signed distances to every subject and to everything that it can wear.

A signed distance is negative inside a shape, zero on its edge and positive outside. Distances here
are in an object's own units: it stands upright in about [-1, 1] x [-1.1, 1.1], u to the right and
v upwards. Union is ``minimum`` and intersection ``maximum``. Everything is elementwise on arrays of
coordinates, so one pass draws all pixels of all images.

The polygons' distances are exact inside and along the edges, and grow too slowly beyond a corner;
that is as much as a contour needs.
"""

from functools import reduce

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

NOWHERE = 9.0  # the distance to a shape that is not there

Pixels = Float[Array, "height width"]
Scalar = float | Float[Array, ""]
Point = tuple[float, float]


# Primitives ---------------------------------------------------------------------------------------


def disc(u: Pixels, v: Pixels, cu: Scalar, cv: Scalar, radius: Scalar) -> Pixels:
    """A filled circle."""
    # The small constant keeps the gradient of the square root finite at the centre.
    return jnp.sqrt((u - cu) ** 2 + (v - cv) ** 2 + 1e-8) - radius


def box(
    u: Pixels,
    v: Pixels,
    cu: Scalar,
    cv: Scalar | Pixels,
    half_u: Scalar | Pixels,
    half_v: Scalar,
    rounding: float = 0.0,
) -> Pixels:
    """A rectangle, by its centre and half its sides, with corners of radius `rounding`."""
    du = jnp.abs(u - cu) - half_u + rounding
    dv = jnp.abs(v - cv) - half_v + rounding
    outside = jnp.sqrt(jnp.maximum(du, 0.0) ** 2 + jnp.maximum(dv, 0.0) ** 2 + 1e-8)
    return outside + jnp.minimum(jnp.maximum(du, dv), 0.0) - rounding


def stroke(u: Pixels, v: Pixels, start: Point, end: Point, half_width: float) -> Pixels:
    """A line from start to end with round ends."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along = ((u - start[0]) * du + (v - start[1]) * dv) / (du * du + dv * dv)
    along = jnp.clip(along, 0.0, 1.0)
    return disc(u - along * du, v - along * dv, start[0], start[1], half_width)


def convex(u: Pixels, v: Pixels, *corners: Point) -> Pixels:
    """A convex polygon, corners anticlockwise: the intersection of its edges' half-planes."""
    planes = []
    for (ua, va), (ub, vb) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = ((ub - ua) ** 2 + (vb - va) ** 2) ** 0.5
        planes.append(((u - ua) * (vb - va) - (v - va) * (ub - ua)) / length)
    return reduce(jnp.maximum, planes)


def five_points(u: Pixels, v: Pixels, outer: float, inner: float) -> Pixels:
    """A star: reflections fold the plane into one tenth of it, whose edge is one half-plane."""
    cos36, sin36 = 0.80901699, 0.58778525
    u = jnp.abs(u)
    for normal_u, normal_v in ((cos36, -sin36), (-cos36, -sin36)):
        beyond = jnp.maximum(normal_u * u + normal_v * v, 0.0)
        u, v = u - 2.0 * beyond * normal_u, v - 2.0 * beyond * normal_v
    u = jnp.abs(u)
    edge_u, edge_v = inner * sin36, inner * cos36 - outer
    return (-edge_v * u + edge_u * (v - outer)) / (edge_u**2 + edge_v**2) ** 0.5


def union(*distances: Pixels) -> Pixels:
    """Whatever is inside one of the shapes."""
    return reduce(jnp.minimum, distances)


# Subjects -----------------------------------------------------------------------------------------

Layers = tuple[Pixels, Pixels, Pixels]  # silhouette, light details, dark details


def man(u: Pixels, v: Pixels) -> Layers:
    """Skin, hair and trousers; the arms and the pullover have the colour. Symmetric, hence |u|."""
    m = jnp.abs(u)
    head = disc(u, v, 0.0, 0.50, 0.57)
    torso = box(u, v, 0.0, -0.34, 0.46, 0.40, 0.2)
    arm = stroke(m, v, (0.42, -0.12), (0.74, -0.46), 0.15)
    hand = disc(m, v, 0.78, -0.50, 0.16)
    leg = box(m, v, 0.24, -0.88, 0.19, 0.24, 0.08)
    hair = jnp.maximum(head, 0.79 - v)
    eye = disc(m, v, 0.22, 0.40, 0.09)
    return union(head, torso, arm, hand, leg), union(head, hand), union(hair, eye, leg)


def robot(u: Pixels, v: Pixels) -> Layers:
    """A screen for a face, an antenna, square limbs."""
    m = jnp.abs(u)
    head = box(u, v, 0.0, 0.46, 0.62, 0.40, 0.06)
    antenna = union(box(u, v, 0.0, 0.92, 0.06, 0.14), disc(u, v, 0.0, 1.06, 0.14))
    torso = box(u, v, 0.0, -0.42, 0.50, 0.40, 0.04)
    arm = box(m, v, 0.76, -0.34, 0.13, 0.34, 0.03)
    leg = box(m, v, 0.28, -0.92, 0.17, 0.20)
    joint = box(m, v, 0.56, -0.30, 0.10, 0.06)
    screen = box(u, v, 0.0, 0.46, 0.48, 0.26, 0.06)
    eye = box(m, v, 0.24, 0.50, 0.11, 0.12)
    mouth = box(u, v, 0.0, 0.29, 0.20, 0.035)
    return union(head, antenna, torso, arm, leg, joint), screen, union(eye, mouth, joint)


def cat(u: Pixels, v: Pixels) -> Layers:
    """Seen from the front, sitting, the tail to its left."""
    m = jnp.abs(u)
    head = disc(u * 0.88, v, 0.0, 0.34, 0.56)
    ear = convex(m, v, (0.04, 0.72), (0.62, 0.30), (0.58, 1.08))
    body = disc(u, v * 0.92, 0.0, -0.52, 0.52)
    tail = union(
        stroke(u, v, (0.30, -0.86), (0.80, -0.74), 0.13),
        stroke(u, v, (0.80, -0.74), (0.88, -0.20), 0.13),
    )
    muzzle = disc(u * 0.8, v, 0.0, 0.10, 0.21)
    belly = disc(u, v * 0.8, 0.0, -0.54, 0.27)
    eye = disc(m, v * 0.75, 0.28, 0.345, 0.12)
    nose = convex(u, v, (0.0, 0.08), (0.10, 0.21), (-0.10, 0.21))
    whisker = union(
        stroke(m, v, (0.34, 0.16), (0.80, 0.24), 0.025),
        stroke(m, v, (0.34, 0.06), (0.78, 0.00), 0.025),
    )
    return union(head, ear, body, tail), union(muzzle, belly), union(eye, nose, whisker)


def plain(distance: Pixels) -> Layers:
    """A geometric shape has no details."""
    nothing = jnp.full_like(distance, NOWHERE)
    return distance, nothing, nothing


def subject_layers(subject: Int[Array, "height width"], u: Pixels, v: Pixels) -> Layers:
    """The layers of SUBJECTS[subject], where `subject` may differ from pixel to pixel."""
    drawings = (
        man(u, v),
        robot(u, v),
        cat(u, v),
        plain(disc(u, v, 0.0, -0.05, 0.95)),
        plain(box(u, v, 0.0, -0.05, 0.84, 0.84)),
        plain(convex(u, v, (0.0, 1.0), (-1.0, -0.88), (1.0, -0.88))),
        plain(five_points(u, v + 0.02, 1.06, 0.50)),
        plain(
            union(box(u, v, 0.0, -0.05, 0.31, 0.95, 0.04), box(u, v, 0.0, -0.05, 0.95, 0.31, 0.04))
        ),
    )
    return tuple(lax.select_n(subject, *layers) for layers in zip(*drawings, strict=True))


# Accessories --------------------------------------------------------------------------------------

# Where each subject wears things: hat (height of the brim, scale), glasses (height, scale),
# scarf (height, half its width).
FITTINGS = np.array(
    (
        (0.84, 0.90, 0.38, 0.88, -0.12, 0.52),  # man
        (0.82, 0.90, 0.50, 1.00, -0.06, 0.62),  # robot
        (0.80, 0.90, 0.40, 0.95, -0.20, 0.60),  # cat
        (0.80, 0.95, 0.26, 1.20, -0.42, 0.92),  # circle
        (0.79, 0.95, 0.26, 1.20, -0.46, 0.94),  # square
        (0.74, 0.90, -0.12, 1.00, -0.50, 0.88),  # triangle
        (0.82, 0.90, 0.14, 1.00, -0.26, 0.60),  # star
        (0.84, 0.90, 0.00, 1.20, 0.48, 0.44),  # cross
    ),
    np.float32,
)


def hat(u: Pixels, v: Pixels, brim: Pixels, scale: Pixels) -> tuple[Pixels, Pixels]:
    """A top hat and its ribbon."""
    u, v = u / scale, (v - brim) / scale
    crown = box(u, v, 0.0, 0.30, 0.44, 0.36, 0.04)
    rim = box(u, v, 0.0, 0.02, 0.78, 0.11, 0.04)
    ribbon = box(u, v, 0.0, 0.22, 0.44, 0.06)
    return union(crown, rim) * scale, ribbon * scale


def glasses(u: Pixels, v: Pixels, height: Pixels, scale: Pixels) -> tuple[Pixels, Pixels]:
    """Dark glasses, and a glint on each."""
    m, v = jnp.abs(u) / scale, (v - height) / scale
    lens = box(m, v, 0.33, 0.0, 0.26, 0.20, 0.12)
    bridge = box(m, v, 0.33, 0.12, 0.35, 0.05)
    glint = disc(m, v, 0.27, 0.06, 0.07)
    return union(lens, bridge) * scale, glint * scale


def scarf(u: Pixels, v: Pixels, height: Pixels, half_width: Pixels) -> tuple[Pixels, Pixels]:
    """A band with an end that hangs down, and a line across that end."""
    band = box(u, v, 0.0, height, half_width, 0.17, 0.12)
    end = box(u - 0.45 * half_width, v, 0.0, height - 0.28, 0.17, 0.36, 0.04)
    fringe = box(u - 0.45 * half_width, v, 0.0, height - 0.46, 0.17, 0.04)
    return union(band, end), fringe


def accessory_layers(
    accessory: Int[Array, "height width"],
    subject: Int[Array, "height width"],
    u: Pixels,
    v: Pixels,
) -> tuple[Pixels, Pixels]:
    """Silhouette and details of ACCESSORIES[accessory] as SUBJECTS[subject] wears it."""
    fit = [jnp.asarray(column)[subject] for column in FITTINGS.T]
    nothing = jnp.full_like(u, NOWHERE)
    drawings = (
        (nothing, nothing),
        hat(u, v, fit[0], fit[1]),
        glasses(u, v, fit[2], fit[3]),
        scarf(u, v, fit[4], fit[5]),
    )
    return tuple(lax.select_n(accessory, *layers) for layers in zip(*drawings, strict=True))
