"""Student's t: quantiles and intervals are scipy's. Resampled intervals of so few values that they are known."""

from __future__ import annotations

import math

import pytest
import scipy.stats

from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies.estimates import (
    bootstrap_excess,
    bootstrap_mean,
    bootstrap_rows,
    mean_interval,
    student_cdf,
    student_quantile,
)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 29])
@pytest.mark.parametrize("share", [0.5, 0.75, 0.975, 0.995])
def test_students_quantiles(share, freedom):
    quantile = scipy.stats.t.ppf(share, freedom)
    assert student_quantile(share, freedom) == pytest.approx(quantile, abs=1e-6, rel=1e-9)
    assert student_cdf(max(0.0, quantile), freedom) == pytest.approx(share)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_the_interval_of_a_mean(confidence):
    values = [0.71, 0.74, 0.69, 0.75, 0.60]
    low, high = scipy.stats.t.interval(confidence, 4, sum(values) / 5, scipy.stats.sem(values))
    found = mean_interval(values, confidence)
    assert (found.value, found.low, found.high) == pytest.approx((sum(values) / 5, low, high))
    assert found.count == 5


def test_one_value_has_no_interval():
    assert mean_interval([2.0]) == Estimate(2.0, -math.inf, math.inf, 1)
    for values, confidence in (([], 0.95), ([1.0], 1.0), ([1.0], 0.0)):
        with pytest.raises(ValueError, match="Allowed are"):
            mean_interval(values, confidence)


def test_every_value_of_an_image_counts():
    assert bootstrap_mean([1.0, 2.0, 6.0, 3.0], [0, 0, 0, 1]).value == 3.0
    assert bootstrap_mean([1.0, 2.0, 6.0, 5.0], [0, 0, 0, 1], ["a", "a", "a", "b"]).value == 4.0


def test_a_resampled_interval_leaves_two_and_a_half_per_cent_on_either_side():
    """One of three values is drawn three times in 1/27 = 3.7 % of the resamples."""
    assert bootstrap_rows([0.0, 0.0, 1.0]).high == 1.0
    assert bootstrap_rows([1.0, 1.0, 0.0]).low == 0.0
    # Of two equal networks, the one image in three in which they lie above their pair.
    assert bootstrap_excess([[0.0, 0.0, 1.0]] * 2, [[0.0] * 3]).high == 1.0
    assert bootstrap_excess([[1.0, 1.0, 0.0]] * 2, [[0.0] * 3]).low == 0.0


def test_images_without_a_value_are_left_out_of_an_excess():
    excess = bootstrap_excess([[0.5, None, 0.5], [0.5, 0.5, None]], [[None, 0.25, 0.25]])
    assert (excess.value, excess.low, excess.high, excess.count) == (0.25, 0.25, 0.25, 4)
