"""The first line of the README, at the smallest preset."""

import json

from PIL import Image

from minidiff.cli import main
from minidiff.quickstart import PICTURES


def test_quickstart_leaves_its_pictures_and_a_report(tmp_path, capsys):
    out = tmp_path / "story"
    assert main(["quickstart", "--preset", "smoke", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    text = (out / "report.md").read_text(encoding="utf-8")
    for name in PICTURES:
        path = out / "figures" / f"{name}.png"
        assert str(path) in said
        assert f"(figures/{name}.png)" in text
        with Image.open(path) as picture:
            picture.load()
            assert len(picture.getcolors(picture.width * picture.height)) > 2
    assert {path.stem for path in (out / "figures").iterdir()} == set(PICTURES)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert set(report["clip"]["zero_shot"]) == {"test", "unseen"}
    assert min(report["judge"]["accuracy"].values()) >= 0.98
    assert {"made", "floor"} == set(report["judge"]["frechet"])
    assert report["seconds"]["all"] > 0


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "report.md").write_text("mine")
    assert main(["quickstart", "--preset", "smoke", "--out", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text() == "mine"
