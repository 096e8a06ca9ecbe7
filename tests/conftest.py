"""What every test shares: where the real data lies, and a quiet, deterministic torch."""

from pathlib import Path

import pytest
import torch

from tests.paths import SHARED_DATA


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and weights beside the project; skips the test where it does not exist."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real images and weights are not here: {SHARED_DATA} does not exist")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
