"""What a step of each arm costs, and how many of them take as long as plain training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Any

from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies.augmentation.arms import Arm
from lightning_saliency.studies.augmentation.config import FineTuningConfig

#: Key of the timing of plain training, where the reference is another arm.
PLAIN = "(plain)"


@dataclass(frozen=True)
class StepCost:
    """What the steps of an arm cost.

    Args:
        ratio: Cost of an average step relative to the reference arm's, after the plain epochs that all arms begin with:
            median, minimum and maximum of the rounds.
        seconds: Seconds of each of the planned steps.
        reference: Seconds of each of the reference arm's steps.
        evaluation: Seconds of one run of validation and test images.
    """

    ratio: Estimate
    seconds: Sequence[float]
    reference: Sequence[float]
    evaluation: float

    @classmethod
    def measured(cls, result: Mapping[str, Any], arm: Arm, reference: Arm, training: FineTuningConfig) -> StepCost:
        """What `measure_steps` found, spread over the planned steps."""
        timed, epoch, steps = result["seconds"], int(result["epoch"]), training.steps
        plain = timed.get(PLAIN, timed[reference.name])
        own, other = (
            [mine / theirs for mine, theirs in zip(timed[each.name], plain, strict=True)] for each in (arm, reference)
        )
        duties, others = (each.duties(steps, epoch, training.start_epoch) for each in (arm, reference))
        # An arm may begin before the others do.
        begin = next((step for step, duty in enumerate(duties) if duty > 0), steps)
        begin = min(begin, training.start_epoch * epoch, steps - 1)
        ratios = [
            math.fsum(_spread(duties[begin:], mine)) / math.fsum(_spread(others[begin:], theirs))
            for mine, theirs in zip(own, other, strict=True)
        ]
        seconds, references = (
            [median(plain) * cost for cost in _spread(done, median(found))]
            for done, found in ((duties, own), (others, other))
        )
        ratio = Estimate(median(ratios), min(ratios), max(ratios), len(ratios))
        return cls(ratio, seconds, references, float(result["evaluation"]))


def affordable_steps(costs: Sequence[float], reference: Sequence[float], tolerance: float = 0.0) -> int:
    """How many steps of an arm take as long as all of the reference's.

    Args:
        costs: Cost of each step of the arm, such as seconds; as many as the reference has.
        reference: Cost of each step of the reference.
        tolerance: Arms that cost up to ``1 + tolerance`` times what the reference does can afford all steps.

    Returns:
        The number to the nearest step; at least as many that the last one costs more than the reference's.

    Example:
        >>> plain = [1.0] * 200
        >>> [affordable_steps(costs, plain, 0.05) for costs in ([2.0] * 200, [1.0] * 100 + [2.0] * 100, [1.01] * 200)]
        [100, 150, 200]
    """
    available = math.fsum(reference)
    if math.fsum(costs) <= (1 + tolerance) * available:
        return len(reference)
    first = next(step for step, (own, other) in enumerate(zip(costs, reference, strict=True), 1) if own > other)
    ends = list(accumulate(costs))
    return max(first, sum(end - cost / 2 <= available for end, cost in zip(ends, costs, strict=True)))


def _spread(duties: Sequence[float], ratio: float) -> list[float]:
    """What steps cost in plain ones, of which one at full duty costs ``ratio``."""
    return [1 + duty * (ratio - 1) for duty in duties]
