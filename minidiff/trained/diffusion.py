"""A diffusion model with all that belongs to it: what the recipes train and ``minidiff sample`` uses."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import weights
from minidiff.errors import InputError
from minidiff.guidance import ClassifierFree, ClipX0, Conditioned, FromV, FromVelocity, FromX0
from minidiff.noising import (
    Schedule,
    cosine_schedule,
    flow_schedule,
    linear_schedule,
    logit_normal_steps,
    uniform_steps,
    zero_terminal_snr,
)
from minidiff.objectives import min_snr_weight, objective_weight
from minidiff.sampling import ddim_sample, ddpm_sample
from minidiff.solvers import ode_sample
from minidiff.text import TextTransformer
from minidiff.trained.encoder import Encoder
from minidiff.training.config import TrainConfig, setting
from minidiff.unet import Condition, UNet, UNetConfig
from minidiff.weights.pipeline import check_pixels
from minidiff.weights.scheduler import Scheduler
from minidiff.weights.unet import image_side

SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule, "flow": flow_schedule}
OBJECTIVES = {
    "eps": lambda network, schedule: network,
    "x0": FromX0,
    "v": FromV,
    "velocity": FromVelocity,
}
SAMPLERS = {
    "ddpm": ddpm_sample,
    "ddim": ddim_sample,
    "euler": partial(ode_sample, method="euler"),
    "heun": partial(ode_sample, method="heun"),
    "dpm++": partial(ode_sample, method="dpm++"),
    "ancestral": partial(ode_sample, method="ancestral"),
}
AT_ONCE = 64  # images sampled per call
CHANNELS = range(8, 2**14 + 1, 8)
MOST_LEVELS = 12


@dataclasses.dataclass(frozen=True)
class Config(TrainConfig):
    """Settings that every diffusion model has."""

    data: str = setting("scenes", "scenes, digits, [stream:]tfds:NAME or folder:PATH")
    size: int | None = setting(None, "side of the images; none: what suits the data", low=8)
    channels: tuple[int, ...] = setting((64, 96), "of the U-Net's levels, finest first")
    blocks: int = setting(1, "ResBlocks per level", low=1, high=8)
    attention: tuple[int, ...] = setting((1,), "levels with attention")
    heads: int = setting(1, "of attention", low=1, high=64)
    patch: int = setting(2, "pixels per position of the finest level", low=1, high=8)
    schedule: str = setting("cosine", "of the noise", choices=tuple(SCHEDULES))
    zero_snr: bool = setting(False, "let the schedule end in nothing but noise")
    objective: str = setting("v", "what the network predicts", choices=tuple(OBJECTIVES))
    weight: str = setting(
        "objective", "of each step's error", choices=("objective", "eps", "min-snr")
    )
    focus: float | None = setting(
        None, "centre of logit-normal t (unit spread); none: uniform", low=-10.0, high=10.0
    )
    timesteps: int = setting(1000, "T, steps from image to noise", low=2, high=100_000)
    sampler: str = setting("ddim", "of pictures and report", choices=tuple(SAMPLERS))
    sample_steps: int = setting(50, "steps of that sampler", low=1)
    report_count: int = setting(256, "samples that the report measures", low=8, high=100_000)

    def __post_init__(self):
        super().__post_init__()
        if not self.channels or any(c not in CHANNELS for c in self.channels):
            raise InputError(
                f"channels={self.channels}: each must be a multiple of 8 from 8 to {CHANNELS[-1]}"
            )
        if len(self.channels) > MOST_LEVELS:
            raise InputError(f"channels: {len(self.channels)} levels are more than {MOST_LEVELS}")
        if any(c % self.heads for c in self.channels):
            raise InputError(f"heads={self.heads} does not divide channels={self.channels}")
        if any(not 0 <= level < len(self.channels) for level in self.attention):
            raise InputError(
                f"attention={self.attention}: levels are 0 to {len(self.channels) - 1}"
            )
        if self.sample_steps > self.timesteps:
            raise InputError(
                f"sample_steps={self.sample_steps} is more than timesteps={self.timesteps}"
            )

    def unet(self, image_shape: tuple[int, int, int], **text) -> UNetConfig:
        """The network that these settings describe. InputError if the images do not fit it."""
        fields = ("channels", "blocks", "attention", "heads", "patch")
        settings = {name: getattr(self, name) for name in fields}
        config = UNetConfig(image_channels=image_shape[2], **settings, **text)
        try:
            config.check_image(image_shape[0])
        except ValueError as error:
            raise InputError(f"{error}: set size, patch or channels") from None
        return config

    def noise_schedule(self) -> Schedule:
        schedule = SCHEDULES[self.schedule](self.timesteps)
        return zero_terminal_snr(schedule) if self.zero_snr else schedule

    def draw_steps(self, key: jax.Array, batch: int, steps: int) -> jax.Array:
        """The t of each image of a training batch."""
        if self.focus is None:
            return uniform_steps(key, batch, steps)
        return logit_normal_steps(key, batch, steps, self.focus)

    def step_weight(self) -> jax.Array:
        """What the squared error on eps is multiplied by at each t."""
        schedule = self.noise_schedule()
        if self.weight == "min-snr":
            return min_snr_weight(schedule)
        return objective_weight(schedule, self.objective if self.weight == "objective" else "eps")


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """A network, what it was trained to predict, and the CLIP that reads its prompts, if any."""

    unet: UNet
    schedule: Schedule
    objective: str
    image_shape: tuple[int, int, int]
    sampler: str = "ddim"
    steps: int = 50
    encoder: Encoder | None = None
    scale: float = 1.0  # of guidance
    limits: tuple[float, float] | None = (-1.0, 1.0)  # that predicted images are kept in
    scheduler: Scheduler | None = None  # of a diffusers folder: which indices it visits

    @classmethod
    def of(cls, config: Config, unet: UNet, image_shape: tuple, **text) -> "Diffusion":
        """A model as its run's settings say."""
        return cls(
            unet=unet,
            schedule=config.noise_schedule(),
            objective=config.objective,
            image_shape=tuple(image_shape),
            sampler=config.sampler,
            steps=config.sample_steps,
            **text,
        )

    @classmethod
    def read(cls, path: Path | str) -> "Diffusion":
        """A model of a diffusers folder: U-Net and scheduler. InputError says what will not do."""
        check_pixels(path)
        scheduler = weights.read_scheduler(path)
        unet = weights.load_unet(path)
        side = image_side(path) or 32
        try:
            unet.config.check_image(side)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
        return cls(
            unet=unet,
            schedule=scheduler.schedule,
            objective=scheduler.prediction,
            image_shape=(side, side, unet.config.image_channels),
            sampler=scheduler.method,
            limits=scheduler.clip and (-scheduler.clip, scheduler.clip),
            scheduler=scheduler,
        )

    @property
    def takes_text(self) -> bool:
        return self.unet.config.context is not None

    def denoiser(
        self, prompts: Sequence[str] = (), scale: float | None = None, negative: str = ""
    ) -> object:
        """(xt, t) -> eps, whatever the network predicts itself.

        A network with text is told a prompt for each image; "" says nothing, and where all are empty
        nothing is guided. ``negative`` is what guidance leads away from. InputError for prompts to a
        network without text.
        """
        if any(prompts):
            return self.guided(self.condition(prompts), scale, negative)
        network = OBJECTIVES[self.objective](self.unet, self.schedule)
        return self._kept(
            Conditioned(network, self.condition(prompts)) if self.takes_text else network
        )

    def guided(
        self, condition: Condition, scale: float | None = None, negative: str = ""
    ) -> object:
        """The denoiser that is told this condition, one for each image."""
        network = OBJECTIVES[self.objective](self.unet, self.schedule)
        null = self.condition([negative] * len(condition.states))
        # An array: an input of the compiled sampler, not a part of its program.
        scale = jnp.float32(self.scale if scale is None else scale)
        return self._kept(ClassifierFree(network, condition, null, scale))

    def sampling(self, sampler: str | None, settings: dict) -> tuple[Callable, dict]:
        """(function, settings) of a sampler, or of the model's own, in as many steps as it says."""
        if sampler is None:
            settings = {"steps": self.steps, **settings}
        name, steps = sampler or self.sampler, settings.get("steps")
        if self.scheduler:
            if steps:
                try:
                    visited = self.scheduler.timesteps(steps)
                except ValueError as error:
                    raise InputError(str(error)) from None
                settings = {**settings, "steps": tuple(visited.tolist())}
            if name == "ddpm":
                settings = {"variance": self.scheduler.variance, **settings}
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
        clip, tokenizer = self.encoder.clip, self.encoder.tokenizer
        return read_ids(clip.text, jnp.asarray(tokenizer(list(prompts), self.encoder.context)))


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
    at_once: int = AT_ONCE,
    **settings,
) -> np.ndarray:
    """``count`` samples (count, height, width, channels); sample i depends on (key, i) alone.

    Args:
        prompts: what each shows, in turns; none for nothing in particular.
        scale: of guidance; none: the model's.
        negative: what guidance leads away from.
        sampler: one of SAMPLERS; none: the model's, in as many steps as it says.
        settings: of the sampler.
    """
    sample, settings = model.sampling(sampler, settings)
    at_once, prompts, parts = min(at_once, count), prompts or [""], []
    for start in range(0, count, at_once):
        told = [prompts[i % len(prompts)] for i in range(start, start + at_once)]
        denoiser = model.denoiser(told if any(prompts) or model.takes_text else (), scale, negative)
        shape = (at_once, *model.image_shape)
        made = sample(key, denoiser, model.schedule, shape, first=start, **settings)
        parts.append(np.asarray(made))
    return np.concatenate(parts)[:count]
