"""Hostile images and captions: as a source, and given to sample, classify, search and arithmetic.

Handled rather than refused, as the tests at the end say: every mode that PNG, JPEG, WebP, BMP and GIF
have (16 bits are scaled, transparency lies over white, of an animation the first frame is taken, EXIF
turns the picture, colour profiles are not followed); a wrong suffix of an allowed kind; EXIF, profiles
and texts that make no sense; links to files, which are followed, and links to folders, which are not;
pipes, sockets and broken links, which are passed over; captions of any script, cleaned of control
characters and cut.
"""

import json
import os
import socket
import zlib
from pathlib import Path

import hostile
import numpy as np
import pytest
from hostile import handled, refused
from hostile_files import (
    ARCHIVES,
    bmp,
    chunk,
    gif,
    good_images,
    jpeg,
    picture,
    png,
)
from PIL import Image

from minidiff.data import folder as folder_module
from minidiff.data.sources import open_source

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def linked(models):
    for name in ("run", "clip"):
        os.symlink(models / name, name)


# Images that are none: the content of bad.png (whatever its suffix says), and why.


def frames(count, size=(8, 8)):
    """An animated PNG that claims so many frames."""
    control = count.to_bytes(4, "big") + bytes(4)
    return png(*size, before=chunk(b"acTL", control), data=zlib.compress(b"\0" * 25 * 8))


