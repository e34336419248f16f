"""Pictures of what a text-to-image model does on its way, and of what else can be done with it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from minidiff import plot
from minidiff.clip import ClipScore
from minidiff.data.captions import PHRASES
from minidiff.data.factors import FACTORS
from minidiff.editing import inpaint, lerp, slerp
from minidiff.guidance import ClipGuided, ClipX0
from minidiff.plot.canvas import Figure
from minidiff.sampling import Trajectory, ddim_sample, ddpm_sample, sample_noise
from minidiff.trained.diffusion import Diffusion

PROMPTS = (
    "a blue cat wearing a hat", "a red robot at night", "a yellow star on the beach",
    "a green man wearing glasses", "a purple circle in the snow", "a cyan cross on the grass",
    "an orange square wearing a scarf", "a small pink triangle at sunset",
)  # fmt: skip
STEPS = 250  # of samplers with fresh noise
FRAMES = 10  # of a strip
ACROSS = 8  # images from one end to the other
CLIP_SCALE = 300.0  # of CLIP guidance: what one unit of cosine is worth


def filmstrip(key: jax.Array, model: Diffusion, prompts: Sequence[str]) -> Figure:
    """Samples on their way from noise: what the network is given, and the image it foresees."""
    steps = min(STEPS, model.schedule.steps)
    denoiser, shape = model.denoiser(prompts), (len(prompts), *model.image_shape)
    x0, seen = ddpm_sample(
        key, denoiser, model.schedule, shape, steps=steps, every=-(-steps // FRAMES)
    )
    columns = [*(f"t = {t}" for t in np.asarray(seen.t)), "image"]
    rows = []
    for i in range(len(prompts)):
        rows.append(("x at t", np.append(seen.xt[:, i], x0[None, i], axis=0)))
        rows.append(("foreseen x0", np.append(seen.x0[:, i], x0[None, i], axis=0)))
    return plot.strips(rows, columns, f"reverse: remove noise. {'; '.join(prompts)}")


def noise_on_off(key: jax.Array, model: Diffusion, count: int = 16) -> Figure:
    """DDPM as it is, and without its fresh noise, from the same start; nothing is prompted."""
    denoiser, shape = model.denoiser([""] * count), (count, *model.image_shape)
    settings = {"steps": min(STEPS, model.schedule.steps), "variance": "small"}

    def panel(inject):
        made = ddpm_sample(key, denoiser, model.schedule, shape, inject_noise=inject, **settings)
        return np.asarray(made)

    panels = [("fresh noise at every step", panel(True)), ("none", panel(False))]
    return plot.side_by_side(panels, "DDPM with and without injected noise, same seed")


def between(key: jax.Array, model: Diffusion, prompts: Sequence[str]) -> Figure:
    """From the first prompt to the second with one noise; and from one noise to another."""
    shares = jnp.linspace(0.0, 1.0, ACROSS)
    one, other = (sample_noise(key, (1, *model.image_shape), i, 0) for i in range(2))
    first, second = (model.condition([prompt]) for prompt in prompts)
    starts = {
        "one noise": (slerp(one, one, shares), lerp(first, second, shares)),
        "one prompt": (slerp(one, other, shares), lerp(first, first, shares)),
    }
    rows = []
    for name, (start, condition) in starts.items():
        denoiser = model.guided(condition)
        made = ddim_sample(
            key, denoiser, model.schedule, start.shape, start=start, steps=model.steps
        )
        rows.append((name, np.asarray(made)))
    return plot.strips(rows, [], f"from {prompts[0]} to {prompts[1]}; from noise to noise")


def inpainted(
    key: jax.Array, model: Diffusion, images: np.ndarray, prompts: Sequence[str]
) -> Figure:
    """The upper half of images is painted anew, as prompts say."""
    height, width, _ = model.image_shape
    mask = jnp.ones((1, height, width, 1)).at[:, : height // 2].set(0)
    denoiser, images = model.denoiser(prompts), jnp.asarray(images)
    made = inpaint(key, denoiser, model.schedule, images, mask, steps=model.steps, eta=1.0)
    rows = [
        ("image", np.asarray(images)),
        ("kept", np.asarray(mask * images + 1 - mask)),
        ("painted", np.asarray(made)),
    ]
    return plot.strips(rows, [plot.wrap(prompt, 16) for prompt in prompts], "the upper half anew")


def clip_guided(
    key: jax.Array,
    model: Diffusion,
    prompts: Sequence[str],
    scale: float = CLIP_SCALE,
    **settings,
) -> tuple[np.ndarray, Trajectory]:
    """Unconditional samples that follow CLIP's gradient to prompts, and their Trajectory."""
    score = ClipScore(model.encoder.clip, jnp.asarray(model.encoder.texts(list(prompts))))
    unconditional = model.denoiser([""] * len(prompts))
    guided = ClipGuided(unconditional, model.schedule, score, jnp.float32(scale), **settings)
    denoiser = ClipX0(guided, model.schedule)
    shape, every = (len(prompts), *model.image_shape), -(-model.steps // FRAMES)
    x0, seen = ddim_sample(
        key, denoiser, model.schedule, shape, steps=model.steps, eta=1.0, every=every
    )
    return np.asarray(x0), seen


def clip_strip(key: jax.Array, model: Diffusion, prompts: Sequence[str]) -> Figure:
    """The image foreseen, on the way, by a model that is told nothing but led by CLIP."""
    x0, seen = clip_guided(key, model, prompts)
    rows = [
        (plot.wrap(prompt, 14), np.append(seen.x0[:, i], x0[None, i], axis=0))
        for i, prompt in enumerate(prompts)
    ]
    columns = [*(f"t = {t}" for t in np.asarray(seen.t)), "image"]
    return plot.strips(rows, columns, "a diffusion model that is told nothing, led by CLIP")


def hatted(factors: Int[np.ndarray, "scenes 7"]) -> list[str]:
    """Prompts for these scenes, but with a hat on."""
    told = [
        {name: FACTORS[name][value] for name, value in zip(FACTORS, row, strict=True)}
        for row in factors
    ]
    return [
        f"{'an' if scene['colour'] == 'orange' else 'a'} {scene['colour']} {scene['subject']} "
        f"wearing a hat {PHRASES['background'][scene['background']][0]}"
        for scene in told
    ]


def pictures(key: jax.Array, model: Diffusion, scenes: dict[str, np.ndarray]) -> dict[str, Figure]:
    """All of these by name, of a model that knows scenes; ``scenes``: "image" and "factors" of some."""
    return {
        "filmstrip": filmstrip(key, model, PROMPTS[:2]),
        "noise_on_off": noise_on_off(key, model),
        "between": between(key, model, PROMPTS[:2]),
        "inpainting": inpainted(key, model, scenes["image"], hatted(scenes["factors"])),
        "clip_guided": clip_strip(key, model, PROMPTS[:3]),
    }
