"""What every test shares: where the real data lies, and a quiet, deterministic torch."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

from tests.paths import SHARED_DATA

#: Folders and files whose tests wait for processes that they start: they come first, so that two workers end together.
LONG = (
    "tests/studies/",
    "tests/cli/",
    "tests/test_examples.py",
    "tests/test_cli.py",
    "tests/callbacks/monitor/test_sh",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long tests first; without ALL_COMBINATIONS no ``thorough`` one, and each n-th of ``grid(every=n)``."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    if os.environ.get("ALL_COMBINATIONS"):
        return
    seen: Counter[str] = Counter()
    left_out, kept = [], []
    for item in items:
        mark = item.get_closest_marker("grid")
        test = item.nodeid.partition("[")[0]
        out = item.get_closest_marker("thorough") is not None
        out = out or (mark is not None and seen[test] % mark.kwargs["every"] > 0)
        (left_out if out else kept).append(item)
        seen[test] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and weights beside the project; skips the test where it does not exist."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real images and weights are not here: {SHARED_DATA} does not exist")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _loaders_as_they_were() -> Iterator[None]:
    """Lightning wraps methods of loaders while it asks for them, and leaves them wrapped where that raises an error."""
    yield
    for base in (DataLoader, BatchSampler):
        kinds, seen = [base], set()
        while kinds:
            kind = kinds.pop()
            if kind in seen:
                continue
            seen.add(kind)
            kinds.extend(kind.__subclasses__())
            for name in ("__init__", "__setattr__", "__delattr__"):
                if (saved := f"__old{name}") in vars(kind):
                    setattr(kind, name, vars(kind)[saved])
                    delattr(kind, saved)
