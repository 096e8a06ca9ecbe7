"""Every benchmark can be started: what it imports is there. (Calls and names inside are checked by mypy.)"""

from __future__ import annotations

import importlib
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import benchmarks
from benchmarks._timing import commit, machine, origin

NAMES = sorted(path.stem for path in Path(benchmarks.__path__[0]).glob("*.py") if path.stem != "__init__")


def test_there_are_benchmarks():
    assert {"monitor", "position_bias", "group_cam"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert name.startswith("_") or callable(module.main)


def test_results_say_which_command_and_commit_made_them(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/sise.py", "--threads", "1", "--only", "two words"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("benchmarks.sise", None))
    found = machine()
    assert found["command"] == "python -m benchmarks.sise --threads 1 --only 'two words'"
    assert re.fullmatch(r"[0-9a-f]{7,}\+?", found["commit"])
    day = r"\d{1,2} [A-Z][a-z]+ \d{4}"
    assert re.fullmatch(rf"{day}, commit {re.escape(found['commit'])}, torch [\d.]+", origin("not-installed-at-all"))
    monkeypatch.setenv("PATH", "")
    assert commit() is None
