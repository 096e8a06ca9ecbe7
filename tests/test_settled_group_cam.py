"""Masks scored until the map's ranking settles: what is scored, what is estimated, when an image is done."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks._settled import FIRST, STEP, estimated_scores, settled_scores, spread_order


def _queries(masks: torch.Tensor) -> torch.Tensor:
    return torch.cat([masks, torch.zeros_like(masks[:, :1])], dim=1)


class Linear:
    """Scores masks by the weights of their pixels; keeps what it was asked for."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.weights = weights
        self.rounds: list[list[int]] = []
        self.asked: list[torch.Tensor] = []

    def __call__(self, masks: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
        self.rounds.append(torch.bincount(owners, minlength=2).tolist())
        self.asked.append(masks)
        return (0.1 + (masks * self.weights).sum((1, 2))).clamp(0, 1)


def test_the_order_by_hand():
    # Lengths 3, 5, 5 and 0.5; the last two are 0.5 apart from each other or from nothing.
    points = torch.tensor([[3.0, 0.0], [0.0, 5.0], [0.0, 4.0], [0.5, 0.0], [0.0, 0.0]])
    # 5 is longest; then 3 × 3 beats 4 × 1 and 0.5 × 0.5; then 4 × 1.
    assert spread_order(points.view(1, 5, 1, 2)).tolist() == [[4, 1, 0, 2, 3]]


def test_each_image_has_its_own_order_and_equal_masks_come_last():
    masks = torch.tensor([[1.0, 0.9, 1.0], [0.2, 0.8, 0.5]]).view(2, 3, 1, 1)
    assert spread_order(_queries(masks)).tolist() == [[3, 0, 1, 2], [3, 1, 2, 0]]


def test_an_estimate_by_hand():
    # One mask is scored and the empty one; the median of the distances 1, 0.5, 0.5 is 0.5.
    masks = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64).view(1, 3, 1, 1)
    known = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    # By symmetry the third lies half way between the two.
    assert estimated_scores(masks, known)[0].tolist() == pytest.approx([0.25, 0.75, 0.5])
    # At a quarter of the way: the covariances 10 + e^(−d / 2m) with m = 0.75.
    masks[0, 2] = 0.25
    near, far = math.exp(-0.25 / 1.5), math.exp(-0.75 / 1.5)
    among = 1 + 1e-3 - math.exp(-1 / 1.5)
    expected = 1 / (1 + math.exp(-math.log(3) * (far - near) / among))
    assert estimated_scores(masks, known)[0, 2].item() == pytest.approx(expected)


def test_an_image_is_done_once_its_ranking_has_settled_and_the_others_go_on():
    masks = torch.zeros(2, 30, 6, 6)
    # The first image: one pattern, fainter and fainter. The second: a pixel of its own in each mask.
    masks[0] = torch.linspace(1.0, 0.1, 30)[:, None, None] * torch.arange(36).view(6, 6) / 35
    masks[1].flatten(1)[torch.arange(30), torch.arange(30)] = 1.0
    score = Linear(torch.linspace(0.01, 0.04, 36).view(6, 6))
    found = settled_scores(score, _queries(masks), 0.98)
    assert score.rounds[:2] == [[FIRST + 1, FIRST + 1], [STEP, STEP]]
    assert all(first == 0 for first, _ in score.rounds[2:])
    assert sum(second for _, second in score.rounds) > 20
    assert found.shape == (2, 31)
    assert found.dtype == torch.float32


def test_where_nothing_settles_each_mask_is_scored_once_and_the_scores_are_kept():
    masks = torch.rand(2, 17, 6, 6, generator=torch.Generator().manual_seed(1))
    score = Linear(torch.full((6, 6), 0.01))
    found = settled_scores(score, _queries(masks), settled=1.0)
    assert score.rounds == [[7, 7], [4, 4], [4, 4], [3, 3]]
    assert torch.allclose(found, 0.1 + 0.01 * _queries(masks).sum((2, 3)))


def test_a_map_of_nothing_has_not_settled():
    masks = torch.rand(2, 17, 6, 6, generator=torch.Generator().manual_seed(1))
    score = Linear(torch.full((6, 6), -0.001))  # every mask lowers the score
    settled_scores(score, _queries(masks), settled=0.98)
    assert score.rounds == [[7, 7], [4, 4], [4, 4], [3, 3]]


def test_masks_that_show_nothing_are_never_scored_and_add_nothing():
    masks = torch.zeros(2, 12, 2, 2)
    masks[0, 3], masks[0, 7] = torch.eye(2), 1 - torch.eye(2)
    score = Linear(torch.full((2, 2), 0.1))
    found = settled_scores(score, _queries(masks), 0.98)
    assert score.rounds == [[3, 1]]
    gains = found - found[:, -1:]
    assert gains[0].nonzero().flatten().tolist() == [3, 7]
    assert torch.equal(gains[1], torch.zeros(13))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_certain_scores_are_finite(value):
    masks = torch.rand(1, 20, 2, 2, generator=torch.Generator().manual_seed(2))
    found = settled_scores(lambda masks, _: torch.full((len(masks),), value), _queries(masks), 0.98)
    assert torch.allclose(found, torch.full((1, 21), value))


def test_the_images_beside_it_change_nothing_of_an_image():
    masks = torch.rand(3, 20, 4, 4, generator=torch.Generator().manual_seed(3)).pow(4)
    weights = torch.linspace(0.0, 0.1, 16).view(4, 4)
    together = settled_scores(Linear(weights), _queries(masks), 0.98)
    alone = torch.cat([settled_scores(Linear(weights), _queries(part), 0.98) for part in masks.split(1)])
    assert torch.allclose(together, alone, atol=1e-6)
