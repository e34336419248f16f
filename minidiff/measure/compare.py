"""How well a model draws what it is told: against the guidance scale, and against sampler and steps."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import plot, tables
from minidiff.data.factors import FACTORS
from minidiff.data.sources import drawn, open_source
from minidiff.guidance import Conditioned
from minidiff.keys import key_of_seed
from minidiff.likelihood import bits_per_dimension
from minidiff.measure import judge, metrics
from minidiff.plot.canvas import Figure
from minidiff.schedules import Spacing
from minidiff.trained.diffusion import Diffusion, draw

SHOWN = 6  # prompts in a sweep
AT_ONCE = 256  # captions drawn per call
# Under the names of the DDIM paper's Table 1 where it has them. With eta 0 DDIM is Euler's method, with
# eta 1 it is the ancestral sampler and DDPM with its small variance: one row each.
VARIANTS = {
    "ddim, eta 0": ("ddim", {"eta": 0.0}),
    "ddim, eta 1": ("ddim", {"eta": 1.0}),
    "ddpm, large variance": ("ddpm", {"variance": "large"}),
    "heun": ("heun", {}),
    "dpm++": ("dpm++", {}),
}


def captions(data: str, seed: int, split: str, size: int, count: int) -> list[str]:
    """The first captions of a split: prompts that training never saw, unless the split is train."""
    source = open_source(data, seed=seed, split=split, size=size, batch_size=AT_ONCE)
    steps = range(-(-count // AT_ONCE))
    said = (source.captions(drawn(source, step, "words", "index")) for step in steps)
    return [text for texts in said for text in texts][:count]


class Measure:
    """Prompts of scenes, and the judge's view of what should come of them.

    A model without text draws what it likes; then no faithfulness is told.
    """

    def __init__(self, model: Diffusion, prompts: Sequence[str], seed: int, split: str = "test"):
        self.model, self.prompts, self.key = model, list(prompts), key_of_seed(seed)
        self.judge = judge.load_judge()
        side, count = model.image_shape[0], len(self.prompts)
        real = judge.real_scenes(seed, split, side, 2 * count)["image"]
        # Half of them is what the prompts were written for, half tells how near real scenes come.
        self.real, self.other = np.split(judge.look(self.judge, real)["features"], 2)

    def __call__(self, **settings) -> tuple[np.ndarray, dict]:
        """(images, numbers) of one way of drawing all prompts; ``settings`` as of ``draw``."""
        told = self.prompts if self.model.takes_text else ()
        made = draw(self.key, self.model, len(self.prompts), prompts=told, **settings)
        seen = judge.look(self.judge, made)
        return made, {
            **(judge.faithfulness(seen["factors"], told) if told else {}),
            "coverage": metrics.coverage(self.real, seen["features"]),
            "frechet": metrics.frechet_distance(self.real, seen["features"]),
            "noise": metrics.noise_level(made),
        }

    @property
    def floor(self) -> dict:
        """Coverage and Frechet distance of other real scenes; those have no noise."""
        return {
            "coverage": metrics.coverage(self.real, self.other),
            "frechet": metrics.frechet_distance(self.real, self.other),
        }


def bits(model: Diffusion, seed: int, count: int = 32, probes: int = 4) -> dict[str, float]:
    """Bits per dimension of real test scenes: unconditional, and given their own captions.

    What a caption tells of its picture need not be told by the picture. Without guidance and without
    limits on the predicted images, which would make it no density.
    """
    side = model.image_shape[0]
    images = jnp.asarray(judge.real_scenes(seed, "test", side, count)["image"])
    model = dataclasses.replace(model, limits=None)
    denoisers = {"unconditional": model.denoiser([""] * count)}
    if model.takes_text:
        texts = captions("scenes", seed, "test", side, count)
        denoisers["conditional"] = Conditioned(model.plain, model.condition(texts))
    measure = jax.jit(partial(bits_per_dimension, probes=probes))
    key = key_of_seed(seed)
    return {
        name: float(measure(key, denoiser, model.schedule, images).mean())
        for name, denoiser in denoisers.items()
    }


def by_scale(measure: Measure, scales: Sequence[float]) -> tuple[Figure, list[dict]]:
    """The first images at each guidance scale, and the numbers at each."""
    rows, numbers = [], []
    for scale in scales:
        made, found = measure(scale=float(scale))
        rows.append((f"scale {scale:g}", made[:SHOWN]))
        numbers.append({"scale": float(scale), **found})
    return _sweep(rows, measure.prompts, "guidance scale, same seeds"), numbers


def by_sampler(
    measure: Measure,
    steps: Sequence[int],
    spacing: Spacing = "trailing",
    scale: float | None = None,
) -> tuple[Figure, list[dict]]:
    """The first images of each variant at the fewest steps, and the numbers of each at all steps.

    With "leading" spacing, as in the DDIM paper, DDPM's large variance in few steps leaves its last noise
    in the image; with "trailing" the last step takes it away.
    """
    rows, numbers = [], []
    for name, (sampler, settings) in VARIANTS.items():
        for count in steps:
            settings = {**settings, "steps": int(count), "spacing": spacing}
            made, found = measure(sampler=sampler, scale=scale, **settings)
            numbers.append({"sampler": name, "steps": int(count), **found})
            if count == min(steps):
                rows.append((name, made[:SHOWN]))
    return _sweep(rows, measure.prompts, f"{min(steps)} steps, same seeds"), numbers


def _sweep(rows: list[tuple], prompts: Sequence[str], title: str) -> Figure:
    """A row of images for each setting, under their prompts."""
    notes = [prompts[:SHOWN] or [""] * SHOWN] + [[""] * SHOWN] * (len(rows) - 1)
    lines = [(name, images, below) for (name, images), below in zip(rows, notes, strict=True)]
    return plot.galleries(lines, title)


def curve(rows: Sequence[dict]) -> Figure:
    """Guidance: faithfulness goes up, coverage down."""
    factors = {name: [row[name] for row in rows] for name in (*FACTORS, "all") if name in rows[0]}
    variety = {"coverage": [row["coverage"] for row in rows]}
    panels = [("share of prompted attributes seen", factors), ("coverage of real scenes", variety)]
    return plot.curves(panels, [row["scale"] for row in rows], "guidance scale")


def table(rows: Sequence[dict]) -> str:
    """Rows of numbers under the same names as Markdown: shares as per cent."""

    def cell(name: str, value: object) -> str:
        if name in ("frechet", "noise"):
            return f"{value:.0f}" if name == "frechet" else f"{value:.3f}"
        if isinstance(value, float) and name != "scale":
            return f"{100 * value:.1f}%"
        return f"{value:g}" if isinstance(value, float) else str(value)

    names = list(rows[0])
    lines = [[cell(name, row[name]) for name in names] for row in rows]
    return tables.markdown(names, lines, "<>")
