"""Settings that every recipe of a diffusion model has, and what training makes of them."""

import dataclasses

import jax

from minidiff.data.kinds import SPECS
from minidiff.errors import InputError
from minidiff.noising import logit_normal_steps, uniform_steps
from minidiff.objectives import OBJECTIVES, min_snr_weight, objective_weight
from minidiff.schedules import SCHEDULES, Schedule, zero_terminal_snr
from minidiff.solvers import SAMPLERS
from minidiff.training.config import TrainConfig, check_channels, setting
from minidiff.unet import UNetConfig


@dataclasses.dataclass(frozen=True)
class Config(TrainConfig):
    """Settings that every diffusion model has."""

    data: str = setting("scenes", SPECS)
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
        check_channels("channels", self.channels)
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
