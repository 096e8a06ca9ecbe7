"""Drop and increase, and the two scores of retraining."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_saliency import functional
from lightning_saliency.functional import curves, localization, scores, similarity
from lightning_saliency.functional.scores import difference_score, drop, increase, information_score

RETRAINING = pytest.mark.parametrize("score", [difference_score, information_score])


def test_every_score_has_one_address() -> None:
    public = {*localization.__all__, *similarity.__all__, "auc", "insertion_curve", "deletion_curve"}
    public |= {"drop", "increase", "difference_score", "information_score"}
    assert public < set(functional.__all__)
    assert all(callable(getattr(functional, name)) for name in public)
    assert functional.auc is curves.auc
    assert functional.drop is scores.drop


def test_drop_and_increase() -> None:
    before = torch.tensor([0.8, 0.5, 0.5, 0.0, 1e-40, 0.0])
    after = torch.tensor([0.2, 0.5, 0.75, 0.0, 0.0, 0.3])
    assert drop(before, after).tolist() == pytest.approx([75.0, 0, 0, 0, 100, 0])
    assert increase(before, after).tolist() == [0, 0, 100, 0, 0, 100]


def test_drop_and_increase_never_happen_together() -> None:
    before, after = torch.rand(200), torch.rand(200)
    lost, gained = drop(before, after), increase(before, after)
    assert ((lost >= 0) & (lost <= 100)).all()
    assert ((lost > 0) ^ (gained > 0)).all()
    assert 0 < gained.mean() < 100


@pytest.mark.parametrize("score", [drop, increase])
def test_drop_and_increase_upcast_and_check(score: object) -> None:
    assert callable(score)
    before, after = torch.rand(5).half(), torch.rand(5).half()
    assert score(torch.tensor([0.5, torch.nan]), torch.tensor([torch.nan, 0.5])).isnan().all()
    assert score(before, after).dtype == torch.float32
    assert torch.equal(score(before, after), score(before.float(), after.float()))
    assert score(before[:0], after[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"Got scores \[5\] of the images and \[4\]"):
        score(before, after[:4])


def test_the_scores_of_smoe_on_imagenet() -> None:
    """Table 4's rows "SMOE Scale" and "Random"; Table 1 prints 1.70 and 1.13."""
    kar = torch.tensor([56.61, 50.69, 51.25, 46.40, 63.00]) / 100
    roar = torch.tensor([44.48, 44.81, 36.35, 33.88, 21.15]) / 100
    random_kar = torch.tensor([66.42, 61.28, 50.67, 40.81, 42.98]) / 100
    random_roar = torch.tensor([73.48, 72.41, 68.90, 64.63, 66.04]) / 100
    assert difference_score(roar, kar, random_roar, random_kar).item() == pytest.approx(1.70, abs=0.01)
    assert information_score(roar, kar, random_roar, random_kar).item() == pytest.approx(1.13, abs=0.005)


@RETRAINING
def test_random_maps_score_zero_and_better_ones_more(score: object) -> None:
    assert callable(score)
    random_roar, random_kar = torch.rand(3, 5) * 0.5 + 0.2, torch.rand(3, 5) * 0.5 + 0.2
    torch.testing.assert_close(score(random_roar, random_kar, random_roar, random_kar), torch.zeros(3))
    assert (score(random_roar * 0.9, random_kar, random_roar, random_kar) > 0).all()
    assert (score(random_roar, random_kar * 1.1, random_roar, random_kar) > 0).all()
    assert (score(random_roar, random_kar * 0.9, random_roar, random_kar) < 0).all()


@RETRAINING
def test_many_methods_against_one_random_arm(score: object) -> None:
    assert callable(score)
    roar, kar = torch.rand(4, 5), torch.rand(4, 5)
    random_roar, random_kar = torch.rand(5), torch.rand(5)
    rows = [score(roar[i], kar[i], random_roar, random_kar) for i in range(4)]
    torch.testing.assert_close(score(roar, kar, random_roar, random_kar), torch.stack(rows))
    assert score(roar.half(), kar.half(), random_roar, random_kar).dtype == torch.float32
    assert score(roar.double(), kar, random_roar, random_kar).dtype == torch.float64


def test_accuracies_of_zero() -> None:
    none, some = torch.zeros(1), torch.full((1,), 0.5)
    assert information_score(none, some, some, some).item() == 0.0  # the limit of −ρ ln(ρ / z)
    assert information_score(none, none, none, none).item() == 0.0
    assert information_score(some, none, some, some).item() == -math.inf
    assert information_score(some, some, none, some).item() == -math.inf


@RETRAINING
@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("wrong", [71.3, -0.1, math.nan])
def test_percentages_are_refused(score: object, position: int, wrong: float) -> None:
    assert callable(score)
    columns = [torch.full((5,), 0.5) for _ in range(4)]
    columns[position][2] = wrong
    with pytest.raises(ValueError, match=r"Got accuracies .*\[0, 1\]; divide per cent by 100"):
        score(*columns)
