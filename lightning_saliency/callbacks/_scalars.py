"""The numbers of one epoch, summed on the device and reduced over the processes in one fixed vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.functional.scores import energy_pointing_game, pointing_game

#: What is averaged, in the order of the vector: each name has a sum and a count.
NAMES = ("energy_in_box", "pointing_game", "drift", "entropy")


class EpochScalars:
    """Means of saliency scores over an epoch and over all processes.

    Every process reduces the same vector, whether or not it saw anything, so that no process waits for another.
    """

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {name: [] for name in NAMES}
        self._counts: dict[str, int] = dict.fromkeys(NAMES, 0)

    def add(self, name: str, values: Tensor) -> None:
        """Take in one value an image, or a single value."""
        values = values.detach().reshape(-1)
        self._sums[name].append(values.sum())
        self._counts[name] += values.numel()

    def add_objects(self, combined: Tensor, objects: Tensor) -> None:
        """Score combined maps ``[B, h, w]`` against objects ``[B, H, W]`` bool, on the maps' own grid.

        Images without an object do not count.
        """
        covered = objects.float()
        if objects.shape != combined.shape:
            covered = F.adaptive_avg_pool2d(covered[:, None], (combined.shape[-2], combined.shape[-1]))[:, 0]
        fullest = covered.flatten(1).amax(1)
        # A cell belongs to an object that covers half of it; of a smaller object, the cells with most of it.
        inside = covered >= (0.5 * fullest).clamp_min(torch.finfo(torch.float32).tiny)[:, None, None]
        present = fullest > 0
        self._sums["energy_in_box"].append((energy_pointing_game(combined, inside) * present).sum())
        self._sums["pointing_game"].append((pointing_game(combined, inside) * present).sum())
        count = int(present.sum())
        self._counts["energy_in_box"] += count
        self._counts["pointing_game"] += count

    def reduced(self, trainer: Any) -> dict[str, float]:
        """The means over all processes; names nobody has a value for are left out. Called on every process alike."""
        device = trainer.strategy.root_device
        vector = torch.zeros(
            2 * len(NAMES), dtype=torch.float64 if device.type != "mps" else torch.float32, device=device
        )
        for index, name in enumerate(NAMES):
            if self._sums[name]:
                vector[2 * index] = torch.stack([value.to(device) for value in self._sums[name]]).double().sum()
                vector[2 * index + 1] = self._counts[name]
        vector = trainer.strategy.reduce(vector, reduce_op="sum")
        pairs = vector.reshape(-1, 2).tolist()
        return {name: total / count for name, (total, count) in zip(NAMES, pairs, strict=True) if count}
