"""The whole story in five minutes: pictures and words in one space, then pictures out of noise."""

import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import exam, judge, plot
from minidiff.data.captions import to_text
from minidiff.data.factors import SUBJECTS
from minidiff.encoder import Encoder
from minidiff.errors import InputError
from minidiff.noising import Schedule, add_noise
from minidiff.recipes import clip, ddpm
from minidiff.retrieval import search, zero_shot
from minidiff.sampling import ddpm_sample
from minidiff.training.run import Run

FRAMES = 10  # of a strip
GALLERY = 500  # scenes that are searched
QUERIES = ("a red cat wearing a hat", "a star at night", "a small green robot on the beach")
# Enough for the pictures; `minidiff train clip --preset cpu` learns longer.
SHORTER = {"cpu": {"steps": 250, "picture_every": 50}}
PICTURES = (
    "scenes", "similarity", "zero_shot", "search", "arithmetic",
    "noising", "filmstrip", "samples", "noise_on_off", "loss",
)  # fmt: skip


def run(out: str | Path, preset: str = "cpu") -> None:
    """Train CLIP and a diffusion model on scenes under ``out``; leave pictures and a report there."""
    folder = Run(Path(out))
    if folder.path.is_dir() and any(folder.path.iterdir()) and not (folder.path / "clip").exists():
        raise InputError(f"{out} holds something else: choose a new folder for --out")
    began = time.monotonic()
    seconds = {}

    def say(text: str, name: str | None = None) -> None:
        """Announce a part, and note when the one before it was done."""
        if name:
            seconds[name] = round(time.monotonic() - began - sum(seconds.values()), 1)
        print(text, flush=True)

    say("1/4  CLIP: one space for pictures and words")
    clip_config = dataclasses.replace(clip.PRESETS[preset], **SHORTER.get(preset, {}))
    clip_run = clip.run(str(Path(out) / "clip"), clip_config)
    say("2/4  diffusion: a network that knows noise from picture", "clip")
    ddpm_run = ddpm.run(str(Path(out) / "ddpm"), ddpm.PRESETS[preset])
    say("3/4  sampling, with and without injected noise", "ddpm")
    folder.figures.mkdir(exist_ok=True)
    model = ddpm.load(ddpm_run.path)
    key = jax.random.key(model.config.seed)
    figures = {"filmstrip": filmstrip(key, model), "noise_on_off": noise_on_off(key, model)}
    say("4/4  drawing", "sampling")
    encoder = clip.load(clip_run.path)
    figures |= pictures_of_clip(encoder, clip_config.seed)
    figures |= pictures_of_data(key, model, encoder)
    for name, figure in figures.items():
        plot.save(figure, folder.figures / f"{name}.png")
    copies = ((clip_run, "similarity"), (ddpm_run, "samples"), (ddpm_run, "loss"))
    for source, name in copies:
        picture = (source.figures / f"{name}.png").read_bytes()
        (folder.figures / f"{name}.png").write_bytes(picture)
    say("", "drawing")

    reports = {"clip": clip_run.read_json("report.json"), "ddpm": ddpm_run.read_json("report.json")}
    seconds["all"] = round(time.monotonic() - began, 1)
    folder.write_json(
        "report.json", {**reports, "judge": reports["ddpm"]["judge"], "seconds": seconds}
    )
    judged = judge.table(reports["ddpm"]["judge"])
    text = "\n\n".join([*clip.tables(reports["clip"]), judged])
    links = "\n".join(f"![{name}](figures/{name}.png)" for name in PICTURES)
    folder.write_text("report.md", f"# quickstart\n\n{text}\n\n{links}\n")
    print(f"{text}\n\nDone in {seconds['all']:.0f} s. Look at:")
    for name in PICTURES:
        print(f"  {folder.figures / f'{name}.png'}")
    print(f"  {folder.path / 'report.md'}")


def pictures_of_clip(encoder: Encoder, seed: int) -> dict:
    """What a trained CLIP can do: classify, search, subtract."""
    drawn = exam.draw(encoder, seed, "test", GALLERY)
    images = drawn["image"]
    embeddings = encoder.images(images)
    labels = exam.subject_labels(encoder)
    chances = np.asarray(zero_shot(embeddings[:4], labels, encoder.clip.log_scale))
    found, cosines = map(np.asarray, search(encoder.texts(QUERIES), embeddings, 6))
    rows = [
        (query, images[places], [f"{value:.2f}" for value in values])
        for query, places, values in zip(QUERIES, found, cosines, strict=True)
    ]
    bare, hatted = exam.draw_dressed(encoder, seed, 4)
    words, cosines = exam.name_difference(encoder, bare, hatted)
    return {
        "zero_shot": plot.probabilities(images[:4], SUBJECTS, chances),
        "search": plot.galleries(rows, f"searching {GALLERY} scenes by text (cosine)"),
        "arithmetic": plot.arithmetic(bare, hatted, words, cosines, "man with hat - man"),
    }


def pictures_of_data(key: jax.Array, model: ddpm.Diffusion, encoder: Encoder) -> dict:
    """Scenes with their captions, and one of them on its way to noise."""
    drawn = exam.draw(encoder, model.config.seed, "train", 16)
    sheet = plot.contact_sheet(drawn["image"], to_text(drawn["words"]), "scenes and their captions")
    return {"scenes": sheet, "noising": noising_strip(key, model.schedule, drawn["image"][0])}


def noising_strip(key: jax.Array, schedule: Schedule, image: np.ndarray):
    """One image at nine points on its way to noise."""
    ts = np.linspace(0, schedule.steps - 1, FRAMES - 1).astype(np.int32)
    eps = jax.random.normal(key, (len(ts), *image.shape))
    noised = add_noise(schedule, jnp.broadcast_to(image, eps.shape), jnp.asarray(ts), eps)
    strip = np.concatenate([image[None], np.asarray(noised)])
    return plot.strips([("", strip)], ["image", *(f"t = {t}" for t in ts)], "forward: add noise")


def filmstrip(key: jax.Array, model: ddpm.Diffusion, count: int = 3):
    """Samples on their way from noise: what the network is given, and the image it foresees."""
    steps = model.config.timesteps
    x0, seen = ddpm_sample(
        key, model.denoiser, model.schedule, (count, *model.image_shape), every=-(-steps // FRAMES)
    )
    rows = []
    for i in range(count):
        rows.append(("x at t", np.append(seen.xt[:, i], x0[None, i], axis=0)))
        rows.append(("foreseen x0", np.append(seen.x0[:, i], x0[None, i], axis=0)))
    columns = [*(f"t = {t}" for t in np.asarray(seen.t)), "image"]
    return plot.strips(rows, columns, "reverse: remove noise")


def noise_on_off(key: jax.Array, model: ddpm.Diffusion, count: int = 16):
    """DDPM as it is, and without its fresh noise, from the same start."""
    settings = {"sampler": ddpm_sample, "at_once": count}
    panels = [
        ("fresh noise at every step", ddpm.draw(key, model, count, **settings)),
        ("none", ddpm.draw(key, model, count, inject_noise=False, **settings)),
    ]
    return plot.side_by_side(panels, "DDPM with and without injected noise, same seed")
