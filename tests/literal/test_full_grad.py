"""FullGrad against loops in which each bias is a leaf of the graph, and its shares against the score they make up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_saliency.explainers import FullGrad

from .loops import full_grad as loop
from .loops.resampling import min_max
from .networks import TinyNetwork, random_images


@pytest.mark.parametrize(("height", "width", "seed"), [(16, 16, 4), (12, 20, 2), (8, 8, 5)])
def test_the_map(height: int, width: int, seed: int) -> None:
    model, images = TinyNetwork(seed=seed), random_images(2, height, width)
    targets = torch.tensor([3, 1])
    found = FullGrad(model)(images, targets)
    for b in range(2):
        expected = min_max(loop.full_grad(model, images[b : b + 1], int(targets[b])))
        np.testing.assert_allclose(found[b].numpy(), expected, atol=1e-6)


def test_the_shares_make_up_the_score() -> None:
    model, images = TinyNetwork(), random_images(2, 12, 12)
    found = FullGrad(model).shares(images, 2)
    for b in range(2):
        literal, score = loop.shares(model, images[b : b + 1], 2)
        for share, expected in zip(found, literal, strict=False):
            np.testing.assert_allclose(share[b].numpy(), expected, atol=1e-12)
        total = sum(float(share[b].sum()) for share in found)
        assert total == pytest.approx(score, rel=1e-9)
        assert sum(part.sum() for part in literal) == pytest.approx(score, rel=1e-9)
