"""Probabilities, and the odds whose gradient stays when that of the probability vanishes."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.functional.class_scores import class_scores, log_odds


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


def test_a_softmax_of_one_output_is_refused():
    for function in (class_scores, log_odds):
        with pytest.raises(ValueError, match="score='sigmoid'"):
            function(torch.zeros(3, 1), "softmax")
        assert function(torch.zeros(3, 1), "sigmoid").shape == (3, 1)


def test_equal_logits_have_finite_odds():
    logits = torch.zeros(2, 5, requires_grad=True)
    odds = log_odds(logits, "softmax")
    assert torch.allclose(odds, torch.tensor(0.25).log())
    (gradient,) = torch.autograd.grad(odds.sum(), logits)
    assert gradient.isfinite().all()
