r"""Stable Diffusion put together: a prompt becomes states, noise becomes latents, latents a picture.

Nothing here is new. The tokenizer and the text tower of a CLIP turn the prompt into a state for each
token; a U-Net that looks at them is the denoiser, guided away from a second text, which is empty unless
a negative prompt is given; a sampler walks from noise to z, 64 x 64 x 4 numbers; and the decoder of a
VAE makes 512 x 512 pixels of them (Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section 3).
``minidiff.weights.load_pipeline`` reads one from a folder of the hub.

It is read after lesson 10.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from minidiff.editing import image_to_image, inpaint
from minidiff.errors import InputError
from minidiff.guidance import ClassifierFree, Conditioned
from minidiff.objectives import as_denoiser
from minidiff.solvers import SAMPLERS
from minidiff.text import Reader, TextTransformer, Tokenizer
from minidiff.unet import Condition, UNet
from minidiff.vae import VAE

Latents = Float[Array, "batch h w latent"] | Float[np.ndarray, "batch h w latent"]
AT_ONCE = 2**18  # pixels that the VAE sees in one call: one image of 512 x 512


@dataclasses.dataclass(frozen=True)
class Pipeline(Reader):
    """A latent diffusion model with all that belongs to it. Pictures are in [-1, 1]."""

    tokenizer: Tokenizer
    text: TextTransformer
    unet: UNet
    vae: VAE
    scheduler: object  # a weights.scheduler.Scheduler: how it was trained, and the steps it takes
    side: int  # pixels on a side of a picture, as it was trained

    def unfamiliar(self, texts: Sequence[str]) -> list[str]:
        """None: what a published model has seen in training is not listed."""
        return []

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, channels) of z."""
        return self.vae.config.latent_shape((self.side, self.side, self.vae.config.image_channels))

    def draw(
        self,
        key: Key[Array, ""],
        prompts: Sequence[str],
        negative: str | Sequence[str] | None = None,
        steps: int = 50,
        scale: float = 7.5,
        start: Latents | None = None,
        sampler: str | None = None,
    ) -> Float[np.ndarray, "batch height width 3"]:
        """A picture for each prompt.

        Args:
            key: picture i starts from noise that depends on the key and i alone.
            prompts: what each shows; the tokens of a long one beyond ``context`` are cut (``cut`` tells).
            negative: what guidance leads away from, one for all or one for each; none: nothing said.
            steps: how many; the scheduler of the folder says which. PLMS calls the U-Net once more.
            scale: of guidance; 1 obeys the prompt, more exaggerates it.
            start: the unit noise z at the first step; none: drawn.
            sampler: one of SAMPLERS; none: the folder's own.

        InputError for an unknown sampler, or more steps than there are.
        """
        sample, settings = self._sampler(sampler, steps)
        shape = (len(prompts), *(self.latent_shape if start is None else start.shape[1:]))
        denoiser = self.denoiser(prompts, negative, scale)
        return to_pictures(
            self.vae, sample(key, denoiser, self.scheduler.schedule, shape, start=start, **settings)
        )

    def redraw(
        self,
        key: Key[Array, ""],
        images: Float[np.ndarray, "batch height width 3"],
        prompts: Sequence[str],
        negative: str | Sequence[str] | None = None,
        steps: int = 50,
        scale: float = 7.5,
        strength: float = 0.8,
        sampler: str | None = None,
    ) -> Float[np.ndarray, "batch height width 3"]:
        """New pictures from others: noised by ``strength``, 0 to 1, and denoised in that part of the way.

        Arguments as in ``draw``; the sides of images are multiples of ``vae.config.factor``.
        """
        sample, settings = self._sampler(sampler, steps)
        settings["steps"] = part_of(settings["steps"], strength)
        z, denoiser = to_latents(self.vae, images), self.denoiser(prompts, negative, scale)
        settings |= {"t": settings["steps"][0], "sampler": sample}
        return to_pictures(
            self.vae, image_to_image(key, denoiser, self.scheduler.schedule, z, **settings)
        )

    def inpaint(
        self,
        key: Key[Array, ""],
        images: Float[np.ndarray, "batch height width 3"],
        known: Bool[np.ndarray, "_ height width 1"],
        prompts: Sequence[str],
        negative: str | Sequence[str] | None = None,
        steps: int = 50,
        scale: float = 7.5,
        sampler: str | None = None,
    ) -> Float[np.ndarray, "batch height width 3"]:
        """The images where ``known`` is True, the rest painted anew. Arguments as in ``redraw``."""
        sample, settings = self._sampler(sampler, steps)
        z, denoiser = to_latents(self.vae, images), self.denoiser(prompts, negative, scale)
        mask = jnp.asarray(known_latents(known, self.vae.config.factor))
        made = inpaint(key, denoiser, self.scheduler.schedule, z, mask, sampler=sample, **settings)
        return np.where(known, images, to_pictures(self.vae, made))

    def condition(self, prompts: Sequence[str]) -> Condition:
        """The states of all ``context`` tokens, padding included: the U-Net was trained to see them."""
        ids = self.tokenizer(list(prompts), self.context)
        return Condition(_states(self.text, jnp.asarray(ids)))

    def denoiser(
        self,
        prompts: Sequence[str],
        negative: str | Sequence[str] | None = None,
        scale: float = 7.5,
    ) -> object:
        """(z, t) -> eps: the U-Net told the prompts, guided away from ``negative``."""
        network = as_denoiser(self.scheduler.prediction, self.unet, self.scheduler.schedule)
        condition = self.condition(prompts)
        if scale == 1:
            return Conditioned(network, condition)
        others = [negative] if isinstance(negative, str) else negative or [""]
        others = list(others) * (len(prompts) if len(others) == 1 else 1)
        if len(others) != len(prompts):
            raise InputError(f"{len(others)} negative prompts for {len(prompts)} prompts")
        return ClassifierFree(network, condition, self.condition(others), jnp.float32(scale))

    def _sampler(self, name: str | None, steps: int) -> tuple[Callable, dict]:
        name = name or self.scheduler.method
        if name not in SAMPLERS:
            raise InputError(f"sampler must be one of {', '.join(SAMPLERS)}; got {name!r}")
        try:
            return SAMPLERS[name], self.scheduler.settings(name, steps)
        except ValueError as error:
            raise InputError(str(error)) from None


