"""The numbers of one epoch of the monitor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.callbacks._epoch_means import EpochMeans
from lightning_saliency.functional.localization import energy_pointing_game, map_entropy, pointing_game

#: The names of the scalars.
NAMES = ("energy_in_box", "pointing_game", "drift", "entropy")


class EpochScalars(EpochMeans):
    """Means of saliency scores over an epoch and over all processes."""

    def __init__(self) -> None:
        super().__init__(NAMES)

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
        count = int(present.sum())
        self.add("energy_in_box", energy_pointing_game(combined, inside) * present, count)
        self.add("pointing_game", pointing_game(combined, inside) * present, count)

    def add_sample(self, combined: Sequence[Tensor], drift: Tensor | None) -> None:
        """Score the film's sample.

        Args:
            combined: Combined maps ``[h, w]``.
            drift: Their distance from the maps logged before; ``None`` counts as 1.
        """
        self.add("drift", torch.ones(1) if drift is None else drift)
        for map_ in combined:
            self.add("entropy", map_entropy(map_[None]))
