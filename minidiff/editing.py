r"""Uses of a sampler: on the way between two samples, from a picture, and around a part of one.

None needs a network trained for it. What changes is where the sampler starts (``slerp``,
``image_to_image``), its condition (``lerp``) or what its predicted image is taken to be
(``inpaint``). Sample i depends on the key and i alone, as in every sampler.

It is read after lesson 10.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped

from minidiff.errors import InputError
from minidiff.guidance import Inpaint
from minidiff.noising import Denoiser, add_noise
from minidiff.sampling import ddim_sample, sample_noise
from minidiff.schedules import Schedule, truncate

Share = float | Float[Array, ""] | Float[Array, " batch"]


def lerp(
    a: PyTree[Float[Array, "..."]], b: PyTree[Float[Array, "..."]], share: Share
) -> PyTree[Float[Array, "..."]]:
    """(1 - share) a + share b, for conditions: each array of a pytree has the batch in front.

    ``share`` is one number or one per sample; where a and b hold one sample each and there are many
    shares, the result holds as many: prompts on the way from a to b.
    """

    def mix(a, b):
        part = _per_sample(share, a)
        return (1 - part) * a + part * b

    return jax.tree.map(mix, a, b)


def slerp(
    a: Float[Array, "#batch *shape"], b: Float[Array, "#batch *shape"], share: Share
) -> Float[Array, " batch *shape"]:
    r"""From a to b along the great circle (Shoemake 1985), for starting noises; shares as in ``lerp``.

    A sampler expects noise as long as noise is, sqrt(dimensions); halfway along the straight line
    between two noises it would be shorter by sqrt(2), and the image a grey average. With theta the angle
    between them, sin((1 - share) theta) / sin theta of a and sin(share theta) / sin theta of b;
    (nearly) parallel ones, and opposite ones, between which there is no single circle, are
    mixed as in ``lerp``.
    """
    axes = tuple(range(1, a.ndim))

    def inner(a, b):
        return jnp.sum(a * b, axes, keepdims=True)

    lengths = jnp.sqrt(inner(a, a) * inner(b, b))
    cosine = inner(a, b) / jnp.maximum(lengths, 1e-30)
    theta = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    part, sine = _per_sample(share, a), jnp.sin(theta)
    flat = sine < 1e-3
    sine = jnp.where(flat, 1.0, sine)
    of_a = jnp.where(flat, 1 - part, jnp.sin((1 - part) * theta) / sine)
    of_b = jnp.where(flat, part, jnp.sin(part * theta) / sine)
    return of_a * a + of_b * b


def _per_sample(share, like):
    """share, shaped to multiply a batch."""
    return jnp.reshape(jnp.asarray(share, jnp.float32), (-1, *(1,) * (like.ndim - 1)))


def image_to_image(
    key: jax.Array,
    denoiser: Denoiser,
    schedule: Schedule,
    images: Float[Array, " batch *shape"],
    *,
    t: int,
    sampler: Callable = ddim_sample,
    **settings,
) -> Float[Array, " batch *shape"] | tuple:
    """Noise the images to index t, and sample from there (SDEdit: Meng et al. 2021).

    A small t keeps the image, a large one only its coarse shapes and colours, all that noise leaves
    (https://arxiv.org/abs/2108.01073). The denoiser says what it becomes.

    Args:
        key: sample i's noise is what it would have started from without an image.
        denoiser: any denoiser; one that holds a schedule keeps the whole one, for indices coincide.
        schedule: the one the denoiser was trained with.
        images: to begin with, one for each sample.
        t: 0 to T - 1.
        sampler: ``ddpm_sample``, ``ddim_sample`` or ``ode_sample``.
        settings: the sampler's own. It has t + 1 steps at most.

    Returns:
        What the sampler returns. InputError if t is not an index of the schedule, or the spacing is
        "leading", which leaves t out.
    """
    short = truncate(schedule, t)
    if settings.get("spacing") == "leading":
        raise InputError("spacing must be trailing or linspace: leading does not start at t")
    noise = sample_noise(key, images.shape, settings.get("first", 0), 0)
    start = add_noise(schedule, images, jnp.full(len(images), t), noise)
    return sampler(key, denoiser, short, images.shape, start=start, **settings)


def inpaint(
    key: jax.Array,
    denoiser: Denoiser,
    schedule: Schedule,
    images: Float[Array, "batch height width channels"],
    mask: Shaped[Array, "..."],
    *,
    sampler: Callable = ddim_sample,
    **settings,
) -> Float[Array, "batch height width channels"] | tuple:
    """Keep the image where mask is 1, paint the rest anew: ``sampler`` with ``guidance.Inpaint``.

    Args:
        key, denoiser, schedule, sampler, settings: as in ``image_to_image``, every spacing included.
        images: what is known of each sample; where the mask is 0 their values do not matter.
        mask: (batch or 1, height, width, 1) of zeros and ones (or False and True).

    Returns:
        What the sampler returns. InputError if the mask does not fit the images, or holds anything but
        zeros and ones (under jit its values cannot be looked at, and blend).
    """
    batch, height, width, _ = images.shape
    if mask.shape not in ((batch, height, width, 1), (1, height, width, 1)):
        wanted = f"({batch} or 1, {height}, {width}, 1)"
        raise InputError(f"for images {images.shape} the mask must be {wanted}; got {mask.shape}")
    if not isinstance(mask, jax.core.Tracer) and not np.isin(np.asarray(mask), (0, 1)).all():
        raise InputError(
            "the mask must be 1 where the image is known and 0 elsewhere, and only that"
        )
    guided = Inpaint(denoiser, schedule, images, jnp.float32(mask))
    return sampler(key, guided, schedule, images.shape, **settings)