@jax.jit
def _states(text: TextTransformer, ids: jax.Array) -> jax.Array:
    return text.states(ids)


@jax.jit
def _encode(vae: VAE, images: jax.Array) -> jax.Array:
    return vae.encode(images) * vae.config.scale


@jax.jit
def _decode(vae: VAE, z: jax.Array) -> jax.Array:
    return jnp.clip(vae.decode(z / vae.config.scale), -1.0, 1.0)


def to_latents(
    vae: VAE, images: Float[np.ndarray, "batch height width channels"]
) -> Float[Array, "batch h w latent"]:
    """z of images in [-1, 1], scaled as it is diffused; a few at a time, so that memory is bounded.

    InputError where the sides are no multiples of ``vae.config.factor``.
    """
    try:
        vae.config.latent_shape(images.shape[1:])
    except ValueError as error:
        raise InputError(str(error)) from None
    return jnp.asarray(_in_parts(_encode, vae, images, images.shape[1] * images.shape[2]))


def to_pictures(vae: VAE, z: Latents) -> Float[np.ndarray, "batch height width channels"]:
    """Images, within [-1, 1], of z as it is diffused; a few at a time, so that memory is bounded."""
    return _in_parts(_decode, vae, z, z.shape[1] * z.shape[2] * vae.config.factor**2)


def _in_parts(function, vae: VAE, items, pixels: int) -> np.ndarray:
    """Calls of one size, so that one compiled program serves any number."""
    items, parts = np.asarray(items, np.float32), []
    count = min(max(1, AT_ONCE // pixels), len(items))
    for start in range(0, len(items), count):
        some = items[start : start + count]
        filled = np.concatenate([some, np.repeat(some[:1], count - len(some), axis=0)])
        parts.append(np.asarray(function(vae, filled))[: len(some)])
    return np.concatenate(parts)


def known_latents(
    known: Bool[np.ndarray, "_ height width 1"], factor: int
) -> Bool[np.ndarray, "_ h w 1"]:
    """A position of z is known where all pixels of its ``factor`` x ``factor`` square are."""
    batch, height, width, _ = known.shape
    squares = known.reshape(batch, height // factor, factor, width // factor, factor, 1)
    return squares.all(axis=(2, 4))


def part_of(steps: tuple[int, ...], strength: float) -> tuple[int, ...]:
    """The last ``strength`` of the indices of a run, one at least."""
    return steps[-max(1, int(len(steps) * strength)) :]
