"""The scores that quantus offers too, against quantus."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_saliency.functional.curves import deletion_curve, insertion_curve
from lightning_saliency.functional.localization import bbox_score, energy_pointing_game, pointing_game

# Its OpenCV looks for a graphics library that not every machine has.
quantus = pytest.importorskip("quantus", exc_type=ImportError)

SILENT = {"disable_warnings": True, "display_progressbar": False}


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    ).eval()


def scored(metric: Any, images: Tensor, targets: Tensor, saliency: Tensor, masks: Tensor | None, **more: Any) -> Tensor:
    """What quantus gives for each image."""
    values = metric(
        model=more.pop("model", None),
        x_batch=images.numpy(),
        y_batch=targets.numpy(),
        a_batch=saliency.unsqueeze(1).numpy(),
        s_batch=None if masks is None else masks.unsqueeze(1).numpy(),
        channel_first=True,
        device="cpu",
        **more,
    )
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("score", "metric"),
    [
        (energy_pointing_game, "RelevanceMassAccuracy"),
        (bbox_score, "RelevanceRankAccuracy"),
        (pointing_game, "PointingGame"),
    ],
)
def test_localisation(score: Any, metric: str) -> None:
    generator = torch.Generator().manual_seed(0)
    saliency = torch.rand(40, 24, 30, generator=generator) ** 3
    masks = torch.zeros(40, 24, 30, dtype=torch.bool)
    corners = torch.randint(0, 12, (40, 2), generator=generator)
    sides = torch.randint(1, 13, (40, 2), generator=generator)
    for mask, (top, left), (height, width) in zip(masks, corners.tolist(), sides.tolist(), strict=True):
        mask[top : top + height, left : left + width] = True
    saliency[::3][masks[::3]] += 0.5  # some maps know where the object lies
    expected = scored(
        getattr(quantus, metric)(abs=False, normalise=False, **SILENT),
        torch.rand(40, 1, 24, 30, generator=generator),
        torch.zeros(40, dtype=torch.long),
        saliency,
        masks,
        model=network(),
    )
    assert 0 < expected.mean() < 1
    torch.testing.assert_close(score(saliency, masks).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [9, 24, 72])
def test_curves(steps: int) -> None:
    """Its pixel flipping puts in, for "black", each image's least value, here 0: one channel, as it counts channels."""
    model = network()
    generator = torch.Generator().manual_seed(steps)
    images, saliency = (torch.rand(6, *size, generator=generator) for size in ((1, 12, 18), (12, 18)))
    images[:, :, 0, 0] = 0.0
    targets = torch.arange(6) % 4
    options = {"steps": steps, "fill": "zero"}
    flipped = {
        order: scored(
            quantus.PixelFlipping(
                features_in_step=216 // steps, abs=False, normalise=False, perturb_baseline="black", **SILENT
            ),
            images,
            targets,
            order * (saliency - 0.5),
            None,
            model=model,
            softmax=True,
        )
        for order in (1, -1)
    }
    deleted = deletion_curve(model, images, saliency, targets, **options)
    assert deleted.std(1).min() > 1e-3
    torch.testing.assert_close(deleted[:, 1:].double(), flipped[1], atol=1e-6, rtol=0)
    # Insertion of the most salient first is deletion of the least salient first, read backwards.
    inserted = insertion_curve(model, images, saliency, targets, **options)
    torch.testing.assert_close(inserted[:, :-1].flip(1).double(), flipped[-1], atol=1e-6, rtol=0)
