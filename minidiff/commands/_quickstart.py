"""What quickstart does: pictures and words in one space, then pictures out of noise."""

import dataclasses
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import plot
from minidiff.data.captions import to_text
from minidiff.data.factors import SUBJECTS
from minidiff.errors import InputError
from minidiff.files import check_output_folder
from minidiff.keys import key_of_seed
from minidiff.measure import exam, showcase
from minidiff.noising import add_noise
from minidiff.recipes import clip, text_to_image
from minidiff.retrieval import search, zero_shot
from minidiff.schedules import Schedule
from minidiff.trained.encoder import Encoder
from minidiff.training import lock
from minidiff.training.lock import one_writer
from minidiff.training.run import Run

FRAMES = 10  # of a strip
GALLERY = 500  # scenes that are searched
QUERIES = ("a red cat wearing a hat", "a star at night", "a small green robot on the beach")
# Enough for the pictures; `minidiff train RECIPE --preset cpu` learns longer and measures more.
SHORTER_CLIP = {"cpu": {"steps": 250, "picture_every": 50}}
SHORTER = {
    "smoke": {"compare_steps": ()},
    "cpu": {
        "steps": 600, "attention": (), "checkpoint_every": 300, "picture_every": 0,
        "sample_steps": 10,
        "scales": (0.0, 1.0, 3.0, 6.0), "scales_count": 64, "compare_steps": (),
    },
}  # fmt: skip


@one_writer
def run(out: str | Path, preset: str = "cpu") -> None:
    """Train CLIP and a diffusion model that it tells what to draw; leave pictures and a report."""
    folder = Run(Path(out))
    check_output_folder("--out", folder.path)
    there = {path.name for path in folder.path.iterdir()} if folder.path.is_dir() else set()
    if there - {lock.NAME} and "clip" not in there:
        raise InputError(f"{out} holds something else: choose a new folder for --out")
    folder.path.mkdir(parents=True, exist_ok=True)
    lock.acquire(folder.path)
    folder.figures.mkdir(exist_ok=True)
    began = time.monotonic()
    seconds = {}

    def say(text: str, name: str | None = None) -> None:
        """Announce a part, and note when the one before it was done."""
        if name:
            seconds[name] = round(time.monotonic() - began - sum(seconds.values()), 1)
        print(text, flush=True)

    say("1/3  CLIP: one space for pictures and words")
    clip_config = dataclasses.replace(clip.PRESETS[preset], **SHORTER_CLIP.get(preset, {}))
    clip_run = clip.run(str(folder.path / "clip"), clip_config)
    say("2/3  diffusion: a network that knows noise from picture, and is told what to draw", "clip")
    config = dataclasses.replace(
        text_to_image.PRESETS[preset], encoder=str(clip_run.path), **SHORTER.get(preset, {})
    )
    drawn = text_to_image.run(str(folder.path / "text_to_image"), config)
    say("3/3  drawing", "text_to_image")
    encoder = clip.load(clip_run.path)
    scenes = exam.draw(encoder, config.seed, "train", 16)
    sheet = plot.contact_sheet(
        scenes["image"], to_text(scenes["words"]), "scenes and their captions"
    )
    strip = noising_strip(key_of_seed(config.seed), config.noise_schedule(), scenes["image"][0])
    figures = {"scenes": sheet, **pictures_of_clip(encoder, config.seed), "noising": strip}
    for name, figure in figures.items():
        plot.save(figure, folder.figures / f"{name}.png")
    reports = {run.path.name: run.read_json("report.json") for run in (clip_run, drawn)}
    copies = {"similarity": clip_run, **dict.fromkeys(reports["text_to_image"]["figures"], drawn)}
    for name, source in copies.items():
        shutil.copyfile(source.figures / f"{name}.png", folder.figures / f"{name}.png")
    names = [*figures, *copies]
    say("", "drawing")

    seconds["all"] = round(time.monotonic() - began, 1)
    folder.write_json("report.json", {**reports, "seconds": seconds})
    found = clip.tables(reports["clip"]) + text_to_image.tables(reports["text_to_image"])
    text = "\n\n".join(found)
    links = "\n".join(f"![{name}](figures/{name}.png)" for name in names)
    folder.write_text("report.md", f"# quickstart\n\n{text}\n\n{links}\n")
    print(f"{text}\n\nDone in {seconds['all']:.0f} s. Look at:")
    for name in names:
        print(f"  {folder.figures / f'{name}.png'}")
    print(f"  {folder.path / 'report.md'}")
    print(f'Then try: minidiff sample {drawn.path} "{showcase.PROMPTS[0]}"')


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


def noising_strip(key: jax.Array, schedule: Schedule, image: np.ndarray):
    """One image at nine points on its way to noise."""
    ts = np.linspace(0, schedule.steps - 1, FRAMES - 1).astype(np.int32)
    eps = jax.random.normal(key, (len(ts), *image.shape), jnp.float32)
    noised = add_noise(schedule, jnp.broadcast_to(image, eps.shape), jnp.asarray(ts), eps)
    strip = np.concatenate([image[None], np.asarray(noised)])
    return plot.strips([("", strip)], ["image", *(f"t = {t}" for t in ts)], "forward: add noise")
