"""The cells of a comparison of augmentations: the same beginning and the same batches in every arm."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from lightning_saliency.batches import find_images
from lightning_saliency.networks import build_network, load_weights
from lightning_saliency.studies.augmentation.arms import Arm
from lightning_saliency.studies.augmentation.config import FineTunedModel, FineTuningConfig
from lightning_saliency.studies.augmentation.training import FineTuning, StepClock
from lightning_saliency.studies.engine.fingerprints import batches_fingerprint
from lightning_saliency.studies.isolation import OwnRandomness, SeededBatches, quiet
from lightning_saliency.studies.specs import build

# Streams of random numbers: the network's beginning is the seed's own, the others are counted from here.
_ORDER, _AUGMENTATION = 1_000_003, 2_000_003
# Batches of each split that are looked at to tell data apart, and images of a step that is timed for a plan.
_LOOKED_AT, _FEW = 4, 2


@dataclass(frozen=True)
class StudyData:
    """The data of a study.

    Args:
        spec: ``{"class_path": ..., "init_args": {...}}`` of the data module.
        seeded: Whether its ``seed`` is raised by the study's seed.
    """

    spec: Mapping[str, Any]
    seeded: bool = False


@lru_cache(maxsize=2)
def _built(class_path: str, arguments: str) -> pl.LightningDataModule:
    try:
        data = build({"class_path": class_path, "init_args": json.loads(arguments)})
    except TypeError as error:
        raise ValueError(str(error)) from error
    if not isinstance(data, pl.LightningDataModule):
        raise ValueError(f"Got {class_path!r}, which is no LightningDataModule. Give the class path of one.")
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    if not isinstance(getattr(data, "num_classes", None), int):
        raise ValueError(f"{class_path} has no `num_classes` after setup(). Give it this attribute.")
    return data


def study_data(data: StudyData, seed: int) -> pl.LightningDataModule:
    """The data module, set up, for one of the study's seeds; the two last ones are kept for the next cell.

    Raises:
        ValueError: If there is no such data module, or it does not take its arguments.
    """
    arguments = dict(data.spec.get("init_args") or {})
    if data.seeded:
        arguments["seed"] = int(arguments.get("seed") or 0) + seed
    return _built(str(data.spec["class_path"]), json.dumps(arguments, sort_keys=True))


def build_fine_tuning(
    network: FineTunedModel, training: FineTuningConfig, num_classes: int, arm: Arm, seed: int, start_epoch: int
) -> FineTuning:
    """The module to train: its weights depend on the seed alone.

    Raises:
        FileNotFoundError: If a file of the network does not exist.
        ValueError: If there is no such network or module of it, or the weights are another network's.
    """
    with OwnRandomness(seed):
        model = build_network(network.model, num_classes, library=network.library, options=network.model_options)
    if network.checkpoint is not None:
        load_weights(model, network.checkpoint, network.reset_head)
    for name in network.without:
        _leave_out(model, name)
    rate = training.learning_rate if network.learning_rate is None else network.learning_rate
    return FineTuning(
        arm.augment(num_classes, seed + _AUGMENTATION),
        start_epoch,
        network.freeze_batch_norm,
        model=model,
        num_classes=num_classes,
        optimizer=network.optimizer or training.optimizer,
        learning_rate=rate,
        weight_decay=training.weight_decay,
        momentum=training.momentum,
        scheduler=training.scheduler,
        nesterov=training.nesterov and (network.optimizer or training.optimizer) == "sgd",
    )


def _leave_out(model: nn.Module, name: str) -> None:
    """Put the identity in a module's place."""
    try:
        model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(
            f"Got without={name!r}, but {type(model).__name__} has no such module ({error}). Give the dotted name "
            "of one."
        ) from error
    model.set_submodule(name, nn.Identity())


def train_arm(
    model: FineTunedModel, data: StudyData, arm: Arm, training: FineTuningConfig, steps: int, seed: int
) -> dict[str, Any]:
    """Train one arm from one seed and test it: a cell of the study.

    Args:
        model: The network to train.
        data: The data to train and test it on.
        arm: The augmentation.
        training: How it is trained; its number of steps is not looked at.
        steps: Steps of the optimiser.
        seed: Seed of the new head, of the order of the batches and of the augmentation.

    Returns:
        ``accuracy`` on the test images, in [0, 1]; ``val_best`` and ``val_last``; ``val``, by step;
        ``seconds_per_step``; ``mask_fraction`` and ``augmented``, the shares of pixels left sharp and of images
        replaced, ``None`` where there are none.
    """
    module, clock, trainer, datamodule = _fit(
        model, data, arm, training, steps, seed, training.start_epoch, training.validations
    )
    with OwnRandomness(seed), quiet():
        if steps not in clock.validations:
            trainer.validate(module, datamodule.val_dataloader(), verbose=False)
        [tested] = trainer.test(module, datamodule.test_dataloader(), verbose=False)
    accuracies = clock.validations
    return {
        "accuracy": tested["test/accuracy"],
        "loss": tested["test/loss"],
        "val": {str(step): accuracy for step, accuracy in accuracies.items()},
        "val_best": max(accuracies.values()),
        "val_last": accuracies[max(accuracies)],
        "steps": steps,
        "seconds_per_step": clock.mean_seconds(),
        "mask_fraction": clock.mean_of_masks("mask_fraction"),
        "augmented": clock.mean_of_masks("augmented"),
    }


