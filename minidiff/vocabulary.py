"""The files of a tokenizer in a folder: what Hugging Face's CLIPTokenizer writes and reads.

vocab.json and merges.txt hold the byte pairs, tokenizer.json both in one. Beside them stand the
tokens that somebody added, each with an id of its own (``<cat-toy>``, learned by textual inversion):
in added_tokens.json, tokenizer.json or tokenizer_config.json. The last one and
special_tokens_map.json say what fills up a row.
"""

import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from minidiff.added_tokens import AddedToken
from minidiff.errors import InputError
from minidiff.files import check_regular
from minidiff.settings import LIBRARY_NOTES, Settings, Table, names

MOST_BYTES = 2**25  # of a vocabulary file; the real ones have 1 to 4 million
START, END = "<|startoftext|>", "<|endoftext|>"

Pair = tuple[str, str]


class Vocabulary(NamedTuple):
    """What the files of a tokenizer say."""

    table: object  # id of each token: the tokenizer itself checks it
    merges: tuple[Pair, ...]
    added: tuple[AddedToken, ...] = ()
    pad: str | None = None  # the token that fills up a row; none: OpenAI's zeros
    most: int | None = None  # tokens of a text, start and end included


_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "cls_token",
    "mask_token",
)
_MORE = ("additional_special_tokens", "extra_special_tokens")
_SPECIAL = dict.fromkeys((*_NAMED, *_MORE))
CONFIG = Table(
    "tokenizer_config.json",
    read=_SPECIAL | dict.fromkeys(("added_tokens_decoder", "model_max_length", "max_len")),
    fixed={
        "tokenizer_class": ("CLIPTokenizer", "CLIPTokenizerFast", "TokenizersBackend", None),
        "add_bos_token": (True, None),
        "add_eos_token": (True, None),
        "add_prefix_space": (False, None),
        "do_lower_case": (True, None),
        "init_inputs": ([], None),
        "padding_side": ("right", None),
        "split_special_tokens": (False, None),
        "truncation_side": ("right", None),
    },
    # Where files lay, what decoding does, and what single calls were told.
    idle=LIBRARY_NOTES
    | names("""backend chat_template clean_up_tokenization_spaces errors from_slow is_local legacy
        local_files_only max_length model_input_names name_or_path pad_to_multiple_of
        pad_token_type_id padding processor_class return_special_tokens_mask special_tokens_map_file
        stride tokenizer_file truncation truncation_strategy use_fast vocab_file merges_file
        verbose"""),
)
SPECIAL_MAP = Table("special_tokens_map.json", read=_SPECIAL)
FAST = Table(
    "tokenizer.json",
    read=dict.fromkeys(
        (
            "added_tokens",
            "model",
            "normalizer",
            "pre_tokenizer",
            "post_processor",
            "truncation",
            "padding",
        )
    ),
    idle=frozenset({"version", "decoder"}),
)
MODEL = Table(
    "model of tokenizer.json",
    read={"vocab": None, "merges": None},
    fixed={
        "type": ("BPE",),
        "dropout": (None, 0.0),
        "continuing_subword_prefix": ("", None),
        "end_of_word_suffix": ("</w>",),
        "byte_fallback": (False, None),
        "ignore_merges": (False, None),
    },
    idle=frozenset({"unk_token", "fuse_unk"}),  # every byte is known
)
ADDED = Table(
    "an added token",
    read=dict.fromkeys(("id", "content"))
    | dict.fromkeys(("normalized", "single_word", "special", "lstrip", "rstrip"), False),
)
# What CLIP does before and after the byte pairs, by the names of the tokenizers library.
STAGES = {
    "normalizer": (["NFC", "Replace", "Lowercase"],),
    "pre_tokenizer": (["Split", "ByteLevel"],),
    "post_processor": (["RobertaProcessing"], ["TemplateProcessing"], ["ByteLevel"]),
}


def read_vocabulary(folder: Path | str) -> Vocabulary:
    """What a folder's files say. InputError if they are missing, damaged, or no CLIP's."""
    folder = Path(folder)
    table, merges, fast = (folder / name for name in ("vocab.json", "merges.txt", "tokenizer.json"))
    with told_in_one_line(folder):
        model = _read_fast(fast) if fast.exists() else None
        if model and not (table.exists() and merges.exists()):
            found = Vocabulary(model["model"]["vocab"], pairs(model["model"]["merges"]))
        else:
            lines = [line for line in read_text(merges).split("\n") if line[:8] != "#version"]
            found = Vocabulary(json.loads(read_text(table)), pairs(lines))
        return _with_specials(folder, found, model or {})


def _read_fast(path: Path) -> dict:
    """tokenizer.json. InputError where it splits texts otherwise than CLIP does."""
    facts = json.loads(read_text(path))
    settings = Settings(facts, str(path), FAST)
    Settings(facts["model"], f"{path}: model", MODEL)
    for key, allowed in STAGES.items():
        stages = _stages(facts.get(key))
        if stages and stages not in allowed:
            raise settings.wrong(key, stages, " or ".join(map(str, allowed)))
    for key in ("truncation", "padding"):
        side = (facts.get(key) or {}).get("direction", "Right")
        if side != "Right":
            raise settings.wrong(f"direction of {key}", side, "Right")
    return facts


