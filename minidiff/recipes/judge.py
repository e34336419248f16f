"""The judge of scenes: a classifier that later tells how good the generated ones are.

    minidiff train judge --preset cpu --out runs/judge

Two cores, preset cpu: 0.8 minutes. Expect at least 98% right on every factor of test scenes.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from minidiff import tables, weights
from minidiff.data.factors import FACTORS
from minidiff.data.sources import open_source
from minidiff.keys import key_of_seed
from minidiff.measure import metrics
from minidiff.measure.judge import Judge, look, real_scenes
from minidiff.training.config import TrainConfig, setting
from minidiff.training.devices import ONE, Devices
from minidiff.training.lock import one_writer
from minidiff.training.loop import train
from minidiff.training.opening import open_run
from minidiff.training.run import Run

TEST_SCENES = 8192


@dataclasses.dataclass(frozen=True)
class Config(TrainConfig):
    """Settings of the judge; it always looks at 16 x 16 scenes."""

    data: str = setting("scenes", "only scenes have factors", choices=("scenes",))
    noise: float = setting(0.05, "standard deviation of noise on its training images", low=0.0)


PRESETS = {
    "smoke": Config(steps=60, batch_size=64, log_every=20, learning_rate=2e-3),
    "cpu": Config(steps=2000, batch_size=128, log_every=50, learning_rate=2e-3),
    "gpu": Config(steps=4000, batch_size=512, log_every=100, learning_rate=2e-3),
    "full": Config(steps=20000, batch_size=512, log_every=100, learning_rate=2e-3),
}
MINUTES = {"cpu": 0.8}


def loss(key: jax.Array, judge: Judge, batch: dict, noise: float = 0.0) -> jax.Array:
    """Cross-entropy, summed over the factors; a little noise keeps it from reading single pixels."""
    images = batch["image"] + noise * jax.random.normal(key, batch["image"].shape, jnp.float32)
    terms = [
        optax.softmax_cross_entropy_with_integer_labels(logits, batch["factors"][:, i]).mean()
        for i, logits in enumerate(judge(images).values())
    ]
    return sum(terms)


def load(path: str | Path) -> Judge:
    """The averaged weights of a run. InputError if it is no run of this recipe."""
    run = Run.named(path)
    run.read_config("judge")
    return run.load_ema(jax.eval_shape(Judge.init, key_of_seed(0)))


@one_writer
def run(out: str, config: Config, *, devices: Devices = ONE, progress: bool = True) -> Run:
    """Train (or go on training) the judge in the folder ``out``; then measure it."""
    folder = open_run(out, "judge", config, devices)
    source = open_source(config.data, seed=config.seed, size=16, batch_size=config.batch_size)
    noisy_loss = jax.tree_util.Partial(loss, noise=config.noise)
    state = train(folder, config, Judge.init, noisy_loss, source, progress=progress)
    if not folder.writes:
        return folder
    test = real_scenes(config.seed, "test", 16, TEST_SCENES)
    right = metrics.accuracy(look(state.ema, test["image"])["factors"], test["factors"])
    accuracy = dict(zip(FACTORS, map(float, right), strict=True))
    # Half precision halves the file; what it costs in accuracy is within the last digit shown.
    halved = jax.tree.map(lambda x: x.astype(jnp.float16), state.ema)
    weights.save(folder.path / "judge.safetensors", halved, {"recipe": "judge"})
    folder.write_json("report.json", {"recipe": "judge", "accuracy": accuracy})
    rows = [(name, f"{100 * value:.2f}%") for name, value in accuracy.items()]
    table = tables.markdown(("factor", "right on test scenes"), rows, "<>")
    folder.write_text("report.md", f"# judge\n\n{table}\n")
    return folder
