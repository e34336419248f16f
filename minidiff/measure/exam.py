"""What a CLIP that was trained on scenes is asked: questions whose answers the renderer knows."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from minidiff.contrastive import cosine_similarity, normalize
from minidiff.data.captions import MENTION, TEMPLATES, VOCABULARY, parse_prompt, to_text
from minidiff.data.captions import full_caption_words as full_caption
from minidiff.data.factors import ACCESSORIES, COLOURS, FACTORS, SUBJECTS, Scene
from minidiff.data.scenes import SceneSource, render_batch, scenes
from minidiff.measure import metrics
from minidiff.retrieval import difference, fill, label_embeddings, rank_words
from minidiff.runtime import FEW_RUNS
from minidiff.trained.encoder import Encoder

AT_ONCE = 250  # scenes drawn per call
RANKS = (1, 5, 10)
WORD_TEMPLATES = ("{}", "a {}", "a picture of a {}")


def draw(encoder: Encoder, seed: int, split: str, count: int) -> dict[str, np.ndarray]:
    """The first ``count`` examples of a split, at the encoder's size: as of a source's batch."""
    source = SceneSource(np.uint32(seed), split=split, size=encoder.side, batch_size=AT_ONCE)
    parts = []
    for step in range(-(-count // AT_ONCE)):
        told, drawn = _facts(source, step)
        parts.append({**jax.device_get(told), "image": pictures(encoder, drawn)})
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


@partial(jax.jit, compiler_options=FEW_RUNS)
def _facts(source: SceneSource, step: int | Int[Array, ""]) -> tuple[dict[str, jax.Array], Scene]:
    """All of a batch but its pictures, which XLA sees are not asked for; and the scenes."""
    batch = source.batch(step)
    indices = step * source.batch_size + jnp.arange(source.batch_size)
    told = {"factors": batch["factors"], "words": batch["words"]}
    return told, scenes(source.seed, source.split, indices)


# Compiled whole: piece by piece, dozens of small programs would take longer to make.
_render = jax.jit(render_batch, static_argnums=1, compiler_options=FEW_RUNS)
_scenes = jax.jit(scenes, static_argnums=1, compiler_options=FEW_RUNS)
_full_captions = jax.jit(jax.vmap(full_caption), compiler_options=FEW_RUNS)
cosines = jax.jit(cosine_similarity)


def pictures(encoder: Encoder, drawn: Scene) -> Float[np.ndarray, "count side side 3"]:
    """Any number of scenes, rendered at the encoder's size.

    Always so many at once that one program, which takes seconds to compile, serves all the questions.
    """
    count = len(drawn.subject)
    missing = -count % AT_ONCE

    def part(x: jax.Array, start: int) -> np.ndarray:
        filled = np.concatenate([x, np.repeat(x[:1], missing, axis=0)])
        return filled[start : start + AT_ONCE]

    parts = [
        np.asarray(_render(jax.tree.map(partial(part, start=start), drawn), encoder.side))
        for start in range(0, count, AT_ONCE)
    ]
    return np.concatenate(parts)[:count]


def nearest(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The nearest label of each image embedding."""
    return np.asarray(jnp.argmax(cosines(images, labels), axis=1))


def subject_labels(encoder: Encoder) -> Float[np.ndarray, "8 embedding"]:
    """Each subject in a few sentences."""
    return np.asarray(label_embeddings(encoder.texts, SUBJECTS))


def colour_labels(encoder: Encoder) -> Float[np.ndarray, "8 embedding"]:
    """A colour is always the colour of something: the mean over all subjects."""
    templates = [f"a {{}} {subject}" for subject in SUBJECTS]
    return np.asarray(label_embeddings(encoder.texts, COLOURS, templates))


def zero_shot(encoder: Encoder, seed: int, count: int = 2000) -> dict:
    """Accuracy over subjects and colours on test scenes, and on pairs of them never seen together."""
    found = {}
    labels = {"subject": subject_labels(encoder), "colour": colour_labels(encoder)}
    pairs = encoder.texts([fill("a {}", f"{c} {s}") for s in SUBJECTS for c in COLOURS])
    for split in ("test", "unseen"):
        drawn = draw(encoder, seed, split, count)
        images = encoder.images(drawn["image"])
        truth = {"subject": drawn["factors"][:, 0], "colour": drawn["factors"][:, 1]}
        right = {name: nearest(images, labels[name]) == truth[name] for name in labels}
        pair = nearest(images, pairs)
        found[split] = {name: float(np.mean(hits)) for name, hits in right.items()}
        found[split]["both"] = float(np.mean(right["subject"] & right["colour"]))
        found[split]["among_64_pairs"] = float(
            np.mean(pair == truth["subject"] * len(COLOURS) + truth["colour"])
        )
    return found


def distinct(encoder: Encoder, seed: int, count: int) -> dict[str, np.ndarray]:
    """Test examples in their order, leaving out those whose caption came before."""
    drawn = draw(encoder, seed, "test", 2 * count)
    texts = to_text(drawn["words"])
    first = sorted({text: i for i, text in reversed(list(enumerate(texts)))}.values())[:count]
    return {**{k: v[first] for k, v in drawn.items()}, "text": np.array(texts)[first]}


