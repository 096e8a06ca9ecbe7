"""Test images in groups: how each class fares without a shortcut's mark, with its own, and with another class's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from lightning_saliency.batches import BatchReader, describe
from lightning_saliency.studies.augmentation.training import FineTunedClassifier

Number = Literal["accuracy", "misled", "worst_group"]
#: The numbers that arms can be compared by, and their names in tables.
NUMBERS: dict[Number, str] = {"accuracy": "accuracy", "misled": "misled", "worst_group": "worst group"}
#: Groups whose classes make up the groups of the worst-group accuracy: class × mark of its own or of another class.
_WORST_OF = ("marked", "misled")

#: Group -> for each class the number of images, and of those recognised.
GroupCounts = dict[str, dict[str, list[int]]]


def count_by_group(trainer: pl.Trainer, module: FineTunedClassifier, datamodule: Any) -> GroupCounts | None:
    """How many images of each class are recognised in each group of a data module's test images.

    Args:
        trainer: Runs the network.
        module: The network.
        datamodule: Its ``group_dataloaders()`` gives a loader for each group, see
            `lightning_saliency.data.PlantedShortcut`.

    Returns:
        Group -> ``correct`` and ``count``, one number for each class; ``None`` if the data have no groups.

    Raises:
        ValueError: If batches hold no integer labels.
    """
    if not hasattr(datamodule, "group_dataloaders"):
        return None
    counts: GroupCounts = {}
    for name, loader in datamodule.group_dataloaders().items():
        logits = trainer.predict(module, loader) or []
        predicted = torch.cat([each.argmax(1).cpu() for each in logits])  # type: ignore[union-attr]  # tensors
        found = []
        for batch in loader:
            labels = BatchReader().read(batch).labels()
            if labels is None:
                raise ValueError(
                    f"Got the batch {describe(batch)} in the group {name}. Allowed are images with integer labels; add "
                    "them."
                )
            found.append(labels.cpu())
        truth = torch.cat(found)
        counts[name] = {
            "correct": torch.bincount(truth[predicted == truth], minlength=module.num_classes).tolist(),
            "count": torch.bincount(truth, minlength=module.num_classes).tolist(),
        }
    return counts


def number_of(run: Mapping[str, Any], number: Number) -> float | None:
    """One of the numbers of a run's result, in %; ``None`` where its test images have no such group.

    ``accuracy`` is that on the test images, which carry no mark; ``misled`` that on the same images with the mark of
    another class; ``worst_group`` the lowest accuracy of all groups of a class and its own or another class's mark
    (Sagawa et al., "Distributionally robust neural networks for group shifts", 2020: groups are classes times values
    of the spurious attribute). With few images in a group its lowest value is too low by chance.

    Example:
        >>> groups = {"marked": {"correct": [9, 10], "count": [10, 10]}, "misled": {"correct": [2, 3], "count": [4, 4]}}
        >>> [number_of({"accuracy": 0.5, "groups": groups}, name) for name in ("accuracy", "misled", "worst_group")]
        [50.0, 62.5, 50.0]
    """
    if number == "accuracy":
        return 100 * float(run["accuracy"])
    groups = run.get("groups") or {}
    if number == "misled":
        return _share(groups["misled"]) if "misled" in groups else None
    shares = [
        100 * correct / count
        for group in _WORST_OF
        if group in groups
        for correct, count in zip(groups[group]["correct"], groups[group]["count"], strict=True)
        if count
    ]
    return min(shares) if shares else None


def numbers_by_seed(runs: Mapping[int, Mapping[str, Any]], number: Number) -> dict[int, float]:
    """Seed -> the number of its run, where it has it."""
    found = {seed: number_of(run, number) for seed, run in runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def numbers_of_all(runs: Mapping[str, Mapping[Any, Mapping[str, Mapping[int, Mapping[str, Any]]]]]) -> list[Number]:
    """The numbers that every run has: model -> budget -> arm -> seed -> result."""
    results = [
        result
        for budgets in runs.values()
        for arms in budgets.values()
        for seeds in arms.values()
        for result in seeds.values()
    ]
    return [number for number in NUMBERS if all(number_of(result, number) is not None for result in results)]


def closed_gaps(
    values: Mapping[int, float], before: Mapping[int, float], honest: Mapping[int, float]
) -> dict[int, float]:
    """Which share of the gap an arm closes: seed -> (arm − before) / (honest − before), in %.

    Args:
        values: Seed -> the arm's number.
        before: Seed -> that of the network before the arms part.
        honest: Seed -> that of a network that was trained as long on data without the shortcut.

    Returns:
        The shares of the seeds that all three have and in which the honest network is the better one.

    Example:
        >>> closed_gaps({0: 70.0, 1: 50.0}, {0: 10.0, 1: 50.0}, {0: 90.0, 1: 50.0})
        {0: 75.0}
    """
    return {
        seed: 100 * (value - before[seed]) / (honest[seed] - before[seed])
        for seed, value in values.items()
        if seed in before and seed in honest and honest[seed] > before[seed]
    }


def _share(group: Mapping[str, list[int]]) -> float:
    return 100 * sum(group["correct"]) / sum(group["count"])
