"""The notebooks run from the first cell to the last."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from tests.pages.blocks import run_blocks
from tests.paths import ROOT

pytestmark = pytest.mark.slow
pytest.importorskip("sklearn")
pytest.importorskip("skimage")
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def run_notebook(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel where there is one, else cell by cell in one namespace."""
    if all(find_spec(name) for name in ("nbclient", "nbformat", "ipykernel")):
        import nbclient
        import nbformat

        nbclient.NotebookClient(nbformat.read(path, as_version=4), timeout=600).execute()
        return
    if find_spec("IPython") is None:
        shown = ModuleType("IPython.display")
        shown.HTML = str  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
        monkeypatch.setitem(sys.modules, "IPython.display", shown)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    run_blocks(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"])


@pytest.mark.thorough
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_notebook(path, monkeypatch)
    if path.stem == "watch_a_training":
        assert (tmp_path / "runs" / "notebook" / "both.html").is_file()
    else:
        assert "insertion" in capsys.readouterr().out


def test_notebooks_are_kept_without_outputs():
    assert len(NOTEBOOKS) == 2
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
