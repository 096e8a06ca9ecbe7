"""Random numbers that depend on a seed and on how often they were drawn from, whatever else draws in between."""

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

from lightning_saliency.randomness import GeneratorStates, isolated_rng


class Batches(Sized, Protocol):
    """What a loader of a map-style data set is: it has a length, and each pass over it gives its batches."""

    def __iter__(self) -> Iterator[Any]: ...


class OwnRandomness:
    """A state of its own for the generators that everyone shares: those of Python, NumPy and PyTorch (on the CPU).

    While the context is entered, the shared generators go on where they stopped when it was left last; what is outside
    sees none of it. A transform that draws from them then draws the same numbers in every arm of a study.

    Args:
        seed: Where it begins.

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
    """The batches of a loader, their order and their transforms drawn from random numbers of their own.

    Args:
        loader: With ``num_workers=0``, or with workers that it starts anew for each pass.
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


class SeedAtStart(pl.Callback):
    """Seeds the generators when fitting starts: the order of the data does not depend on what was done before it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed."""
        reseed(self.seed)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's remarks, which would be repeated for each of hundreds of cells."""
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
