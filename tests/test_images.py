"""Folders of images that somebody else made: every mode, every mishap."""

import contextlib
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from minidiff.data import folder, images, metadata
from minidiff.data.describe import describe
from minidiff.data.images import check_header, read_image
from minidiff.data.sources import open_source
from minidiff.errors import InputError

RED = (200, 30, 40)


def save(path, mode="RGB", size=(24, 24), colour=RED, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def fill(root, count, **options):
    for i in range(count):
        save(root / f"{i:02}.png", **options)
    return root


def open_folder(root, **options):
    return open_source(f"folder:{root}", **options)


def refusal(root):
    with pytest.raises(InputError) as caught:
        open_folder(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Reading one image


@pytest.mark.parametrize(
    ("name", "mode", "colour", "expected"),
    [
        ("a.png", "RGB", RED, RED),
        ("a.bmp", "RGB", RED, RED),
        ("a.jpg", "RGB", RED, RED),
        ("a.jfif", "RGB", RED, RED),
        ("a.jpe", "L", 77, (77, 77, 77)),
        ("a.JPEG", "RGB", RED, RED),
        ("a.jpg", "CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("a.webp", "RGB", RED, RED),
        ("a.gif", "P", 0, (0, 0, 0)),
        ("a.png", "1", 1, (255, 255, 255)),
        ("a.png", "L", 77, (77, 77, 77)),
        ("a.png", "LA", (77, 255), (77, 77, 77)),
        ("a.png", "LA", (77, 0), (255, 255, 255)),
        ("a.png", "RGBA", (*RED, 255), RED),
        ("a.png", "RGBA", (*RED, 0), (255, 255, 255)),
        ("a.png", "I;16", 30000, (117, 117, 117)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, name, mode, colour, expected):
    path = save(tmp_path / name, mode, (40, 30), colour)
    check_header(path)
    image = read_image(path, 8)
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - np.array(expected)).max() <= 4  # JPEG and WebP are lossy


def test_palette_with_transparency_lies_over_white(tmp_path):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, *RED])
    image.save(tmp_path / "a.png", transparency=1)
    assert np.all(read_image(tmp_path / "a.png", 8) == 255)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (32, 32), "black")
    image.paste("white", (0, 0, 32, 16))  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to show
    image.save(tmp_path / "a.jpg", exif=exif)
    upright = read_image(tmp_path / "a.jpg", 8).astype(int)
    assert upright[:, 5:].min() > 200  # what was above is now on the right
    assert upright[:, :3].max() < 50


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, "blue", "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.abs(read_image(tmp_path / "a.gif", 8).astype(int) - np.array(RED)).max() <= 4


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_the_centre_is_kept(tmp_path, name):
    image = Image.new("RGB", (900, 300), "blue")
    image.paste("red", (300, 0, 600, 300))
    image.save(tmp_path / name, quality=95)
    square = read_image(tmp_path / name, 16).astype(int)
    assert square[:, 2:-2, 0].min() > 240
    assert square[:, 2:-2, 2].max() < 15


def test_resizing_is_antialiased(tmp_path):
    checks = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png", 8).astype(int) - 127).max() <= 3


def test_small_images_are_enlarged(tmp_path):
    save(tmp_path / "a.png", size=(1, 3))
    assert read_image(tmp_path / "a.png", 16).shape == (16, 16, 3)


def test_native_pixels_are_untouched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 16), pixels)


def test_upright_whatever_the_format_that_says_how(tmp_path):
    """All eight orientations of EXIF, in each format that carries it."""
    corners = np.zeros((32, 32, 3), np.uint8)
    corners[:16, :16], corners[:16, 16:], corners[16:, :16] = RED, (0, 200, 0), (0, 0, 200)
    turned = {
        1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud,
        5: lambda x: np.transpose(x, (1, 0, 2)), 6: lambda x: np.rot90(x, -1),
        7: lambda x: np.transpose(np.rot90(x, 2), (1, 0, 2)), 8: np.rot90,
    }  # fmt: skip
    for suffix in ("png", "jpg", "webp"):
        for orientation, turn in turned.items():
            exif, path = Image.Exif(), tmp_path / f"{orientation}.{suffix}"
            exif[0x0112] = orientation
            Image.fromarray(corners).save(path, exif=exif, quality=95)
            off = np.abs(read_image(path, 32).astype(int) - turn(corners).astype(int))
            assert np.median(off) <= 8, (suffix, orientation)
            assert off[4:12, 4:12].max() <= 24


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\0\0\0 ftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "a video"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xef\xbb\xbf<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<!doctype html><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
    ],
)
def test_what_else_it_is_is_said_by_name(tmp_path, content, name):
    (tmp_path / "a.png").write_bytes(content)
    assert f"a.png: not an image of a known kind (PNG, JPEG, WEBP, BMP, GIF): it is {name}" in (
        refusal(tmp_path).replace("a Git LFS", "Git LFS")
    )


