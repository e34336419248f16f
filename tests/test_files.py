"""Where output can go is told before the work that makes it."""

import os

import pytest

from minidiff.cli import main
from minidiff.errors import InputError
from minidiff.files import check_output_folder


def test_a_folder_that_is_there_or_can_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, tmp_path / "new", tmp_path / "new" / "deep"):
        check_output_folder("--out", path)
        check_output_folder("--out", path.relative_to(tmp_path))
    assert not os.listdir(tmp_path)


def test_a_file_or_a_broken_link_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "link"):
        with pytest.raises(InputError, match=r"--out .* cannot be a folder: .* is none"):
            check_output_folder("--out", path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="permission is denied"):
        check_output_folder("--out", tmp_path / "run")


@pytest.mark.parametrize("verb", [["quickstart"], ["compare", "run"]])
def test_commands_look_before_they_work(tmp_path, capsys, verb):
    (tmp_path / "file").touch()
    assert main([*verb, "--out", str(tmp_path / "file" / "run")]) == 2
    assert "cannot be a folder" in capsys.readouterr().err
