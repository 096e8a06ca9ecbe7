"""The cells of a plan: what a plain step costs, and what an arm's augmentation costs on top; on a part of a batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_saliency.batches import BatchReader, find_images
from lightning_saliency.callbacks.augmentation.callback import SaliencyAugmentation
from lightning_saliency.pictures.tensors import find_normalization
from lightning_saliency.studies.augmentation.arms.arm import Arm
from lightning_saliency.studies.augmentation.cells import (
    AUGMENTATION,
    arm_trainer,
    fit_arm,
    initial_module,
    prepared_data,
    with_threads,
)
from lightning_saliency.studies.augmentation.config import FineTuningConfig
from lightning_saliency.studies.augmentation.training import FineTunedClassifier, StepClock
from lightning_saliency.studies.isolation import OwnRandomness, SeededBatches, quiet
from lightning_saliency.studies.passes import counted_passes
from lightning_saliency.studies.specs import Spec

# Each thing is timed with so many images, and then with as many as it is likely to take in so many seconds. A step is
# timed once for all arms of a model, an augmentation for each kind.
_FEW, _STEP_BUDGET, _AUGMENTATION_BUDGET = 2, 0.4, 0.15


def estimate_step(
    model: Spec, data: Spec, arm: Arm, training: FineTuningConfig, seed: int, threads: int
) -> dict[str, Any]:
    """What a training step costs: the last of four steps, after each batch size was tried once.

    Args:
        model: The network to train, as ``class_path`` and ``init_args``.
        data: The data module, as ``class_path`` and ``init_args``.
        arm: The arm at full duty.
        training: How to train.
        seed: Seed of the weights and the batches.
        threads: Number of PyTorch's threads while it is timed.

    Returns:
        ``seconds`` of a step with a whole batch; ``passes``, the number of images that it passes forward; ``batch``,
        the number of images in a batch; ``epoch``, the number of batches in an epoch; ``evaluated``, the number of
        validation and test images.
    """
    datamodule = prepared_data(data)
    images, _ = _first_batch(datamodule, seed)
    with with_threads(threads), counted_passes((images.shape[2], images.shape[3])) as count:
        _, clock, *_ = fit_arm(model, data, arm, training, 4, seed, 0, 0, _PartBatches, count)
    batch = len(images)
    scale = batch / clock.images[-1]
    loaders = (datamodule.val_dataloader(), datamodule.test_dataloader())
    return {
        "seconds": scale * clock.seconds[-1],
        "passes": scale * (clock.passes[-1] - clock.passes[-2]),
        "batch": batch,
        "epoch": len(datamodule.train_dataloader()),
        "evaluated": sum(map(len, loaders)) * batch,
    }


def estimate_augmentation(
    model: Spec, data: Spec, arm: Arm, training: FineTuningConfig, seed: int, threads: int
) -> dict[str, Any]:
    """What an arm's augmentation of a batch costs, without the training step.

    Args:
        model: The network to train, as ``class_path`` and ``init_args``.
        data: The data module, as ``class_path`` and ``init_args``.
        arm: The arm at full duty.
        training: How to train.
        seed: Seed of the weights, the batch and the augmentation.
        threads: Number of PyTorch's threads while it is timed.

    Returns:
        ``seconds`` for a whole batch; ``passes``, the number of images that it passes forward.
    """
    datamodule = prepared_data(data)
    images, labels = _first_batch(datamodule, seed)
    module = _module(json.dumps(model, sort_keys=True), seed)
    callback = arm.callback(seed + AUGMENTATION, 0)
    with quiet():
        trainer = arm_trainer(training, 1, 0, [])
    device = trainer.strategy.root_device
    module, images, labels = module.to(device), images.to(device), labels.to(device)
    generator = torch.Generator().manual_seed(seed)
    batch_augmentation = arm.augment(module.num_classes, seed + AUGMENTATION, find_normalization(datamodule))
    if isinstance(callback, SaliencyAugmentation):
        callback.setup(trainer, module, "fit")

    def augment(number: int) -> float:
        start = perf_counter()
        if isinstance(callback, SaliencyAugmentation):
            callback.augmented(images[:number], labels[:number], generator)
        elif batch_augmentation is not None:
            batch_augmentation(images[:number], labels[:number])
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return perf_counter() - start

    with (
        OwnRandomness(seed),
        with_threads(threads),
        trainer.precision_plugin.forward_context(),
        counted_passes((images.shape[2], images.shape[3])) as count,
    ):
        number = min(_FEW, len(images))
        augment(number)
        before = count[0]
        seconds = augment(number)
        passes = count[0] - before
        more = _number(seconds, number, len(images), _AUGMENTATION_BUDGET)
        if more > number:
            augment(more)
            before, number = count[0], more
            seconds = augment(number)
            passes = count[0] - before
    scale = len(images) / number
    return {"seconds": scale * seconds, "passes": scale * passes}


@lru_cache(maxsize=1)
def _module(model: str, seed: int) -> FineTunedClassifier:
    """The network that augmentations query; they leave it as it is, and one serves for all of them."""
    return initial_module(json.loads(model), seed)


def estimating(arm: Arm) -> Callable[..., dict[str, Any]]:
    """Which of the two functions times an arm: augmentations of this package can be called on their own."""
    callback = arm.callback(0, 0)
    alone = isinstance(callback, SaliencyAugmentation) or arm.augment(2, 0) is not None
    return estimate_augmentation if alone else estimate_step


class _PartBatches:
    """A few images of a loader's batches; from the third batch on as many as the budget allows."""

    def __init__(self, loader: SeededBatches, clock: StepClock) -> None:
        self.loader = loader
        self.clock = clock
        self.number = _FEW

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            whole = len(find_images(batch))
            if len(self.clock.seconds) == 2:
                self.number = _number(self.clock.seconds[-1], self.clock.images[-1], whole, _STEP_BUDGET)
            yield tree_map(partial(_first, whole=whole, number=self.number), batch)


def _number(seconds: float, few: int, whole: int, budget: float) -> int:
    """How many images of a whole batch fit into a budget of seconds, if a few of them took so long."""
    return min(whole, max(few, int(few * budget / max(seconds, 1e-9))))


def _first(value: Any, whole: int, number: int) -> Any:
    return value[:number] if isinstance(value, Tensor) and value.ndim and len(value) == whole else value


def _first_batch(datamodule: Any, seed: int) -> tuple[Tensor, Tensor]:
    with OwnRandomness(seed):
        batch = next(iter(datamodule.train_dataloader()))
    content = BatchReader().read(batch)
    labels = content.labels()
    if labels is None:
        raise ValueError(
            "Got batches without integer labels. Allowed are batches of images [B, C, H, W] and labels [B]; add them."
        )
    return content.images, labels
