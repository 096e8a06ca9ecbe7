"""What the steps of an arm cost, and how many steps take as long as the reference's training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Any

import torch

from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies.augmentation.arms.arm import PLAIN, Arm
from lightning_saliency.studies.augmentation.config import FineTuningConfig

#: Key of the timing of plain training, where the reference arm is another.
PLAIN_TIMING = "(plain)"
#: Share of a training step that its forward pass takes; the backward pass takes about twice as long.
_FORWARD = 1 / 3


@dataclass(frozen=True)
class StepCost:
    """What the steps of an arm cost.

    Args:
        ratio: Cost of an average step relative to one of the reference arm, without the plain epochs that all arms
            begin with: median, minimum and maximum over the rounds.
        seconds: Time of each of the planned steps.
        reference: Time of each of the reference arm's steps.
        evaluation: Time of one pass over validation and test images, in seconds.
    """

    ratio: Estimate
    seconds: Sequence[float]
    reference: Sequence[float]
    evaluation: float

    def seconds_of(self, steps: int) -> float:
        """Time of so many steps; those beyond the planned ones take as long as the last one."""
        return math.fsum(self.seconds[:steps]) + max(0, steps - len(self.seconds)) * self.seconds[-1]

    @classmethod
    def measured(cls, result: Mapping[str, Any], arm: Arm, reference: Arm, training: FineTuningConfig) -> StepCost:
        """The timings of `measure_steps`, spread over the planned steps.

        Args:
            result: What `lightning_saliency.studies.augmentation.cells.measure_steps` returned.
            arm: The arm whose cost is wanted.
            reference: The reference arm.
            training: How many steps are planned, and from which epoch on the arms differ.
        """
        timed, epoch, steps = result["seconds"], int(result["epoch"]), training.steps
        plain = timed.get(PLAIN_TIMING, timed[reference.name])
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

    @classmethod
    def estimated(
        cls, plain: Mapping[str, Any], extra: Mapping[str, float], arm: Arm, reference: Arm, training: FineTuningConfig
    ) -> StepCost:
        """The timings of a plan, spread over the planned steps.

        Args:
            plain: What `lightning_saliency.studies.augmentation.estimates.estimate_step` returned for plain training.
            extra: Name of the arm -> seconds that a step at full duty takes longer than a plain one.
            arm: The arm whose cost is wanted.
            reference: The reference arm.
            training: How many steps are planned, and from which epoch on the arms differ.
        """
        seconds = {each.name: [plain["seconds"] + extra[each.name]] for each in (arm, reference)}
        evaluation = _FORWARD * plain["seconds"] / plain["batch"] * plain["evaluated"]
        timed = {PLAIN_TIMING: [plain["seconds"]], **seconds}
        result = {"seconds": timed, "evaluation": evaluation, "epoch": plain["epoch"]}
        return cls.measured(result, arm, reference, training)


def _spread(duties: Sequence[float], ratio: float) -> list[float]:
    """The cost of each step relative to a plain one, if a step at full duty costs ``ratio``."""
    return [1 + duty * (ratio - 1) for duty in duties]


def timed_arms(arm: Arm, reference: Arm) -> dict[str, Arm]:
    """The arms that are timed in turn for the cost of one of them: plain training, the reference and the arm itself."""
    arms = {each.name: each.at_full_duty() for each in (reference, arm)}
    return arms if reference.kind == PLAIN else {PLAIN_TIMING: Arm(PLAIN_TIMING, PLAIN), **arms}


def affordable_steps(costs: Sequence[float], reference: Sequence[float], tolerance: float = 0.0) -> int:
    """The number of steps of an arm that takes as long as all of the reference's.

    Args:
        costs: Cost of each step of the arm, for example in seconds, for as many steps as the reference has.
        reference: Cost of each step of the reference, in the same unit.
        tolerance: Arms that cost up to ``1 + tolerance`` times what the reference does can afford all steps.

    Returns:
        The number to the nearest step, and at least so many that the last one costs more than the reference's.

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


def device_name(accelerator: str) -> str:
    """Name of the device behind one of Lightning's accelerators.

    Example:
        >>> device_name("cpu")
        'cpu'
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"