BAD = {
    "one byte": (b"\x89", "not an image of a known kind"),
    "a signature alone": (b"\x89PNG\r\n\x1a\n", "known kind"),
    "zeros": (b"\0" * 5000, "not an image of a known kind"),
    "HTML": (b"<html><img src=x></html>", "not an image of a known kind"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "known kind"),
    "PDF": (b"%PDF-1.7\n1 0 obj\n", "known kind"),
    "PostScript": (b"%!PS\n(/bin/sh) run\n", "known kind"),
    "TIFF": (b"II*\0\x08\0\0\0\0\0", "known kind"),
    "ICO": (b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\x68\4\0\0\x16\0\0\0", "known kind"),
    "PPM": (b"P6 99999 99999 255\n", "known kind"),
    "PNG of no width": (png(0, 9), "known kind"),
    "PNG of no height": (png(9, 0), "known kind"),
    "PNG of 2^31 - 1 pixels a side": (png(2**31 - 1, 2**31 - 1), "80,000,000 pixels"),
    "PNG a line wide": (png(1, 2**31 - 1), "80,000,000 pixels"),
    "PNG of 13000 a side": (png(13_000, 13_000), "80,000,000 pixels"),
    "PNG of 9000 a side, little in it": (png(9000, 8888), "unreadable or cut short"),
    "PNG of depth 7": (png(9, 9, depth=7), "known kind"),
    "PNG of colour type 5": (png(9, 9, colour=5), "known kind"),
    "PNG without data": (png(9, 9, data=b""), "unreadable or cut short"),
    "PNG whose data are none": (png(9, 9, data=b"hello"), "unreadable or cut short"),
    "PNG cut in its data": (png(64, 64)[:60], "unreadable"),
    "PNG with a bomb of text": (
        png(9, 9, before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(70_000_000)))), "unreadable"
    ),
    "BMP of no width": (bmp(0, 9), "known kind"),
    "BMP of 2^31 - 1": (bmp(2**31 - 1, 2**31 - 1), "80,000,000 pixels"),
    "BMP of negative width": (bmp(-9, 9), "80,000,000 pixels"),
    "BMP with few pixels": (bmp(500, 500), "unreadable or cut short"),
    "GIF of no size": (gif(0, 0), "known kind"),
    "GIF of 65535 a side": (gif(65_535, 65_535), "80,000,000 pixels"),
    "GIF with no frame": (b"GIF89a" + b"\x09\0\x09\0\0\0\0;", "known kind"),
    "JPEG cut in its header": (jpeg()[:100], "unreadable"),
    "JPEG cut in its data": (jpeg(quality=100)[:-200], "unreadable"),
    "WebP header": (b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(20), "unreadable"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_image_in_a_folder(capsys, place, what):
    content, reason = BAD[what]
    good_images("images")
    Path("images/bad.png").write_bytes(content)
    refused(capsys, place, ["data", "folder:images"], "1 bad image file(s): bad.png: ", reason)


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_among_images(capsys, place, name):
    """Under the name of an image it is refused; neither is it unpacked."""
    good_images("images")
    Path("images/bad.png").write_bytes(ARCHIVES[name](place / "executed"))
    refused(capsys, place, ["data", "folder:images"], "bad.png", "known kind")


def odd(kind):
    """``x.png``, which is no image file."""
    name = Path("x.png")
    if kind == "folder":
        name.mkdir()
    elif kind == "pipe":
        os.mkfifo(name)
    elif kind == "nowhere":
        name.symlink_to("y.png")
    elif kind == "loop":
        name.symlink_to("x.png")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("x.png")
    elif kind == "empty":
        name.touch()
    elif kind == "text":
        name.write_text("no picture")
    elif kind == "bomb":
        name.write_bytes(png(60_000, 60_000))
    else:
        name.symlink_to(f"/dev/{kind}")


GIVEN = [
    "sample run --image x.png",
    "sample run --image good/0.png --mask x.png",
    "classify clip x.png --labels cat dog",
    "search clip good --image x.png",
    "arithmetic clip --plus x.png --minus good/0.png",
]
KINDS = ["folder", "pipe", "nowhere", "loop", "socket", "empty", "text", "bomb", "zero", "null"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("line", GIVEN)
def test_a_bad_image_given_by_name(capsys, place, linked, line, kind):
    good_images("good")
    odd(kind)
    refused(capsys, place, line.split(), "x.png")


@pytest.mark.parametrize("line", GIVEN)
def test_a_name_that_is_too_long(capsys, place, linked, line):
    good_images("good")
    refused(capsys, place, line.replace("x.png", "x" * 300 + ".png").split(), "xxx.png")


# Folders


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: os.mkfifo("images"), "not a folder"),
        (lambda: os.symlink("images", "images"), "images"),
        (lambda: os.symlink("/dev/zero", "images"), "not a folder"),
        (lambda: os.mkdir("images"), "no images in images"),
        (lambda: (os.mkdir("images"), os.mkfifo("images/a.png")), "no images in images"),
        (lambda: (os.mkdir("images"), os.mkdir("images/a.png")), "no images in images"),
        (lambda: (os.mkdir("images"), os.symlink("..", "images/up")), "no images in images"),
    ],
    ids=["pipe", "loop", "device", "empty", "pipes", "folders", "links"],
)
def test_a_bad_folder(capsys, place, make, said):
    make()
    refused(capsys, place, ["data", "folder:images"], said)
    refused(capsys, place, "train ddpm --preset smoke --data folder:images".split(), said)  # noqa: SIM905


def test_a_name_that_steers_a_terminal(capsys, place):
    good_images("images")
    Path("images/\x1b[2J\u202e\nx.png").write_text("no picture")
    refused(capsys, place, ["data", "folder:images"], "\\x1b[2J\\u202e x.png: not an image")


def test_more_images_than_fit(capsys, place, monkeypatch):
    monkeypatch.setattr(folder_module, "MAX_BYTES", 1000)
    good_images("images")
    refused(capsys, place, "data folder:images --size 512".split(), "3 images of 512x512x3")  # noqa: SIM905


# Captions: the files beside 0.png, 1.png and 2.png, and what is said of them

