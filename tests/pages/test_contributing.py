"""What CONTRIBUTING.md says of the house holds: the files that it names are there, and no folder is too full."""

from __future__ import annotations

import re
from pathlib import Path

import lightning_saliency

PACKAGE = Path(lightning_saliency.__path__[0])
ROOT = PACKAGE.parent


def test_the_files_and_folders_that_it_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([\w./]+/[\w.]*)`", text) if re.fullmatch(r"[\w/.]+(\.\w+|/)", name)}
    assert len(named) > 40
    missing = {name for name in named if not ((ROOT / name).exists() or (PACKAGE / name).exists())}
    # Paths of the first column's kind, which hold for any room.
    assert missing <= {"engine/"}


def test_no_folder_holds_more_than_fifteen_modules():
    # Beside __init__.py.
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    full = {str(each.relative_to(ROOT)): count for each in folders if (count := len(list(each.glob("*.py"))) - 1) > 15}
    assert full == {}
