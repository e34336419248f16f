"""Hostile command lines: arguments of every verb, settings of every recipe, places to write.

Handled rather than refused, as the tests at the end say: digits of other scripts, underscores and
blanks around a number (all as Python reads numbers), a setting given twice (the last one counts), an
older picture under the name of --out (it is replaced), a link as --out (its target is written).
"""

import os
import subprocess
import sys

import hostile
import pytest
from hostile import handled, refused

from minidiff import memory
from minidiff.recipes import clip, ddpm, judge, text_to_image
from minidiff.training.config import override

RECIPES = {"clip": clip, "ddpm": ddpm, "judge": judge, "text_to_image": text_to_image}


pytestmark = pytest.mark.usefixtures("place")


# The command line: what is written, a blank between arguments, and what the line must name.

LINES = [
    ("", ["invalid choice: ''"]),
    ("TRAIN ddpm", ["TRAIN", "train"]),
    ("--verison", ["--verison"]),
    ("train ddpm --preset", ["--preset", "expected one"]),
    ("train ddpm --preset smoke --preset SMOKE", ["SMOKE", "smoke"]),
    ("train ddpm --out", ["--out"]),
    ("train ddpm --out ''", ["out", "empty"]),
    ("train ddpm --data ''", ["data", "empty"]),
    ("train ddpm ddpm", ["'ddpm'", "field=value"]),
    ("train ddpm -x=3", ["-x=3"]),
    ("train ../../etc/passwd", ["passwd", "clip"]),
    ("train ddpm a\nb --x\ny", ["--x y"]),
    ("train ddpm --\x1b[31mred", ["--\\x1b[31mred"]),
    ("train ddpm --\u202ederahs", ["--\\u202ederahs"]),
    ("quickstart --out ''", ["out", "empty"]),
    ("quickstart --preset ''", ["''", "smoke"]),
    ("quickstart --out ../outside", ["outside", "something else"]),
    ("sample ''", ["run", "empty"]),
    ("sample", ["run"]),
    ("sample run --count 1e3", ["--count", "'1e3'"]),
    ("sample run --count 1.5", ["--count", "'1.5'"]),
    ("sample run --count ''", ["--count", "''"]),
    ("sample run --count nan", ["--count", "'nan'"]),
    ("sample run --count ٠", ["--count", "from 1"]),
    (f"sample run --count {'9' * 5000}", ["--count"]),
    ("sample run --count", ["--count", "expected one"]),
    ("sample run --steps 0x5", ["--steps", "0x5"]),
    ("sample run --steps -0", ["--steps", "from 1"]),
    ("sample run --seed 1.5", ["--seed", "1.5"]),
    ("sample run --seed 99999999999999999999", ["--seed", "4294967295"]),
    ("sample run dog --scale nan", ["--scale", "nan", "from 0"]),
    ("sample run dog --scale inf", ["--scale", "inf", "1000"]),
    ("sample run dog --scale -1", ["--scale", "-1"]),
    ("sample run dog --scale 1e999", ["--scale", "1e999"]),
    ("sample run dog --scale ten", ["--scale", "'ten'"]),
    ("sample run --scale 2", ["--scale", "prompt"]),
    ("sample run --negative fog", ["--negative", "prompt"]),
    ("sample run --strength nan --image 0.png", ["--strength", "nan"]),
    ("sample run --strength 1.01 --image 0.png", ["--strength", "from 0.001 to 1"]),
    ("sample run --between 65", ["--between", "from 2 to 64"]),
    ("sample run --between two", ["--between", "'two'"]),
    ("sample run a b c --between 3", ["--between", "3"]),
    ("sample run --sampler DDIM", ["'DDIM'", "ddim"]),
    ("sample run --sampler ''", ["''", "ddim"]),
    ("sample run --image ''", ["image", "empty"]),
    ("sample run --mask ''", ["mask", "empty"]),
    ("sample run ''", ["empty prompt"]),
    ("sample run dog", ["without text"]),
    ("sample run --frames 3", ["--frames"]),
    ("sample run --out samples", [".png"]),
    ("compare run --steps", ["--steps"]),
    ("compare run --steps 0", ["--steps", "from 1"]),
    ("compare run --steps 5 many", ["--steps", "'many'"]),
    ("compare run --scales nan", ["--scales", "nan"]),
    ("compare run --scales", ["--scales"]),
    ("compare run --spacing even", ["'even'", "trailing"]),
    ("compare run --steps 9", ["--steps 9", "8"]),
    ("compare clip", ["of clip", "not of ddpm or text_to_image"]),
    ("classify clip 0.png", ["--labels"]),
    ("classify clip 0.png --labels", ["--labels"]),
    ("classify clip 0.png --labels cat", ["--labels", "two different"]),
    ("classify clip 0.png --labels cat cat", ["--labels", "two different"]),
    ("classify clip 0.png --labels cat ''", ["empty label"]),
    ("classify clip 0.png --labels cat dog --templates plain", ["{}", "plain"]),
    ("classify clip 0.png --labels cat dog --templates {0.__class__}", ["{0.__class__}"]),
    ("classify run 0.png --labels cat dog", ["of ddpm, not of clip"]),
    ("search clip images", ["a text to search for"]),
    ("search clip images cat --count 0", ["--count", "from 1 to 100"]),
    ("search clip images cat --count 101", ["--count", "from 1 to 100"]),
    ("search clip '' cat", ["folder", "empty"]),
    ("search clip images ''", ["empty text"]),
    ("search clip images cat --index ''", ["index", "empty"]),
    ("search clip images cat --index nowhere/x", ["--index", "no folder nowhere"]),
    ("search clip images cat --index images", ["--index", "no file"]),
    ("arithmetic clip --plus 0.png", ["--plus and --minus"]),
    ("arithmetic clip --words", ["--words"]),
    ("arithmetic clip --words ''", ["empty label"]),
    ("arithmetic clip --seed -1", ["--seed", "-1"]),
    ("data digits --count 0", ["--count", "from 1 to 1024"]),
    ("data digits --count 1000000", ["--count", "from 1 to 1024"]),
    ("data digits --size -8", ["--size", "-8"]),
    ("data digits --size 10", ["size is 10", "multiple of 4"]),
    ("data digits --size 1000000", ["size is 1000000", "512"]),
    ("data digits --split ''", ["split ''", "train and test"]),
    ("data scenes --split ../train", ["'../train'", "train, test"]),
    ("data folder:/dev/null", ["/dev/null", "not a folder"]),
    ("data http://example.org/cats.zip", ["http://example.org", "folder:PATH"]),
    ("data tfds:", ["tfds:", "tfds:NAME"]),
    ("data tfds:mnist/../../outside", ["mnist/../../outside", "two dots"]),
    ("data tfds:..", ["tfds:.."]),
    ("data tfds:/etc/passwd", ["tfds:/etc/passwd", "tfds:NAME"]),
    ("data tfds:mnist\\x", ["tfds:mnist", "tfds:NAME"]),
    ("data tfds:mnist/a/b/c", ["tfds:mnist/a/b/c", "tfds:NAME"]),
    ("data tfds:~/mnist", ["tfds:~/mnist", "tfds:NAME"]),
    ("data tfds:nothing_of_ours:train", ["nothing_of_ours", "mnist"]),
    ("data tfds:mnist/../x --write there", ["mnist has no '../x'"]),
    ("data tfds:../x --write there", ["cannot prepare", "mnist"]),
    ("data folder:images --write there", ["--write", "tfds:NAME"]),
    ("data scenes --write ''", ["write", "empty"]),
    ("describe stable-diffusion-9", ["stable-diffusion-9", "compact"]),
    ("describe", ["layout"]),
    ("lessons close", ["'close'", "open"]),
    ("lessons open", ["which lesson", "07"]),
    ("lessons open 99", ["'99'", "choose from"]),
    ("lessons open -1", ["-1"]),
    ("lessons open ''", ["''", "choose from"]),
    ("lessons open ../../etc/passwd", ["passwd", "choose from"]),
    ("lessons open 07 --to ''", ["to", "empty"]),
    ("check x.ipynb --cell-seconds nan", ["--cell-seconds", "nan"]),
    ("check x.ipynb --cell-seconds 1e9", ["--cell-seconds", "86400"]),
    ("check x.ipynb --memory inf", ["--memory", "1024"]),
    ("check x.ipynb --memory -1", ["--memory", "-1"]),
    ("bench no_such", ["'no_such'", "choose from"]),
    ("bench ../../etc/passwd", ["passwd", "choose from"]),
    ("bench --with new.json", ["--with", "--compare"]),
    ("bench --peers nowhere", ["--peers nowhere"]),
    ("bench --out ''", ["out", "empty"]),
    ("doctor who", ["who"]),
]  # fmt: skip


