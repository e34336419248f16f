"""The caption grammar: what a scene is, in words.

A caption is a row of word ids, so that text can be drawn inside a compiled program: tables say
which words name each value of each factor, a template says in which order the phrases come, and a
caption closes the gaps where a phrase was left out. Whatever a caption says is true of its scene.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from minidiff.data.factors import FACTORS, Scene

MAX_WORDS = 16

# The phrases that name each value, the plain one first. A value without a phrase goes unsaid.
PHRASES = {
    "subject": {
        "man": ("man", "person"),
        "robot": ("robot", "android"),
        "cat": ("cat", "kitty"),
        "circle": ("circle", "disc"),
        "square": ("square", "box"),
        "triangle": ("triangle",),
        "star": ("star",),
        "cross": ("cross", "plus"),
    },
    "colour": {
        "red": ("red",),
        "orange": ("orange",),
        "yellow": ("yellow",),
        "green": ("green",),
        "cyan": ("cyan", "turquoise"),
        "blue": ("blue",),
        "purple": ("purple", "violet"),
        "pink": ("pink",),
    },
    "background": {
        "snow": ("in the snow",),
        "meadow": ("in a meadow", "on the grass"),
        "beach": ("on the beach", "on the sand"),
        "night": ("at night", "in the dark"),
        "sunset": ("at sunset", "at dusk"),
        "room": ("in a room", "indoors"),
    },
    "accessory": {
        "none": (),
        "hat": ("wearing a hat", "with a hat", "wearing a cap", "with a cap"),
        "glasses": ("wearing glasses", "with glasses", "wearing spectacles", "with spectacles"),
        "scarf": ("wearing a scarf", "with a scarf"),
    },
    "size": {"small": ("small", "little"), "large": ("large", "big")},
    "position": {
        "left": ("on the left",),
        "middle": ("in the middle", "in the centre"),
        "right": ("on the right",),
    },
    "style": {"plain": ("plain",), "striped": ("striped", "stripy")},
}
OPENINGS = ("a picture of", "a drawing of", "an image of")
# How the first of two objects stands to the second, by position; "and" says nothing of it.
RELATIONS = ("to the left of", "and", "to the right of")

# Each template has room for its longest phrases within MAX_WORDS.
TEMPLATES = (
    ("objects", "accessory", "background", "position"),
    ("opening", "objects", "accessory", "background"),
    ("background", "objects", "accessory", "position"),
    ("position", "objects", "accessory", "background"),
)

# How often a caption mentions each factor.
MENTION = {
    "subject": 1.0,
    "colour": 0.9,
    "background": 0.8,
    "accessory": 0.9,
    "size": 0.5,
    "position": 0.5,
    "style": 0.5,
}


def _all_phrases() -> list[str]:
    named = [p for values in PHRASES.values() for ps in values.values() for p in ps]
    return [*named, *OPENINGS, *RELATIONS]


VOCABULARY = tuple(dict.fromkeys(["a", "an", *" ".join(_all_phrases()).split()]))
WORD_ID = {word: i for i, word in enumerate(VOCABULARY)}
_A, _AN = WORD_ID["a"], WORD_ID["an"]
_STARTS_WITH_VOWEL = np.array([word[0] in "aeiou" for word in VOCABULARY])


def _table(rows: list[tuple[str, ...]]) -> np.ndarray:
    """Word ids of phrases as (rows, synonyms, words), -1 where there is no word.

    Rows with fewer synonyms repeat theirs, so that a uniform draw serves every row.
    """
    synonyms = np.lcm.reduce([max(len(row), 1) for row in rows])
    width = max(len(phrase.split()) for row in rows for phrase in row)
    table = np.full((len(rows), synonyms, width), -1, np.int32)
    for i, row in enumerate(rows):
        for j in range(synonyms if row else 0):
            words = row[j % len(row)].split()
            table[i, j, : len(words)] = [WORD_ID[word] for word in words]
    return table


_TABLES = {
    name: _table([PHRASES[name][value] for value in values]) for name, values in FACTORS.items()
}
_OPENING_TABLE = _table([OPENINGS])
_RELATION_TABLE = _table([(relation,) for relation in RELATIONS])


def _close_gaps(words: jax.Array) -> jax.Array:
    """Move the words together to the left, fill up with -1, and make "a" "an" where it must be."""
    present = words >= 0
    place = jnp.where(present, jnp.cumsum(present) - 1, MAX_WORDS)
    closed = jnp.full(MAX_WORDS, -1, jnp.int32).at[place].set(words, mode="drop")
    follows = jnp.roll(closed, -1)
    return jnp.where((closed == _A) & jnp.asarray(_STARTS_WITH_VOWEL)[follows], _AN, closed)


def _compose(scene: Scene, mention: dict, choice: dict, template) -> jax.Array:
    """The caption that mentions these factors, with these synonyms, in this order."""

    def phrase(name, value, said):
        table = jnp.asarray(_TABLES[name])
        return jnp.where(said, table[value, choice[name] % table.shape[1]], -1)

    two = scene.second == 1
    article = jnp.array([_A], jnp.int32)
    relation = jnp.asarray(_RELATION_TABLE)[jnp.where(mention["position"], scene.position, 1), 0]
    objects = [
        article,
        phrase("size", scene.size, mention["size"] & ~two),
        phrase("style", scene.style, mention["style"] & ~two),
        phrase("colour", scene.colour, mention["colour"]),
        phrase("subject", scene.subject, True),
        jnp.where(two, relation, -1),
        jnp.where(two, article, -1),
        phrase("colour", scene.second_colour, mention["colour"] & two),
        phrase("subject", scene.second_subject, two),
    ]
    slots = {
        "opening": jnp.asarray(_OPENING_TABLE)[0, choice["opening"] % len(OPENINGS)],
        "objects": jnp.concatenate(objects),
        "accessory": phrase("accessory", scene.accessory, mention["accessory"]),
        "background": phrase("background", scene.background, mention["background"]),
        "position": phrase("position", scene.position, mention["position"] & ~two),
    }
    orders = [jnp.concatenate([slots[name] for name in order]) for order in TEMPLATES]
    longest = max(order.shape[0] for order in orders)
    padded = [jnp.pad(order, (0, longest - order.shape[0]), constant_values=-1) for order in orders]
    return _close_gaps(jnp.stack(padded)[template])


def caption_words(key: jax.Array, scene: Scene) -> Int[Array, "16"]:
    """Word ids of a random caption, left-aligned, -1 after the last word.

    The subject is always named and its colour usually; other attributes are left out at random.
    A caption of two objects names both, and leaves out their size and style.
    """
    mention_key, choice_key = jax.random.split(key)
    often = jnp.array(list(MENTION.values()), jnp.float32)
    said = jax.random.uniform(mention_key, often.shape, jnp.float32) < often
    # 144 is a multiple of every number of synonyms and templates: all are equally likely.
    drawn = jax.random.randint(choice_key, (len(FACTORS) + 2,), 0, 144, jnp.int32)
    choice = dict(zip([*FACTORS, "opening"], drawn, strict=False))
    mention = dict(zip(MENTION, said, strict=True))
    return _compose(scene, mention, choice, drawn[-1] % len(TEMPLATES))


def full_caption_words(scene: Scene) -> Int[Array, "16"]:
    """Word ids of the one complete caption in plain words; no accessory goes unsaid.

    Such as "a small striped red cat wearing a hat in the snow on the left".
    """
    mention = dict.fromkeys(FACTORS, jnp.bool_(True))
    return _compose(scene, mention, dict.fromkeys([*FACTORS, "opening"], 0), 0)


def to_text(words: Int[Array, "*batch 16"] | np.ndarray) -> str | list[str]:
    """Word ids as text: one string for one row, a list for a batch. On the host."""
    words = np.asarray(words)
    if words.ndim == 1:
        return " ".join(VOCABULARY[i] for i in words if i >= 0)
    return [to_text(row) for row in words]


def _meanings() -> dict[str, tuple[str, str]]:
    """Which factor and value a word tells of; words shared by several values tell of none."""
    users: dict[str, set] = {}
    for name, values in PHRASES.items():
        for value, phrases in values.items():
            for word in " ".join(phrases).split():
                users.setdefault(word, set()).add((name, value))
    return {word: next(iter(said)) for word, said in users.items() if len(said) == 1}


MEANINGS = {**_meanings(), "center": ("position", "middle")}


def parse_prompt(text: str) -> tuple[dict[str, str], list[str]]:
    """What a prompt asks for: ({factor: value}, [words that are not understood]).

    Synonyms are understood. Of two objects the first is told: the first mention of a factor
    counts. Negation is not understood: "without" is among the words returned.
    """
    asked: dict[str, str] = {}
    unknown = []
    for word in re.findall(r"[\w'-]+", text.lower()):
        if word in MEANINGS:
            name, value = MEANINGS[word]
            asked.setdefault(name, value)
        elif word not in WORD_ID:
            unknown.append(word)
    return asked, unknown
