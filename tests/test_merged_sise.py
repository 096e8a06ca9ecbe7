"""SISE of merged masks: which masks go together, and that with a group for each mask it is SISE itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks._merged_sise import MergedSISE, grouped
from lightning_saliency.explainers import SISE
from lightning_saliency.studies.passes import counted_passes


@pytest.fixture
def model():
    torch.manual_seed(0)
    blocks = [nn.Conv2d(3, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 20, 3), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def test_masks_that_point_the_same_way_go_together():
    directions = torch.eye(3).repeat_interleave(4, 0)
    lengths = torch.tensor([1.0, 0.2, 0.5, 0.9]).repeat(3)
    noise = 0.01 * torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    masks = (lengths[:, None] * (directions + noise))[:, None]
    groups, chosen = grouped(masks, 3)
    assert [len(set(part)) for part in groups.view(3, 4).tolist()] == [1, 1, 1]
    assert sorted(index // 4 for index in chosen.tolist()) == [0, 1, 2]
    assert groups[chosen].tolist() == [0, 1, 2]


def test_equal_masks_are_one_group():
    groups, chosen = grouped(torch.ones(5, 2, 2), 3)
    assert groups.tolist() == [0] * 5
    assert len(chosen) == 1


def test_a_group_for_each_mask_is_sise(model):
    images, targets = torch.rand(2, 3, 24, 24), torch.tensor([3, 7])
    merged = MergedSISE(model, share=1.0, layers=("1", "4"))(images, targets)
    torch.testing.assert_close(merged, SISE(model, layers=("1", "4"))(images, targets))


def test_a_share_of_the_masks_is_scored(model):
    images = torch.rand(1, 3, 24, 24)
    passes = []
    for explainer in (SISE(model, layers=("1", "4")), MergedSISE(model, share=0.25, layers=("1", "4"))):
        explainer(images, 3)
        with counted_passes((24, 24)) as counted:
            saliency = explainer(images, 3)
        passes.append(counted[0] - 1)
    assert saliency.max() > 0
    assert passes[1] <= 0.25 * passes[0] + 1