def link(models):
    """The models, their images and one of these, in the current folder."""
    for name in ("run", "clip", "images"):
        os.symlink(models / name, name)
    os.symlink(models / "images" / "0.png", "0.png")


@pytest.mark.parametrize(("line", "named"), LINES, ids=[repr(line)[:60] for line, _ in LINES])
def test_a_hostile_line(capsys, place, models, line, named):
    link(models)
    arguments = ["" if text == "''" else text for text in line.split(" ")]
    refused(capsys, place, arguments, *named)


# Settings: what is written, and what the line must name besides the first field.

SETTINGS = {
    "ddpm": [
        ("steps=", "a whole number"), ("steps=1e3", "a whole number"), ("steps=1.0", "a whole number"),
        ("steps=0x10", "a whole number"), ("steps=--1", "a whole number"), ("steps=½", "a whole number"),
        ("steps=²", "a whole number"), ("steps=nan", "a whole number"), ("steps=none", "a whole number"),
        ("steps=True", "a whole number"), ("steps=[5]", "a whole number"), ("steps=5;6", "a whole number"),
        ("steps=" + "9" * 5000, "a whole number"), ("steps=" + "9" * 4000, "from 1 to"),
        ("steps=2147483648", "from 1 to 2147483647"), ("steps=-0", "from 1"), ("steps=\x1b[2J", "\\x1b[2J"),
        ("steps=\u202e5", "\\u202e5"), ("steps=5\nseed=3", "a whole number"),
        ("batch_size=65537", "from 1 to 65536"), ("learning_rate=1e999", "from 0.0 to 1.0"),
        ("learning_rate=-inf", "from 0.0"), ("learning_rate=0x1p3", "a number"),
        ("learning_rate=1,5", "a number"), ("learning_rate=true", "a number"),
        ("learning_rate=", "a number"), ("warmup=-1", "at least 0"), ("warmup=1.5", "a whole number"),
        ("weight_decay=1e400", "at least 0.0, and finite"), ("clip=nan", "at least 0.0"),
        ("ema_decay=nan", "from 0.0 to 1.0"), ("ema_decay=-0.0001", "from 0.0"),
        ("dtype=float16", "float32, bfloat16"), ("dtype=", "float32, bfloat16"),
        ("optimizer=sgd", "adamw, muon"), ("optimizer=None", "adamw, muon"), ("seed=1.0", "a whole number"),
        ("seed=99999999999999999999", "4294967295"), ("log_every=10001", "from 1 to 10000"),
        ("picture_every=-1", "at least 0"), ("checkpoint_every=none", "a whole number"),
        ("channels=8,x", "whole numbers with commas"), ("channels=1e3", "whole numbers with commas"),
        ("channels=8.0", "whole numbers with commas"), ("channels=none", "whole numbers with commas"),
        ("channels=(8,16)", "whole numbers with commas"), ("channels=-8", "multiple of 8"),
        ("channels=80000", "from 8 to 16384"), ("channels=" + "8," * 13, "13 levels are more than 12"),
        ("attention=0,5", "levels are 0 to"), ("attention=all", "whole numbers with commas"),
        ("heads=0", "from 1"), ("heads=65", "from 1 to 64"), ("heads=3", "does not divide"),
        ("patch=9", "from 1 to 8"), ("blocks=9", "from 1 to 8"), ("schedule=Linear", "linear, cosine"),
        ("zero_snr=1", "true or false"), ("zero_snr=", "true or false"), ("objective=noise", "eps, x0"),
        ("weight=x0", "min-snr"), ("focus=nan", "from -10.0"), ("focus=11", "from -10.0 to 10.0"),
        ("timesteps=100001", "from 2 to 100000"), ("sampler=pndm", "ddim"), ("sample_steps=0", "at least 1"),
        ("report_count=7", "from 8"), ("report_count=1000000000000", "to 100000"),
        ("size=514", "multiple of 4"),
        ("size=100000000", "from 8 to 512"), ("size=inf", "a whole number"), ("data=", "is empty"),
        ("data=Scenes", "choose scenes"), ("data=digits:train", "choose scenes"),
        ("data=tfds:../x", "two dots"), ("data=folder:", "folder:PATH"),
        ("=5", "there is no field ''"), ("==", "there is no field ''"), ("Steps=5", "choose from steps"),
        ("steps =5", "there is no field 'steps '"), ("__class__=5", "there is no field '__class__'"),
        ("stéps=5", "there is no field 'stéps'"), ("x" * 5000 + "=5", "there is no field"),
        ("-", "-"),
        ("sample_steps=20 timesteps=10", "timesteps=10"), ("channels=8 attention=1", "levels are 0 to 0"),
        ("channels=8,16 heads=5", "heads=5"), ("data=digits size=8 channels=8,8,8,8,8", "image side 8"),
        ("channels=16384,16384", "memory"), ("batch_size=65536 size=512", "memory"),
    ],
    "clip": [
        ("width=7", "from 8"), ("width=130", "heads=4 does not divide"), ("width=1e4", "a whole number"),
        ("layers=49", "from 1 to 48"), ("embedding=1", "from 2"), ("vocabulary=513", "from 514"),
        ("vocabulary=65537", "to 65536"), ("context=3", "at least 4"), ("context=5", "need"),
        ("loss=siglip2", "clip, siglip"), ("report_count=49", "from 50"), ("size=16 patch=5", "16"),
        ("size=512 patch=1", "more than 4096 patches"), ("channels=8", "there is no field"),
        ("width=4096 layers=48 text_layers=48", "memory"),
    ],
    "text_to_image": [
        ("dropout=nan", "from 0.0 to 1.0"), ("scale=101", "from 0.0 to 100.0"),
        ("scales=a", "numbers with commas"),
        ("scales=1;2", "numbers with commas"), ("scales=", "one or more"), ("scales=nan", "from 0 to 100"),
        ("scales=1,inf", "from 0 to 100"), ("scales=-1", "from 0 to 100"), ("scales_count=7", "from 8"),
        ("showcase=maybe", "true or false"), ("compare_steps=1.5", "whole numbers with commas"),
        ("compare_steps=0", "from 1 to"), ("compare_steps=1000000000", "from 1 to timesteps"),
        ("encoder_preset=tiny", "smoke"), ("encoder=", "is empty"), ("encoder=/dev/null", "/dev/null"),
        ("encoder=../outside", "config.json"),
    ],
    "vae": [
        ("channels=12", "multiple of 8"), ("channels=", "multiple of 8"), ("channels=8", "have as many"),
        ("channels=none", "whole numbers with commas"), ("decoder_channels=8,x", "commas between"),
        ("decoder_channels=" + "8," * 13, "13 levels are more than 12"), ("decoder_channels=0,8", "from 8"),
        ("patch=0", "from 1 to 16"), ("patch=3", "multiples of 6"), ("blocks=9", "from 1 to 8"),
        ("latent=0", "from 1 to 256"), ("latent=1e9", "a whole number"), ("middle=maybe", "true or false"),
        ("kl_weight=-1", "at least 0.0"), ("kl_weight=nan", "at least 0.0"),
        ("kl_weight=inf", "and finite"), ("absolute=-inf", "at least 0.0"), ("squared=1e999", "and finite"),
        ("absolute=0 squared=0", "no error"), ("scale_count=15", "from 16"),
        ("report_count=7", "from 8"), ("size=20", "multiples of 8"), ("size=24", "16, 32 or 64 pixels"),
        ("data=digits size=8", "11 pixels"), ("quant=true", "there is no field"),
        ("batch_size=65536 size=512", "memory"),
    ],
    "judge": [
        ("noise=-1", "at least 0.0"), ("noise=nan", "at least 0.0"), ("data=folder:x", "scenes"),
        ("channels=8", "there is no field"), ("size=32", "there is no field"),
    ],
}  # fmt: skip
CASES = [(recipe, text, said) for recipe in SETTINGS for text, said in SETTINGS[recipe]]


