"""The scalars of the augmentation: how much it changed in an epoch, and what the network makes of it."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from lightning_saliency.callbacks._epoch_means import EpochMeans
from lightning_saliency.callbacks.augmentation.guide import Recipe
from lightning_saliency.callbacks.augmentation.step import Drawn

#: Names of the scalars, after the callback's name.
SCALARS = ("kept_share", "confidence_gain", "augmented")


class AugmentationScalars:
    """Means over an epoch, see ``SaliencyAugmentation``.

    Args:
        recipe: Its guide tells the network's confidence.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
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

    def count(self, count: int, drawn: Drawn | None) -> None:
        """Take in a batch of that many images, also one of which no image was drawn."""
        # Where nothing was drawn no image was replaced; of a batch that was drawn in part, none of the others.
        replaced = torch.zeros(count) if drawn is None else drawn.replaced.float()
        self.means.add("augmented", torch.cat([replaced, replaced.new_zeros(count - len(replaced))]))
        if drawn is not None:
            self.means.add("kept_share", drawn.masks[drawn.replaced].mean((-2, -1)))

    def log(self, trainer: pl.Trainer, module: pl.LightningModule, name: str) -> None:
        """Log the epoch under the callback's name. Every process takes part: the others wait for it."""
        for key, value in self.means.reduced(trainer).items():
            module.log(f"{name}/{key}", value, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
