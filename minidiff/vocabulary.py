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


OLDER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_NAMED = names("bos_token eos_token unk_token pad_token sep_token cls_token mask_token")
_MORE = names("additional_special_tokens extra_special_tokens")
_SPECIAL = dict.fromkeys(_NAMED | _MORE)
CONFIG = Table(
    "tokenizer_config.json",
    read=_SPECIAL | dict.fromkeys(("added_tokens_decoder", "model_max_length", "max_len")),
    fixed={
        "tokenizer_class": (
            "CLIPTokenizer",
            "CLIPTokenizerFast",
            "PreTrainedTokenizerFast",
            "TokenizersBackend",
            None,
        ),
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
        merges_file pad_token_type_id padding processor_class return_special_tokens_mask stride
        special_tokens_map_file tokenizer_file truncation truncation_strategy trust_remote_code
        use_fast verbose vocab_file"""),
)
SPECIAL_MAP = Table("special_tokens_map.json", read=_SPECIAL)
FAST = Table(
    "tokenizer.json",
    read=dict.fromkeys(
        names("added_tokens model normalizer pre_tokenizer post_processor truncation padding")
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
    "post_processor": (["RobertaProcessing"], ["TemplateProcessing"]),
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
    config = _settings(folder, "tokenizer_config.json", CONFIG)
    special = _settings(folder, "special_tokens_map.json", SPECIAL_MAP)
    # transformers heeds special_tokens_map.json only where the newer settings are not there.
    newer = config.get("added_tokens_decoder") is not None
    named = special.facts | config.facts if newer else config.facts | special.facts
    for key, token in (("bos_token", START), ("eos_token", END)):
        if named.get(key) is not None and _content(named[key]) != token:
            raise config.wrong(key, _content(named[key]), token)
    added = _added(folder, found.table, fast, config, named)
    for content in (START, END):  # these two the tokenizer knows itself
        token, i = added.pop(content, None), found.table.get(content)
        if token and token.id != i:
            raise InputError(f"{folder}: {content} has id {token.id} and {i}")
    pad = None if named.get("pad_token") is None else _content(named["pad_token"])
    if "pad_token" not in named and (
        fast or any(Path(x.source).exists() for x in (config, special))
    ):
        pad = END  # CLIPTokenizer's own choice; byte pairs alone are no more than OpenAI's
    ordered = tuple(sorted(added.values(), key=lambda token: token.id))
    return found._replace(added=ordered, pad=pad, most=_most(config))


def _settings(folder: Path, name: str, table: Table | None) -> Settings:
    """Those of a file; none where there is no such file."""
    path = folder / name
    return Settings(json.loads(read_text(path)) if path.exists() else {}, str(path), table)


def _added(
    folder: Path, table: object, fast: dict, config: Settings, named: dict
) -> dict[str, AddedToken]:
    """The added tokens of all files by their text; InputError where two files differ in an id."""
    decoder = config.get("added_tokens_decoder") or {}
    sources = [(config.source, {**token, "id": int(i)}) for i, token in decoder.items()]
    sources += [(str(folder / "tokenizer.json"), x) for x in fast.get("added_tokens") or []]
    special = [named[key] for key in sorted(_NAMED) if named.get(key) is not None]
    for tokens in (named.get(key) or [] for key in sorted(_MORE)):
        special += tokens.values() if isinstance(tokens, dict) else tokens
    special = {_content(token): token if isinstance(token, dict) else {} for token in special}
    listed = _settings(folder, "added_tokens.json", None)
    for content, i in listed.facts.items():  # older files say nothing more than that
        token = {"content": content, "id": i, "special": content in special}
        sources.append((listed.source, token))
    added = {}
    for source, token in sources:
        token = _token(Settings(token, f"{source}: an added token", ADDED))
        first = added.setdefault(token.content, token)
        if first.id != token.id:
            raise InputError(f"{source}: {token.content!r} has id {token.id}, elsewhere {first.id}")
    for content, flags in special.items():
        if content not in added and content not in table:
            raise InputError(f"{config.source}: the special token {content!r} has no id")
        if content not in added:
            token = {**flags, "content": content, "id": table[content], "special": True}
            added[content] = _token(Settings(token, f"{config.source}: {content}", ADDED))
    return added


def _most(config: Settings) -> int | None:
    """Tokens of a row; a number too large to be meant says that there is no limit."""
    most = config.get("model_max_length")
    most = config.get("max_len") if most is None else most
    if type(most) not in (int, float, type(None)) or (most is not None and most < 3):
        raise config.wrong("model_max_length", most, "a number of 3 or more")
    return int(most) if most is not None and most < 2**31 else None


def _token(settings: Settings) -> AddedToken:
    """Where it is not told, a special token is looked for as it is written, and no other is."""
    flags = {key: settings.flag(key) for key in ("single_word", "special", "lstrip", "rstrip")}
    flags["normalized"] = settings.flag("normalized", not flags["special"])
    return AddedToken(settings.facts["content"], settings.facts["id"], **flags)


def _content(token: object) -> str:
    """A token is told by its text, or in braces."""
    return token if isinstance(token, str) else token["content"]


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
    for name in {*OLDER, *contents} - contents.keys():  # of an older tokenizer
        Path(folder, name).unlink(missing_ok=True)
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
    return content.decode("utf-8-sig").replace("\r\n", "\n")


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
