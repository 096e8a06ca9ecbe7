"""The cells of a comparison of augmentations: the same beginning and the same batches in every arm."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_saliency.callbacks.augmentation.callback import SaliencyAugmentation
from lightning_saliency.files import reading
from lightning_saliency.lightning_bases import is_data_module
from lightning_saliency.pictures.tensors import find_normalization
from lightning_saliency.studies.augmentation.arms.arm import Arm
from lightning_saliency.studies.augmentation.biases import measure_biases
from lightning_saliency.studies.augmentation.config import FineTuningConfig
from lightning_saliency.studies.augmentation.groups import count_by_group
from lightning_saliency.studies.augmentation.training import FineTunedClassifier, StepClock
from lightning_saliency.studies.isolation import OwnRandomness, SeededBatches, quiet
from lightning_saliency.studies.specs import Spec, build, build_module

#: First seeds of the streams of random numbers; the network's beginning is the seed's own.
ORDER, AUGMENTATION, FIRST_ORDER = 1_000_003, 2_000_003, 3_000_003


@lru_cache(maxsize=2)
def _prepared(text: str) -> Any:
    spec = json.loads(text)
    data = build(spec)
    if not is_data_module(data):
        raise ValueError(
            f"Got {spec['class_path']!r}, which is no LightningDataModule. Give the class path of one as data."
        )
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    if not isinstance(getattr(data, "num_classes", None), int):
        raise ValueError(f"Got {spec['class_path']} without num_classes after setup(). Give it this attribute.")
    return data


def prepared_data(spec: Spec) -> Any:
    """The data module of a specification, set up. Those of the last two specifications are kept for the next cell.

    Raises:
        TypeError: If the class does not take the arguments.
        ValueError: If it is not a data module, or has no ``num_classes``.
    """
    return _prepared(json.dumps(spec, sort_keys=True))


def initial_module(model: Spec, seed: int) -> FineTunedClassifier:
    """The module to train; the seed alone decides its random weights.

    Raises:
        FileNotFoundError: If a file of the network does not exist.
        TypeError: If an argument is unknown.
        ValueError: If there is no such network or module of it, the weights are another network's, or the class is not
            one for fine-tuning.
    """
    with OwnRandomness(seed):
        module = build_module(model)
    if not isinstance(module, FineTunedClassifier):
        raise ValueError(
            f"Got the class {model['class_path']} as a model. Allowed are FineTunedClassifier and its subclasses, "
            "whose training step augments batches; derive yours from it."
        )
    return module


def train_arm(
    model: Spec, data: Spec, arm: Arm, training: FineTuningConfig, steps: int, seed: int, weights: str | None = None
) -> dict[str, Any]:
    """Train one arm from one seed and test it: a cell of the study.

    Args:
        model: The network to train, as ``class_path`` and ``init_args``.
        data: The data module, as ``class_path`` and ``init_args``.
        arm: The augmentation.
        training: How to train; its number of steps is not used.
        steps: Number of steps of the optimiser.
        seed: Seed of the new head, of the order of the batches and of the augmentation.
        weights: File of the weights of a first training, from which the arm goes on; ``None``: there was none.

    Returns:
        ``accuracy`` on the test images, in [0, 1], and ``loss``; ``groups``, see `count_by_group`; ``position_bias``
        and ``content_bias`` of the maps of the validation images, see `measure_biases`; ``val_best``, ``val_last`` and,
        by step, ``val``; ``steps``; ``seconds_per_step``; ``kept_share`` and ``augmented``, the share of the
        replaced images' pixels that are their own and that of images replaced, ``None`` where no map is used.
    """
    module, clock, trainer, datamodule = fit_arm(
        model, data, arm, training, steps, seed, training.start_epoch, training.validations, weights=weights
    )
    return {
        **tested(module, clock, trainer, datamodule, steps, seed),
        "seconds_per_step": clock.mean_seconds(),
        "kept_share": clock.mean_of_masks("kept_share"),
        "augmented": clock.mean_of_masks("augmented"),
    }


def tested(
    module: FineTunedClassifier, clock: StepClock, trainer: pl.Trainer, datamodule: Any, steps: int, seed: int
) -> dict[str, Any]:
    """The results of a network after so many steps, on validation and test images, see `train_arm`."""
    with OwnRandomness(seed), quiet():
        if steps not in clock.validations:
            [found] = trainer.validate(module, datamodule.val_dataloader(), verbose=False)
            clock.validations[steps] = found["val/accuracy"]
        [result] = trainer.test(module, datamodule.test_dataloader(), verbose=False)
        groups = count_by_group(trainer, module, datamodule)
        biases = measure_biases(trainer, module, datamodule.val_dataloader())
    accuracies = clock.validations
    return {
        "accuracy": result["test/accuracy"],
        "loss": result["test/loss"],
        "groups": groups,
        **biases,
        "val": {str(step): accuracy for step, accuracy in accuracies.items()},
        "val_best": max(accuracies.values()),
        "val_last": accuracies[max(accuracies)],
        "steps": steps,
    }


def measure_steps(
    model: Spec,
    data: Spec,
    arms: Mapping[str, Arm],
    training: FineTuningConfig,
    steps: int,
    rounds: int,
    seed: int,
    threads: int,
) -> dict[str, Any]:
    """Time the steps of some arms in turn, so that other load on the machine affects all of them alike.

    Args:
        model: The network to train, as ``class_path`` and ``init_args``.
        data: The data module, as ``class_path`` and ``init_args``.
        arms: Name -> arm at full duty.
        training: How to train.
        steps: Number of timed steps of each arm in each round, after two that are not timed.
        rounds: Number of rounds.
        seed: Seed of every round and arm.
        threads: Number of PyTorch's threads while they are timed.

    Returns:
        ``seconds``: arm -> the mean time of a step in each round; ``evaluation``: the time of one pass over validation
        and test images; ``epoch``: the number of batches in an epoch.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    with with_threads(threads):
        for _ in range(rounds):
            for name, arm in arms.items():
                module, clock, trainer, datamodule = fit_arm(model, data, arm, training, steps + 2, seed, 0, 0)
                seconds[name].append(clock.mean_seconds() or 0.0)
        with quiet():
            start = perf_counter()
            trainer.validate(module, datamodule.val_dataloader(), verbose=False)
            trainer.test(module, datamodule.test_dataloader(), verbose=False)
            evaluation = perf_counter() - start
    return {"seconds": seconds, "evaluation": evaluation, "epoch": len(datamodule.train_dataloader())}


