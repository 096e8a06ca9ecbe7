"""Where the maps of an epoch's images point, summed over batches and processes."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_saliency.functional.position_bias import MAX_CLASSES, PositionSums

# Images whose maps wait on a GPU, of 6 kB each.
_AT_ONCE = 4096


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
        # What waits on a GPU for being added up: maps, classes, features, and whether each image counts.
        self._waiting: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

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

    def add(self, maps: Tensor, labels: Tensor | None, features: Tensor, counted: Tensor | None = None) -> None:
        """Take in a batch, see `PositionSums.add`; what lies on a GPU is added up later, many batches at once.

        Args:
            maps: ``[B, G, K]``.
            labels: ``[B]`` int64, or ``None``.
            features: ``[B, 5, G, K]``, see `cell_features`.
            counted: Whether the batch counts, a bool on the maps' device; ``None``: it does.
        """
        count, device = len(maps), maps.device
        if device.type == "cpu" and counted is None:
            self.sums.add(maps, labels, features)
            return
        classes = torch.full((count,), -1, device=device) if labels is None else labels.to(device)
        counts = torch.ones(count, dtype=torch.bool, device=device) if counted is None else counted.expand(count)
        self._waiting.append((maps, classes, features, counts))
        if sum(len(one) for one, *_ in self._waiting) >= _AT_ONCE:
            self.add_waiting()

    def add_waiting(self) -> None:
        """Add up what waits on a GPU; at the epoch's end, before `reduced`."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            maps, classes, features, counted = (torch.cat(column).cpu() for column in zip(*waiting, strict=True))
            self.sums.add(maps[counted], classes[counted], features[counted])

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
