"""A variational autoencoder of small images (Kingma and Welling 2013, Rombach et al. 2022).

    minidiff train vae --preset cpu --data scenes --out runs/vae

64 x 64 x 3 numbers become 8 x 8 x 4, 48 times fewer; diffusion then happens there. Adversary and
perceptual loss are left out: mean |error| + mean error^2, and the KL at a small weight.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path

import jax
import numpy as np

from minidiff import plot
from minidiff.data.kinds import SPECS
from minidiff.data.sources import Source, drawn, open_source
from minidiff.errors import InputError, naming
from minidiff.keys import key_of_seed
from minidiff.layers import count_parameters
from minidiff.measure import judge, metrics, reconstruction
from minidiff.trained.autoencoder import AT_ONCE, between, decode, encode, from_prior
from minidiff.training import identity
from minidiff.training.config import TrainConfig, check_channels, setting
from minidiff.training.devices import ONE, Devices
from minidiff.training.lock import one_writer
from minidiff.training.loop import train
from minidiff.training.needs import check_training, training_source
from minidiff.training.opening import open_run
from minidiff.training.run import Run
from minidiff.training.state import TrainState
from minidiff.vae import VAE, VAEConfig, vae_loss

SHOWN = 8  # images in a row of a picture
PRIOR_STREAM = 1  # of keys; training folds its own out of the same seed in another way
LATENTS = "latents.json"  # beside the run: the scale, and which checkpoint it is of


@dataclasses.dataclass(frozen=True)
class Config(TrainConfig):
    """Settings of the two towers, of the loss and of the report."""

    data: str = setting("scenes", SPECS)
    size: int | None = setting(64, "side of the images; none: what suits the data", low=8)
    channels: tuple[int, ...] = setting((64, 96), "of the encoder's levels, finest first")
    decoder_channels: tuple[int, ...] | None = setting(
        (96, 96), "of the decoder's; none: as the encoder's"
    )
    patch: int = setting(4, "pixels per position of the finest level", low=1, high=16)
    blocks: int = setting(1, "ResBlocks per level; the decoder has one more", low=1, high=8)
    middle: bool = setting(False, "two ResBlocks and attention at the coarsest level")
    latent: int = setting(4, "channels of z", low=1, high=256)
    kl_weight: float = setting(1e-6, "of the KL of an image, in nats", low=0.0)
    absolute: float = setting(1.0, "weight of the mean absolute error", low=0.0)
    squared: float = setting(1.0, "weight of the mean squared error", low=0.0)
    scale_count: int = setting(
        1024, "training images that the latents' scale is measured on", low=16, high=100_000
    )
    report_count: int = setting(512, "test images that the report measures", low=8, high=100_000)

    def __post_init__(self):
        super().__post_init__()
        check_channels("channels", self.channels)
        if self.decoder_channels is not None:
            check_channels("decoder_channels", self.decoder_channels)
            if len(self.decoder_channels) != len(self.channels):
                raise InputError(
                    f"decoder_channels={self.decoder_channels}: channels={self.channels} are "
                    f"{len(self.channels)} levels, and both towers have as many"
                )
        if not self.absolute + self.squared > 0:
            raise InputError("absolute=0 and squared=0: no error would be left to make smaller")

    def network(self, image_shape: tuple[int, int, int]) -> VAEConfig:
        """The autoencoder that these settings describe. InputError if the images do not fit it."""
        config = VAEConfig(
            image_channels=image_shape[2],
            latent_channels=self.latent,
            channels=self.channels,
            decoder_channels=self.decoder_channels,
            blocks=self.blocks,
            middle=self.middle,
            groups=8,
            eps=1e-5,
            patch=self.patch,
            quant=False,
            log_variance=-5.0,  # nearly no noise: first learn to copy
        )
        try:
            config.latent_shape(image_shape)
        except ValueError as error:
            raise InputError(f"{error}: set size, patch or channels") from None
        return config


PRESETS = {
    "smoke": Config(
        steps=40, batch_size=16, log_every=10, checkpoint_every=20, size=32, channels=(16, 24),
        decoder_channels=(24, 24), optimizer="muon", learning_rate=0.02, warmup=5, ema_decay=0.9,
        scale_count=64, report_count=32,
    ),
    "cpu": Config(
        steps=2400, batch_size=16, optimizer="muon", learning_rate=0.02, warmup=50,
        ema_decay=0.98, picture_every=600, checkpoint_every=300,
    ),
    "gpu": Config(
        steps=30_000, batch_size=128, optimizer="muon", learning_rate=0.01, dtype="bfloat16",
        channels=(64, 128, 192), decoder_channels=(96, 192, 192), patch=2, blocks=2,
        picture_every=3000, checkpoint_every=3000, log_every=100, report_count=2048,
    ),
    "full": Config(
        steps=200_000, batch_size=64, learning_rate=1e-4, warmup=2000, dtype="bfloat16", size=256,
        channels=(128, 256, 512, 512), decoder_channels=None, patch=1, blocks=2, middle=True,
        ema_decay=0.9999, picture_every=10_000, checkpoint_every=10_000, log_every=100,
        report_count=2048,
    ),
}  # fmt: skip
MINUTES = {}


def load(path: str | Path) -> VAE:
    """The averaged weights of a run, with the scale of its latents.

    The scale is measured when training ends. Of another checkpoint nobody has measured it, so that is
    done here, which takes seconds and the data of the run. InputError if the folder is no run of this
    recipe.
    """
    run = Run.named(path)
    config, shape = run.read_settings("vae", Config, "image_shape")
    with naming(run.path / "config.json"):
        network = config.network(shape)
    template = jax.eval_shape(lambda key: VAE.init(key, network), key_of_seed(0))
    vae = run.load_ema(template)
    scale = _recorded_scale(run)
    if scale is None:
        with naming(f"{run.path} has no {LATENTS} of step {run.chosen_step()}"):
            scale = measure_latents(vae, config, training_source(config))["scale"]
    return vae.replace(config=dataclasses.replace(network, scale=scale))


def copy(path: str | Path, target: Path, dtype: str | None = None) -> None:
    """What ``load`` needs of a run, in a folder of its own; ``dtype``: of the numbers there."""
    run, scale = Run.named(path), load(path).config.scale
    run.copy_ema(Run(target), dtype)
    Run(target).write_json(LATENTS, {"step": run.chosen_step(), "scale": scale})


def _recorded_scale(run: Run) -> float | None:
    """The scale that stands beside a run; None where it is of another checkpoint, or none is there."""
    if not (run.path / LATENTS).exists():
        return None
    found = run.read_json(LATENTS)
    if found.get("step") != run.chosen_step():
        return None
    scale = found.get("scale")
    if type(scale) not in (int, float) or not 0 < scale < math.inf:
        raise InputError(f"{run.path / LATENTS} is damaged: scale is no number above 0")
    return float(scale)


def measure_latents(vae: VAE, config: Config, source: Source) -> dict:
    """What the latents of ``config.scale_count`` training images are like. InputError if all alike."""
    try:
        return reconstruction.latents(encode(vae, first(source, config.scale_count)["image"])[0])
    except ValueError as error:
        raise InputError(str(error)) from None


def first(source: Source, count: int, *names: str) -> dict[str, np.ndarray]:
    """The first ``count`` examples of a source: "image", and ``names`` beside it."""
    steps = -(-count // source.batch_size)
    batches = [drawn(source, step, "image", *names) for step in range(steps)]
    return {
        name: np.concatenate([np.asarray(batch[name]) for batch in batches])[:count]
        for name in ("image", *names)
    }


@one_writer
def run(out: str, config: Config, *, devices: Devices = ONE, progress: bool = True) -> Run:
    """Train (or go on training) in the folder ``out``; then measure the latents, draw and report."""
    source = training_source(config)
    shape = source.image_shape
    init = partial(VAE.init, config=config.network(shape))
    if shape[0] < metrics.WINDOW:  # before anything is trained, not after
        raise InputError(f"size={shape[0]}: SSIM wants images of {metrics.WINDOW} pixels or more")
    if source.factors:
        judge.check_images(shape)
    check_training(init, config, shape, devices)
    test = open_source(
        config.data, seed=config.seed, split="test", size=shape[0], batch_size=AT_ONCE
    )
    shown = first(test, SHOWN)["image"]
    depends = identity.of_source(source)
    folder = open_run(out, "vae", config, devices, depends=depends, image_shape=list(shape))
    weights = {name: getattr(config, name) for name in ("kl_weight", "absolute", "squared")}

    def loss(key, vae, batch):
        return vae_loss(key, vae, batch["image"], **weights)

    def on_picture(state: TrainState, step: int) -> None:
        made = decode(state.ema, encode(state.ema, shown)[0])
        draw_rows(folder, f"step_{step:06d}", shown, made)

    state = train(folder, config, init, loss, source, on_picture=on_picture, progress=progress)
    if not folder.writes:
        return folder
    found = measure_latents(state.ema, config, source)
    folder.write_json(LATENTS, {"step": config.steps, **found})
    write_report(folder, config, state.ema, test, found)
    return folder


def draw_rows(folder: Run, name: str, *rows: np.ndarray) -> None:
    """A picture, pixel for pixel, of rows of as many images; each row may take several lines."""
    lines = [row[i : i + SHOWN] for i in range(0, len(rows[0]), SHOWN) for row in rows]
    sheet = plot.tile(np.concatenate(lines), SHOWN)
    plot.enlarge(sheet, 1040).save(folder.figures / f"{name}.png")


def write_report(folder: Run, config: Config, vae: VAE, test: Source, latents: dict) -> None:
    """Copies beside originals, samples of the prior, a walk; and what can be measured of them."""
    count = config.report_count
    names = ["factors"] if test.factors else []
    found = first(test, 2 * count if names else count, *names)  # half of them for the floor
    real, shape = found["image"][:count], test.image_shape
    mean, log_variance = encode(vae, real)
    made = np.clip(decode(vae, mean), -1, 1)  # as pictures are shown
    draw_rows(folder, "reconstructions", real[: 4 * SHOWN], made[: 4 * SHOWN])
    key = jax.random.fold_in(key_of_seed(config.seed), PRIOR_STREAM)
    draw_rows(folder, "prior", from_prior(key, vae, 4 * SHOWN, shape))
    walks = decode(vae, between(mean[0], mean[1], SHOWN)), between(real[0], real[1], SHOWN)
    draw_rows(folder, "walk", *walks)
    lines = folder.measured()
    plot.save(plot.loss_curve(lines, "loss of the autoencoder"), folder.figures / "loss.png")
    inside = vae.config.latent_shape(shape)
    report = {
        "recipe": "vae",
        "data": config.data,
        "steps": config.steps,
        "parameters": count_parameters(vae),
        "decoder_parameters": count_parameters(vae.decoder),
        "loss": lines[-1]["loss"],
        "training_seconds": lines[-1]["seconds"],
        "image_shape": list(shape),
        "latent_shape": list(inside),
        "fewer": math.prod(shape) / math.prod(inside),
        **reconstruction.compare(made, real),
        "kl": reconstruction.divergence(mean, log_variance),
        "latents": latents,
    }
    if names:
        others, factors = found["image"][count:], found["factors"][:count]
        seen = reconstruction.judged(judge.load_judge(), made, real, factors, others)
        report["judge"] = seen
    folder.write_json("report.json", report)
    folder.write_text("report.md", report_text(report))


def report_text(report: dict) -> str:
    """The numbers of a report as Markdown."""
    outside, inside = (" x ".join(map(str, report[f"{x}_shape"])) for x in ("image", "latent"))
    head = (
        f"{report['parameters']:,} parameters, {report['decoder_parameters']:,} of them in the "
        f"decoder, {report['steps']} steps in {report['training_seconds']:.0f} s. {outside} numbers "
        f"become {inside}, {report['fewer']:g} times fewer. Measured on {report['count']} test images."
    )
    pictures = {
        "reconstructions": "Originals, and below each line their reconstructions.",
        "prior": "Decoded from N(0, I) alone: what this VAE draws by itself.",
        "walk": "From one image to another: through the latents, and below through the pixels.",
        "loss": "",
    }
    shown = [f"{said}\n\n![{name}](figures/{name}.png)" for name, said in pictures.items()]
    parts = [f"# vae on {report['data']}", head, reconstruction.table(report), *shown]
    return "\n\n".join(part.strip() for part in parts) + "\n"
