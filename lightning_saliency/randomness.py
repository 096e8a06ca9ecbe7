"""Saving, seeding and restoring the global random number generators of Python, NumPy and PyTorch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self


@dataclass(frozen=True)
class GeneratorStates:
    """The states of all global generators at one moment.

    Args:
        python: State of Python's ``random``.
        numpy: State of NumPy's legacy global generator.
        cpu: State of PyTorch's CPU generator.
        cuda: States of PyTorch's CUDA generators, one per device; ``None`` if they were not saved.
    """

    python: Any
    numpy: Any
    cpu: Tensor
    cuda: list[Tensor] | None

    @classmethod
    def save(cls, *, cuda: bool = False) -> Self:
        """Save the current states.

        Args:
            cuda: Also save the states of all CUDA devices. This initialises CUDA, which a forked loading process
                cannot do. Without CUDA it has no effect.
        """
        devices = torch.cuda.get_rng_state_all() if cuda and torch.cuda.is_available() else None
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), devices)  # noqa: NPY002

    def restore(self) -> None:
        """Set all saved generators back to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)


@contextmanager
def isolated_rng(seed: int | None = None, *, cuda: bool = False) -> Iterator[None]:
    """Restore the global generators when the context ends, also after an exception.

    Args:
        seed: Seed for the CPU generators inside the context. ``None``: they continue from their current states.
        cuda: Also restore the CUDA generators, see `GeneratorStates.save`.

    Example:
        >>> before = torch.get_rng_state()
        >>> with isolated_rng(0):
        ...     first = torch.rand(())
        >>> with isolated_rng(0):
        ...     bool(torch.rand(()) == first)
        True
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    outside = GeneratorStates.save(cuda=cuda)
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  (the generator that transforms draw from)
            torch.default_generator.manual_seed(seed)
        yield
    finally:
        outside.restore()