def measure_steps(
    model: FineTunedModel,
    data: StudyData,
    arms: Mapping[str, Arm],
    training: FineTuningConfig,
    steps: int,
    rounds: int,
    seed: int,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure what a step of each arm takes, the arms in turn, so that what else the machine does meets all alike.

    Args:
        model: The network to train.
        data: The data to train it on.
        arms: Name -> arm, at full duty: a few steps from the first epoch on are to tell.
        training: How it is trained.
        steps: Steps counted in each round, after two that are not.
        rounds: Number of rounds, in each of which all arms have their turn.
        seed: Seed of everything, in each round and arm.
        threads: PyTorch's threads meanwhile; ``None``: as they are.

    Returns:
        ``seconds``: arm -> the mean of each round; ``evaluation``: the seconds of one run of validation and test
        images; ``epoch``: the number of batches in an epoch.
    """
    before = torch.get_num_threads()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        for _ in range(rounds):
            for name, arm in arms.items():
                module, clock, trainer, datamodule = _fit(model, data, arm, training, steps + 2, seed, 0, 0)
                seconds[name].append(clock.mean_seconds() or 0.0)
        with quiet():
            start = perf_counter()
            trainer.validate(module, datamodule.val_dataloader(), verbose=False)
            trainer.test(module, datamodule.test_dataloader(), verbose=False)
            evaluation = perf_counter() - start
    finally:
        torch.set_num_threads(before)
    return {"seconds": seconds, "evaluation": evaluation, "epoch": len(datamodule.train_dataloader())}


def time_steps(
    model: FineTunedModel, data: StudyData, arm: Arm, training: FineTuningConfig, seed: int
) -> dict[str, Any]:
    """Tell by one step, after a first one, on a few images of a batch, what a step of an arm takes.

    Args:
        model: The network to train.
        data: The data to train it on.
        arm: The augmentation, at full duty.
        training: How it is trained.
        seed: Seed of everything.

    Returns:
        ``seconds`` of a whole batch; ``evaluation``: the seconds of one run of validation and test images, as passes
        that take a third of a plain step; ``epoch``: the number of batches in an epoch.
    """
    datamodule: Any = study_data(data, seed)
    loader = datamodule.train_dataloader()
    with OwnRandomness(seed):
        batch = next(iter(loader))
    size = len(find_images(batch))
    few = tree_map_only(torch.Tensor, lambda tensor: tensor[:_FEW], batch)
    module = build_fine_tuning(model, training, datamodule.num_classes, arm, seed, 0)
    callback = arm.callback(seed + _AUGMENTATION, 0)
    clock = StepClock(callback, warm_up=1)
    with quiet():
        trainer = _trainer(training, 2, 0, [*([] if callback is None else [callback]), clock])
    with OwnRandomness(seed), quiet():
        warnings.filterwarnings("ignore", message="Found .* module.* in eval mode")
        warnings.filterwarnings("error", message=".*goes on unaugmented")
        trainer.fit(module, DataLoader([few, few], batch_size=None))  # type: ignore[arg-type]
    seconds = (clock.mean_seconds() or 0.0) * size / min(size, _FEW)
    images = sum(len(each.dataset) for each in (datamodule.val_dataloader(), datamodule.test_dataloader()))
    return {"seconds": seconds, "evaluation": images * seconds / size / 3, "epoch": len(loader)}


def _fit(
    model: FineTunedModel,
    data: StudyData,
    arm: Arm,
    training: FineTuningConfig,
    steps: int,
    seed: int,
    start_epoch: int,
    validations: int,
) -> tuple[FineTuning, StepClock, pl.Trainer, Any]:
    """Train; the module, its clock, its trainer, its data. ``validations`` is their number, 0 for none at all."""
    datamodule: Any = study_data(data, seed)
    module = build_fine_tuning(model, training, datamodule.num_classes, arm, seed, start_epoch)
    callback = arm.callback(seed + _AUGMENTATION, start_epoch)
    clock = StepClock(callback)
    with quiet():
        trainer = _trainer(training, steps, validations, [*([] if callback is None else [callback]), clock])
    batches = SeededBatches(datamodule.train_dataloader(), seed + _ORDER)
    # Dropout draws from the shared random numbers, and so may the network. A saliency augmentation that fails only
    # warns and lets the step go on, which would make its arm a plain one.
    with OwnRandomness(seed), quiet():
        warnings.filterwarnings("ignore", message="Found .* module.* in eval mode")
        warnings.filterwarnings("error", message=".*goes on unaugmented")
        torch.cuda.manual_seed_all(seed)
        trainer.fit(module, batches, datamodule.val_dataloader())
    return module, clock, trainer, datamodule


def _trainer(training: FineTuningConfig, steps: int, validations: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator=training.accelerator,
        devices=1,
        precision=training.precision,  # type: ignore[arg-type]
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # Past the last step: never.
        val_check_interval=math.ceil(steps / validations) if validations else steps + 1,
        check_val_every_n_epoch=None,
    )


def study_data_fingerprint(data: StudyData, seed: int) -> str:
    """A hash of the first batches of each split and of the lengths of its loaders."""
    module: Any = study_data(data, seed)
    digest = hashlib.sha256()
    with OwnRandomness(seed):
        for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
            digest.update(f"{len(loader)};{batches_fingerprint(islice(loader, _LOOKED_AT))}".encode())
    return digest.hexdigest()