def ideal_scores(factors: np.ndarray, texts: list[str]) -> Float[np.ndarray, "images texts"]:
    r"""log p(caption | scene) - log p(caption): what a perfect contrastive model would learn.

    Only what is said and left unsaid counts; which synonym was chosen tells nothing of the scene.
    """
    score = np.zeros((len(factors), len(texts)))
    for f, (name, values) in enumerate(FACTORS.items()):
        said = MENTION[name]
        if name == "position":  # one way of saying it has no room for the place
            said *= np.mean(["position" in template for template in TEMPLATES])
        # (value of the scene, value that is said or none)
        chance = np.zeros((len(values), len(values) + 1))
        for value in range(len(values)):
            mention = 0.0 if values[value] == "none" else said
            chance[value, value], chance[value, -1] = mention, 1 - mention
        asked = [parse_prompt(text)[0].get(name) for text in texts]
        columns = [len(values) if a is None else values.index(a) for a in asked]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(chance / chance.mean(axis=0, keepdims=True))
        score += ratio[factors[:, f]][:, columns]
    return score


def chance_of_first(score: np.ndarray) -> float:
    """R@1 of pairs on the diagonal where ties are broken by lot."""
    top = score.max(axis=1, keepdims=True)
    ties = np.isclose(score, top)
    return float(np.mean(np.diagonal(ties) / ties.sum(axis=1)))


def retrieval(encoder: Encoder, seed: int, count: int = 1000) -> dict:
    """Recall at 1, 5 and 10 both ways over distinct captions, and the ceiling of recall at 1.

    A caption that leaves much out is true of many scenes, so nobody can find its own for certain.
    """
    drawn = distinct(encoder, seed, count)
    texts = [str(text) for text in drawn["text"]]
    score = np.asarray(cosines(encoder.images(drawn["image"]), encoder.texts(texts)))
    ideal, own = ideal_scores(drawn["factors"], texts), np.eye(len(texts), dtype=bool)
    return {
        name: {
            **{f"R@{k}": metrics.recall(s, own, k) for k in RANKS},
            "ceiling of R@1": chance_of_first(i),
        }
        for name, s, i in (("image to text", score, ideal), ("text to image", score.T, ideal.T))
    }


def dressed(seed: int, count: int, accessory: str = "hat") -> tuple[Scene, Scene]:
    """Men with nothing, and the same men with something on: all else is equal."""
    drawn = _scenes(seed, "test", jnp.arange(count))
    bare = drawn.replace(
        subject=jnp.full_like(drawn.subject, SUBJECTS.index("man")),
        accessory=jnp.zeros_like(drawn.accessory),
    )
    return bare, bare.replace(
        accessory=jnp.full_like(drawn.accessory, ACCESSORIES.index(accessory))
    )


def draw_dressed(encoder: Encoder, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of men with nothing on, and of the same men with a hat."""
    return tuple(pictures(encoder, drawn) for drawn in dressed(seed, count))


def word_embeddings(
    encoder: Encoder, words: Sequence[str] = VOCABULARY
) -> Float[np.ndarray, "words embedding"]:
    """Words, by default every word of the captions, each in a few short texts."""
    return np.asarray(label_embeddings(encoder.texts, words, WORD_TEMPLATES))


def name_difference(
    encoder: Encoder,
    before: np.ndarray,
    after: np.ndarray,
    words: Sequence[str] = VOCABULARY,
    *,
    centre: bool = True,
    count: int = 8,
) -> tuple[list[str], np.ndarray]:
    """The words, best first, that name what images after have and images before have not; cosines."""
    direction = difference(encoder.images(before), encoder.images(after))
    cosines = np.asarray(rank_words(direction, word_embeddings(encoder, words), centre=centre))
    first = np.argsort(-cosines)[:count]
    return [words[i] for i in first], cosines[first]


def hat_arithmetic(encoder: Encoder, seed: int, count: int = 5) -> dict:
    """Image of a man with a hat minus the same without: the place of "hat" or "cap" among all words.

    ``ranks`` has a place for each pair of images, 1 the first; ``ranks_uncentred`` without taking
    away the words' mean; ``mean_direction`` lists the first words for the mean over the pairs.
    """
    before, after = map(encoder.images, draw_dressed(encoder, seed, count))
    words = word_embeddings(encoder)

    def ranked(direction, centre):
        return np.argsort(-np.asarray(rank_words(direction, words, centre=centre)))

    def place(direction, centre):
        order = [VOCABULARY[i] for i in ranked(direction, centre)]
        return 1 + min(order.index("hat"), order.index("cap"))

    directions = [difference(before[i : i + 1], after[i : i + 1]) for i in range(count)]
    mean = ranked(difference(before, after), True)
    return {
        "ranks": [place(d, True) for d in directions],
        "ranks_uncentred": [place(d, False) for d in directions],
        "mean_direction": [VOCABULARY[i] for i in mean[:5]],
    }


def swapped(scene: Scene) -> Scene:
    """Two objects that have exchanged their colours."""
    return scene.replace(colour=scene.second_colour, second_colour=scene.colour)


def binding(encoder: Encoder, seed: int, count: int = 500) -> float:
    """Of two objects: is "a red cat and a blue box" nearer than "a blue cat and a red box"?

    The share of right answers; 0.5 is chance. Both captions hold the same words.
    """
    drawn = _scenes(seed, "two", jnp.arange(count))
    images = encoder.images(pictures(encoder, drawn))
    right, wrong = (encoder.texts(to_text(_full_captions(s))) for s in (drawn, swapped(drawn)))

    def nearness(texts):
        return np.sum(np.asarray(normalize(images) * normalize(texts)), axis=1)

    return float(np.mean(nearness(right) > nearness(wrong)))
