r"""Zero-shot classification, search and embedding arithmetic: all of them are nearest neighbours.

Once images and texts lie in one space, a classifier is a handful of sentences, a search engine is a
sort, and the difference of two images points at the words that tell them apart. Embeddings come in
with any length; all that counts is their direction.
"""

import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minidiff.contrastive import Arrays, cosine_similarity, normalize
from minidiff.errors import InputError

TEMPLATES = ("a {}", "a picture of a {}", "a drawing of a {}", "an image of a {}")
"""Sentences around a label; the average of several is steadier than any one of them."""


def fill(template: str, label: str) -> str:
    """The label in place of {}, with the article that fits it: "a {}" and "orange" give "an orange".

    A label that brings an article of its own ("a house") keeps that one alone.
    """
    if label.split()[:1] and label.split()[0].lower() in ("a", "an", "the"):
        template = re.sub(r"\b[Aa]n? \{\}", "{}", template)
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", template.replace("{}", label))


def label_embeddings(
    encode: Callable[[Sequence[str]], Float[Arrays, "texts embedding"]],
    labels: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
) -> Float[Array, "labels embedding"]:
    """One unit vector per label: the mean over templates (Radford et al. 2021, section 3.1.4).

    ``encode`` turns texts into embeddings; labels are nouns such as "house" or "a house". ValueError
    without a label or for a template without {}, InputError for an empty label.
    """
    if not labels or not templates:
        raise ValueError("label_embeddings needs at least one label and one template")
    if not all(label.strip() for label in labels):
        raise InputError(f"an empty label says nothing: {list(labels)}")
    if not all("{}" in template for template in templates):
        raise ValueError(f"every template needs a place {{}} for the label: {list(templates)}")
    texts = [fill(template, label) for label in labels for template in templates]
    embeddings = normalize(encode(texts)).reshape(len(labels), len(templates), -1)
    return normalize(embeddings.mean(axis=1))


def zero_shot(
    image_embeddings: Float[Arrays, "images embedding"],
    labels: Float[Arrays, "labels embedding"],
    log_scale: Float[Array, ""] | float,
) -> Float[Array, "images labels"]:
    """The probability of each label for each image: softmax over the labels of scaled cosines.

    Exactly one of the labels is assumed to be right: the probabilities of an image add up to 1 even
    where none of them fits.
    """
    return jax.nn.softmax(jnp.exp(log_scale) * cosine_similarity(image_embeddings, labels), axis=1)


def search(
    queries: Float[Arrays, "queries embedding"],
    items: Float[Arrays, "items embedding"],
    count: int,
) -> tuple[Int[Array, "queries count"], Float[Array, "queries count"]]:
    """(indices, cosines) of the ``count`` items nearest to each query, nearest first.

    Texts may look for images, images for texts, images for images. At most all items come back.
    """
    similarity = cosine_similarity(queries, items)
    cosines, indices = jax.lax.top_k(similarity, min(count, items.shape[0]))
    return indices, cosines


def difference(
    before: Float[Arrays, "n embedding"], after: Float[Arrays, "m embedding"]
) -> Float[Array, " embedding"]:
    """The direction from one set of embeddings to another, between their means.

    What the two sets share (the man, and whatever makes an image an image) cancels; what remains is
    what was added (the hat).
    """
    return normalize(after).mean(axis=0) - normalize(before).mean(axis=0)


def rank_words(
    direction: Float[Arrays, " embedding"],
    words: Float[Arrays, "words embedding"],
    *,
    centre: bool = True,
) -> Float[Array, " words"]:
    """How well each word names a direction: the cosine between them.

    All texts lie in a cone of their own, apart from the images: the modality gap (Liang et al. 2022,
    https://arxiv.org/abs/2203.02053). ``centre`` takes the mean of the words away from each, so that
    what is left is what a word says beyond being text; without it the cone's axis is compared too.
    """
    words = normalize(words)
    if centre:
        words = words - words.mean(axis=0, keepdims=True)
    return cosine_similarity(direction[None], words)[0]


def modality_gap(
    image_embeddings: Float[Arrays, "images embedding"],
    text_embeddings: Float[Arrays, "texts embedding"],
) -> Float[Array, ""]:
    """The distance between the mean of the images and the mean of the texts, on the unit sphere."""
    apart = normalize(image_embeddings).mean(axis=0) - normalize(text_embeddings).mean(axis=0)
    return jnp.linalg.norm(apart)
