"""Differences of arms that share their seeds: the mean and its interval by Student's t."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_saliency.reports.tables import Estimate


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


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean of values and its interval by Student's t, infinite for a single value.

    Raises:
        ValueError: If there is no value, or the confidence is out of range.
    """
    if not values or not 0 < confidence < 1:
        raise ValueError(
            f"Got {len(values)} values and confidence={confidence}. Allowed are one value and more, and a "
            "share in (0, 1)."
        )
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, -math.inf, math.inf, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    reach = student_quantile((1 + confidence) / 2, count - 1) * deviation / math.sqrt(count)
    return Estimate(mean, mean - reach, mean + reach, count)


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, by bisection of its distribution function.

    Args:
        probability: In [0.5, 1).
        freedom: Degrees of freedom, a whole number from 1.

    Example:
        >>> round(student_quantile(0.975, 2), 4)
        4.3027
    """
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def student_cdf(value: float, freedom: int) -> float:
    """P(T ≤ value) of Student's t with whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).

    With θ = atan(t / √ν), A = P(|T| ≤ t) is 2/π · (θ + sin θ · (cos θ + 2/3 cos³ θ + … + (2·4·…(ν−3))/(3·5·…(ν−2)) ·
    cos^(ν−2) θ)) for odd ν, and sin θ · (1 + 1/2 cos² θ + … + (1·3·…(ν−3))/(2·4·…(ν−2)) · cos^(ν−2) θ) for even ν.

    Args:
        value: t ≥ 0.
        freedom: ν, a whole number from 1.
    """
    angle = math.atan(value / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for step in range(freedom // 2):
        total += term
        term *= cosine**2 * ((2 * step + 2) / (2 * step + 3) if odd else (2 * step + 1) / (2 * step + 2))
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + within) / 2
