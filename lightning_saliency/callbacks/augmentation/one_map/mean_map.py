"""One map for all images: the mean of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.functional.masking import resize_maps

#: Whose maps are used.
OWN, MEAN, SHORTCUT = "own", "mean", "shortcut"


class MeanMap:
    """Gives each image the mean of all maps so far, those of its own batch included.

    What the maps of all images have in common is a place: that of a mark that always lies there. Objects, which lie
    elsewhere in each image, are averaged away.

    Example:
        >>> mean = MeanMap()
        >>> mean(torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])).tolist()
        [[[0.5, 0.0]], [[0.5, 0.0]]]
        >>> mean(torch.tensor([[[1.0, 0.9]]])).flatten()
        tensor([0.6667, 0.3000])
    """

    def __init__(self) -> None:
        self.count = 0
        self.sum: Tensor | None = None

    def __call__(self, maps: Tensor, *about: Tensor) -> Tensor:
        """Take in maps ``[n, H, W]``, and return the mean for each; NaN for a map that is not finite.

        What else is known of the images, they and their classes, does not matter.
        """
        finite = maps.flatten(1).isfinite().all(1)
        if finite.any():
            total = maps[finite].detach().float().sum(0)
            if self.sum is not None:
                size = (maps.shape[1], maps.shape[2])
                total += resize_maps(self.sum[None].to(maps.device), size)[0]
            self.sum, self.count = total, self.count + int(finite.sum())
        if self.sum is None:
            return maps
        mean = (self.sum / self.count).to(maps.dtype)
        return torch.where(finite[:, None, None], mean, torch.nan)

    def kept(self) -> tuple[Tensor | None, int]:
        """What `restore` goes back to."""
        return self.sum, self.count

    def restore(self, kept: tuple[Tensor | None, int]) -> None:
        """Forget all maps since then."""
        self.sum, self.count = kept

    def state_dict(self) -> dict[str, Any] | None:
        """The sum so far; ``None`` before the first map."""
        return None if self.sum is None else {"sum": self.sum.cpu(), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on with the sum of a checkpoint."""
        self.sum, self.count = (None, 0) if state is None else (state["sum"], int(state["count"]))
