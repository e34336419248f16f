"""Pictures from words (Rombach et al. 2022, in pixels): a U-Net that looks at what CLIP reads.

    minidiff train text_to_image --preset cpu --data scenes --out runs/text_to_image
    minidiff sample runs/text_to_image "a blue cat wearing a hat"
    minidiff compare runs/text_to_image

The text tower comes from a run of the clip recipe (``encoder=runs/clip``); without one, a CLIP is trained
first in OUT/clip. It stays as it is. Two cores, preset cpu: 13 minutes, that CLIP and the comparisons
included. Expect every prompted subject, colour and accessory of 256 test prompts, and 97% or more of each for
pairs of subject and colour that training never showed together.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import struct

from minidiff import plot
from minidiff.data.sources import Source, Wrapper
from minidiff.errors import InputError, naming
from minidiff.guidance import Conditioned, drop_condition
from minidiff.keys import key_of_seed
from minidiff.layers import count_parameters
from minidiff.measure import compare, judge, showcase
from minidiff.measure.compare import captions
from minidiff.noising import noise_loss
from minidiff.objectives import as_denoiser
from minidiff.recipes import clip
from minidiff.text import TextTransformer
from minidiff.trained.diffusion import Diffusion, draw, read_ids
from minidiff.trained.encoder import Encoder
from minidiff.training import diffusion, identity
from minidiff.training.config import setting
from minidiff.training.devices import ONE, Devices
from minidiff.training.lock import one_writer
from minidiff.training.loop import train
from minidiff.training.needs import check_training, training_source
from minidiff.training.opening import open_run
from minidiff.training.run import Run
from minidiff.training.state import TrainState
from minidiff.unet import Condition, UNet, UNetConfig

SAMPLE_STREAM, SHOWCASE_STREAM = 1, 2
SHOWN = 16  # prompts in a picture
MOST_SCALE = 100.0  # of guidance


@dataclasses.dataclass(frozen=True)
class Config(diffusion.Config):
    """Settings of the diffusion model and of its condition."""

    encoder: str | None = setting(None, "a run of train clip; none: train one in OUT/clip")
    encoder_preset: str = setting("cpu", "of that training", choices=tuple(clip.PRESETS))
    dropout: float = setting(0.1, "share of captions that are hidden", low=0.0, high=1.0)
    scale: float = setting(3.0, "of guidance", low=0.0, high=MOST_SCALE)
    scales: tuple[float, ...] = setting((0.0, 1.0, 2.0, 3.0, 5.0, 8.0), "that are compared")
    scales_count: int = setting(128, "samples at each of them", low=8, high=100_000)
    showcase: bool = setting(True, "draw what else can be done with the model, of scenes")
    compare_steps: tuple[int, ...] = setting((10, 20, 50), "at which samplers are compared")

    def __post_init__(self):
        super().__post_init__()
        if not self.scales or any(not 0 <= scale <= MOST_SCALE for scale in self.scales):
            raise InputError(
                f"scales={self.scales}: give one or more, each from 0 to {MOST_SCALE:g}"
            )
        if any(not 1 <= steps <= self.timesteps for steps in self.compare_steps):
            raise InputError(
                f"compare_steps={self.compare_steps}: each must be from 1 to "
                f"timesteps={self.timesteps}"
            )


PRESETS = {
    "smoke": Config(
        steps=40, batch_size=32, log_every=10, checkpoint_every=20, channels=(16, 32),
        ema_decay=0.9, sample_steps=5, report_count=32, scales=(0.0, 3.0), scales_count=16,
        compare_steps=(5,), showcase=False, encoder_preset="smoke",
    ),
    "cpu": Config(
        steps=1500, batch_size=64, optimizer="muon", learning_rate=0.02, focus=-0.5,
        channels=(32, 96), heads=4, ema_decay=0.98, picture_every=500, checkpoint_every=500,
        sample_steps=25,
    ),
    "gpu": Config(
        steps=20_000, batch_size=256, learning_rate=5e-4, channels=(64, 128, 128), blocks=2,
        attention=(1, 2), heads=4, patch=1, dtype="bfloat16", picture_every=2000,
        checkpoint_every=2000, log_every=100, report_count=2048, encoder_preset="gpu",
    ),
    "full": Config(
        steps=100_000, batch_size=256, learning_rate=2e-4, channels=(128, 256, 256), blocks=2,
        attention=(1, 2), heads=4, patch=1, dtype="bfloat16", ema_decay=0.9999, picture_every=5000,
        checkpoint_every=5000, log_every=100, report_count=4096, encoder_preset="full",
    ),
}  # fmt: skip
MINUTES = {"cpu": 13.0}


@struct.dataclass
class WithConditions(Wrapper):
    """A source whose batches hold "condition", what CLIP makes of the captions, and "null", of none."""

    source: Source  # with token ids
    text: TextTransformer
    null: Condition  # a batch of one

    def transform(self, batch):
        """The batch with what the network is conditioned on. Traceable."""
        return {**batch, "condition": read_ids(self.text, batch["ids"]), "null": self.null}


def unet_config(config: Config, image_shape: tuple, encoder: Encoder) -> UNetConfig:
    """The network that these settings describe, conditioned on this CLIP's text tower."""
    width = encoder.clip.config.text.width
    return config.unet(image_shape, context=width, pooled=width)


