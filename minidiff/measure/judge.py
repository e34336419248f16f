"""The judge: a small classifier of a scene's factors, which measures pictures that nobody labelled.

It looks at 16 x 16 pixels; larger scenes are averaged down to that. Its weights lie beside this
package and were made by ``minidiff train judge --preset cpu`` (minidiff/recipes/judge.py).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key

from minidiff import tables, weights
from minidiff.data.captions import parse_prompt
from minidiff.data.factors import FACTORS
from minidiff.data.sources import open_source
from minidiff.errors import InputError
from minidiff.keys import key_of_seed
from minidiff.layers import Conv, GroupNorm, Linear
from minidiff.measure import metrics
from minidiff.runtime import FEW_RUNS

SIDE = 16
WIDTHS = (32, 64, 96)
FEATURES = 96
AT_ONCE = 256  # images per call
SURE = 0.9
WEIGHTS = Path(__file__).parents[1] / "assets" / "judge.safetensors"


@struct.dataclass
class Judge:
    """Three convolutions, a layer of features, and a linear classifier for all factors at once."""

    convs: tuple[Conv, ...]
    norms: tuple[GroupNorm, ...]
    features: Linear
    heads: Linear

    @classmethod
    def init(cls, key: Key[Array, ""]) -> "Judge":
        keys = jax.random.split(key, len(WIDTHS) + 2)
        convs, inputs = [], 3
        for i, width in enumerate(WIDTHS):
            stride = 1 if i == 0 else 2
            convs.append(Conv.init(keys[i], inputs, width, stride=stride, scale=2**0.5))
            inputs = width
        flat = inputs * (SIDE // 4) ** 2
        return cls(
            convs=tuple(convs),
            norms=tuple(GroupNorm.init(width) for width in WIDTHS),
            features=Linear.init(keys[-2], flat, FEATURES, scale=2**0.5),
            heads=Linear.init(keys[-1], FEATURES, sum(map(len, FACTORS.values()))),
        )

    def embed(self, images: Float[Array, "batch side side 3"]) -> Float[Array, "batch features"]:
        """What the classifier reads: the features in which Frechet distance is measured."""
        x = shrink(images).astype(self.heads.weight.dtype)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.silu(norm(conv(x)))
        return jax.nn.silu(self.features(x.reshape(x.shape[0], -1)))

    def __call__(self, images: Float[Array, "batch side side 3"]) -> dict[str, jax.Array]:
        """Logits for the values of each factor, by its name."""
        return self.classify(self.embed(images))

    def classify(self, features: Float[Array, "batch features"]) -> dict[str, jax.Array]:
        """The same from ``embed``'s features."""
        logits = self.heads(features).astype(jnp.float32)
        ends = np.cumsum([len(names) for names in FACTORS.values()])[:-1]
        return dict(zip(FACTORS, jnp.split(logits, ends, axis=1), strict=True))


def check_images(shape: tuple[int, ...]) -> None:
    """InputError unless the judge can look at images of this shape, or at batches of it."""
    side, width, channels = shape[-3:]
    if side % SIDE or width != side or channels != 3:
        raise InputError(f"the judge sees colour images of 16, 32 or 64 pixels, not {shape}")


