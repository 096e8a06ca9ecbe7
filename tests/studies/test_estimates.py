"""Student's t: quantiles and intervals are scipy's."""

from __future__ import annotations

import math

import pytest
import scipy.stats

from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies.estimates import mean_interval, student_cdf, student_quantile


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
