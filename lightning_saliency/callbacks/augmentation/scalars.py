"""The scalars of the augmentation: how much it changed in an epoch, and what the network makes of it."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from lightning_saliency.batches import BatchError, find_images
from lightning_saliency.callbacks._epoch_means import EpochMeans
from lightning_saliency.callbacks.augmentation.guide import Recipe
from lightning_saliency.callbacks.augmentation.step import Drawn

#: Names of the scalars, after the callback's name.
SCALARS = ("mask_fraction", "confidence_gain", "augmented")


class AugmentationScalars:
    """Means over an epoch, see ``SaliencyAugmentation``.

    Args:
        recipe: Its guide tells the network's confidence.
        image_key: Where a batch carries its images.
    """

    def __init__(self, recipe: Recipe, image_key: str | int | None) -> None:
        self.recipe = recipe
        self.image_key = image_key
        self.means = EpochMeans(SCALARS)
        self._measured = False

    def begin(self) -> None:
        """Another epoch."""
        self.means = EpochMeans(SCALARS)
        self._measured = False

    def measure(self, trainer: pl.Trainer, drawn: Drawn, multi_label: bool) -> None:
        """Ask the network for its confidence, at the epoch's first batch of which something was replaced."""
        rows = drawn.replaced
        if self._measured or not bool(rows.any()):
            return
        self._measured = True
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            gain = self.recipe.gain(drawn.images[rows], drawn.pixels[rows], drawn.targets[rows.cpu()], multi_label)
        self.means.add("confidence_gain", gain)

    def count(self, batch: Any, drawn: Drawn | None) -> None:
        """Take in a batch, also one of which no image was drawn."""
        try:
            count = find_images(batch, self.image_key).shape[0]
        except BatchError:
            return
        # Where nothing was drawn no image was replaced; of a batch that was drawn in part, none of the others.
        replaced = torch.zeros(count) if drawn is None else drawn.replaced.float()
        self.means.add("augmented", torch.cat([replaced, replaced.new_zeros(count - len(replaced))]))
        if drawn is not None:
            self.means.add("mask_fraction", drawn.masks[drawn.replaced].mean((-2, -1)))

    def log(self, trainer: pl.Trainer, module: pl.LightningModule, name: str) -> None:
        """Log the epoch under the callback's name. Every process takes part: the others wait for it."""
        for key, value in self.means.reduced(trainer).items():
            module.log(f"{name}/{key}", value, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
