"""Scores of masked images, RISE and Score-CAM against loops over masks and pixels."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from lightning_saliency.explainers import RISE, ScoreCAM, score_masks
from lightning_saliency.explainers.rise import draw_masks

from .loops import rise as loop
from .loops.grad_cam import finished
from .loops.group_cam import blur_of, gaussian_blur, perturb, probability
from .loops.resampling import Array, bilinear, min_max
from .loops.score_cam import score_cam
from .networks import TinyNetwork, random_images

SIZES = [(16, 16), (12, 20)]


def confidence(model: TinyNetwork, target: int) -> loop.Score:
    return lambda image: probability(model, image, target)


@pytest.mark.parametrize("baseline", ["blur", "zero", "mean", "own"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 12)])
def test_score_masks(height: int, width: int, baseline: str) -> None:
    model, images = TinyNetwork(), random_images(2, height, width)
    own = random_images(2, height, width, seed=9)
    masks = torch.rand((2, 5, 3, 4), dtype=torch.float64)
    targets = torch.tensor([3, 1])
    got = score_masks(model, images, masks, targets, fill=own if baseline == "own" else baseline)
    assert got.dtype == torch.float64
    for b in range(2):
        image = images[b].numpy()
        behind = {
            "blur": lambda image=image: gaussian_blur(image, *blur_of(image)),
            "zero": lambda image=image: np.zeros(image.shape),
            "mean": lambda image=image: (
                np.ones(image.shape) * np.array([channel.mean() for channel in image])[:, None, None]
            ),
            "own": lambda b=b: own[b].numpy(),
        }[baseline]()
        for m in range(5):
            changed = perturb(image, behind, bilinear(masks[b, m].numpy(), height, width))
            assert got[b, m].item() == pytest.approx(probability(model, changed, int(targets[b])), abs=1e-9)


@pytest.mark.parametrize(("grid", "probability_open"), [(3, 0.5), (5, 0.2)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_rise(height: int, width: int, grid: int, probability_open: float) -> None:
    model, images = TinyNetwork(), random_images(2, height, width)
    cells, shifts = draw_masks(12, grid, probability_open, (height, width), 5)
    masks = [
        loop.smooth_mask(cell.double().numpy(), (int(shift[0]), int(shift[1])), height, width)
        for cell, shift in zip(cells, shifts, strict=True)
    ]
    targets = torch.tensor([0, 2])
    got = RISE(model, masks=12, grid=grid, probability=probability_open, seed=5)(images, targets)
    for b in range(2):
        expected = loop.rise(confidence(model, int(targets[b])), images[b].numpy(), masks, probability_open)
        assert expected.max() > expected.min()
        np.testing.assert_allclose(got[b].numpy(), min_max(expected), atol=1e-6)


def all_binary_masks(height: int, width: int) -> list[Array]:
    return [
        np.array(bits, dtype=np.float64).reshape(height, width) for bits in product((0.0, 1.0), repeat=height * width)
    ]


def test_estimator_is_the_conditional_expectation() -> None:
    """Eq. 1 over all equally likely masks of six pixels, as E[Ψ m(λ)] / E[m(λ)] and as the estimator."""
    image = random_images(1, 6, 6)[0, :, 1:3, 2:5].numpy()
    score = _brightness
    masks = all_binary_masks(2, 3)
    direct = loop.conditional_expectation(score, image, masks)
    reformulated = loop.weighted_expectation(score, image, masks, indicator=lambda mask: mask) / 0.5
    np.testing.assert_allclose(direct, reformulated, atol=1e-12)
    np.testing.assert_allclose(direct, loop.rise(score, image, masks, 0.5), atol=1e-12)


def test_normalised_contribution_favours_small_masks() -> None:
    """Eq. 3: of two masks with the same score the smaller one gives its pixels more."""
    small, large = np.zeros((3, 3)), np.ones((3, 3))
    small[1, 1] = 1
    shares = [loop.contribution(mask) for mask in (small, large)]
    assert shares[0][1, 1] == 1
    assert shares[1][1, 1] == pytest.approx(1 / 9)
    result = loop.weighted_expectation(lambda image: 1.0, np.ones((3, 3, 3)), [small, large])
    assert result[1, 1] == pytest.approx((1 + 1 / 9) / 2)
    assert result[0, 0] == pytest.approx(1 / 18)


def _brightness(image: Array) -> float:
    return float(np.tanh(image.sum()) + 2)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_score_cam(height: int, width: int) -> None:
    model, images = TinyNetwork(), random_images(2, height, width)
    targets = torch.tensor([1, 2])
    got = ScoreCAM(model, "block2")(images, targets)
    with torch.no_grad():
        activations = model.until(images, "block2").numpy()
    for b in range(2):
        expected = score_cam(confidence(model, int(targets[b])), images[b].numpy(), activations[b])
        assert expected.max() > 0
        np.testing.assert_allclose(got[b].numpy(), finished(expected, height, width), atol=1e-6)
