"""Probabilities, and the odds whose gradient stays when that of the probability vanishes."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from lightning_saliency.functional.class_scores import (
    Score,
    class_count,
    class_regions,
    class_scores,
    log_odds,
    most_frequent_classes,
    predicted_classes,
)


def test_scores_of_each_kind():
    logits = torch.randn(4, 6, dtype=torch.float64)
    assert torch.equal(class_scores(logits, "logit"), logits)
    assert torch.allclose(class_scores(logits, "sigmoid"), 1 / (1 + (-logits).exp()))
    assert torch.allclose(class_scores(logits, "softmax"), logits.exp() / logits.exp().sum(1, keepdim=True))
    assert class_scores(logits.half(), "softmax").dtype == torch.float32


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_log_odds_are_those_of_the_softmax(classes):
    logits = torch.randn(50, classes, dtype=torch.float64) * 3
    probabilities = logits.softmax(1)
    assert torch.allclose(log_odds(logits, "softmax"), (probabilities / (1 - probabilities)).log())
    assert torch.equal(log_odds(logits, "sigmoid"), logits)
    assert torch.equal(log_odds(logits, "logit"), logits)


@pytest.mark.parametrize("target", range(4))
def test_gradient_of_the_odds_is_a_positive_multiple_of_that_of_the_probability(target):
    logits = (torch.randn(20, 4, dtype=torch.float64) * 2).requires_grad_()
    probability = logits.softmax(1)[:, target]
    (plain,) = torch.autograd.grad(probability.sum(), logits)
    (ours,) = torch.autograd.grad(log_odds(logits, "softmax")[:, target].sum(), logits)
    assert torch.allclose(ours * (probability * (1 - probability)).detach()[:, None], plain)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_gradient_survives_where_the_probability_is_saturated(target):
    logits = torch.tensor([[300.0, 0.0, -50.0]], requires_grad=True)
    (plain,) = torch.autograd.grad(logits.softmax(1)[:, target].sum(), logits)
    (ours,) = torch.autograd.grad(log_odds(logits, "softmax")[:, target].sum(), logits)
    assert plain.abs().sum() == 0
    assert ours.isfinite().all()
    assert ours[0, target] == 1
    assert ours.sum().abs() < 1e-6


@pytest.mark.parametrize("pixels", [(), (3, 5)])
def test_one_logit_is_that_of_class_1_and_its_negative_that_of_class_0(pixels):
    outputs = torch.randn(4, 1, *pixels, dtype=torch.float64)
    regions = torch.rand(4, *pixels) > 0.5 if pixels else None

    def mean(values):
        values = values.expand(-1, 2, *pixels)[:, 0]
        return values if not pixels else (values * regions).sum((1, 2)) / regions.sum((1, 2))

    for score in ("softmax", "sigmoid"):
        scores = class_scores(outputs, score, regions)
        torch.testing.assert_close(scores, torch.stack([mean((-outputs).sigmoid()), mean(outputs.sigmoid())], dim=1))
        assert (scores.sum(1) - 1).abs().max() < 1e-12
    for scores in (class_scores(outputs, "logit", regions), *(log_odds(outputs, s, regions) for s in get_args(Score))):
        torch.testing.assert_close(scores, torch.stack([mean(-outputs), mean(outputs)], dim=1))
    assert class_count(outputs) == 2


@pytest.mark.parametrize("score", get_args(Score))
@pytest.mark.parametrize("function", [class_scores, log_odds])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_the_score_of_a_class_is_the_mean_over_the_pixels_predicted_as_it(function, score, classes):
    outputs = torch.randn(3, classes, 4, 6, dtype=torch.float64)
    outputs[1, -1] = -20.0 if classes > 1 else 20.0  # a class that no pixel is predicted as
    scores = function(outputs, score)
    for image in range(3):
        pixels = outputs[image].flatten(1).T  # [h·w, classes]
        winners = predicted_classes(pixels)
        for index in range(class_count(outputs)):
            own = pixels[winners == index]
            own = own if len(own) else pixels
            torch.testing.assert_close(scores[image, index], function(own, score)[:, index].mean())
            regions = class_regions(outputs, torch.full((3,), index))
            torch.testing.assert_close(function(outputs, score, regions)[image, index], scores[image, index])


def test_predicted_classes_of_each_kind_of_head():
    assert predicted_classes(torch.tensor([[0.1, 3.0, -1.0], [2.0, 0.0, 1.0]])).tolist() == [1, 0]
    assert predicted_classes(torch.tensor([[0.1], [-0.1], [7.0]])).tolist() == [1, 0, 1]
    # The background fills most of the first image and all of the second.
    winners = torch.tensor([[[0, 0, 0], [0, 2, 1], [0, 2, 0]], [[0, 0, 0]] * 3])
    assert predicted_classes(torch.nn.functional.one_hot(winners, 3).movedim(-1, 1).float()).tolist() == [2, 0]
    assert predicted_classes((winners > 0)[:, None].float() - 0.5).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [([0, 0, 0, 3], 3), ([1, 2, 2, 0], 2), ([2, 1, 0, 0], 1), ([255, 255, 255, 0], 0), ([-1, -100, 255, 255], -1)],
)
def test_most_frequent_classes(mask, expected):
    assert most_frequent_classes(torch.tensor([mask]).view(1, 2, 2)).tolist() == [expected]


def test_equal_logits_have_finite_odds():
    logits = torch.zeros(2, 5, requires_grad=True)
    odds = log_odds(logits, "softmax")
    assert torch.allclose(odds, torch.tensor(0.25).log())
    (gradient,) = torch.autograd.grad(odds.sum(), logits)
    assert gradient.isfinite().all()