def _stages(facts: dict | None) -> list[str]:
    """The kinds of a stage's parts."""
    if not facts:
        return []
    for several in ("normalizers", "pretokenizers", "processors"):
        if facts["type"] == "Sequence" and several in facts:
            return [part["type"] for part in facts[several]]
    return [facts["type"]]


def _with_specials(folder: Path, found: Vocabulary, fast: dict) -> Vocabulary:
    """With the tokens that were added, and those that have a part to play."""

    def facts(name: str, table: Table | None) -> Settings:
        path = folder / name
        return Settings(json.loads(read_text(path)) if path.exists() else {}, str(path), table)

    config = facts("tokenizer_config.json", CONFIG)
    special, listed = (
        facts("special_tokens_map.json", SPECIAL_MAP),
        facts("added_tokens.json", None),
    )
    decoder = config.get("added_tokens_decoder")
    # transformers heeds special_tokens_map.json only where the newer settings are not there.
    pairs_ = (special, config) if decoder is not None else (config, special)
    named = {**pairs_[0].facts, **pairs_[1].facts}
    roles = {key: _content(named[key]) for key in _NAMED if named.get(key) is not None}
    for key, token in (("bos_token", START), ("eos_token", END)):
        if roles.get(key, token) != token:
            raise config.wrong(key, roles[key], token)
    more = [x for key in _MORE for x in _listed(named.get(key))]

    sources = [(config.source, {**token, "id": int(i)}) for i, token in (decoder or {}).items()]
    sources += [(str(folder / "tokenizer.json"), x) for x in fast.get("added_tokens") or []]
    words = {*roles.values(), *map(_content, more)}
    for content, i in listed.facts.items():
        # Older files say nothing more than that.
        token = {"content": content, "id": i, "special": content in words}
        sources.append((listed.source, token | {"normalized": content not in words}))
    added = {}
    for source, token in sources:
        token = AddedToken(**Settings(token, f"{source}: an added token", ADDED).facts)
        first = added.setdefault(token.content, token)
        if first.id != token.id:
            raise InputError(f"{source}: {token.content!r} has id {token.id}, elsewhere {first.id}")
    for content in words - added.keys():
        if content not in found.table:
            raise InputError(f"{config.source}: the special token {content!r} has no id")
        added[content] = AddedToken(content, found.table[content], False, special=True)
    for content in (START, END):  # these two the tokenizer knows itself
        token = added.pop(content, None)
        if token and token.id != found.table.get(content):
            raise InputError(
                f"{folder}: {content} has id {token.id} and {found.table.get(content)}"
            )
    most = config.get("model_max_length") or config.get("max_len")
    if type(most) not in (int, float, type(None)) or (most is not None and most < 3):
        raise config.wrong("model_max_length", most, "a number of 3 or more")
    ordered = tuple(sorted(added.values(), key=lambda token: token.id))
    # So large a number says that there is no limit.
    most = int(most) if most and most < 2**31 else None
    pad = roles.get("pad_token")
    if pad is None and "pad_token" not in named:
        # CLIPTokenizer's own choice, where there is one: a mere list of merges is no more than OpenAI's.
        pad = END if fast or config.facts or special.facts else None
    return found._replace(added=ordered, pad=pad, most=most)


def _content(token: object) -> str:
    """A token is told by its text, or in braces."""
    return token if isinstance(token, str) else token["content"]


def _listed(tokens: object) -> list:
    return list(tokens.values()) if isinstance(tokens, dict) else list(tokens or [])


def write_vocabulary(folder: Path, found: Vocabulary) -> None:
    """Write vocab.json and merges.txt, and tokenizer_config.json where there is more to tell."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = "\n".join(["#version: 0.2", *map(" ".join, found.merges), ""])
    contents = {"vocab.json": json.dumps(found.table, ensure_ascii=False), "merges.txt": merges}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "added_tokens_decoder": {
            str(token.id): {k: v for k, v in token._asdict().items() if k != "id"}
            for token in found.added
        },
        "pad_token": found.pad,
        "model_max_length": found.most,
    }
    if found.added or found.pad is not None or found.most is not None:
        told = {key: value for key, value in config.items() if key == "pad_token" or value}
        contents["tokenizer_config.json"] = json.dumps(told, indent=2) + "\n"
    else:
        Path(folder, "tokenizer_config.json").unlink(missing_ok=True)
    for name, text in contents.items():
        temporary = Path(folder, f".tmp-{name}")  # no reader meets half a file
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(Path(folder, name))


def read_text(path: Path | str) -> str:
    """A file, unpacked if it is gzipped. ValueError if it is too large; else what the system says."""
    check_regular(path)
    with (gzip.open if str(path).endswith(".gz") else open)(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(f"a file is larger than {MOST_BYTES} bytes")
    return content.decode().replace("\r\n", "\n")


def pairs(merges: object) -> tuple[Pair, ...]:
    """Merges from a file's "a b" or ["a", "b"], empty lines left out."""
    pairs = (merge.split() if isinstance(merge, str) else merge for merge in merges if merge)
    return tuple((str(a), str(b)) for a, b in pairs)


@contextlib.contextmanager
def told_in_one_line(source: Path | str) -> Iterator[None]:
    """Whatever is wrong with files from elsewhere becomes InputError."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{source} holds no tokenizer of CLIP: {error}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{source} cannot be read: {error}") from None
