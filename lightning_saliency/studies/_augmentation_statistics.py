"""Differences of arms that share their seeds: the mean and its interval by Student's t."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies._statistics import mean_interval


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float], confidence: float = 0.95
) -> Estimate | None:
    """The mean over seeds of the difference of two arms, and the interval that Student's t gives it.

    mean ± t · s / √n, s the standard deviation (n − 1) of the n differences, t the quantile of n − 1 degrees of
    freedom.

    Args:
        values: Seed -> the arm's value.
        reference: Seed -> the reference arm's value; seeds that only one arm has are left out.
        confidence: Of the interval, in (0, 1).

    Returns:
        The mean difference, its interval, which is infinite for a single seed, and the number of seeds; ``None`` where
        no seed is common to both.

    Example:
        >>> difference = paired_difference({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.25})
        >>> round(difference.value, 3), round(difference.low, 3), round(difference.high, 3), difference.count
        (0.375, -1.213, 1.963, 2)
    """
    common = [seed for seed in values if seed in reference]
    return mean_interval([values[seed] - reference[seed] for seed in common], confidence) if common else None