def test_pictures_that_are_not_read_are_told_of(tmp_path):
    for name in ("a.AVIF", "b.heic", "c.tiff", "d.svg"):
        (tmp_path / name).write_bytes(b"x")
    message = refusal(tmp_path)
    assert "there are .avif, .heic, .svg, .tiff: convert them to PNG or JPEG" in message
    fill(tmp_path, 1)
    remarks = open_folder(tmp_path).facts.problems
    assert "4 picture(s) ignored: .avif, .heic, .svg, .tiff is not read" in "; ".join(remarks)


# Files that are not what they seem


def png_header(width, height):
    chunk = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IHDR" + chunk
    checksum = struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + checksum + b"\0\0\0\x40IDAT"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"this is text, whatever the name says", "not an image of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known kind"),
        (png_header(60_000, 60_000), "more than 80,000,000 pixels"),
        (png_header(9_500, 9_500), "more than 80,000,000 pixels"),
        (png_header(16, 16), "unreadable"),
    ],
)
def test_impostors_are_named_in_one_line(tmp_path, content, reason):
    fill(tmp_path, 2)
    (tmp_path / "bad.png").write_bytes(content)
    message = refusal(tmp_path)
    assert reason in message
    assert message.startswith("1 bad image file(s): bad.png: ")


def test_all_bad_files_are_counted_and_the_first_named(tmp_path):
    fill(tmp_path, 3)
    whole = (tmp_path / "00.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    for i in range(5):
        (tmp_path / f"text{i}.jpg").write_text("no image")
    message = refusal(tmp_path)
    assert "6 bad" in message
    assert "cut.png: unreadable or cut short" in message
    assert "and 3 more" in message
    assert (tmp_path / "00.png").read_bytes() == whole


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_never_raise_anything_else(tmp_path, data):
    kind = data.draw(st.sampled_from(["png", "jpg", "gif", "webp", "bmp"]))
    path = save(tmp_path / f"a.{kind}", size=(9, 7))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(InputError):
        check_header(path)
        assert read_image(path, 8).shape == (8, 8, 3)


# Folders


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda root: root / "missing", "no such folder"),
        (lambda root: save(root / "a.png"), "not a folder"),
        (lambda root: root, "no images in"),
    ],
)
def test_folders_that_are_none(tmp_path, make, reason):
    assert reason in refusal(make(tmp_path))


def test_subfolders_are_labels_and_hidden_and_odd_files_are_skipped(tmp_path):
    save(tmp_path / "dog" / "b.png", colour="blue")
    save(tmp_path / "cat" / "a.PNG", colour="red")
    save(tmp_path / "dog" / "puppy" / "c.jpg", colour="green")
    save(tmp_path / ".thumbnails" / "x.png")
    (tmp_path / "dog" / "._b.png").write_text("left behind by a file manager")
    (tmp_path / "notes.md").write_text("hello")
    os.mkfifo(tmp_path / "pipe.png")
    source = open_folder(tmp_path)
    assert source.facts.class_names == ("cat", "dog", "dog/puppy")
    assert source.labels.tolist() == [0, 1, 2]
    assert np.asarray(source.images)[:, 8, 8].argmax(-1).tolist() == [0, 2, 1]
    assert any("1 other file(s) ignored: .md" in remark for remark in describe(source)["problems"])


def test_a_grey_folder_has_one_channel_and_one_coloured_pixel_makes_three(tmp_path):
    fill(tmp_path, 2, mode="L", colour=9)
    assert open_folder(tmp_path, size=8).image_shape == (8, 8, 1)
    save(tmp_path / "z.png", colour=(9, 9, 10))
    assert open_folder(tmp_path, size=8).image_shape == (8, 8, 3)


def test_one_image_in_ten_is_for_testing_and_stays_there(tmp_path):
    fill(tmp_path, 60)
    paths = sorted(tmp_path.iterdir())
    for i, path in enumerate(paths):
        save(path, colour=(i, 0, 0))

    def members(split):
        return set(np.asarray(open_folder(tmp_path, split=split).images)[:, 0, 0, 0].tolist())

    train, test = members("train"), members("test")
    assert train | test == set(range(60))
    assert not train & test
    assert 1 <= len(test) <= 15
    save(tmp_path / "another.png", colour=(99, 0, 0))
    assert members("test") - {99} == test


def test_few_images_are_in_both_splits_and_it_is_said(tmp_path):
    fill(tmp_path, 9)
    for split in ("train", "test"):
        source = open_folder(tmp_path, split=split)
        assert source.count == 9
        assert any("too few images (9)" in remark for remark in source.facts.problems)


