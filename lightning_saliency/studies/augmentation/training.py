"""The module that is fine-tuned, and the clock beside it."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_saliency.batches import describe, find_images, find_labels
from lightning_saliency.callbacks.augmentation.callback import SaliencyAugmentation
from lightning_saliency.classifier import AUXILIARY_WEIGHT, ImageClassifier, split_logits
from lightning_saliency.studies.augmentation.arms import Augment


class FineTuning(ImageClassifier):
    """An `ImageClassifier` whose training batches an augmentation may change, and whose BatchNorms may be frozen.

    Args:
        augment: What changes images and labels; ``None``: nothing does.
        start_epoch: First epoch, from 0, in which it does.
        freeze_batch_norm: See `FineTunedModel`.
        **options: Arguments of `ImageClassifier`.
    """

    def __init__(
        self, augment: Augment | None, start_epoch: int, freeze_batch_norm: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.freeze_batch_norm = freeze_batch_norm
        self.augment = augment
        self.start_epoch = start_epoch
        # A trainer leaves modes as they are.
        self.train()

    def train(self, mode: bool = True) -> FineTuning:
        """As every module's, but for frozen BatchNorms."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The cross-entropy of a batch, as the augmentation has changed it; auxiliary heads included."""
        if self.augment is None or self.current_epoch < self.start_epoch:
            return super().training_step(batch, batch_idx)
        images = find_images(batch)
        labels = find_labels(batch, len(images))
        if labels is None:
            raise ValueError(
                f"Found no integer labels [{len(images)}] beside the images of the batch: {describe(batch)}"
            )
        images, targets = self.augment(images, labels)
        logits, auxiliary = split_logits(self.model(images))
        loss = F.cross_entropy(logits, targets)
        for other in auxiliary:
            loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(other, targets)
        return loss


class StepClock(pl.Callback):
    """What the steps take, from the end of one to the end of the next, validation left out.

    It goes after the other callbacks, whose time it counts.

    Args:
        augmentation: The augmentation of the run, if that is a callback.
        warm_up: Number of first steps that are left out of the mean.

    Attributes:
        seconds: Seconds of each step.
        validations: Step -> accuracy on the validation images.
        masks: For each epoch in which the augmentation did anything, the means that it keeps.
    """

    def __init__(self, augmentation: SaliencyAugmentation | None = None, warm_up: int = 2) -> None:
        self.augmentation = augmentation
        self.warm_up = warm_up
        self.seconds: list[float] = []
        self.validations: dict[int, float] = {}
        self.masks: list[dict[str, float]] = []
        self._last = 0.0

    def mean_seconds(self) -> float | None:
        """The mean of the steps behind the first ones; ``None`` where there are no others."""
        counted = self.seconds[self.warm_up :]
        return math.fsum(counted) / len(counted) if counted else None

    def mean_of_masks(self, name: str) -> float | None:
        """The mean over the epochs of what the augmentation calls so; ``None`` where there is none."""
        values = [means[name] for means in self.masks if name in means]
        return math.fsum(values) / len(values) if values else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        self._last = self._now(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Take the time of a step, its batch's loading and all callbacks included."""
        now = self._now(pl_module)
        self.seconds.append(now - self._last)
        self._last = now

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the accuracy; begin anew."""
        self.validations[trainer.global_step] = float(trainer.callback_metrics["val/accuracy"])
        self._last = self._now(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the augmentation did in this epoch."""
        if self.augmentation is not None:
            self.masks.append(self.augmentation.epoch_means())

    @staticmethod
    def _now(module: pl.LightningModule) -> float:
        if module.device.type != "cpu":
            torch.accelerator.synchronize(module.device)
        return perf_counter()
