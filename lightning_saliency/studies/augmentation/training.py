"""The module that is fine-tuned, and the clock that times it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_saliency.batches import BatchReader, describe, find_images
from lightning_saliency.callbacks.augmentation.callback import SaliencyAugmentation
from lightning_saliency.classifier import AUXILIARY_WEIGHT, ImageClassifier, split_logits
from lightning_saliency.lightning_bases import Callback
from lightning_saliency.studies.augmentation.arms.batch_augmentation import Augment


class FineTunedClassifier(ImageClassifier):
    """An `ImageClassifier` for fine-tuning: with modules left out, BatchNorms frozen, or training batches augmented.

    Args:
        model: Name of a network, see `ImageClassifier`; also ``path/file.py:function``.
        num_classes: Number of classes.
        without: Dotted names of modules that are replaced by the identity. SqueezeNet for example ends in an
            activation, under which those classes of a new head that begin below zero never learn.
        freeze_batch_norm: Whether BatchNorms stay in evaluation mode, for networks whose statistics must not change,
            for example because they are folded into the convolutions.
        **options: The other arguments of `ImageClassifier`.

    Attributes:
        augment: Function that changes images and labels of training batches; ``None``: no change.
        start_epoch: First epoch in which ``augment`` does so.

    Raises:
        FileNotFoundError: If a file does not exist.
        TypeError: If an argument is unknown.
        ValueError: If an argument is out of range, a module of ``without`` does not exist, or the weights are another
            network's.

    Example:
        >>> FineTunedClassifier("small_cnn", 10, without=["pool1"]).model.pool1
        Identity()
    """

    def __init__(
        self,
        model: str,
        num_classes: int,
        *,
        without: Sequence[str] = (),
        freeze_batch_norm: bool = False,
        **options: Any,
    ) -> None:
        allowed = [*inspect.signature(ImageClassifier).parameters, "without", "freeze_batch_norm"]
        unknown = sorted(set(options) - set(allowed))
        if unknown:
            raise TypeError(
                f"Got the arguments {', '.join(unknown)} for a model. Allowed are {', '.join(allowed)}; drop or rename "
                "the others."
            )
        super().__init__(model, num_classes, **options)
        self.freeze_batch_norm = freeze_batch_norm
        self.augment: Augment | None = None
        self.start_epoch = 0
        for name in without:
            _leave_out(self.model, name)
        # A trainer leaves modes as they are.
        self.train()

    def train(self, mode: bool = True) -> FineTunedClassifier:
        """As in every module, except that frozen BatchNorms stay in evaluation mode."""
        super().train(mode)
        if getattr(self, "freeze_batch_norm", False):
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The cross-entropy of a batch, as the augmentation has changed it; auxiliary heads included."""
        if self.augment is None or self.current_epoch < self.start_epoch:
            return super().training_step(batch, batch_idx)
        content = BatchReader().read(batch)
        images, labels = content.images, content.labels()
        if labels is None:
            raise ValueError(
                f"Found no integer labels [{len(images)}] beside the images of the batch: {describe(batch)}. Give a "
                "data module whose batches hold both."
            )
        images, targets = self.augment(images, labels)
        logits, auxiliary = split_logits(self.model(images))
        loss = F.cross_entropy(logits, targets)
        for other in auxiliary:
            loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(other, targets)
        return loss


def _leave_out(model: nn.Module, name: str) -> None:
    """Put the identity in a module's place."""
    try:
        model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(
            f"Got without={name!r}, but {type(model).__name__} has no such module ({error}). Allowed are dotted names "
            "such as those of named_modules(); give one of them."
        ) from error
    model.set_submodule(name, nn.Identity())


class StepClock(Callback):
    """Times each step, from the end of the one before it to its own end, validation left out.

    It must be the last of the trainer's callbacks, whose time counts.

    Args:
        augmentation: The callback that augments, if there is one.
        warm_up: Number of first steps that the mean leaves out.
        count: A list with one number, the images passed forward so far, see
            `lightning_saliency.studies.passes.counted_passes`; ``None``: they are not counted.
        stop: Number of steps after which training ends; ``None``: the trainer's.

    Attributes:
        seconds: The time of each step.
        images: The number of images in each step's batch.
        passes: The value of ``count`` at the end of each step.
        validations: Step -> accuracy on the validation images, in [0, 1].
        masks: For each epoch the means that the augmentation keeps.
    """

    def __init__(
        self,
        augmentation: pl.Callback | None = None,
        warm_up: int = 2,
        count: list[int] | None = None,
        stop: int | None = None,
    ) -> None:
        self.augmentation = augmentation if isinstance(augmentation, SaliencyAugmentation) else None
        self.warm_up = warm_up
        self.count = count
        self.stop = stop
        self.images: list[int] = []
        self.passes: list[int] = []
        self.seconds: list[float] = []
        self.validations: dict[int, float] = {}
        self.masks: list[dict[str, float]] = []
        self._last = 0.0

    def mean_seconds(self) -> float | None:
        """The mean time of the steps after the warm-up; ``None`` if there are none."""
        counted = self.seconds[self.warm_up :]
        return math.fsum(counted) / len(counted) if counted else None

    def mean_of_masks(self, name: str) -> float | None:
        """The mean over the epochs of one of the augmentation's means; ``None`` if there is none of that name."""
        values = [means[name] for means in self.masks if name in means]
        return math.fsum(values) / len(values) if values else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._last = self._now(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Keep the time of a step, the loading of its batch and all callbacks included."""
        now = self._now(pl_module)
        self.seconds.append(now - self._last)
        self.images.append(len(find_images(batch)))
        if self.count is not None:
            self.passes.append(self.count[0])
        if self.stop is not None and len(self.seconds) >= self.stop:
            trainer.should_stop = True
        self._last = now

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the accuracy, and start the clock again."""
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
