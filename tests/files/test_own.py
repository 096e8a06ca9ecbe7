"""Only files that were written here are replaced."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lightning_saliency.files import OwnFiles
from lightning_saliency.files import own as own_module


def test_own_files_are_replaced_by_a_later_process(tmp_path: Path) -> None:
    for text in ("first", "second", "first"):
        OwnFiles(tmp_path / "deep").write("table.md", text)
        assert (tmp_path / "deep" / "table.md").read_text() == text
    lines = (tmp_path / "deep" / own_module.LIST).read_text().splitlines()
    assert lines[0] == f"{hashlib.sha256(b'first').hexdigest()}  table.md"


@pytest.mark.parametrize("how", ["there before", "changed since", "emptied since", "a folder", "a link to nothing"])
def test_other_files_are_left_as_they_are(tmp_path: Path, how: str) -> None:
    path = tmp_path / "results.csv"
    if "since" in how:
        OwnFiles(tmp_path).write("results.csv", "ours")
    if how == "a folder":
        path.mkdir()
    elif how == "a link to nothing":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text("" if "emptied" in how else "precious")
    before = sorted(file.name for file in tmp_path.iterdir())
    own = OwnFiles(tmp_path)
    with pytest.raises(ValueError, match=r"results\.csv, which was not written here, or was changed since"):
        own.write("results.csv", "ours again")
    with pytest.raises(ValueError, match=r"results\.csv"):
        own.check("table.md", "results.csv")
    assert sorted(file.name for file in tmp_path.iterdir()) == before
    if path.is_file():
        assert path.read_text() == ("" if "emptied" in how else "precious")


def test_a_kill_between_the_note_and_the_file_leaves_a_file_that_is_known(tmp_path: Path, monkeypatch) -> None:
    OwnFiles(tmp_path).write("a.txt", "first")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_saliency.files.atomic.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        OwnFiles(tmp_path).write("a.txt", "second")
    monkeypatch.undo()
    assert (tmp_path / "a.txt").read_text() == "first"
    assert OwnFiles(tmp_path).write("a.txt", "third").read_text() == "third"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(ValueError, match="which is no folder"):
        OwnFiles(tmp_path / "out")
    with pytest.raises(ValueError, match="on no disk"):
        OwnFiles("s3://bucket/out")