def fit_arm(
    model: Spec,
    data: Spec,
    arm: Arm,
    training: FineTuningConfig,
    steps: int,
    seed: int,
    start_epoch: int,
    validations: int,
    wrap: Callable[[Any, StepClock], Any] | None = None,
    count: list[int] | None = None,
    *,
    weights: str | None = None,
    order: int = ORDER,
    stop: int | None = None,
) -> tuple[FineTunedClassifier, StepClock, pl.Trainer, Any]:
    """Train one arm.

    Args:
        model: The network to train, as ``class_path`` and ``init_args``.
        data: The data module, as ``class_path`` and ``init_args``.
        arm: The augmentation.
        training: How to train; its numbers of steps, epochs and validations are not used.
        steps: Number of steps of the optimiser.
        seed: Seed of the weights, the order of the batches and the augmentation.
        start_epoch: First epoch in which the arm acts, unless it has its own.
        validations: Number of validations; 0: none.
        wrap: Called with the batches and the clock; its result replaces the batches.
        count: See `StepClock`.
        weights: File of the weights of a first training, from which the arm goes on.
        order: First seed of the order of the batches.
        stop: Number of steps after which training ends, the schedule being that of all ``steps``.

    Returns:
        The module, its clock, its trainer and its data.

    Raises:
        FileNotFoundError: If there is no such file of weights.
    """
    datamodule = prepared_data(data)
    module = initial_module(model, seed)
    if weights is not None:
        load_beginning(module, weights)
    normalization = find_normalization(datamodule)
    module.augment = arm.augment(module.num_classes, seed + AUGMENTATION, normalization)
    module.start_epoch = start_epoch
    callback = arm.callback(seed + AUGMENTATION, start_epoch)
    clock = StepClock(callback, count=count, stop=stop)
    with quiet():
        trainer = arm_trainer(training, steps, validations, [*([] if callback is None else [callback]), clock])
    batches: Any = SeededBatches(datamodule.train_dataloader(), seed + order)
    if wrap is not None:
        batches = wrap(batches, clock)
    if isinstance(callback, SaliencyAugmentation):
        callback.end_on_failure()  # else its arm would be a plain one
    # Dropout draws from the shared random numbers, and so may the network.
    with OwnRandomness(seed), quiet():
        warnings.filterwarnings("ignore", message="Found .* module.* in eval mode")
        torch.cuda.manual_seed_all(seed)
        trainer.fit(module, batches, datamodule.val_dataloader())
    return module, clock, trainer, datamodule


def load_beginning(module: FineTunedClassifier, weights: str) -> None:
    """Load the weights of a first training.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"Got {path}, where the weights of the first training should be, and there is no file. Delete "
            f"{path.with_suffix('.json')} and call the study again: it then repeats that training."
        )
    with reading(path, "file of weights", "Delete it together with the JSON file beside it."):
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def arm_trainer(training: FineTuningConfig, steps: int, validations: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    """A trainer for a number of steps that neither logs nor saves."""
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


@contextmanager
def with_threads(number: int) -> Iterator[None]:
    """Inside, PyTorch computes with that number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
