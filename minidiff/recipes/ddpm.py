"""An unconditional diffusion model of small images (Ho et al. 2020), the whole of it.

    minidiff train ddpm --preset cpu --data scenes --out runs/ddpm
    minidiff sample runs/ddpm --count 64 --out samples.png

Two cores, preset cpu: 3.0 minutes. Expect a Frechet distance near 170 (other real scenes: 149) and
subjects that can mostly be named.
"""

from pathlib import Path

import jax

from minidiff import plot
from minidiff.data.sources import Source
from minidiff.errors import naming
from minidiff.keys import key_of_seed
from minidiff.layers import count_parameters
from minidiff.measure import judge
from minidiff.noising import noise_loss
from minidiff.objectives import as_denoiser
from minidiff.trained.diffusion import Diffusion, draw
from minidiff.training import identity
from minidiff.training.devices import ONE, Devices
from minidiff.training.diffusion import Config
from minidiff.training.lock import one_writer
from minidiff.training.loop import train
from minidiff.training.needs import check_training, training_source
from minidiff.training.opening import open_run
from minidiff.training.run import Run
from minidiff.training.state import Loss, TrainState
from minidiff.unet import UNet

GRID = 16  # images in a picture made while training
# Sampling keys; training folds its own out of the same seed in another way.
SAMPLE_STREAM, GRID_STREAM = 1, 2

PRESETS = {
    "smoke": Config(
        steps=40, batch_size=32, log_every=10, checkpoint_every=10, channels=(16, 32),
        attention=(), sample_steps=10, report_count=32, ema_decay=0.9,
    ),
    "cpu": Config(
        steps=1400, batch_size=64, optimizer="muon", learning_rate=0.02, focus=-0.5,
        channels=(32, 96), ema_decay=0.98, picture_every=500, checkpoint_every=350,
    ),
    "gpu": Config(
        steps=20_000, batch_size=256, learning_rate=5e-4, channels=(64, 128, 128), blocks=2,
        attention=(1, 2), patch=1, dtype="bfloat16", picture_every=2000, checkpoint_every=2000,
        log_every=100, report_count=2048,
    ),
    "full": Config(
        steps=100_000, batch_size=256, learning_rate=2e-4, channels=(128, 256, 256), blocks=2,
        attention=(1, 2), patch=1, dtype="bfloat16", ema_decay=0.9999, picture_every=5000,
        checkpoint_every=5000, log_every=100, report_count=4096,
    ),
}  # fmt: skip
MINUTES = {"cpu": 3.0}


def load(path: str | Path) -> Diffusion:
    """The averaged weights of a run. InputError if the folder is not a run of this recipe."""
    run = Run.named(path)
    config, shape = run.read_settings("ddpm", Config, "image_shape")
    with naming(run.path / "config.json"):
        unet = config.unet(shape)
    template = jax.eval_shape(lambda key: UNet.init(key, unet), key_of_seed(0))
    return Diffusion.of(config, run.load_ema(template), shape)


def make_loss(config: Config) -> Loss:
    """The loss of these settings, as ``make_train_step`` takes it."""
    schedule, weight = config.noise_schedule(), config.step_weight()

    def loss(key, unet, batch):
        denoiser = as_denoiser(config.objective, unet, schedule)
        return noise_loss(key, denoiser, schedule, batch["image"], weight, config.draw_steps)

    return loss


@one_writer
def run(out: str, config: Config, *, devices: Devices = ONE, progress: bool = True) -> Run:
    """Train (or go on training) in the folder ``out``; then sample, draw and measure."""
    source = training_source(config)
    shape = source.image_shape
    if source.factors:
        judge.check_images(shape)  # before anything is trained, not after
    unet_config = config.unet(shape)
    check_training(lambda key: UNet.init(key, unet_config), config, shape, devices)
    depends = identity.of_source(source)
    folder = open_run(out, "ddpm", config, devices, depends=depends, image_shape=list(shape))
    loss = make_loss(config)

    def on_picture(state: TrainState, step: int) -> None:
        grids = []
        for name, unet in (("weights", state.model), ("averaged weights", state.ema)):
            key = jax.random.fold_in(key_of_seed(config.seed), GRID_STREAM)
            grids.append((name, draw(key, Diffusion.of(config, unet, shape), GRID)))
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
    if not folder.writes:
        return folder
    on_picture(state, config.steps)
    write_report(folder, config, Diffusion.of(config, state.ema, shape), source)
    return folder


def write_report(folder: Run, config: Config, model: Diffusion, source: Source) -> None:
    """Samples, loss curve and, for scenes, the judge's numbers beside those of real scenes."""
    key = jax.random.fold_in(key_of_seed(config.seed), SAMPLE_STREAM)
    made = draw(key, model, config.report_count)
    plot.enlarge(plot.tile(made[:64])).save(folder.figures / "samples.png")
    lines = folder.measured()
    plot.save(plot.loss_curve(lines, "loss on the total noise"), folder.figures / "loss.png")
    report = {
        "recipe": "ddpm",
        "data": config.data,
        "steps": config.steps,
        "parameters": count_parameters(model.network),
        "loss": lines[-1]["loss"],
        "training_seconds": lines[-1]["seconds"],
        "samples": {"mean": float(made.mean()), "std": float(made.std())},
    }
    if source.factors:
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
