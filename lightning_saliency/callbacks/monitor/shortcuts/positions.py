"""Where the maps of an epoch's images point, summed over batches and processes."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_saliency.functional.position_bias import MAX_CLASSES, PositionSums


class EpochPositions:
    """Chooses batches that lie evenly over an epoch, and adds up where the maps of their images point.

    Args:
        images: About how many images of this process are wanted.
        batches: The number of batches to come; infinite if that is not known, and the first ones are taken.

    Example:
        >>> positions = EpochPositions(images=20, batches=10)
        >>> [positions.wants(batch_size=4) for _ in range(10)]
        [True, False, True, False, True, False, True, False, True, False]
    """

    def __init__(self, images: int, batches: float = math.inf) -> None:
        self.sums = PositionSums()
        self._images = images
        self._batches = batches
        self._seen = 0
        self._taken = self._taken_images = 0

    def wants(self, batch_size: int) -> bool:
        """Whether the images of the batch that comes now are wanted; to be asked once for each batch.

        Args:
            batch_size: Their number.
        """
        self._seen += 1
        share = 1.0 if math.isinf(self._batches) else min(1.0, self._images / (self._batches * batch_size))
        if self._images <= self._taken_images or self._taken >= self._seen * share:
            return False
        self._taken += 1
        self._taken_images += batch_size
        return True

    def reduced(self, trainer: pl.Trainer) -> PositionSums:
        """The sums over all processes. Called on every process alike."""
        device = trainer.strategy.root_device
        length = torch.zeros(MAX_CLASSES + 1, dtype=torch.float32, device=device)
        length[self.sums.classes] = 1
        classes = int(_sum(trainer, length).nonzero().max())
        self.sums.grow(classes)
        total = PositionSums(classes)
        total.load(_sum(trainer, self.sums.vector().to(device)))
        return total


def batches_of(trainer: pl.Trainer, stage: str, loader: int) -> float:
    """The number of batches of a loader that the stage's present epoch takes; infinite if it is not known.

    Args:
        trainer: The run.
        stage: ``"train"``, ``"validate"`` or ``"test"``.
        loader: The loader's number.
    """
    counts: Any = {
        "train": trainer.num_training_batches,
        "validate": trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches,
        "test": trainer.num_test_batches,
    }[stage]
    listed = counts if isinstance(counts, list) else [counts]
    return float(listed[loader]) if loader < len(listed) else math.inf


def _sum(trainer: pl.Trainer, vector: Tensor) -> Tensor:
    summed: Tensor = trainer.strategy.reduce(vector, reduce_op="sum")
    return summed
