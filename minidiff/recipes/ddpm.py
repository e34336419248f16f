"""An unconditional diffusion model of small images (Ho et al. 2020), the whole of it.

    minidiff train ddpm --preset cpu --data scenes --out runs/ddpm
    minidiff sample runs/ddpm --count 64 --out samples.png

Two cores, preset cpu: 3.0 minutes. Expect a Frechet distance near 170 (other real scenes: 149) and
subjects that can mostly be named.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from minidiff import judge, plot
from minidiff.data.sources import Source, open_source
from minidiff.errors import InputError
from minidiff.guidance import ClipX0, FromV
from minidiff.layers import count_parameters
from minidiff.noising import (
    Schedule,
    cosine_schedule,
    linear_schedule,
    logit_normal_steps,
    noise_loss,
    uniform_steps,
)
from minidiff.sampling import ddim_sample
from minidiff.training.config import TrainConfig, setting
from minidiff.training.run import Run, open_run, train
from minidiff.training.state import TrainState
from minidiff.unet import UNet, UNetConfig

SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}
AT_ONCE = 64  # images sampled per call
GRID = 16  # images in a picture made while training
# Sampling keys; training folds its own out of the same seed in another way.
SAMPLE_STREAM, GRID_STREAM = 1, 2


@dataclasses.dataclass(frozen=True)
class Config(TrainConfig):
    """Settings of the diffusion model."""

    data: str = setting("scenes", "scenes, digits, tfds:NAME or folder:PATH")
    size: int | None = setting(None, "side of the images; none: what suits the data", low=8)
    channels: tuple[int, ...] = setting((64, 96), "of the U-Net's levels, finest first")
    blocks: int = setting(1, "ResBlocks per level", low=1, high=8)
    attention: tuple[int, ...] = setting((1,), "levels with self-attention")
    patch: int = setting(2, "pixels per position of the finest level", low=1, high=8)
    schedule: str = setting("cosine", "of the noise", choices=tuple(SCHEDULES))
    objective: str = setting("v", "what the network predicts", choices=("eps", "v"))
    focus: float | None = setting(
        None, "centre of logit-normal t (unit spread); none: uniform", low=-10.0, high=10.0
    )
    timesteps: int = setting(1000, "T, steps from image to noise", low=2, high=100_000)
    sample_steps: int = setting(50, "DDIM steps of pictures and report", low=1)
    report_count: int = setting(256, "samples that the report measures", low=8)

    def __post_init__(self):
        super().__post_init__()
        if not self.channels or any(c < 8 or c % 8 for c in self.channels):
            raise InputError(f"channels={self.channels}: each must be a multiple of 8, at least 8")
        if any(not 0 <= level < len(self.channels) for level in self.attention):
            raise InputError(
                f"attention={self.attention}: levels are 0 to {len(self.channels) - 1}"
            )
        if self.sample_steps > self.timesteps:
            raise InputError(
                f"sample_steps={self.sample_steps} is more than timesteps={self.timesteps}"
            )

    def unet(self, image_channels: int) -> UNetConfig:
        """The network that these settings describe."""
        return UNetConfig(
            image_channels=image_channels,
            channels=self.channels,
            blocks=self.blocks,
            attention=self.attention,
            patch=self.patch,
        )

    def noise_schedule(self) -> Schedule:
        return SCHEDULES[self.schedule](self.timesteps)

    def draw_steps(self, key: jax.Array, batch: int, steps: int) -> jax.Array:
        """The t of each image of a training batch."""
        if self.focus is None:
            return uniform_steps(key, batch, steps)
        return logit_normal_steps(key, batch, steps, self.focus)

    def denoiser(self, unet: UNet) -> object:
        """The network as (xt, t) -> eps, whatever it predicts itself."""
        return FromV(unet, self.noise_schedule()) if self.objective == "v" else unet


PRESETS = {
    "smoke": Config(
        steps=40,
        batch_size=32,
        log_every=10,
        checkpoint_every=10,
        channels=(16, 32),
        attention=(),
        sample_steps=10,
        report_count=32,
        ema_decay=0.9,
    ),
    "cpu": Config(
        steps=1400,
        batch_size=64,
        optimizer="muon",
        learning_rate=0.02,
        focus=-0.5,
        channels=(32, 96),
        ema_decay=0.98,
        log_every=25,
        picture_every=500,
        checkpoint_every=350,
    ),
    "gpu": Config(
        steps=20_000,
        batch_size=256,
        learning_rate=5e-4,
        channels=(64, 128, 128),
        blocks=2,
        attention=(1, 2),
        patch=1,
        dtype="bfloat16",
        picture_every=2000,
        checkpoint_every=2000,
        log_every=100,
        report_count=2048,
    ),
    "full": Config(
        steps=100_000,
        batch_size=256,
        learning_rate=2e-4,
        channels=(128, 256, 256),
        blocks=2,
        attention=(1, 2),
        patch=1,
        dtype="bfloat16",
        ema_decay=0.9999,
        picture_every=5000,
        checkpoint_every=5000,
        log_every=100,
        report_count=4096,
    ),
}
MINUTES = {"cpu": 3.0}


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """A trained model, ready to sample: what ``load`` returns."""

    config: Config
    unet: UNet
    image_shape: tuple[int, int, int]

    @property
    def schedule(self) -> Schedule:
        return self.config.noise_schedule()

    @property
    def denoiser(self) -> ClipX0:
        return ClipX0(self.config.denoiser(self.unet), self.schedule)


def load(path: str | Path) -> Diffusion:
    """The averaged weights of a run. InputError if the folder is not a run of this recipe."""
    run = Run(Path(path))
    there = run.read_config("ddpm")
    try:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in there["config"].items()}
        config, shape = Config(**fields), tuple(there["image_shape"])
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{run.path / 'config.json'} is not of this version: {error}") from None
    template = jax.eval_shape(lambda k: UNet.init(k, config.unet(shape[-1])), jax.random.key(0))
    return Diffusion(config, run.load_ema(template), shape)


def draw(
    key: jax.Array,
    model: Diffusion,
    count: int,
    *,
    sampler=ddim_sample,
    at_once=AT_ONCE,
    **settings,
) -> np.ndarray:
    """``count`` samples (count, height, width, channels); sample i depends on (key, i) alone."""
    at_once = min(at_once, count)
    parts = [
        np.asarray(
            sampler(
                key,
                model.denoiser,
                model.schedule,
                (at_once, *model.image_shape),
                first=start,
                **settings,
            )
        )
        for start in range(0, count, at_once)
    ]
    return np.concatenate(parts)[:count]


def run(out: str, config: Config, *, progress: bool = True) -> Run:
    """Train (or go on training) in the folder ``out``; then sample, draw and measure."""
    source = open_source(
        config.data, seed=config.seed, size=config.size, batch_size=config.batch_size
    )
    shape = source.image_shape
    unet_config = config.unet(shape[-1])
    try:
        unet_config.check_image(shape[0])
    except ValueError as error:
        raise InputError(f"{error}: set size, patch or channels") from None
    folder = open_run(out, "ddpm", config, image_shape=list(shape))
    schedule = config.noise_schedule()

    weight = 1 / schedule.alpha_bar if config.objective == "v" else None

    def loss(key, unet, batch):
        denoiser = config.denoiser(unet)
        return noise_loss(key, denoiser, schedule, batch["image"], weight, config.draw_steps)

    def on_picture(state: TrainState, step: int) -> None:
        grids = []
        for name, unet in (("weights", state.model), ("averaged weights", state.ema)):
            key = jax.random.fold_in(jax.random.key(config.seed), GRID_STREAM)
            model = Diffusion(config, unet, shape)
            grids.append((name, draw(key, model, GRID, steps=config.sample_steps)))
        figure = plot.side_by_side(grids, f"samples after {step} steps")
        plot.save(figure, folder.figures / f"samples_{step:06d}.png")

    state = train(
        folder,
        config,
        lambda key: UNet.init(key, unet_config),
        loss,
        source,
        on_picture=on_picture,
        progress=progress,
    )
    on_picture(state, config.steps)
    write_report(folder, Diffusion(config, state.ema, shape), source)
    return folder


def write_report(folder: Run, model: Diffusion, source: Source) -> None:
    """Samples, loss curve and, for scenes, the judge's numbers beside those of real scenes."""
    config = model.config
    key = jax.random.fold_in(jax.random.key(config.seed), SAMPLE_STREAM)
    made = draw(key, model, config.report_count, steps=config.sample_steps)
    plot.enlarge(plot.tile(made[:64])).save(folder.figures / "samples.png")
    lines = folder.metrics()
    plot.save(plot.loss_curve(lines, "loss on the total noise"), folder.figures / "loss.png")
    report = {
        "recipe": "ddpm",
        "data": config.data,
        "steps": config.steps,
        "parameters": count_parameters(model.unet),
        "loss": lines[-1]["loss"],
        "training_seconds": lines[-1]["seconds"],
        "samples": {"mean": float(made.mean()), "std": float(made.std())},
    }
    if source.name == "scenes":
        report["judge"] = judge.report(judge.load_judge(), made, config.seed)
    folder.write_json("report.json", report)
    folder.write_text("report.md", _report_text(report))


def _report_text(report: dict) -> str:
    lines = [
        f"# ddpm on {report['data']}",
        "",
        f"{report['parameters']:,} parameters, {report['steps']} steps in "
        f"{report['training_seconds']:.0f} s, loss {report['loss']:.4f}.",
        "",
        "![samples](figures/samples.png)",
        "![loss](figures/loss.png)",
    ]
    if "judge" in report:
        lines += ["", judge.table(report["judge"])]
    return "\n".join(lines) + "\n"
