"""What can be measured is checked before anything is computed, and what cannot is not counted."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.explainers import GradCAM
from lightning_saliency.metrics import EnergyPointingGame
from lightning_saliency.studies import ComparisonConfig, MetricConfig
from tests.studies.comparison.test_comparison import GRAD_CAM, SIDE, Net, compare, detection_data

IMAGES = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kept_fraction": 15}, r"kept_fraction=15\. Allowed are shares .*divide per cent by 100"),
        ({"top_fraction": float("nan")}, "top_fraction=nan"),
        ({"steps": 0}, r"steps=0\. Allowed are whole numbers from 1"),
        ({"tolerances": (0, -1)}, "tolerances=-1"),
        ({"curve_fill": "blurr"}, "curve_fill='blurr'.*Did you mean 'blur'"),
        ({"score": "probability"}, "score='probability'"),
        ({"precision": "bf8"}, "precision='bf8'"),
    ],
)
def test_options_of_metrics_are_checked_before_anything_is_computed(options, message):
    with pytest.raises(ValueError, match=message):
        MetricConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"confidence": 95}, r"confidence=95\. Allowed is a share in \(0, 1\)"), ({"resamples": 0}, "resamples=0")],
)
def test_options_of_the_tables_are_checked_before_anything_is_computed(options, message):
    with pytest.raises(ValueError, match=message):
        ComparisonConfig(models=Net(), data=IMAGES, **options)


def test_metrics_that_are_named_and_need_boxes_are_not_left_out():
    image, named = detection_data(1)[0]
    for data in (IMAGES, [(image, named), (image, 1)]):
        with pytest.raises(
            ValueError, match="Got the metrics ebpg, which need boxes or masks, and images of which some or all"
        ):
            compare(Net(), data, ["random"], ["ebpg", "drop"])
        columns = compare(Net(), data, ["random"], MetricConfig(steps=4), resamples=5).columns
        assert {column.key for column in columns} == {"drop", "increase", "insertion", "deletion", "overall"}


def test_boxes_that_cover_nothing_are_not_counted():
    """As by `lightning_saliency.metrics`; the sheet of examples is ordered by what can be."""
    image, label = IMAGES[0], torch.tensor([1])
    boxes = [[20.0, 20.0, 30.0, 30.0], [3.0, 3.0, 3.0, 9.0], [1.0, 1.0, 6.0, 7.0]]
    data = [(image, {"labels": label, "boxes": torch.tensor([box])}) for box in boxes]
    found = compare(Net(), data, {"cam": GRAD_CAM}, ["ebpg", "drop"], resamples=5)
    masks = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
    masks[2, 1:7, 1:6] = True
    metric = EnergyPointingGame()
    metric.update(GradCAM(Net(), layer="4")(image[None], label).expand(3, -1, -1), masks)
    estimate = found.estimates["Net"]["cam"]["ebpg"]
    assert estimate.count == 1
    assert estimate.value == pytest.approx(100 * float(metric.compute()), rel=1e-4)
    assert found.estimates["Net"]["cam"]["drop"].count == 3
    nothing = compare(Net(), data[:2], {"cam": GRAD_CAM}, ["ebpg", "drop"], resamples=5)
    assert len(nothing.examples("Net")["cam"]) == 3