@pytest.mark.parametrize(
    ("recipe", "text", "said"), CASES, ids=[f"{r} {ascii(t)[:40]}" for r, t, _ in CASES]
)
def test_a_hostile_setting(capsys, place, monkeypatch, recipe, text, said):
    monkeypatch.setattr(memory, "available", lambda: 8 * 2**30)  # the same on every machine
    # One is split at blanks where it is several settings.
    several = text.split() if text.count("=") > 1 and "\n" not in text else [text]
    refused(capsys, place, ["train", recipe, "--preset", "smoke", *several], said)


# Places to write


def pipe(name):
    os.mkfifo(name)


def full(name):
    os.symlink("/dev/full", name)


def folder(name):
    os.mkdir(name)


def loop(name):
    os.symlink(name, name)


OUTPUTS = [
    (pipe, "data digits --out x.png", "--out x.png"),
    (folder, "data digits --out x.png", "--out x.png"),
    (full, "data digits --out x.png", "--out x.png"),
    (pipe, "sample run --out x.png", "--out x.png"),
    (pipe, "classify clip 0.png --labels a b --out x.png", "--out x.png"),
    (full, "search clip images cat --index x.png", "--index x.png"),
    (pipe, "search clip images cat --index x.png", "--index x.png"),
    (loop, "data digits --out x.png", "x.png"),
    (folder, "arithmetic clip --out x.png", "--out x.png"),
    (pipe, "bench --out x.png", "--out x.png"),
    (pipe, "compare run --out x.png", "--out x.png"),
    (full, "compare run --out x.png", "--out x.png"),
    (pipe, "train ddpm --preset smoke --data digits --out x.png", "x.png"),
    (full, "train ddpm --preset smoke --data digits --out x.png", "x.png"),
    (loop, "train ddpm --preset smoke --data digits --out x.png", "x.png"),
    (pipe, "quickstart --preset smoke --out x.png", "x.png"),
    (pipe, "lessons open 07 --to x.png", "x.png"),
    (pipe, "data digits --out x.png/y.png", "no folder x.png"),
    (folder, f"data digits --out x.png/{'y' * 300}.png", "yyy.png"),
]


