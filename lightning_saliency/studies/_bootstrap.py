"""Means with bootstrap intervals, resampled by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_saliency.reports.tables import Estimate


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
        images: For each the number of the image it belongs to.
        classes: For each its class: the mean is taken within each class and then over the classes (those that a draw
            contains). ``None``: the mean over all values.
        resamples: Number of draws.
        confidence: Share of the draws' means that the interval holds, in (0, 1).
        seed: Of the draws.

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
    draws = np.random.default_rng(seed).integers(0, len(rows), (resamples, len(rows)))
    weights = np.zeros((resamples, len(rows)))
    np.add.at(weights, (np.arange(resamples)[:, None], draws), 1)
    drawn = weights @ counts
    means = np.divide(weights @ sums, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
    low, high = np.quantile(np.nanmean(means, axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high), len(values))
