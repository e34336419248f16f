"""CLIP on captioned pictures (Radford et al. 2021), from its tokenizer to zero-shot classification.

    minidiff train clip --preset cpu --data scenes --out runs/clip
    minidiff classify runs/clip IMAGE... --labels "a man" "a cat"
    minidiff search runs/clip FOLDER "a red cat wearing a hat"
    minidiff arithmetic runs/clip

Two cores, preset cpu: 2.4 minutes. Expect zero-shot accuracy above 99% for subject and colour, above
90% for both where the pair was never seen, and recall@1 near its ceiling.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import contrastive, plot, weights
from minidiff.clip import CLIP, CLIPConfig
from minidiff.data.kinds import SPECS
from minidiff.data.sources import Source, check_captions, drawn, open_source
from minidiff.data.tokens import some_captions
from minidiff.errors import InputError, naming
from minidiff.keys import key_of_seed
from minidiff.layers import count_parameters
from minidiff.measure import exam, metrics
from minidiff.tables import markdown
from minidiff.text import TextConfig, Tokenizer
from minidiff.trained.encoder import Encoder
from minidiff.training import identity
from minidiff.training.config import TrainConfig, setting
from minidiff.training.devices import AXES, ONE, Devices
from minidiff.training.lock import one_writer
from minidiff.training.loop import train
from minidiff.training.needs import check_training, training_source
from minidiff.training.opening import open_run
from minidiff.training.run import Run
from minidiff.training.state import TrainState
from minidiff.vit import ViTConfig

SHOWN = 32  # pairs in the similarity matrix
MOST_PATCHES = 64**2
SCORES = "similarity"  # folder of the matrices that were measured on the way


@dataclasses.dataclass(frozen=True)
class Config(TrainConfig):
    """Settings of the two towers and of their training."""

    data: str = setting("scenes", f"{SPECS}, captioned")
    size: int | None = setting(None, "side of the images; none: what suits the data", low=8)
    patch: int = setting(4, "side of a patch in pixels", low=1, high=64)
    width: int = setting(128, "of both towers", low=8, high=4096)
    heads: int = setting(4, "of attention", low=1, high=64)
    layers: int = setting(4, "of the image tower", low=1, high=48)
    text_layers: int = setting(2, "of the text tower", low=1, high=48)
    embedding: int = setting(64, "length of what both towers end in", low=2, high=4096)
    vocabulary: int = setting(1024, "tokens that may be learned", low=514, high=65_536)
    context: int | None = setting(None, "tokens of a text; none: the longest caption", low=4)
    loss: str = setting("clip", "softmax over the batch, or pairwise", choices=("clip", "siglip"))
    report_count: int = setting(
        1000, "test examples that the report measures", low=50, high=100_000
    )

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.heads:
            raise InputError(f"heads={self.heads} does not divide width={self.width}")

    def towers(self, image_shape: tuple[int, int, int], tokenizer: Tokenizer, context: int):
        """The two towers that these settings describe. InputError if the patches do not fit."""
        if image_shape[0] % self.patch:
            raise InputError(f"patch={self.patch} does not divide the image side {image_shape[0]}")
        if (image_shape[0] // self.patch) ** 2 > MOST_PATCHES:
            raise InputError(
                f"patch={self.patch} cuts an image of {image_shape[0]} pixels into more than "
                f"{MOST_PATCHES} patches, and each looks at every other: set patch higher"
            )
        both = {"width": self.width, "heads": self.heads}
        return CLIPConfig(
            embedding=self.embedding,
            image=ViTConfig(
                image_size=image_shape[0],
                channels=image_shape[2],
                patch=self.patch,
                layers=self.layers,
                **both,
            ),
            text=TextConfig(
                vocabulary=tokenizer.size,
                context=context,
                layers=self.text_layers,
                end=tokenizer.end,
                **both,
            ),
        )


PRESETS = {
    "smoke": Config(
        steps=40, batch_size=64, log_every=10, checkpoint_every=20, width=32, layers=2,
        report_count=200,
    ),
    "cpu": Config(
        steps=500, batch_size=256, optimizer="muon", learning_rate=0.01, ema_decay=0.98,
        picture_every=50, checkpoint_every=100,
    ),
    "gpu": Config(
        steps=10_000, batch_size=2048, learning_rate=1e-3, weight_decay=0.1, log_every=50,
        picture_every=2000, checkpoint_every=2000, width=256, layers=6, text_layers=4, size=32,
        dtype="bfloat16",
    ),
    "full": Config(
        steps=50_000, batch_size=4096, learning_rate=5e-4, weight_decay=0.2, log_every=100,
        picture_every=5000, checkpoint_every=5000, width=512, heads=8, layers=12, text_layers=12,
        embedding=256, size=64, patch=8, dtype="bfloat16",
    ),
}  # fmt: skip
MINUTES = {"cpu": 2.4}


def init(key: jax.Array, config: CLIPConfig, loss: str) -> CLIP:
    """A CLIP whose temperature (and bias) begin where the loss wants them."""
    clip = CLIP.init(key, config)
    if loss == "clip":
        return clip
    return clip.replace(
        log_scale=jnp.float32(contrastive.SIGLIP_LOG_SCALE_INIT),
        bias=jnp.float32(contrastive.SIGLIP_BIAS_INIT),
    )


def pair_loss(clip: CLIP, images: jax.Array, ids: jax.Array, devices: Devices = ONE) -> jax.Array:
    """The loss of a batch of pairs, CLIP's or SigLIP's; each image meets all texts of all devices."""
    embeddings = clip.encode_images(images), clip.encode_texts(ids)
    terms = (clip.log_scale,) if clip.bias is None else (clip.log_scale, clip.bias)
    if devices.mesh:
        many = (contrastive.sharded_contrastive_loss, contrastive.ring_siglip_loss)
        loss = many[clip.bias is not None]
        return devices.by_rows(partial(loss, axis_name=AXES), 2)(*embeddings, *terms)
    loss = contrastive.contrastive_loss if clip.bias is None else contrastive.siglip_loss
    return loss(*embeddings, *terms)


def load(path: str | Path) -> Encoder:
    """The averaged weights of a run and its tokenizer. InputError if it is no run of this recipe."""
    run = Run.named(path)
    config, shape, context = run.read_settings("clip", Config, "image_shape", "context")
    tokenizer = Tokenizer.load(run.path / "tokenizer")
    with naming(run.path / "config.json"):
        towers = config.towers(shape, tokenizer, context)
    template = jax.eval_shape(lambda key: init(key, towers, config.loss), key_of_seed(0))
    return Encoder(run.load_ema(template), tokenizer)


def copy(path: str | Path, target: Path, dtype: str | None = None) -> None:
    """What ``load`` needs of a run, in a folder of its own; ``dtype``: of the numbers there."""
    run = Run.named(path)
    target.mkdir(parents=True, exist_ok=True)
    Tokenizer.load(run.path / "tokenizer").save(target / "tokenizer")
    run.copy_ema(Run(target), dtype)


@one_writer
def run(out: str, config: Config, *, devices: Devices = ONE, progress: bool = True) -> Run:
    """Train (or go on training) in the folder ``out``; then draw and measure."""
    source = training_source(config, captioned=True)
    tokenizer = Tokenizer.learn(some_captions(source), config.vocabulary)
    told = source.tokenized(tokenizer, config.context)
    shape, context = source.image_shape, told.tokens.context
    clip_config = config.towers(shape, tokenizer, context)
    begin = partial(init, config=clip_config, loss=config.loss)
    check_training(begin, config, shape, devices)
    shown = held_out(config, source, SHOWN)
    facts = {"image_shape": list(shape), "context": context, "kept": identity.kept_tokenizer}
    facts["depends"] = identity.of_source_and(source, tokenizer)
    folder = open_run(out, "clip", config, devices, **facts)
    if folder.writes:
        if not identity.kept_tokenizer(folder):  # never over one: what was trained reads its ids
            tokenizer.save(folder.path / "tokenizer")
        (folder.path / SCORES).mkdir(exist_ok=True)

    def loss(key, clip, batch):
        value = pair_loss(clip, batch["image"], batch["ids"], devices)
        return value, {"temperature": jnp.exp(-clip.log_scale)}

    def on_picture(state: TrainState, step: int) -> None:
        score = similarity(Encoder(state.ema, tokenizer), *shown)
        weights.save(folder.path / SCORES / f"{step:06d}.safetensors", {"cosine": score})

    state = train(
        folder, config, begin, loss, told, on_picture=on_picture, progress=progress,
        constrain=lambda clip: clip.replace(log_scale=contrastive.clamp_log_scale(clip.log_scale)),
    )  # fmt: skip
    if not folder.writes:
        return folder
    on_picture(state, config.steps)
    write_report(folder, config, Encoder(state.ema, tokenizer), source)
    return folder


def held_out(config: Config, source: Source, count: int) -> tuple[np.ndarray, list[str]]:
    """Images and captions of the test split."""
    test = open_source(
        config.data, seed=config.seed, split="test", size=source.image_shape[0], batch_size=count
    )
    check_captions(test)
    batch = drawn(test, 0)
    return np.asarray(batch["image"]), test.captions(batch)


def similarity(encoder: Encoder, images: np.ndarray, texts: list[str]) -> np.ndarray:
    """Cosine of every image with every text."""
    return np.asarray(exam.cosines(encoder.images(images), encoder.texts(texts)))


def same_text(texts: list[str]) -> np.ndarray:
    """True where two captions are word for word the same: either image will do."""
    return np.array(texts)[:, None] == np.array(texts)[None, :]


def write_report(folder: Run, config: Config, encoder: Encoder, source: Source) -> None:
    """Recall on held-out captions; for scenes, everything that ``minidiff.measure.exam`` asks."""
    files = sorted((folder.path / SCORES).glob("*.safetensors"))
    shown = files[:2] + files[2:][-1:]  # before, soon after the start, at the end
    panels = [(f"after {int(f.stem)} steps", weights.load_arrays(f)[0]["cosine"]) for f in shown]
    figure = plot.similarity_matrices(panels, f"cosines of {SHOWN} held-out images and captions")
    plot.save(figure, folder.figures / "similarity.png")
    lines = folder.measured()
    title = f"contrastive loss; log N = {math.log(config.batch_size):.2f}"
    plot.save(plot.loss_curve(lines, title), folder.figures / "loss.png")
    report = {
        "recipe": "clip",
        "data": config.data,
        "steps": config.steps,
        "parameters": count_parameters(encoder.clip),
        "loss": lines[-1]["loss"],
        "log_batch_size": math.log(config.batch_size),
        "temperature": lines[-1]["temperature"],
        "training_seconds": lines[-1]["seconds"],
    }
    if source.factors:
        report |= {
            "zero_shot": exam.zero_shot(encoder, config.seed, 2 * config.report_count),
            "recall": exam.retrieval(encoder, config.seed, config.report_count),
            "hat": exam.hat_arithmetic(encoder, config.seed),
            "binding": exam.binding(encoder, config.seed),
        }
    else:
        images, texts = held_out(config, source, config.report_count)
        score, own = similarity(encoder, images, texts), same_text(texts)
        report["recall"] = {
            name: {f"R@{k}": metrics.recall(s, own, k) for k in exam.RANKS}
            for name, s in (("image to text", score), ("text to image", score.T))
        }
    folder.write_json("report.json", report)
    folder.write_text("report.md", report_text(report))


def report_text(report: dict) -> str:
    """The numbers of a report as Markdown."""
    head = (
        f"{report['parameters']:,} parameters, {report['steps']} steps in "
        f"{report['training_seconds']:.0f} s; loss {report['loss']:.3f} (log N = "
        f"{report['log_batch_size']:.2f}), temperature {report['temperature']:.3f}."
    )
    links = "![similarity](figures/similarity.png)\n![loss](figures/loss.png)"
    return "\n\n".join([f"# clip on {report['data']}", head, *tables(report), links]) + "\n"


def tables(report: dict) -> list[str]:
    """Recall, and for scenes zero-shot accuracy, arithmetic and binding, as Markdown."""
    both = report["recall"]["image to text"], report["recall"]["text to image"]
    found = [_table("recall among distinct test captions", "image to text", "text to image", *both)]
    if "zero_shot" not in report:
        return found
    test, unseen = report["zero_shot"]["test"], report["zero_shot"]["unseen"]
    hat = report["hat"]
    return [
        *found,
        _table(
            "zero-shot accuracy", "test", "subject and colour never seen together", test, unseen
        ),
        "Image of a man with a hat minus the same man without: among all words, hat or cap is number "
        f"{', '.join(map(str, hat['ranks']))} (five pairs; without centring "
        f"{', '.join(map(str, hat['ranks_uncentred']))}). First words for the mean: "
        f"{', '.join(hat['mean_direction'])}.",
        "Binding: of two objects the right caption, against the one with the colours exchanged, is "
        f"nearer in {100 * report['binding']:.1f}% (chance 50%).",
    ]


def _table(what: str, first: str, second: str, one: dict, other: dict) -> str:
    """Two columns of shares under the same names."""
    rows = [(name, f"{one[name]:.3f}", f"{other[name]:.3f}") for name in one]
    return markdown((what, first, second), rows, "<>")
