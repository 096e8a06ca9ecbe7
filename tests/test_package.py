"""The package imports what is asked for when it is asked for, and nobody notices."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import lightning_saliency


def test_every_exported_name_is_there():
    for name in lightning_saliency.__all__:
        assert getattr(lightning_saliency, name).__name__ == name
    assert set(lightning_saliency.__all__) <= set(dir(lightning_saliency))


def test_what_type_checkers_see_is_what_is_exported():
    tree = ast.parse(Path(str(lightning_saliency.__file__)).read_text(encoding="utf-8"))
    (block,) = [each for each in tree.body if isinstance(each, ast.If)]
    seen = {(each.module, alias.name) for each in block.body for alias in each.names}  # type: ignore[attr-defined]
    rooms = {
        (f"lightning_saliency.{room}", name) for room, names in lightning_saliency._ROOMS.items() for name in names
    }
    assert seen == rooms
    assert {name for _, name in rooms} == set(lightning_saliency.__all__)


def test_public_modules_are_found_without_importing_them_by_name():
    code = "import lightning_saliency as ls; print(ls.explainers.GroupCAM.__name__, ls.functional.blur.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["GroupCAM", "blur"]
    assert all(isinstance(getattr(lightning_saliency, name), ModuleType) for name in lightning_saliency._PUBLIC)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'lightning_saliency' has no attribute 'SaliencyMonitr'"):
        _ = lightning_saliency.SaliencyMonitr  # type: ignore[attr-defined]
    assert not hasattr(lightning_saliency, "__wrapped__")


def test_the_command_line_s_help_needs_neither_torch_nor_lightning():
    code = (
        "import sys\nfrom lightning_saliency.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'pytorch_lightning', 'lightning')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
