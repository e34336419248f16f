"""What a run depends on besides its settings, as numbers and digests that stand in its config.json.

A digest is cheap beside what it stands for: of a folder the names and the bytes of the image files, not
their pixels, which a later decoder may round otherwise; of what was prepared with TFDS its version and
the sizes of its files; of captions, tokenizers and weights all of them. Scenes and digits never change.
"""

import hashlib
import json
from collections.abc import Iterable

import numpy as np

from minidiff.data.sources import Source
from minidiff.text import Tokenizer
from minidiff.training.run import Run
from minidiff.weights import flatten


def of_source(source: Source) -> dict[str, int | str]:
    """What would give other weights if it changed: how many images, the files, captions."""
    if source.count is None:
        return {}
    found = {"images": source.count}
    if files := source.content():
        found["files"] = files
    # Of a source that is not in memory the files stand for the captions, too.
    if source.traceable and (captions := source.sample_captions(source.count)):
        found["captions"] = _digest(json.dumps(text).encode() for text in captions)
    return found


def of_tokenizer(tokenizer: Tokenizer) -> str:
    """Which ids it gives to which text."""
    parts = sorted(tokenizer.vocabulary.items()), tokenizer.merges
    return _digest(json.dumps(part).encode() for part in parts)


def of_source_and(source: Source, tokenizer: Tokenizer) -> dict[str, int | str]:
    """Both, as of a run that learned its tokenizer from the source."""
    return {**of_source(source), "tokenizer": of_tokenizer(tokenizer)}


def kept_tokenizer(run: Run) -> dict[str, str]:
    """{"tokenizer": its identity} of what lies in a run of clip; {} where it was not written whole."""
    folder = run.path / "tokenizer"
    if not all((folder / name).exists() for name in ("vocab.json", "merges.txt")):
        return {}
    return {"tokenizer": of_tokenizer(Tokenizer.load(folder))}


def of_weights(tree: object) -> str:
    """Every name, shape and number of a pytree."""
    arrays = {name: np.ascontiguousarray(x) for name, x in sorted(flatten(tree).items())}
    return _digest(
        part
        for name, x in arrays.items()
        for part in (f"{name} {x.dtype} {x.shape}".encode(), x.tobytes())
    )


def _digest(parts: Iterable[bytes]) -> str:
    """Of what is told apart only by where one part ends, and the next begins, too."""
    made = hashlib.sha256()
    for part in parts:
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return made.hexdigest()[:32]