CAPTIONS = {
    "Latin-1": ({"0.txt": "ein Bär".encode("latin-1")}, "0.txt: not readable as UTF-8"),
    "UTF-16": ({"0.txt": "ein Bär".encode("utf-16")}, "0.txt: not readable as UTF-8"),
    "surrogates in bytes": ({"0.txt": b"\xed\xa0\x80"}, "0.txt: not readable as UTF-8"),
    "overlong": ({"0.txt": b"\xc0\xaf\xc0\xaf"}, "0.txt: not readable as UTF-8"),
    "a picture": ({"0.txt": png(9, 9)}, "0.txt: not readable as UTF-8"),
    "2 MB": ({"0.txt": b"cat " * 500_000}, "0.txt: more than 1048576 bytes"),
    "of no image": ({"9.txt": b"cat"}, "9.txt: no image of the same name"),
    "of an image elsewhere": ({"../0.txt": b"cat", "9.txt": b"cat"}, "9.txt: no image"),
    "jsonl: blank words": ({"metadata.jsonl": b"file_name,text"}, "line 1: not a JSON object"),
    "jsonl: a string": ({"metadata.jsonl": b'"0.png"'}, "line 1: not a JSON object"),
    "jsonl: no name": ({"metadata.jsonl": b'{"text": "cat"}'}, "line 1: wants file_name"),
    "jsonl: a null": ({"metadata.jsonl": b'{"file_name": "0.png", "text": null}'}, "both strings"),
    "jsonl: a list": ({"metadata.jsonl": b'{"file_name": ["0.png"], "text": "a"}'}, "both strings"),
    "jsonl: NaN": ({"metadata.jsonl": b'{"file_name": "0.png", "text": NaN}'}, "both strings"),
    "jsonl: a tail": ({"metadata.jsonl": b'{"file_name": "0.png", "text": "a"} x'}, "line 1: not"),
    "jsonl: deep": ({"metadata.jsonl": b'{"a":' * 100_000}, "line 1: not a JSON object"),
    "jsonl: 5000 digits": ({"metadata.jsonl": b'{"a": ' + b"9" * 5000 + b"}"}, "line 1: not a JSON"),
    "jsonl: UTF-16": ({"metadata.jsonl": '{"a": 1}'.encode("utf-16")}, "not readable as UTF-8"),
    "jsonl: up": ({"metadata.jsonl": b'{"file_name": "a/../../0.png", "text": "a"}'}, "inside the"),
    "jsonl: absolute": ({"metadata.jsonl": b'{"file_name": "/0.png", "text": "a"}'}, "inside the"),
    "jsonl: NUL": ({"metadata.jsonl": b'{"file_name": "0.png\\u0000", "text": "a"}'}, "no image"),
    "jsonl: no file": ({"metadata.jsonl": b'{"file_name": "", "text": "a"}'}, "there is no image"),
    "jsonl: thousands": ({"metadata.jsonl": b"x\n" * 5000}, "5000 bad metadata row(s)"),
    "csv: NUL": ({"metadata.csv": b"file_name,text\n0.png,\0cat\n9.png,a"}, "no image '9.png'"),
    "csv: no header": ({"metadata.csv": b"0.png,a cat\n"}, "columns file_name and text"),
    "csv: bars": ({"metadata.csv": b"file_name|text\n0.png|a\n"}, "columns file_name"),
    "csv: an open quote": ({"metadata.csv": b'file_name,text\n"0.png,a\n1.png,b\n'}, "metadata.csv"),
    "csv: one column": ({"metadata.csv": b"file_name,text\n0.png\n"}, "both strings"),
    "csv: twice": ({"metadata.csv": b"file_name,text\n0.png,a\n0.png,b\n"}, "a second caption"),
    "csv: a huge field": ({"metadata.csv": b"file_name,text\n0.png," + b"x" * 140_000}, "not CSV"),
    "csv: up": ({"metadata.csv": b"file_name,text\n../0.png,a\n"}, "inside the folder"),
    "both": ({"metadata.csv": b"file_name,text\n", "metadata.jsonl": b""}, "keep one"),
}  # fmt: skip


