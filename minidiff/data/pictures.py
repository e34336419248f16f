"""The renderer: from a scene to pixels, differentiable in every continuous parameter.

A picture is painted from back to front, each layer antialiased by its signed distance in pixels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from minidiff.data import shapes
from minidiff.data.factors import Scene
from minidiff.errors import InputError

LEAST_SIZE = 8

INK = (0.10, 0.09, 0.14)
CREAM = (1.0, 0.93, 0.80)
SKIN = (0.96, 0.74, 0.57)
GLOW = (0.86, 1.0, 1.0)
WHITE = (1.0, 1.0, 1.0)
GOLD = (1.0, 0.80, 0.15)

SUBJECT_COLOURS = np.array(
    (
        (0.88, 0.10, 0.12),  # red
        (1.00, 0.52, 0.05),  # orange
        (1.00, 0.90, 0.10),  # yellow
        (0.12, 0.62, 0.18),  # green
        (0.10, 0.86, 0.90),  # cyan
        (0.10, 0.26, 0.92),  # blue
        (0.52, 0.14, 0.72),  # purple
        (1.00, 0.52, 0.78),  # pink
    ),
    np.float32,
)

# By subject; the geometric shapes have no details to colour.
LIGHT_DETAILS = np.array((SKIN, GLOW, CREAM, *(WHITE,) * 5), np.float32)

# By accessory: its contour, its colour, its details.
ACCESSORY_COLOURS = np.array(
    (
        (INK, INK, INK),  # none
        (WHITE, INK, GOLD),  # hat
        (INK, INK, WHITE),  # glasses
        (INK, WHITE, INK),  # scarf
    ),
    np.float32,
)

# By background: the sky at its top, the sky at the horizon, the ground, a disc in the sky. They
# are pale or dim where the subjects are saturated.
BACKGROUND_COLOURS = np.array(
    (
        ((0.74, 0.83, 0.91), (0.86, 0.91, 0.96), (0.99, 0.99, 1.00), WHITE),  # snow
        ((0.78, 0.90, 0.98), (0.90, 0.96, 0.98), (0.62, 0.78, 0.52), WHITE),  # meadow
        ((0.55, 0.76, 0.84), (0.48, 0.71, 0.80), (0.95, 0.87, 0.68), WHITE),  # beach
        ((0.20, 0.22, 0.36), (0.28, 0.30, 0.46), (0.24, 0.27, 0.32), (0.98, 0.96, 0.80)),  # night
        ((0.80, 0.62, 0.72), (1.00, 0.80, 0.62), (0.58, 0.46, 0.54), (1.00, 0.93, 0.70)),  # sunset
        ((0.84, 0.82, 0.78), (0.84, 0.82, 0.78), (0.62, 0.52, 0.44), WHITE),  # room
    ),
    np.float32,
)
# Its centre and radius: a moon at night, a setting sun, else nothing.
BACKGROUND_DISCS = np.array(
    ((0, 0, -9), (0, 0, -9), (0, 0, -9), (0.66, 0.68, 0.22), (-0.62, -0.30, 0.34), (0, 0, -9)),
    np.float32,
)

CONTOUR = 0.08  # width of the line around a subject, in its own units
TRIM = 0.05  # and of the line around what it wears
STRIPE_PERIOD = 0.62
STRIPE_HALF_WIDTH = 0.11
STRIPE_CENTRE = -0.45  # height of one of them: it crosses the man's pullover, not his scarf


def _paint(canvas, rgb, distance, pixels_per_unit):
    """Lay a colour over the canvas; coverage falls from 1 to 0 within one pixel of the edge."""
    coverage = jnp.clip(0.5 - distance * pixels_per_unit, 0.0, 1.0)[:, :, None]
    return canvas + coverage * (jnp.broadcast_to(rgb, canvas.shape) - canvas)


def _background(scene, x, y, pixels_per_unit):
    top, low, ground, disc = jnp.asarray(BACKGROUND_COLOURS)[scene.background]
    height = jnp.clip((y - scene.horizon) / (1.0 - scene.horizon), 0.0, 1.0)[:, :, None]
    canvas = low[None, None] + height * (top - low)[None, None]
    centre_x, centre_y, radius = jnp.asarray(BACKGROUND_DISCS)[scene.background]
    canvas = _paint(canvas, disc, shapes.disc(x, y, centre_x, centre_y, radius), pixels_per_unit)
    canvas = _paint(canvas, ground, y - scene.horizon, pixels_per_unit)
    return canvas + scene.background_shift[None, None]


def _stripes(v):
    """Signed distance to the nearest of the horizontal stripes."""
    from_stripe = (v - STRIPE_CENTRE + STRIPE_PERIOD / 2) % STRIPE_PERIOD - STRIPE_PERIOD / 2
    return jnp.abs(from_stripe) - STRIPE_HALF_WIDTH


def render(scene: Scene, size: int = 16) -> Float[Array, "{size} {size} 3"]:
    """The picture of one scene, in [-1, 1].

    Args:
        scene: a scene without batch axes; `render_batch` takes many.
        size: pixels on a side, at least 8; 16, 32 and 64 are the ones in use.

    Raises:
        InputError: if the size is too small to show anything.
    """
    if size < LEAST_SIZE:
        raise InputError(f"a scene cannot be drawn at size {size}: at least {LEAST_SIZE} pixels")
    pixels = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (2.0 / size) - 1.0
    x, y = jnp.meshgrid(pixels, -pixels)
    canvas = _background(scene, x, y, size / 2)

    # Two objects stand in different halves, so every pixel looks at one object only.
    others = (scene.second == 1) & (x * scene.x < 0)
    subject = jnp.where(others, scene.second_subject, scene.subject)
    accessory = jnp.where(others, 0, scene.accessory)
    rgb = jnp.where(others[:, :, None], scene.second_rgb[None, None], scene.rgb[None, None])
    dx, dy = x - jnp.where(others, -scene.x, scene.x), y - scene.y
    cos, sin = jnp.cos(scene.tilt) / scene.radius, jnp.sin(scene.tilt) / scene.radius
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    pixels_per_unit = scene.radius * size / 2

    def paint(canvas, colour, distance):
        return _paint(canvas, colour, distance, pixels_per_unit)

    ink = jnp.array(INK, jnp.float32)[None, None]
    silhouette, light, dark = shapes.subject_layers(subject, u, v)
    stripes = jnp.maximum(_stripes(v), silhouette)
    canvas = paint(canvas, ink, silhouette - CONTOUR)
    canvas = paint(canvas, rgb, silhouette)
    canvas = paint(canvas, 0.45 * rgb, jnp.where(scene.style == 1, stripes, shapes.NOWHERE))
    canvas = paint(canvas, jnp.asarray(LIGHT_DETAILS)[subject], light)
    canvas = paint(canvas, ink, dark)

    worn, details = shapes.accessory_layers(accessory, subject, u, v)
    contour, fill, trim = jnp.asarray(ACCESSORY_COLOURS)[scene.accessory][:, None, None]
    canvas = paint(canvas, contour, worn - TRIM)
    canvas = paint(canvas, fill, worn)
    canvas = paint(canvas, trim, details)
    return jnp.clip(canvas, 0.0, 1.0) * 2.0 - 1.0


def render_batch(scenes: Scene, size: int = 16) -> Float[Array, "batch {size} {size} 3"]:
    """The pictures of a batch of scenes, in [-1, 1]; arguments and errors as in `render`."""
    return jax.vmap(lambda scene: render(scene, size))(scenes)
