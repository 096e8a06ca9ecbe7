"""Random numbers that depend only on a seed and on how many were drawn before, not on what other code draws."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol

import pytorch_lightning as pl
from typing_extensions import Self

from lightning_saliency.lightning_bases import Callback
from lightning_saliency.randomness import GeneratorStates, isolated_rng


class Batches(Sized, Protocol):
    """A loader of a map-style data set: it has a length, and each pass over it yields the batches."""

    def __iter__(self) -> Iterator[Any]: ...


class OwnRandomness:
    """A private state for the shared random generators of Python, NumPy and PyTorch (on the CPU).

    Inside the context the shared generators continue from where they stopped when it was last left; outside, their
    state does not change. A transform that draws from them then draws the same numbers in every arm of a study.

    Args:
        seed: Seed of the initial state.

    Example:
        >>> import torch
        >>> own = OwnRandomness(0)
        >>> with own:
        ...     first = torch.rand(())
        >>> _ = torch.rand(100)
        >>> with own:
        ...     second = torch.rand(())
        >>> with OwnRandomness(0):
        ...     bool((torch.rand(2) == torch.stack([first, second])).all())
        True
    """

    def __init__(self, seed: int) -> None:
        with isolated_rng(seed):
            self._own = GeneratorStates.save()
        self._outside = GeneratorStates.save()

    def __enter__(self) -> Self:
        self._outside = GeneratorStates.save()
        self._own.restore()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own = GeneratorStates.save()
        self._outside.restore()


class SeededBatches:
    """The batches of a loader, with their own random numbers for order and transforms.

    Args:
        loader: Loader with ``num_workers=0``, or with workers that are restarted for each pass.
        seed: Seed of the random numbers.
    """

    def __init__(self, loader: Batches, seed: int) -> None:
        self.loader = loader
        self.randomness = OwnRandomness(seed)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        with self.randomness:
            batches = iter(self.loader)
        while True:
            with self.randomness:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch


_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all generators inside the context and restore them afterwards, also after an exception."""
    kept = {name: os.environ.get(name) for name in _SEED_VARIABLES}
    with isolated_rng(cuda=True):
        try:
            reseed(seed)
            yield
        finally:
            for name, value in kept.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def reseed(seed: int) -> None:
    """Seed every generator, those of loading processes and of processes that a strategy starts included."""
    pl.seed_everything(seed, workers=True, verbose=False)


class SeedAtStart(Callback):
    """Seeds the generators when fitting starts: the order of the data does not depend on earlier code."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed."""
        reseed(self.seed)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's messages, which would be repeated for each of hundreds of cells."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*The number of training batches.*",
            ".*have no logger configured.*",
            ".*GPU available but not used.*",
            ".*isinstance\\(treespec, LeafSpec\\).*",
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