@pytest.mark.parametrize("what", CAPTIONS)
def test_a_bad_caption(capsys, place, what):
    files, said = CAPTIONS[what]
    good_images("images")
    for name, content in files.items():
        Path("images", name).write_bytes(content)
    refused(capsys, place, ["data", "folder:images"], said)


# Handled


def read(**settings):
    """The images of the folder, as uint8, and their captions."""
    source = open_source("folder:images", size=8, **settings)
    every = source.examples(np.arange(source.count))
    return np.asarray(source.images), source.captions(every)


def test_semicolons_in_a_table_of_captions_are_handled(capsys, place):
    good_images("images")
    Path("images/metadata.csv").write_text("file_name;text\n0.png;a\n")
    handled(capsys, place, ["data", "folder:images"], "captions: 1", made=["data.png"])


MODES = [
    ("a.png", "1"), ("a.png", "L"), ("a.png", "LA"), ("a.png", "P"), ("a.png", "RGBA"),
    ("a.png", "I;16"), ("a.jpg", "L"), ("a.jpg", "CMYK"), ("a.jpg", "YCbCr"), ("a.gif", "L"),
    ("a.webp", "RGBA"), ("a.bmp", "1"), ("a.bmp", "P"), ("a.bmp", "L"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_mode_is_handled(capsys, place, name, mode):
    good_images("images")
    picture(f"images/{name}", mode)
    handled(capsys, place, ["data", "folder:images"], "count: 4", made=["data.png"])


TRICKS = {
    "a wrong suffix": ("a.png", jpeg()),
    "the suffix in capitals": ("a.JPEG", jpeg()),
    "junk as EXIF": ("a.jpg", jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)),
    "an orientation of 99": (
        "a.jpg",
        jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0c\0\0"),
    ),
    "junk as a profile": ("a.jpg", jpeg(icc_profile=b"\xff" * 3000)),
    "text behind the picture": ("a.jpg", jpeg() + b"<?php system($_GET[0]); ?>" * 100),
    "a profile of PNG that is none": (
        "a.png",
        png(8, 8, data=zlib.compress(b"\0" * 25 * 8), before=chunk(b"iCCP", b"x\0\0junk")),
    ),
    "a million frames": ("a.png", frames(1_000_000)),
}


@pytest.mark.parametrize("what", TRICKS)
def test_a_trick_is_handled(capsys, place, what):
    name, content = TRICKS[what]
    good_images("images")
    Path("images", name).write_bytes(content)
    handled(capsys, place, ["data", "folder:images"], "count: 4", made=["data.png"])
    assert capsys.readouterr().err == ""


def test_a_large_picture_of_little_content(capsys, place):
    """79 million pixels in 80 kB: allowed, and decoded within the limit of memory."""
    good_images("images")
    Image.new("L", (8800, 9000), 77).save("images/large.png")
    assert Path("images/large.png").stat().st_size < 100_000
    handled(capsys, place, ["data", "folder:images"], "count: 4", made=["data.png"])


def test_an_image_a_pixel_high(capsys, place):
    good_images("images")
    Image.new("RGB", (100_000, 1), "red").save("images/line.png")
    handled(capsys, place, ["data", "folder:images"], "count: 4", made=["data.png"])


def test_links_to_files_are_followed_and_to_folders_not(capsys, place):
    good_images("images", 2)
    good_images("../outside/more", 3)
    Path("images/a.png").symlink_to("../../outside/more/0.png")
    Path("images/more").symlink_to("../../outside/more")
    Path("images/up").symlink_to("..")
    Path("images/loop.png").symlink_to("loop.png")
    os.mkfifo("images/pipe.png")
    os.mkfifo("images/0.txt")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("images/socket.png")
    handled(capsys, place, ["data", "folder:images"], "count: 3", made=["data.png"])


TEXTS = {
    "nothing": ("", ""),
    "blanks": (" \t\n \u2003 ", ""),
    "NULs": ("a\0 c\0at", "a cat"),
    "bells and escapes": ("a \x07\x1b[31mcat\x7f", "a [31mcat"),
    "line breaks": ("a\r\ncat\u2028sat", "a cat sat"),
    "right to left": ("\u202ea cat\u202c", "\u202ea cat\u202c"),
    "Hebrew": ("חתול אדום", "חתול אדום"),
    "emoji": ("👩‍👩‍👧‍👦 🦊", "👩‍👩‍👧‍👦 🦊"),
    "a byte-order mark": ("\ufeffa cat", "a cat"),
    "combining marks": ("a" + "\u0301" * 5000, "a" + "\u0301" * 999),
    "one long word": ("x" * 300_000, "x" * 1000),
    "a formula": (r"$\frac{1}{0}$ $", r"$\frac{1}{0}$ $"),
    "a format": ("{0.__class__} %s %n", "{0.__class__} %s %n"),
    "entities": ("&amp;lt;cat&#0;&#xD800;", "&amp;lt;cat&#0;&#xD800;"),
}


@pytest.mark.parametrize("form", ["txt", "jsonl", "csv"])
def test_captions_of_every_kind(form):
    """They are what the table says, and a tokenizer learns from them and reads them."""
    from minidiff.text import Tokenizer

    Path("images").mkdir()
    rows = [(f"{i:02}", text, wanted) for i, (text, wanted) in enumerate(TEXTS.values())]
    if form == "csv":
        rows = [row for row in rows if len(row[1]) < 100_000]  # more is no field of a CSV file
    for name, text, _ in rows:
        picture(f"images/{name}.png")
        if form == "txt":
            Path(f"images/{name}.txt").write_bytes(text.encode())
    if form == "jsonl":
        facts = [{"file_name": f"{name}.png", "text": text} for name, text, _ in rows]
        Path("images/metadata.jsonl").write_text("\n".join(map(json.dumps, facts)))
    if form == "csv":
        lines = [f'{name}.png,"{text}"' for name, text, _ in rows]
        content = "\n".join(["file_name,text", *lines]).encode()
        Path("images/metadata.csv").write_bytes(content)
    with hostile.bounded():
        found = read()[1] if len(rows) < folder_module.SMALLEST_SPLIT else everything()
        assert dict(found) == {name: wanted for name, _, wanted in rows}
        tokenizer = Tokenizer.learn(found.values(), 600)
        assert tokenizer(list(found.values()), 77).shape == (len(found), 77)


def everything():
    """Captions by name, of both splits."""
    found = {}
    for split in ("train", "test"):
        root = Path("images")
        names = sorted(path.name for path in root.glob("*.png"))
        chosen = [name for name in names if folder_module.in_test(name) == (split == "test")]
        if chosen:
            captions = read(split=split)[1]
            found |= dict(zip((name[:-4] for name in chosen), captions, strict=True))
    return found


def test_lone_surrogates_in_json_are_dropped():
    good_images("images", 1)
    row = '{"file_name": "0.png", "text": "a \\ud800cat\\udfff"}'
    Path("images/metadata.jsonl").write_text(row)
    assert read()[1] == ["a cat"]


def test_captions_with_letters_that_no_font_has(capsys, place):
    good_images("images", 2)
    Path("images/0.txt").write_text("𓀀𓁀 狐 $\\frac{$ \u202e")
    handled(capsys, place, ["data", "folder:images"], made=["data.png"])


def test_labels_of_every_kind(capsys, place, linked):
    """Formulas, formats and letters that no font has are text to the end of the picture."""
    good_images("good")
    labels = ["$\\frac{1}{", "{} {0} %s", "狐", "\u202e", "x" * 20_000, "\udcff", "a" * 5000]
    command = ["classify", "clip", "good/0.png", "--labels", *labels]
    handled(capsys, place, command, made=["classify.png"])