@pytest.mark.parametrize(
    ("make", "line", "said"), OUTPUTS, ids=[f"{m.__name__} {line[:50]}" for m, line, _ in OUTPUTS]
)
def test_a_hostile_place_to_write(capsys, place, models, make, line, said):
    link(models)
    make("x.png")
    refused(capsys, place, line.split(), said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("line", ["data digits --out shut/x.png", "sample run --out shut/x.png"])
def test_a_folder_that_may_not_be_written(capsys, place, models, line):
    link(models)
    os.mkdir("shut", 0o500)
    refused(capsys, place, line.split(), "--out shut/x.png", "permission")


# Handled


@pytest.mark.parametrize(
    ("texts", "name", "value"),
    [
        (["steps=٣"], "steps", 3),
        (["steps=1_000"], "steps", 1000),
        (["steps= 5 "], "steps", 5),
        (["learning_rate=１e-3"], "learning_rate", 1e-3),
        (["seed=1", "seed=2"], "seed", 2),
        (["attention="], "attention", ()),
        (["size=NONE"], "size", None),
        (["zero_snr=TRUE"], "zero_snr", True),
    ],
)
def test_a_setting_that_is_understood(texts, name, value):
    assert getattr(override(ddpm.PRESETS["smoke"], texts), name) == value


def test_an_older_picture_is_replaced_and_nothing_else(capsys, place):
    (place / "work" / "x.png").write_text("a thesis, under a name that it should not have")
    handled(capsys, place, ["data", "digits", "--count", "4", "--out", "x.png"], made=["x.png"])


def test_a_link_is_written_through(capsys, place):
    os.symlink(place / "work" / "target.png", "x.png")
    command = ["data", "digits", "--count", "4", "--out", "x.png"]
    handled(capsys, place, command, made=["target.png"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train ddpm --preset smoke steps=9=9", b"steps=9=9"),
        ("sample nowhere", b"nowhere"),
        (b"sample \xff\x1b[31m", b"\\udcff\\x1b[31m"),
    ],
)
def test_in_a_process_of_its_own(place, line, said):
    """As a shell sees it: the bytes on stderr, nothing on stdout, the exit status."""
    before = hostile.contents(place)
    done = process(line if isinstance(line, bytes) else line.encode())
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"minidiff: ")
    assert done.stderr.count(b"\n") == 1
    assert said in done.stderr
    assert hostile.contents(place) == before


def test_a_name_that_cannot_be_printed():
    done = process(b"data digits --count 4 --out \xff.png")
    assert done.returncode == 0
    assert os.listdir(b".") == [b"\xff.png"]
    assert b"contact sheet: \\udcff.png" in done.stdout


def process(line):
    """A command as a shell starts it."""
    return subprocess.run(
        [sys.executable, "-m", "minidiff", *line.split()],
        capture_output=True, check=False, timeout=hostile.SECONDS, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
