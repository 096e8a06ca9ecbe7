"""Metrics against ground truth: several objects, images without any, categories, tolerance."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.functional.localization import boxes_to_masks, energy_pointing_game, pointing_game
from lightning_saliency.metrics import BboxScore, EnergyPointingGame, PointingGame, TopFractionIoU

LOCALIZATION = pytest.mark.parametrize("kind", [PointingGame, EnergyPointingGame, TopFractionIoU, BboxScore])


@LOCALIZATION
def test_several_objects_are_one_union(kind: type[EnergyPointingGame]) -> None:
    saliency = torch.rand(4, 8, 9)
    boxes = torch.tensor([[1.0, 1.0, 4.0, 3.0], [3.0, 2.0, 8.0, 6.0]]).expand(4, 2, 4)
    objects = torch.stack([boxes_to_masks(boxes[:, i : i + 1], (8, 9)) for i in range(2)], dim=1)
    apart, joined = kind(average="micro"), kind(average="micro")
    apart.update(saliency, objects)
    joined.update(saliency, boxes_to_masks(boxes, (8, 9)))
    assert objects.shape == (4, 2, 8, 9)
    assert torch.equal(apart.compute(), joined.compute())
    assert apart.compute() > 0


@LOCALIZATION
def test_images_without_an_object_are_not_counted(kind: type[EnergyPointingGame]) -> None:
    saliency, masks = torch.rand(5, 8, 8), torch.zeros(5, 8, 8, dtype=torch.bool)
    masks[[0, 3], 1:7] = True
    some, only = kind(average="none", num_classes=3), kind(average="none", num_classes=3)
    some.update(saliency, masks, torch.tensor([0, 0, 1, 2, 2]))
    only.update(saliency[[0, 3]], masks[[0, 3]], torch.tensor([0, 2]))
    torch.testing.assert_close(some.compute(), only.compute(), equal_nan=True)
    assert some.count.tolist() == [1, 0, 1]


def test_a_map_without_an_object_may_be_anything() -> None:
    saliency, masks = torch.rand(2, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    saliency[0], masks[1] = torch.nan, True
    metric = EnergyPointingGame()
    metric.update(saliency, masks)
    assert metric.compute() == 1.0


def test_pointing_game_is_averaged_over_categories() -> None:
    """Three hits of four in category 0, none of one in category 2: 37.5 %, where the mean over maps is 60 %."""
    saliency = torch.zeros(5, 4, 4)
    saliency[:, 1, 2] = 1.0
    masks = torch.zeros(5, 4, 4, dtype=torch.bool)
    masks[:3, :2] = True
    masks[3:, 3, 3] = True
    targets = torch.tensor([0, 0, 0, 0, 2])
    values = {}
    for average in ("macro", "micro", "none"):
        metric = PointingGame(num_classes=3, average=average)
        metric.update(saliency, masks, targets)
        values[average] = metric.compute()
    assert values["macro"].item() == pytest.approx(0.375)
    assert values["micro"].item() == pytest.approx(0.6)
    torch.testing.assert_close(values["none"], torch.tensor([0.75, torch.nan, 0.0]), equal_nan=True)
    assert PointingGame(num_classes=3).average == "macro"
    assert PointingGame().average == "micro"


def test_options_reach_the_score() -> None:
    saliency, masks = torch.rand(6, 9, 9), torch.zeros(6, 9, 9, dtype=torch.bool)
    masks[:, 4, 4] = True
    point = PointingGame(average="micro", tolerance=3.0)
    point.update(saliency, masks)
    assert point.compute() == pointing_game(saliency, masks, 3.0).mean()
    assert point.compute() != pointing_game(saliency, masks).mean()
    wide, narrow = TopFractionIoU(fraction=1.0), TopFractionIoU(fraction=0.0)
    wide.update(saliency, masks)
    narrow.update(saliency, masks)
    assert wide.compute().item() == pytest.approx(1 / 81)
    assert narrow.compute().item() == 0.0


def test_targets_are_needed_for_classes_only() -> None:
    saliency, masks = torch.rand(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="Got no targets"):
        EnergyPointingGame("macro", 2).update(saliency, masks)
    metric = EnergyPointingGame()
    metric.update(saliency, masks)
    torch.testing.assert_close(metric.compute(), energy_pointing_game(saliency, masks).mean())
    one_class = EnergyPointingGame("none", 2)
    one_class.update(saliency, masks, 1)
    assert one_class.count.tolist() == [0, 2]
