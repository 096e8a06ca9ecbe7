"""What one arm of a comparison reached: its numbers over the seeds, and in words whether it is better than others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies.augmentation.biases import BIASES
from lightning_saliency.studies.augmentation.config import BEFORE, HONEST
from lightning_saliency.studies.augmentation.groups import NUMBERS, Number, closed_gaps, numbers_by_seed
from lightning_saliency.studies.estimates import mean_interval, paired_difference


def arm_estimates(
    arms: Mapping[str, Mapping[int, Mapping[str, Any]]],
    arm: str,
    others: Mapping[str, str],
    cost: Estimate | None,
    number: Number = "accuracy",
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """The numbers of an arm, see `AugmentationResult.estimates`.

    Args:
        arms: Arm -> seed -> the result of its run, see `lightning_saliency.studies.augmentation.cells.train_arm`.
        arm: Name of the arm.
        others: Key of a difference -> the arm that is subtracted.
        cost: Cost of a step; ``None``: not measured.
        number: What the differences are of.
        confidence: Share of the intervals, in (0, 1).
    """
    own = arms[arm]
    found = {"val_best": mean_interval([100 * run["val_best"] for run in own.values()], confidence)}
    if all("val_last" in run for run in own.values()):
        found["validation"] = mean_interval([100 * run["val_last"] for run in own.values()], confidence)
    for bias in BIASES:
        # Results of versions before it was measured do not have it.
        measured = [run[bias] for run in own.values() if run.get(bias) is not None]
        if measured:
            found[bias] = mean_interval(measured, confidence)
    if cost is not None:
        found["cost"] = cost
    for each in NUMBERS:
        values = numbers_by_seed(own, each)
        if values:
            found[each] = mean_interval(list(values.values()), confidence)
        if HONEST in arms and arm not in (BEFORE, HONEST):
            before, honest = (numbers_by_seed(arms[end], each) for end in (BEFORE, HONEST))
            closed = closed_gaps(values, before, honest)
            if closed:
                found[f"closed {each}"] = mean_interval(list(closed.values()), confidence)
    for key, other in others.items():
        difference = paired_difference(numbers_by_seed(own, number), numbers_by_seed(arms[other], number), confidence)
        if difference is not None:
            found[key] = difference
    steps = [float(run["steps"]) for run in own.values()]
    found["steps"] = Estimate(math.fsum(steps) / len(steps), min(steps), max(steps), len(steps))
    for key, kept in (("replaced", "augmented"), ("kept", "kept_share")):
        shares = [100 * run[kept] for run in own.values() if run[kept] is not None]
        if shares:
            found[key] = Estimate(math.fsum(shares) / len(shares), min(shares), max(shares), len(shares))
    return found


def reached(keys: Mapping[str, Estimate], number: Number) -> str:
    """What an arm reached by one number, and which share of the gap it closes, as the beginning of a sentence."""
    parts = [f"{NUMBERS[number]} {_interval(keys[number])} %; "] if number in keys else []
    if f"closed {number}" in keys:
        share = _interval(keys[f"closed {number}"])
        parts.append(f"closes {share} % of the gap between {BEFORE} and {HONEST}; ")
    return "".join(parts)


def verdict(keys: Mapping[str, Estimate], names: Mapping[str, str]) -> str:
    """Whether an arm is better than others, and at what cost.

    Args:
        keys: What `arm_estimates` gave.
        names: What the other is called -> key of the difference to it.
    """
    parts = [
        f"{_signed(keys[key])} against {name}, {_outcome(keys[key])}" for name, key in names.items() if key in keys
    ]
    said = f"{'; '.join(parts)}."
    return f"{said} Its step costs {keys['cost'].value:.2f} plain ones." if "cost" in keys else said


def _interval(estimate: Estimate) -> str:
    interval = f" [{estimate.low:.1f}, {estimate.high:.1f}]" if estimate.count > 1 else ""
    return f"{estimate.value:.1f}{interval}"


def _signed(difference: Estimate) -> str:
    interval = f" [{difference.low:+.2f}, {difference.high:+.2f}]" if difference.count > 1 else ""
    return f"{difference.value:+.2f}{interval}"


def _outcome(difference: Estimate) -> str:
    if difference.count == 1:
        return "one seed, which says nothing of the spread"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "not distinguishable"
