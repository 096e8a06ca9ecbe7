"""The cell from which all arms of a seed go on: a first training, and the network as it is before the arms part."""

from __future__ import annotations

from typing import Any

import torch

from lightning_saliency.files.atomic import replacing
from lightning_saliency.studies.augmentation.arms.arm import PLAIN, Arm
from lightning_saliency.studies.augmentation.cells import (
    FIRST_ORDER,
    arm_trainer,
    fit_arm,
    initial_module,
    load_beginning,
    prepared_data,
    tested,
)
from lightning_saliency.studies.augmentation.config import FineTuningConfig
from lightning_saliency.studies.augmentation.training import StepClock
from lightning_saliency.studies.isolation import quiet
from lightning_saliency.studies.specs import Spec

_PLAIN = Arm(PLAIN, PLAIN)


def begin(
    model: Spec,
    data: Spec,
    training: FineTuningConfig,
    seed: int,
    first_model: Spec | None = None,
    first: FineTuningConfig | None = None,
    weights: str | None = None,
) -> dict[str, Any]:
    """Train a network plainly up to the point from which the arms of a seed differ, and test it there.

    Args:
        model: The network that the arms train, as ``class_path`` and ``init_args``.
        data: The data module, as ``class_path`` and ``init_args``.
        training: How the arms are trained; before its ``start_epoch`` all of them train plainly.
        seed: Seed of the weights and of the order of the batches.
        first_model: The network of the first training, with the optimiser of it.
        first: The first training; ``None``: there is none.
        weights: File to which the weights of the first training are written.

    Returns:
        What `lightning_saliency.studies.augmentation.cells.tested` gives; ``steps`` are those before the arms differ,
        the first training's included.
    """
    datamodule = prepared_data(data)
    steps = 0
    if first is not None and first_model is not None and weights is not None:
        module, *_ = fit_arm(first_model, data, _PLAIN, first, first.steps, seed, 0, 0, order=FIRST_ORDER)
        with replacing(weights) as temporary:
            torch.save(module.state_dict(), temporary)
        steps = first.steps
    else:
        weights = None
    alike = min(training.start_epoch * len(datamodule.train_dataloader()), training.steps)
    if alike:
        module, _, trainer, _ = fit_arm(
            model, data, _PLAIN, training, training.steps, seed, 0, 0, weights=weights, stop=alike
        )
    else:
        module = initial_module(model, seed)
        if weights is not None:
            load_beginning(module, weights)
        with quiet():
            trainer = arm_trainer(training, 1, 0, [])
    return tested(module, StepClock(), trainer, datamodule, steps + alike, seed)