def shrink(images: Float[Array, "batch height width channels"]) -> Float[Array, "batch 16 16 3"]:
    """Average down to 16 x 16. InputError unless square, the side a multiple of 16, and 3 channels."""
    batch, side, _, _ = images.shape
    check_images(images.shape)
    return images.reshape(batch, SIDE, side // SIDE, SIDE, side // SIDE, 3).mean(axis=(2, 4))


def load_judge(path: Path | str = WEIGHTS) -> Judge:
    """The judge that comes with the package, or one from another file of weights."""
    return weights.load(path, jax.eval_shape(Judge.init, key_of_seed(0)))


@jax.jit
def _look(judge: Judge, images: jax.Array):
    features = judge.embed(images)
    odds = {name: jax.nn.softmax(logits) for name, logits in judge.classify(features).items()}
    best = jnp.stack([jnp.argmax(p, axis=1) for p in odds.values()], axis=1)
    sure = jnp.stack([jnp.max(p, axis=1) for p in odds.values()], axis=1)
    return features, best, sure


def look(judge: Judge, images: Float[np.ndarray, "n side side 3"]) -> dict[str, np.ndarray]:
    """What the judge sees in any number of images.

    Returns:
        features: (n, 96) float32.
        factors: (n, 7) the likeliest value of each factor.
        certainty: (n, 7) its probability.
    """
    images, parts = np.asarray(images, np.float32), []
    for start in range(0, len(images), AT_ONCE):
        some = images[start : start + AT_ONCE]
        padded = np.concatenate(
            [some, np.zeros((AT_ONCE - len(some), *some.shape[1:]), np.float32)]
        )
        parts.append([np.asarray(x)[: len(some)] for x in _look(judge, jnp.asarray(padded))])
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return dict(zip(("features", "factors", "certainty"), columns, strict=True))


@partial(jax.jit, compiler_options=FEW_RUNS)
def _draw(source: object, step: int | Int[Array, ""]) -> dict[str, jax.Array]:
    """A batch of a source; jitted once, so that the next call finds it compiled."""
    return source.batch(step)


def real_scenes(seed: int, split: str, size: int, count: int) -> dict[str, np.ndarray]:
    """``count`` images and factors of a split, drawn with a seed of their own."""
    source = open_source("scenes", seed=seed, split=split, size=size, batch_size=AT_ONCE)
    parts = [_draw(source, step) for step in range(-(-count // AT_ONCE))]
    return {
        name: np.concatenate([np.asarray(part[name]) for part in parts])[:count]
        for name in ("image", "factors")
    }


def report(judge: Judge, made: Float[np.ndarray, "n side side 3"], seed: int = 0) -> dict:
    """Unconditional samples beside as many real test scenes, and those beside as many others.

    Returns, for JSON:
        accuracy: of the judge on the real scenes, by factor; it must be right to be believed.
        frechet: {"made": distance of samples to real, "floor": of other real ones to real}.
        coverage: likewise.
        certain: the share of images whose every factor the judge tells with 90% certainty.
        commonest_subject: its share of the images, 1/8 where all are equal.
    """
    count, side = len(made), made.shape[1]
    real = real_scenes(seed, "test", side, 2 * count)
    seen_real = look(judge, real["image"])
    first, second = ({k: v[s] for k, v in seen_real.items()} for s in _halves(count))
    seen_made = look(judge, made)

    def both(measure):
        return {"made": measure(seen_made), "floor": measure(second)}

    right = metrics.accuracy(seen_real["factors"], real["factors"])
    return {
        "count": count,
        "accuracy": dict(zip(FACTORS, map(float, right), strict=True)),
        "frechet": both(lambda seen: metrics.frechet_distance(first["features"], seen["features"])),
        "coverage": both(lambda seen: metrics.coverage(first["features"], seen["features"])),
        "certain": both(lambda seen: float(np.mean(seen["certainty"].min(axis=1) > SURE))),
        "commonest_subject": both(
            lambda seen: float(np.bincount(seen["factors"][:, 0]).max() / count)
        ),
    }


def faithfulness(factors: Int[np.ndarray, "n 7"], prompts: Sequence[str]) -> dict[str, float]:
    """The share of prompted attributes that are there, by factor, and of prompts met whole.

    Image i shows ``factors[i]`` (as ``look`` sees it) and was asked for by prompt i. Only what a
    prompt says is asked (``captions.parse_prompt``); a factor that none of them mentions is left out.
    "all" counts images that have everything asked.
    """
    right = {name: [] for name in FACTORS}
    whole = []
    for values, prompt in zip(factors, prompts, strict=True):
        asked, _ = parse_prompt(prompt)
        hits = {
            name: FACTORS[name][value] == asked[name]
            for name, value in zip(FACTORS, values, strict=True)
            if name in asked
        }
        for name, hit in hits.items():
            right[name].append(hit)
        whole.append(all(hits.values()))
    shares = {name: float(np.mean(hits)) for name, hits in right.items() if hits}
    return {**shares, "all": float(np.mean(whole))}


def _halves(count: int) -> tuple[slice, slice]:
    return slice(0, count), slice(count, 2 * count)


def table(report: dict) -> str:
    """The numbers of ``report`` as Markdown."""
    least = min(report["accuracy"], key=report["accuracy"].get)
    head = (
        f"Measured by the judge on {report['count']} samples. On real test scenes it is right on "
        f"{100 * report['accuracy'][least]:.1f}% or more of every factor (least: {least})."
    )
    texts = {
        "frechet": "Frechet distance to real scenes (lower is better)",
        "coverage": "coverage of real scenes",
        "certain": "images with every factor certain",
        "commonest_subject": "share of the commonest subject",
    }
    rows = [
        (text, f"{report[name]['made']:.3f}", f"{report[name]['floor']:.3f}")
        for name, text in texts.items()
    ]
    return f"{head}\n\n{tables.markdown(('', 'samples', 'other real scenes'), rows, '<>')}"
