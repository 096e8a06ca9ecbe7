"""Every benchmark can be started: what it imports is there. (Calls and names inside are checked by mypy.)"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import benchmarks

NAMES = sorted(path.stem for path in Path(benchmarks.__path__[0]).glob("*.py") if path.stem != "__init__")


def test_there_are_benchmarks():
    assert {"monitor", "position_bias", "group_cam"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert name.startswith("_") or callable(module.main)