def load(path: str | Path) -> Diffusion:
    """The averaged weights of a run and its CLIP. InputError if it is no run of this recipe."""
    run = Run.named(path)
    config, shape = run.read_settings("text_to_image", Config, "image_shape")
    encoder = clip.load(run.path / "clip")
    with naming(run.path / "config.json"):
        unet = unet_config(config, shape, encoder)
    template = jax.eval_shape(lambda key: UNet.init(key, unet), key_of_seed(0))
    return Diffusion.of(config, run.load_ema(template), shape, encoder=encoder, scale=config.scale)


@one_writer
def run(out: str, config: Config, *, devices: Devices = ONE, progress: bool = True) -> Run:
    """Train (or go on training) in the folder ``out``; then sample, draw and measure."""
    source = training_source(config, captioned=True)
    shape = source.image_shape
    if source.factors:
        judge.check_images(shape)  # before anything is trained, not after
    without_text = config.unet(shape)  # what is wrong is told before anything is written
    check_training(lambda key: UNet.init(key, without_text), config, shape, devices)
    depends = identity.of_source(source)
    named = Run.named(config.encoder) if config.encoder else None
    # Once copied it is not needed any more; where it is still there, it must be what was copied.
    if named and (named.path.exists() or not (Path(out) / "clip" / "config.json").exists()):
        depends |= _identity(clip.load(config.encoder))
    facts = {"depends": depends, "image_shape": list(shape)}
    if named:  # one that is trained in the folder has a record of its own
        facts["kept"] = _kept
    folder = open_run(out, "text_to_image", config, devices, **facts)
    encoder = _encoder(folder, config, progress)
    captioned = source.tokenized(encoder.tokenizer, encoder.context)
    schedule, weight = config.noise_schedule(), config.step_weight()

    def model(unet: UNet) -> Diffusion:
        return Diffusion.of(config, unet, shape, encoder=encoder, scale=config.scale)

    def loss(key, unet, batch):
        drop_key, noise_key = jax.random.split(key)
        condition = drop_condition(drop_key, batch["condition"], batch["null"], config.dropout)
        denoiser = Conditioned(as_denoiser(config.objective, unet, schedule), condition)
        return noise_loss(noise_key, denoiser, schedule, batch["image"], weight, config.draw_steps)

    prompts = captions(config.data, config.seed, "test", shape[0], SHOWN)

    def on_picture(state: TrainState, step: int) -> None:
        made = draw(key_of_seed(config.seed), model(state.ema), SHOWN, prompts=prompts)
        figure = plot.contact_sheet(made, prompts, f"after {step} steps")
        plot.save(figure, folder.figures / f"prompts_{step:06d}.png")

    text = encoder.clip.text
    null = read_ids(text, jnp.asarray(encoder.tokenizer([""], captioned.tokens.context)))
    state = train(
        folder,
        config,
        lambda key: UNet.init(key, unet_config(config, shape, encoder)),
        loss,
        WithConditions(captioned, text, null),
        on_picture=on_picture,
        progress=progress,
    )
    if folder.writes:
        write_report(folder, config, model(state.ema), source)
    return folder


def _kept(run: Run) -> dict[str, str]:
    """The identity of the CLIP that was copied to this folder, if one was."""
    path = run.path / "clip"
    return _identity(clip.load(path)) if (path / "config.json").exists() else {}  # the copy's seal


