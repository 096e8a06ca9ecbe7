"""``lightning-saliency merge-layer-masking``: tables, files, and errors that say what to do."""

from __future__ import annotations

import pytest

from lightning_saliency.cli import main
from lightning_saliency.studies import merge_layer_masking
from tests.studies.layer_masking.test_merged import FILES, made_up


@pytest.fixture
def runs(tmp_path, monkeypatch):
    for seed, name in enumerate(("digits", "letters", "signs")):
        made_up(seed).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return ["digits", "letters", "signs"]


def test_tables_are_printed_and_nothing_is_written(runs, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main(["merge-layer-masking", *runs]) == 0
    assert capsys.readouterr().out == f"{merge_layer_masking(runs)}\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_names_and_files(runs, tmp_path, capsys):
    made_up(3, seeds=(0,)).save(tmp_path / "more")
    arguments = [*runs, "more", "--names", "Digits, Letters,Signs,More", "--output", "all"]
    assert main(["merge-layer-masking", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "| Digits ↑ | Letters ↑ | Signs ↑ | More ↑ | average ↑ |" in shown
    assert "Note: Too few seeds for intervals: 1." in shown
    assert "7 files in all; the page is all/merged.html" in shown
    assert {path.name for path in (tmp_path / "all").glob("[!.]*")} == FILES
    page = (tmp_path / "all" / "merged.html").read_text()
    assert "lightning-saliency merge-layer-masking digits letters signs more --names" in page
    assert main(["merge-layer-masking", *arguments]) == 0
    (tmp_path / "all" / "merged_table.md").write_text("my own")
    assert main(["merge-layer-masking", *arguments]) == 2
    assert "not written here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Got 0 data sets. Allowed are the studies of two and more"),
        (["digits"], "Got 1 data set. Allowed are the studies of two and more"),
        (["digits", "nothing"], "Got nothing, where there is no folder. Allowed are output folders"),
        (["digits", "letters", "--names", "a"], "Got 1 name for 2 folders"),
        (["digits", "letters", "--names", "a,a"], "Got the name 'a' twice"),
        (["digits", "digits"], "Got the study digits twice"),
    ],
)
def test_what_cannot_be_carried_out_is_said(runs, capsys, arguments, message):
    assert main(["merge-layer-masking", *arguments]) == 2
    assert f"merge-layer-masking: {message}" in capsys.readouterr().err
