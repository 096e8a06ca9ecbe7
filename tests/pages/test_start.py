"""What a new user pastes runs as it stands."""

from __future__ import annotations

import pytest

from tests.pages.blocks import code_blocks, run_blocks, section, text_of

pytestmark = pytest.mark.slow
pytest.importorskip("sklearn")
pytest.importorskip("skimage")


def test_the_five_minute_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="SaliencyMonitor sees a shortcut: .* the upper left corner of the image"):
        run_blocks(code_blocks(text_of("docs/start.md")))
    for version in ("version_0", "version_1"):
        run = tmp_path / "lightning_logs" / version / "saliency"
        assert (run / "film.html").is_file()
        assert len(list((run / "overview").glob("*.png"))) == 6


def test_the_ten_lines_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [lines] = code_blocks(section(text_of("README.md"), "Ten lines"))
    assert len(lines.splitlines()) <= 10
    run_blocks([lines])
    assert (tmp_path / "lightning_logs" / "version_0" / "saliency" / "film.html").is_file()