def test_too_much_for_memory_is_refused_before_reading(tmp_path, monkeypatch):
    fill(tmp_path, 3)
    monkeypatch.setattr(folder, "MAX_BYTES", 1000)
    monkeypatch.setattr(images, "read_image", lambda *_: pytest.fail("decoded"))
    assert "array_record with TFDS" in refusal(tmp_path)


# Captions


def captions(root, **options):
    source = open_folder(root, **options)
    return source.captions(source.examples(np.arange(source.count)))


def test_no_captions_is_none(tmp_path):
    assert captions(fill(tmp_path, 2)) is None


def test_text_files_beside_the_images(tmp_path):
    save(tmp_path / "x" / "a.png")
    save(tmp_path / "x" / "b.v2.jpg")
    save(tmp_path / "c.png")
    (tmp_path / "x" / "a.txt").write_text("  ein Fuchs,\n löwengelb 🦊 \x00\x07", "utf-8-sig")
    (tmp_path / "x" / "b.v2.txt").write_text("x" * 1500)
    (tmp_path / "c.txt").write_text("")
    assert captions(tmp_path) == ["", "ein Fuchs, löwengelb 🦊", "x" * 1000]
    problems = open_folder(tmp_path).facts.problems
    assert any("1 of 3 images have no caption" in remark for remark in problems)
    assert any("1 caption(s) cut to 1000" in remark for remark in problems)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a caption", "stray.txt: no image of the same name"),
        (b"\xff\xfe\x80", "not readable as UTF-8"),
    ],
)
def test_bad_caption_files(tmp_path, content, reason):
    fill(tmp_path, 2)
    if isinstance(content, str):
        (tmp_path / "stray.txt").write_text(content)
    else:
        (tmp_path / "00.txt").write_bytes(content)
    assert reason in refusal(tmp_path)


JSON_ROWS = [
    {"file_name": "00.png", "text": "first, with a comma"},
    {"file_name": "./01.png", "text": "é"},
]


def test_metadata_outweighs_text_files(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "00.txt").write_text("ignored")
    lines = "\n".join(json.dumps(row) for row in JSON_ROWS)
    (tmp_path / "metadata.jsonl").write_text(lines + "\n\n")
    assert captions(tmp_path) == ["first, with a comma", "é"]
    assert any("ignored: .txt" in remark for remark in open_folder(tmp_path).facts.problems)


def test_metadata_as_csv(tmp_path):
    fill(tmp_path, 2)
    text = 'file_name,other,text\n00.png,5,"first, with a comma"\n01.png,,é\n'
    (tmp_path / "metadata.csv").write_text(text, "utf-8")
    assert captions(tmp_path) == ["first, with a comma", "é"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "00.png", "text": "a"}\n{oops',
            "line 2: not a JSON object",
        ),
        ("metadata.jsonl", "[1]", "line 1: not a JSON object"),
        ("metadata.jsonl", "[" * 100_000, "line 1: not a JSON object"),
        ("metadata.jsonl", '{"file_name": "00.png"}', "line 1: wants file_name and text"),
        ("metadata.jsonl", '{"file_name": "00.png", "text": 3}', "wants file_name and text"),
        ("metadata.jsonl", '{"file_name": "no.png", "text": "a"}', "there is no image 'no.png'"),
        ("metadata.jsonl", '{"file_name": "../00.png", "text": "a"}', "inside the folder"),
        ("metadata.jsonl", '{"file_name": "/etc/passwd", "text": "a"}', "inside the folder"),
        (
            "metadata.jsonl",
            '{"file_name": "00.png", "text": "a"}\n' * 2,
            "line 2: a second caption",
        ),
        ("metadata.csv", "name,caption\n00.png,a\n", "columns file_name and text"),
        ("metadata.csv", "", "columns file_name and text"),
        ("metadata.csv", "file_name,text\n00.png\n", "line 2: wants file_name and text"),
        ("metadata.csv", "file_name,text\n00.png," + "x" * 200_000, "line 2: not CSV"),
    ],
)
def test_bad_metadata_names_the_line(tmp_path, name, content, reason):
    fill(tmp_path, 2)
    (tmp_path / name).write_text(content)
    message = refusal(tmp_path)
    assert name in message
    assert reason in message


def test_two_metadata_files_are_one_too_many(tmp_path):
    fill(tmp_path, 1)
    for name in metadata.NAMES:
        (tmp_path / name).write_text("")
    assert "keep one" in refusal(tmp_path)


def test_metadata_without_rows_means_no_captions(tmp_path):
    fill(tmp_path, 2)
    (Path(tmp_path) / "metadata.jsonl").write_text("\n")
    assert captions(tmp_path) is None


def test_file_names_with_line_breaks_stay_on_one_line(tmp_path):
    (tmp_path / "two\nlines.png").write_text("no image")
    assert "two lines.png" in refusal(tmp_path)
