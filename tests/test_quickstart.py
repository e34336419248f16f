"""The first line of the README, at the smallest preset."""

import json

import pytest
from PIL import Image

from minidiff.cli import main


@pytest.mark.long
def test_quickstart_leaves_its_pictures_and_a_report(tmp_path, capsys):
    out = tmp_path / "story"
    assert main(["quickstart", "--preset", "smoke", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    text = (out / "report.md").read_text(encoding="utf-8")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    names = {"scenes", "zero_shot", "search", "arithmetic", "noising", "similarity"}
    names |= {"prompts", "scales", "guidance", "loss"}
    for name in names:
        path = out / "figures" / f"{name}.png"
        assert str(path) in said
        assert f"(figures/{name}.png)" in text
        with Image.open(path) as picture:
            picture.load()
            assert len(picture.getcolors(picture.width * picture.height)) > 2
    assert {path.stem for path in (out / "figures").iterdir()} == names
    assert set(report["clip"]["zero_shot"]) == {"test", "unseen"}
    drawn = report["text_to_image"]["judge"]
    assert all(0 <= drawn[split]["all"] <= 1 for split in ("test", "unseen"))
    assert f"minidiff sample {out / 'text_to_image'}" in said
    capsys.readouterr()
    picture = tmp_path / "cat.png"
    assert main(["sample", str(out / "text_to_image"), "a blue cat", "--out", str(picture)]) == 0
    assert picture.exists()
    assert report["seconds"]["all"] > 0


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "report.md").write_text("mine")
    assert main(["quickstart", "--preset", "smoke", "--out", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text() == "mine"
