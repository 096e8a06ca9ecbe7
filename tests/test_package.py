"""The package imports what is asked for when it is asked for, and nobody notices."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
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


def plain(distribution: str) -> str:
    """A distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """The top-level packages that a module imports from elsewhere, and whether inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.partition(".")[0], inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
            yield child.module.partition(".")[0], inside
        yield from imports(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not know which package brings which module")
def test_every_import_is_declared():
    declared: dict[bool, set[str]] = {False: set(), True: set()}
    for line in requires("lightning-saliency") or []:
        extra = re.search(r"extra == .(\w+)", line)
        if not extra or extra[1] not in ("dev", "docs"):  # which no user installs
            declared[bool(extra)].add(plain(re.split(r"[^\w.-]", line, maxsplit=1)[0]))
    by_package = packages_distributions()
    undeclared = []
    paths = sorted(Path(str(lightning_saliency.__file__)).parent.rglob("*.py"))
    for path in paths:
        for package, inside in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if package in sys.stdlib_module_names or package == "lightning_saliency":
                continue
            # Only an import inside a function may wait for an extra.
            allowed = declared[False] | declared[True] if inside else declared[False]
            if not allowed & {plain(name) for name in by_package.get(package, [package])}:
                undeclared.append(f"{path}: {package}, {'in a function' if inside else 'when it is imported'}")
    assert len(paths) > 100
    assert undeclared == []