def _identity(encoder: Encoder) -> dict[str, str]:
    return {
        "encoder": identity.of_weights(encoder.clip),
        "tokenizer": identity.of_tokenizer(encoder.tokenizer),
    }


def _encoder(folder: Run, config: Config, progress: bool) -> Encoder:
    """The CLIP of this folder: a copy of the one that was named, or trained now if need be."""
    path = folder.path / "clip"
    if config.encoder is None:
        preset = clip.PRESETS[config.encoder_preset]
        settings = dataclasses.replace(preset, data=config.data, size=config.size, seed=config.seed)
        clip.run(str(path), settings, devices=folder.devices, progress=progress)
    elif folder.writes and not (path / "config.json").exists():
        clip.copy(config.encoder, path)
    folder.devices.wait("encoder")
    return clip.load(path)


def write_report(folder: Run, config: Config, model: Diffusion, source: Source) -> None:
    """Prompts and their pictures; for scenes, how faithful they are, by scale and by sampler."""
    lines = folder.measured()
    plot.save(plot.loss_curve(lines, "loss on the total noise"), folder.figures / "loss.png")
    report: dict = {
        "recipe": "text_to_image",
        "data": config.data,
        "steps": config.steps,
        "parameters": count_parameters(model.network),
        "loss": lines[-1]["loss"],
        "training_seconds": lines[-1]["seconds"],
        "scale": config.scale,
    }
    figures, side = {}, source.image_shape[0]
    if source.factors:
        prompts = {
            split: captions(config.data, config.seed, split, side, config.report_count)
            for split in ("test", "unseen")
        }
        measures = {
            split: compare.Measure(model, texts, config.seed, split)
            for split, texts in prompts.items()
        }
        found = {split: measure() for split, measure in measures.items()}
        report["judge"] = {split: numbers for split, (_, numbers) in found.items()}
        report["floor"] = measures["test"].floor
        made = found["test"][0]
        fewer = compare.Measure(model, prompts["test"][: config.scales_count], config.seed)
        figures["scales"], report["scales"] = compare.by_scale(fewer, config.scales)
        figures["guidance"] = compare.curve(report["scales"])
        if config.compare_steps:
            figures["samplers"], report["samplers"] = compare.by_sampler(
                fewer, config.compare_steps
            )
        if config.showcase:
            key = jax.random.fold_in(key_of_seed(config.seed), SHOWCASE_STREAM)
            scenes = judge.real_scenes(config.seed, "test", side, 8)
            figures |= showcase.pictures(key, model, scenes)
    else:
        prompts = {"test": captions(config.data, config.seed, "test", side, SHOWN)}
        key = jax.random.fold_in(key_of_seed(config.seed), SAMPLE_STREAM)
        made = draw(key, model, SHOWN, prompts=prompts["test"])
    shown = prompts["test"][:SHOWN]
    figures["prompts"] = plot.contact_sheet(made[:SHOWN], shown, f"guidance {config.scale:g}")
    for name, figure in figures.items():
        plot.save(figure, folder.figures / f"{name}.png")
    report["figures"] = [*figures, "loss"]
    folder.write_json("report.json", report)
    folder.write_text("report.md", report_text(report))


def report_text(report: dict) -> str:
    """The numbers of a report as Markdown."""
    head = (
        f"{report['parameters']:,} parameters, {report['steps']} steps in "
        f"{report['training_seconds']:.0f} s, loss {report['loss']:.4f}."
    )
    links = "\n".join(f"![{name}](figures/{name}.png)" for name in report["figures"])
    return (
        "\n\n".join([f"# text_to_image on {report['data']}", head, *tables(report), links]) + "\n"
    )


def tables(report: dict) -> list[str]:
    """For scenes: faithfulness, and how it changes with scale and sampler, as Markdown."""
    if "judge" not in report:
        return []
    both = [{"": f"{split} prompts", **numbers} for split, numbers in report["judge"].items()]
    found = [
        f"Share of prompted attributes that the judge sees at guidance {report['scale']:g}. Frechet "
        "distance and coverage are to the scenes that the prompts were written for; other real "
        f"scenes have {report['floor']['frechet']:.0f} and {report['floor']['coverage']:.2f}.",
        compare.table(both),
        compare.table(report["scales"]),
    ]
    return [*found, compare.table(report["samplers"])] if "samplers" in report else found
