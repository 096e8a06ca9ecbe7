"""The mean of a few measurements and the interval that Student's t gives it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from lightning_saliency.reports.tables import Estimate


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean of values and its interval: mean ± t · s / √n.

    s is the standard deviation (n − 1) of the n values, t the quantile of Student's t with n − 1 degrees of freedom.

    Args:
        values: n measurements; for paired arms, their differences.
        confidence: Level of the confidence interval, in (0, 1).

    Returns:
        The mean, its interval and n. For a single value the interval is infinite, and tables and figures show none.

    Raises:
        ValueError: If there is no value, or the confidence is out of range.

    Example:
        >>> estimate = mean_interval([0.70, 0.72, 0.74])
        >>> f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
        '0.720 [0.670, 0.770]'
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


def bootstrap_mean(
    values: Sequence[float],
    images: Sequence[int],
    classes: Sequence[str] | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The mean of scores and its percentile bootstrap interval.

    Whole images are drawn, with all their values, since the classes of one image are not independent. The draws depend
    on the seed and on which images there are only: two methods measured on the same images are resampled alike.

    Args:
        values: N scores.
        images: For each score the number of its image.
        classes: For each score its class: the mean is taken within each class and then over the classes (those that a
            draw contains). ``None``: the mean over all values.
        resamples: Number of draws.
        confidence: Share of the draws' means that the interval holds, in (0, 1).
        seed: Seed of the random draws.

    Returns:
        The mean, the interval, and N.

    Raises:
        ValueError: If there is no value, or an option is out of range.

    Example:
        >>> bootstrap_mean([1.0, 2.0, 6.0], [0, 1, 2]).value
        3.0
        >>> bootstrap_mean([1.0, 1.0, 0.0], [0, 1, 2], ["cat", "cat", "dog"]).value
        0.5
    """
    if not len(values):
        raise ValueError(
            "Got no value to take the mean of. Leave out the metric, or give images it can be measured on."
        )
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"Got resamples={resamples}, confidence={confidence}. Allowed are 1 and more, and a share in (0, 1)."
        )
    rows, image_of = np.unique(np.asarray(images), return_inverse=True)
    groups, group_of = np.unique(np.asarray(["all"] * len(values) if classes is None else classes), return_inverse=True)
    sums, counts = np.zeros((len(rows), len(groups))), np.zeros((len(rows), len(groups)))
    np.add.at(sums, (image_of, group_of), np.asarray(values, dtype=float))
    np.add.at(counts, (image_of, group_of), 1)
    value = float(np.mean(sums.sum(0) / counts.sum(0)))
    weights = drawn_weights(np.random.default_rng(seed), len(rows), resamples)
    drawn = weights @ counts
    means = np.divide(weights @ sums, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
    low, high = np.quantile(np.nanmean(means, axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high), len(values))


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float], confidence: float = 0.95
) -> Estimate | None:
    """The mean over seeds of the difference of two arms, and the interval that Student's t gives it.

    mean ± t · s / √n, s the standard deviation (n − 1) of the n differences, t the quantile of n − 1 degrees of
    freedom.

    Args:
        values: Seed -> the arm's value.
        reference: Seed -> the reference arm's value; seeds that only one arm has are left out.
        confidence: Level of the confidence interval, in (0, 1).

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


def bootstrap_rows(
    values: Sequence[float] | Sequence[Sequence[float | None]], seed: int = 0, resamples: int = 2000
) -> Estimate:
    """The mean of values and its 95 % interval by the percentile bootstrap over images and networks.

    Args:
        values: One for each image; a single one has an interval without width. Or rows of them, one for each random
            network (or pair of them), which are resampled as the images are; ``None`` where an image has no value.
        seed: Seed of the draws.
        resamples: Number of draws.

    Returns:
        The mean, the interval, and the number of values.

    Raises:
        ValueError: If there is no value.

    Example:
        >>> estimate = bootstrap_rows([0.0, 1.0, 0.0, 1.0] * 8)
        >>> round(estimate.value, 2), estimate.count
        (0.5, 32)
    """
    given = np.atleast_2d(np.asarray(values, dtype=np.float64))
    valued = ~np.isnan(given)
    if not valued.any():
        raise ValueError("Got no value. Give at least one image's.")
    networks, images = given.shape
    generator = np.random.default_rng(seed)
    of_images = drawn_weights(generator, images, resamples)
    of_networks = drawn_weights(generator, networks, resamples)
    # The mean of a resample is a quotient of two weighted sums.
    sums = np.einsum("ri,rn,ni->r", of_images, of_networks, np.where(valued, given, 0.0))
    counts = np.einsum("ri,rn,ni->r", of_images, of_networks, valued.astype(np.float64))
    low, high = np.percentile(sums[counts > 0] / counts[counts > 0], (2.5, 97.5))
    return Estimate(float(given[valued].mean()), float(low), float(high), int(valued.sum()))


def bootstrap_excess(
    values: Sequence[Sequence[float | None]],
    pairs: Sequence[Sequence[float | None]],
    seed: int = 0,
    resamples: int = 2000,
) -> Estimate:
    """By how much the mean of networks' values lies above that of their pairs, with its 95 % interval.

    The percentile bootstrap over images and networks, drawn for both at once, so that what an image or a network does
    to both does not widen the interval. A pair counts as often as both its networks are drawn, multiplied; draws of a
    single network, which have no pair, are left out.

    Args:
        values: R rows, one for each network, of N values, one for each image; ``None`` where an image has none.
        pairs: R (R − 1) / 2 such rows, one for each pair of networks, in the order of ``itertools.combinations``.
        seed: Seed of the draws.
        resamples: Number of draws.

    Returns:
        The difference of the means, its interval, and the number of networks' values.

    Raises:
        ValueError: If networks or pairs have no value.

    Example:
        >>> excess = bootstrap_excess([[0.5, 0.7], [0.5, 0.7]], [[0.4, 0.6]])
        >>> round(excess.value, 2), round(excess.low, 2), round(excess.high, 2), excess.count
        (0.1, 0.1, 0.1, 4)
    """
    single, double = np.asarray(values, dtype=np.float64), np.asarray(pairs, dtype=np.float64)
    valued = [~np.isnan(given) for given in (single, double)]
    if not all(found.any() for found in valued):
        raise ValueError("Got no value of the networks or none of their pairs. Give at least one image's of both.")
    generator = np.random.default_rng(seed)
    of_images = drawn_weights(generator, single.shape[1], resamples)
    of_networks = drawn_weights(generator, len(single), resamples)
    first, second = np.array(list(combinations(range(len(single)), 2))).T
    means = []
    for given, known, weights in (
        (single, valued[0], of_networks),
        (double, valued[1], of_networks[:, first] * of_networks[:, second]),
    ):
        sums = np.einsum("ri,rn,ni->r", of_images, weights, np.where(known, given, 0.0))
        counts = np.einsum("ri,rn,ni->r", of_images, weights, known.astype(np.float64))
        means.append(np.divide(sums, counts, out=np.full(resamples, np.nan), where=counts > 0))
    drawn = means[0] - means[1]
    low, high = np.percentile(drawn[~np.isnan(drawn)], (2.5, 97.5))
    value = single[valued[0]].mean() - double[valued[1]].mean()
    return Estimate(float(value), float(low), float(high), int(valued[0].sum()))


def drawn_weights(generator: np.random.Generator, count: int, resamples: int) -> npt.NDArray[np.float64]:
    """How often each of ``count`` things is drawn in each resample, with replacement: ``[resamples, count]``."""
    draws = generator.integers(0, count, (resamples, count))
    weights = np.zeros((resamples, count))
    np.add.at(weights, (np.arange(resamples)[:, None], draws), 1)
    return weights
