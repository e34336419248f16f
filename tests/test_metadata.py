"""Tables of captions as spreadsheets and data sets write them: read right, or refused with the line."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from minidiff.data.sources import open_source
from minidiff.errors import InputError

HEAD = "file_name,text\n"


@pytest.fixture
def photos(tmp_path):
    """Three images: a.png, b.png, c.png."""
    for name in "abc":
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    return tmp_path


def captions(root):
    source = open_source(f"folder:{root}", size=8)
    return source.captions(source.examples(np.arange(source.count)))


def refusal(root):
    with pytest.raises(InputError) as caught:
        open_source(f"folder:{root}", size=8)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def problems(root):
    return "; ".join(open_source(f"folder:{root}", size=8).facts.problems)


READ = {
    "plain": HEAD + "a.png,one\nb.png,two\nc.png,three\n",
    "semicolons": "file_name;text\na.png;one\nb.png;two\nc.png;three\n",
    "tabs": "file_name\ttext\na.png\tone\nb.png\ttwo\nc.png\tthree\n",
    "CRLF": (HEAD + "a.png,one\nb.png,two\nc.png,three\n").replace("\n", "\r\n"),
    "CR": (HEAD + "a.png,one\nb.png,two\nc.png,three\n").replace("\n", "\r"),
    "no end of line": HEAD + "a.png,one\nb.png,two\nc.png,three",
    "quotes": '"file_name","text"\n"a.png","one"\n"b.png","two"\n"c.png","three"\n',
    "spaces": "file_name, text\na.png, one\nb.png, two\n c.png, three\n",
    "empty rows": HEAD + "\na.png,one\n,\nb.png,two\nc.png,three\n,\n,\n",
    "another order": "text,id,file_name\none,1,a.png\ntwo,2,b.png\nthree,3,c.png\n",
    "a text with separators": "file_name;text;note\na.png;one;x,y\nb.png;two;\nc.png;three;z\n",
    "two lines": HEAD + 'a.png,one\nb.png,"two"\nc.png,"three"\n',
}


@pytest.mark.parametrize("mark", [False, True])
@pytest.mark.parametrize("what", READ)
def test_tables_that_are_read(photos, what, mark):
    (photos / "metadata.csv").write_text(READ[what], "utf-8-sig" if mark else "utf-8", newline="")
    assert captions(photos) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ('a.png,"a cat, red, small"', "a cat, red, small"),
        ('a.png, "a cat, red"', "a cat, red"),
        ('a.png,"the ""red"" cat"', 'the "red" cat'),
        ('a.png,the "red" cat', 'the "red" cat'),
        ('a.png,"a cat\non two lines, both its own"', "a cat on two lines, both its own"),
        ("a.png,a cat; red", "a cat; red"),
        ("a.png,it's 5\" high", "it's 5\" high"),
    ],
)
def test_every_letter_of_a_text_arrives(photos, row, text):
    (photos / "metadata.csv").write_text(f"{HEAD}{row}\nb.png,two\nc.png,three\n")
    assert captions(photos) == [text, "two", "three"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (HEAD + "a.png,one\nb.png,a cat, red\n", "line 3: 3 cells where the header names 2"),
        ("file_name;text\na.png;a cat; red\n", "line 2: 3 cells where the header names 2"),
        (HEAD + 'a.png,"one\nb.png,two\nc.png,three\n', "line 2: not CSV (unexpected end of data)"),
        (HEAD + 'a.png,"one\nb.png,two\nc.png,three"\n', "line 2: a quote that is opened here takes in"),
        (HEAD + 'a.png,x\nb.png,"one\n"c.png","three"\n', "line 3: not CSV"),
        (HEAD + 'a.png,"red" cat\n', "line 2: not CSV"),
        (HEAD + 'a.png,"a \\"red\\" cat"\n', "line 2: not CSV"),
        (HEAD + "a.png,one\n" + HEAD + "b.png,two\n", "line 3: the header stands here again"),
        (HEAD + "a.png\n", "line 2: wants file_name and text"),
        (HEAD + "a.png,one\nb.png,two\na.png,three\n", "line 4: a second caption for 'a.png'"),
        ("file_name,text,text\na.png,one,two\n", "line 1: the first line must name"),
        ("file_name,text,text\na.png,one,two\n", "it names text twice"),
        ("image,caption\na.png,one\n", "file_name and text, once; it names image, caption"),
        ("file_name,caption\na.png,one\n", "it names file_name, caption"),
        ("file_name|text\na.png|one\n", "it names file_name|text"),
        ("a.png,one\nb.png,two\n", "it names a.png, one"),
        (HEAD + "d.png,one\n", "line 2: there is no image 'd.png'"),
        (HEAD + "..\\a.png,one\n", "line 2: file_name '..\\\\a.png' must be a path inside"),
        (HEAD + "C:\\a.png,one\n", "must be a path inside"),
        (HEAD + "../a.png,one\n", "must be a path inside"),
    ],
)  # fmt: skip
def test_tables_that_are_refused_with_the_line(photos, table, said):
    (photos / "metadata.csv").write_text(table)
    message = refusal(photos)
    assert message.startswith("1 bad metadata row(s): metadata.csv line ")
    assert said in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_another_encoding_is_named(photos, encoding):
    marks = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}
    content = (marks.get(encoding, "") + HEAD + "a.png,ein Füchslein\n").encode(encoding)
    (photos / "metadata.csv").write_bytes(content)
    message = refusal(photos)
    assert message.startswith("metadata.csv: not readable as UTF-8 text (")
    assert ("UTF-16" in message) == (encoding != "latin-1")
    (photos / "metadata.csv").unlink()
    (photos / "a.txt").write_bytes(content)
    assert "a.txt: not readable as UTF-8 text (" in refusal(photos)


# Names


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("there", ["NFC", "NFD"])
def test_accents_in_either_form_name_the_same_file(tmp_path, there, form):
    name = unicodedata.normalize(there, "Löwe.png")
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "metadata.csv").write_text(
        HEAD + unicodedata.normalize(form, "Löwe.png") + ",a lion\n"
    )
    assert captions(tmp_path) == ["a lion"]
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / unicodedata.normalize(form, "Löwe.txt")).write_text("a lion")
    assert captions(tmp_path) == ["a lion"]


@pytest.mark.parametrize(
    "name", ["x/a.JPG", "./x/a.JPG", "x\\a.JPG", ".\\x\\a.JPG", "x/a.jpg", "x//a.JPG", "x/./a.Jpg"]
)
def test_other_spellings_of_a_path(tmp_path, name):
    (tmp_path / "x").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "x" / "a.JPG", "JPEG")
    (tmp_path / "metadata.csv").write_text(f"{HEAD}{name},one\n")
    assert captions(tmp_path) == ["one"]


def test_a_spelling_of_two_files_means_neither(tmp_path):
    for name in ("a.PNG", "a.pNg", "a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "metadata.csv").write_text(f"{HEAD}a.png,one\n")
    assert captions(tmp_path) == ["", "", "one"]
    (tmp_path / "metadata.csv").write_text(f"{HEAD}a.Png,one\n")
    assert "'a.Png' may be any of 'a.PNG', 'a.pNg', 'a.png'" in refusal(tmp_path)


# Places


def table(folder, *rows, name="metadata.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    for file, _ in rows:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / file).exists():
            Image.new("RGB", (8, 8)).save(folder / file)
    if name.endswith("csv"):
        (folder / name).write_text(HEAD + "".join(f"{file},{text}\n" for file, text in rows))
    else:
        lines = [json.dumps({"file_name": file, "text": text}) + "\n" for file, text in rows]
        (folder / name).write_text("".join(lines))


def test_tables_in_subfolders_name_images_beside_them(tmp_path):
    """As data sets on hubs have them: train/metadata.csv, and its file_name relative to train/."""
    table(tmp_path / "train", ("a.png", "one"), ("deep/b.png", "two"))
    table(tmp_path / "test", ("a.png", "three"), name="metadata.jsonl")
    assert captions(tmp_path) == ["three", "one", "two"]


def test_splits_that_are_taken_for_classes_are_told(tmp_path):
    table(tmp_path / "train", ("a.png", "one"))
    table(tmp_path / "test", ("a.png", "three"))
    assert "test, train: taken for classes, not for splits" in problems(tmp_path)


def test_tables_above_and_below_share_the_images(tmp_path):
    table(tmp_path / "x", ("a.png", "below"))
    table(tmp_path, ("b.png", "above"), name="metadata.jsonl")
    assert captions(tmp_path) == ["above", "below"]
    table(tmp_path, ("b.png", "above"), ("x/a.png", "again"), name="metadata.jsonl")
    assert "x/metadata.csv line 2: a second caption for 'a.png'" in refusal(tmp_path)


def test_a_table_below_does_not_reach_above(tmp_path):
    table(tmp_path, ("b.png", "above"))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "metadata.csv").write_text(HEAD + "../b.png,mine\n")
    assert "x/metadata.csv line 2: file_name '../b.png' must be" in refusal(tmp_path)


def test_captions_in_files_of_another_suffix_are_told_of(photos):
    (photos / "a.caption").write_text("one")
    assert captions(photos) is None
    assert "1 other file(s) ignored: .caption (captions are read from .txt)" in problems(photos)


def test_columns_of_another_name_in_json_are_told(photos):
    (photos / "metadata.jsonl").write_text('{"image": "a.png", "caption": "one"}\n')
    assert "line 1: wants file_name and text, both strings; it has image, caption" in refusal(
        photos
    )
