"""The SMOE Scale paper from an image to its map: statistic, normalisation, combination, and the product with a CAM."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_saliency.explainers import SMOE, FastCAM

from .loops import grad_cam, smoe
from .loops.resampling import Array, min_max
from .networks import TinyNetwork, random_images

LAYERS = ("block1", "block2", "block3")


def combined(model: TinyNetwork, images: torch.Tensor, weights: list[float]) -> Array:
    """Eq. 2, then the normal distribution, then upsampling, then Eq. 3: `[B, H, W]`."""
    height, width = images.shape[2:]
    with torch.no_grad():
        activations = [model.until(images, layer).numpy() for layer in LAYERS]
    statistics = [smoe.per_position(smoe.smoe_equation_2, tensor) for tensor in activations]
    return np.stack(
        [
            smoe.combined_saliency([statistic[b] for statistic in statistics], weights, height, width)
            for b in range(len(images))
        ]
    )


@pytest.mark.parametrize(
    ("weights", "numbers"), [("equal", [1, 1, 1]), ("ramp", [1, 2, 3]), ([0.2, 0.0, 5], [0.2, 0, 5])]
)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
def test_smoe(height: int, width: int, weights: str | list[float], numbers: list[float]) -> None:
    model, images = TinyNetwork(), random_images(2, height, width)
    explainer = SMOE(model, layers=LAYERS, weights=weights)
    expected = combined(model, images, numbers)
    np.testing.assert_allclose(explainer.scales(images).combined().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(explainer(images).numpy(), np.stack([min_max(grid) for grid in expected]), atol=2e-6)


@pytest.mark.parametrize(("cam", "layer"), [("gradcam++", "block3"), ("gradcam", "block2")])
def test_fast_cam_and_its_non_class_map(cam: str, layer: str) -> None:
    """ "Multiplying the two maps together pixelwise"; "subtracting [the CAM] from 1 … gives us a Non-Class map"."""
    model, images = TinyNetwork(), random_images(2, 12, 20)
    targets = torch.tensor([0, 2])
    explainer = FastCAM(model, layer, cam=cam, layers=LAYERS, weights=[1, 2, 3])
    got, non_class = explainer(images, targets), explainer.non_class(images, targets)
    saliency = combined(model, images, [1, 2, 3])
    method = grad_cam.grad_cam_plus_plus if cam == "gradcam++" else grad_cam.grad_cam
    for b in range(2):
        with torch.no_grad():
            activations = model.until(images[b : b + 1], layer)
        raw = method(lambda x: model.after(x, layer), activations, int(targets[b]))
        activation_map = grad_cam.finished(raw, 12, 20)
        assert activation_map.max() == 1
        np.testing.assert_allclose(got[b].numpy(), min_max(saliency[b] * activation_map), atol=2e-6)
        np.testing.assert_allclose(non_class[b].numpy(), min_max(saliency[b] * (1 - activation_map)), atol=2e-6)
