"""The whole story in a few minutes: draw scenes, destroy them, learn to undo it, make new ones."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import judge, plot
from minidiff.data.scenes import SceneSource
from minidiff.noising import Schedule, add_noise
from minidiff.recipes import ddpm
from minidiff.sampling import ddpm_sample

FRAMES = 10  # of a strip


def run(out: str | Path, preset: str = "cpu") -> None:
    """Train the ddpm recipe on scenes under ``out`` and leave pictures and a report there."""
    began = time.monotonic()
    config = ddpm.PRESETS[preset]
    print(f"1/3  training a diffusion model on scenes ({config.steps} steps)", flush=True)
    folder = ddpm.run(str(out), config)
    trained = time.monotonic()

    print("2/3  sampling, with and without injected noise", flush=True)
    model = ddpm.load(folder.path)
    key = jax.random.key(config.seed)
    figures = folder.figures
    plot.save(filmstrip(key, model), figures / "filmstrip.png")
    plot.save(noise_on_off(key, model), figures / "noise_on_off.png")
    sampled = time.monotonic()

    print("3/3  drawing", flush=True)
    source = SceneSource(seed=config.seed, size=model.image_shape[0], batch_size=16)
    batch = jax.device_get(source.batch(0))
    captions = source.captions(batch["words"])
    sheet = plot.contact_sheet(batch["image"], captions, "scenes and their captions")
    plot.save(sheet, figures / "scenes.png")
    strip = noising_strip(key, model.schedule, np.asarray(batch["image"][0]))
    plot.save(strip, figures / "noising.png")

    report = folder.read_json("report.json")
    report["seconds"] = {
        "train_and_report": round(trained - began, 1),
        "sampling": round(sampled - trained, 1),
        "all": round(time.monotonic() - began, 1),
    }
    folder.write_json("report.json", report)
    pictures = ("scenes", "noising", "filmstrip", "samples", "noise_on_off", "loss")
    text = (folder.path / "report.md").read_text(encoding="utf-8").split("\n![")[0]
    judged = judge.table(report["judge"])
    links = "\n".join(f"![{name}](figures/{name}.png)" for name in pictures)
    folder.write_text("report.md", f"{text}\n{judged}\n\n{links}\n")
    print(f"\n{judged}\n\nDone in {report['seconds']['all']:.0f} s. Look at:")
    for name in pictures:
        print(f"  {figures / f'{name}.png'}")
    print(f"  {folder.path / 'report.md'}")


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
