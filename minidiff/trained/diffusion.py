"""A diffusion model with all that belongs to it: what the recipes train and ``minidiff sample`` uses."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import weights
from minidiff.errors import InputError
from minidiff.guidance import ClassifierFree, ClipX0, Conditioned
from minidiff.objectives import as_denoiser
from minidiff.pipeline import Pipeline, to_latents, to_pictures
from minidiff.schedules import Schedule
from minidiff.solvers import SAMPLERS
from minidiff.text import TextTransformer
from minidiff.trained.encoder import Encoder
from minidiff.training.diffusion import Config
from minidiff.unet import Condition
from minidiff.vae import VAE
from minidiff.weights.pipeline import check_pixels
from minidiff.weights.scheduler import Scheduler
from minidiff.weights.unet import image_side

AT_ONCE = 64  # images sampled per call
MOST_SCORES = 2**29  # of attention in one call: 2 GiB


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """A network, what it was trained to predict, and the CLIP that reads its prompts, if any."""

    network: object  # called as (xt, t), or (xt, t, condition) if it ``takes_text``
    schedule: Schedule
    objective: str
    image_shape: tuple[int, int, int]
    sampler: str = "ddim"
    steps: int = 50
    encoder: Encoder | Pipeline | None = None
    scale: float = 1.0  # of guidance
    limits: tuple[float, float] | None = (-1.0, 1.0)  # that predicted images are kept in
    scheduler: Scheduler | None = None  # of a diffusers folder: which indices it visits
    autoencoder: VAE | None = None  # what is diffused are its latents; none: images

    @classmethod
    def of(cls, config: Config, network: object, image_shape: tuple, **text) -> "Diffusion":
        """A model as its run's settings say."""
        return cls(
            network=network,
            schedule=config.noise_schedule(),
            objective=config.objective,
            image_shape=tuple(image_shape),
            sampler=config.sampler,
            steps=config.sample_steps,
            **text,
        )

    @classmethod
    def read(cls, path: Path | str) -> "Diffusion":
        """A model of a diffusers folder: U-Net and scheduler, or Stable Diffusion.

        InputError says what will not do.
        """
        if weights.is_latent(path):
            return cls.of_pipeline(weights.load_pipeline(path))
        check_pixels(path)
        scheduler = weights.read_scheduler(path)
        unet = weights.load_unet(path)
        side = image_side(path) or 32
        try:
            unet.config.check_image(side)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
        return cls(
            network=unet,
            schedule=scheduler.schedule,
            objective=scheduler.prediction,
            image_shape=(side, side, unet.config.image_channels),
            sampler=scheduler.method,
            limits=scheduler.clip and (-scheduler.clip, scheduler.clip),
            scheduler=scheduler,
        )

    @classmethod
    def of_pipeline(cls, pipeline: Pipeline) -> "Diffusion":
        """Stable Diffusion, as its folder says."""
        return cls(
            network=pipeline.unet,
            schedule=pipeline.scheduler.schedule,
            objective=pipeline.scheduler.prediction,
            image_shape=(pipeline.side, pipeline.side, pipeline.vae.config.image_channels),
            sampler=pipeline.scheduler.method,
            encoder=pipeline,
            scale=7.5,
            limits=None,
            scheduler=pipeline.scheduler,
            autoencoder=pipeline.vae,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of what is diffused: the image, or its latents."""
        if self.autoencoder is None:
            return self.image_shape
        return self.autoencoder.config.latent_shape(self.image_shape)

    @property
    def scores(self) -> int:
        """Numbers that the largest attention of one image holds, guided or not."""
        config, side = self.network.config, self.shape[0]
        found = [0]
        for i in config.attention:
            heads = config.channels[i] // config.head_width if config.head_width else config.heads
            found.append(heads * (side // config.patch // 2**i) ** 4)
        return max(found) * (2 if self.takes_text else 1)

    @property
    def at_once(self) -> int:
        """Images sampled per call: of large latents few."""
        if self.autoencoder is None:
            return AT_ONCE
        return max(1, min(AT_ONCE, MOST_SCORES // max(self.scores, 1)))

    def latents(self, images: np.ndarray) -> jax.Array:
        """Images as they are diffused."""
        if self.autoencoder is None:
            return jnp.asarray(images)
        return to_latents(self.autoencoder, images)

    def pictures(self, x: jax.Array) -> np.ndarray:
        """What was diffused, as images."""
        return np.asarray(x) if self.autoencoder is None else to_pictures(self.autoencoder, x)

    @property
    def takes_text(self) -> bool:
        """Whether the network looks at a condition that text is read into."""
        return self.network.takes_text

    @property
    def plain(self) -> object:
        """The network as a denoiser, without guidance or limits; with text it wants a condition."""
        return as_denoiser(self.objective, self.network, self.schedule)

    def denoiser(
        self, prompts: Sequence[str] = (), scale: float | None = None, negative: str = ""
    ) -> object:
        """(xt, t) -> eps, whatever the network predicts itself.

        A network with text is given a prompt for each image; "" says nothing, and where all are empty
        nothing is guided. ``negative`` is what guidance leads away from. InputError for prompts to a
        network without text.
        """
        if any(prompts):
            return self.guided(self.condition(prompts), scale, negative)
        if self.takes_text:
            return self._kept(Conditioned(self.plain, self.condition(prompts)))
        return self._kept(self.plain)

    def guided(
        self, condition: Condition, scale: float | None = None, negative: str = ""
    ) -> object:
        """The denoiser guided by this condition, one for each image."""
        null = self.condition([negative] * len(condition.states))
        # An array: an input of the compiled sampler, not a part of its program.
        scale = jnp.float32(self.scale if scale is None else scale)
        return self._kept(ClassifierFree(self.plain, condition, null, scale))

    def sampling(self, sampler: str | None, settings: dict) -> tuple[Callable, dict]:
        """(function, settings) of a sampler, or of the model's own, in as many steps as it says."""
        if sampler is None:
            settings = {"steps": self.steps, **settings}
        name, steps = sampler or self.sampler, settings.get("steps")
        if self.scheduler:
            try:
                settings = {**settings, **self.scheduler.settings(name, steps)}
            except ValueError as error:
                raise InputError(str(error)) from None
        return SAMPLERS[name], settings

    def _kept(self, denoiser: object) -> object:
        """Its predicted images within the limits."""
        if self.limits is None:
            return denoiser
        return ClipX0(denoiser, self.schedule, *map(jnp.float32, self.limits))

    def condition(self, prompts: Sequence[str]) -> Condition:
        """Prompts as the network sees them."""
        if self.encoder is None or not self.takes_text:
            raise InputError("this model was trained without text: it takes no prompt")
        ids = self.encoder.tokenizer(list(prompts), self.encoder.context)
        return read_ids(self.encoder.text, jnp.asarray(ids))


@jax.jit
def read_ids(text: TextTransformer, ids: jax.Array) -> Condition:
    """What CLIP's text tower makes of rows of token ids: a state per token, and the end's."""
    states = text.states(ids)
    return Condition(states, text.pool(states, ids))


def draw(
    key: jax.Array,
    model: Diffusion,
    count: int,
    *,
    prompts: Sequence[str] = (),
    scale: float | None = None,
    negative: str = "",
    sampler: str | None = None,
    at_once: int | None = None,
    **settings,
) -> np.ndarray:
    """``count`` samples (count, height, width, channels); sample i depends on (key, i) alone.

    Args:
        prompts: what each shows, in turns; none for nothing in particular.
        scale: of guidance; none: the model's.
        negative: what guidance leads away from.
        sampler: one of SAMPLERS; none: the model's, in as many steps as it says.
        at_once: images per call; none: as many as the model's attention leaves room for.
        settings: of the sampler.
    """
    sample, settings = model.sampling(sampler, settings)
    at_once, prompts, parts = min(at_once or model.at_once, count), prompts or [""], []
    for start in range(0, count, at_once):
        texts = [prompts[i % len(prompts)] for i in range(start, start + at_once)]
        given = texts if any(prompts) or model.takes_text else ()
        denoiser = model.denoiser(given, scale, negative)
        shape = (at_once, *model.shape)
        made = sample(key, denoiser, model.schedule, shape, first=start, **settings)
        parts.append(model.pictures(made))
    return np.concatenate(parts)[:count]
