"""Grad-CAM and Grad-CAM++ against loops whose derivatives are all taken by automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_saliency.explainers import GradCAM, GradCAMPlusPlus, LayerCAM, SmoothGradCAMPlusPlus

from .loops import grad_cam as loop
from .loops.resampling import Array
from .networks import TinyNetwork, random_images

CASES = [("block3", 16, 16), ("block3", 12, 20), ("block2", 12, 12), ("block2", 8, 12), ("block1", 8, 8)]


def both_loops(model: TinyNetwork, image: torch.Tensor, layer: str, target: int) -> tuple[Array, Array]:
    """Grad-CAM and Grad-CAM++ of one image `[1, 3, H, W]`, upsampled and in [0, 1]."""
    height, width = image.shape[2:]
    with torch.no_grad():
        activations = model.until(image, layer)

    def head(x: torch.Tensor) -> torch.Tensor:
        return model.after(x, layer)

    return (
        loop.finished(loop.grad_cam(head, activations, target), height, width),
        loop.finished(loop.grad_cam_plus_plus(head, activations, target), height, width),
    )


@pytest.mark.parametrize(("layer", "height", "width"), CASES)
def test_both_methods(layer: str, height: int, width: int) -> None:
    model, images = TinyNetwork(), random_images(2, height, width)
    targets = torch.tensor([0, 2])
    grad_cam = GradCAM(model, layer)(images, targets)
    plus_plus = GradCAMPlusPlus(model, layer)(images, targets)
    for b in range(2):
        expected, expected_plus_plus = both_loops(model, images[b : b + 1], layer, int(targets[b]))
        assert expected_plus_plus.max() == 1
        assert np.abs(expected - expected_plus_plus).max() > 1e-3
        np.testing.assert_allclose(grad_cam[b].numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(plus_plus[b].numpy(), expected_plus_plus, atol=1e-6)


@pytest.mark.parametrize(("layer", "height", "width"), CASES)
def test_layer_cam(layer: str, height: int, width: int) -> None:
    model, images = TinyNetwork(), random_images(2, height, width)
    targets = torch.tensor([0, 2])
    found = LayerCAM(model, layer)(images, targets)
    for b in range(2):
        with torch.no_grad():
            activations = model.until(images[b : b + 1], layer)
        raw = loop.layer_cam(lambda x: model.after(x, layer), activations, int(targets[b]))
        np.testing.assert_allclose(found[b].numpy(), loop.finished(raw, height, width), atol=1e-6)


@pytest.mark.parametrize(("layer", "height", "width"), CASES[:4])
def test_smooth_grad_cam_plus_plus(layer: str, height: int, width: int) -> None:
    model, images = TinyNetwork(), random_images(2, height, width)
    targets = torch.tensor([0, 2])
    found = SmoothGradCAMPlusPlus(model, layer, samples=3, seed=5)(images, targets)
    generator = torch.Generator().manual_seed(5)
    noise = [torch.randn(1, 3, height, width, generator=generator) for _ in range(3)]
    plain = GradCAMPlusPlus(model, layer)(images, targets)
    for b in range(2):
        image = images[b : b + 1]
        deviation = 0.15 * (image.max() - image.min())
        with torch.no_grad():
            activations = model.until(image, layer)
            noisy = [model.until(image + deviation * one, layer) for one in noise]
        raw = loop.smooth_grad_cam_plus_plus(lambda x: model.after(x, layer), activations, noisy, int(targets[b]))
        expected = loop.finished(raw, height, width)
        np.testing.assert_allclose(found[b].numpy(), expected, atol=1e-6)
    # What follows the third block is linear: its gradients do not depend on the image.
    assert torch.allclose(found, plain, atol=1e-3) == (layer == "block3")
    still = SmoothGradCAMPlusPlus(model, layer, samples=2, stdevs=0.0)(images, targets)
    torch.testing.assert_close(still, plain)


@pytest.mark.parametrize("seed", [2, 5, 7])
def test_grad_cam_of_each_class(seed: int) -> None:
    model, images = TinyNetwork(channels=6, seed=seed), random_images(1, 12, 16)
    explainer = GradCAM(model, "block2")
    with torch.no_grad():
        activations = model.until(images, "block2")
    maxima = []
    for target in range(4):
        raw = loop.grad_cam(lambda x: model.after(x, "block2"), activations, target)
        maxima.append(raw.max())
        expected = loop.finished(raw, 12, 16)
        np.testing.assert_allclose(explainer(images, target)[0].numpy(), expected, atol=1e-6)
    assert max(maxima) > 0


def test_exponential_shortcut_needs_a_piecewise_linear_head() -> None:
    """∂²Y = e^S (S′² + S″): the usual g² and g³ are the true derivatives only where S″ = 0, as after ReLUs."""
    model, images = TinyNetwork(), random_images(1, 8, 8)
    with torch.no_grad():
        activations = model.until(images, "block2")

    def piecewise_linear(x: torch.Tensor) -> torch.Tensor:
        return model.after(x, "block2")

    def curved(x: torch.Tensor) -> torch.Tensor:
        return model.after(torch.nn.functional.softplus(x), "block2")

    deviations = []
    for head in (piecewise_linear, curved):
        slopes = loop.gradient(head, activations, 1)
        value = torch.exp(head(activations)[0, 1]).item()
        worst = 0.0
        for k in range(7):
            for i in range(4):
                first, second, third = loop.derivatives(head, activations, 1, k, i, i)
                g = slopes[k, i, i]
                assert first == pytest.approx(value * g, rel=1e-9, abs=1e-12)
                worst = max(worst, abs(second - value * g**2), abs(third - value * g**3))
        deviations.append(worst)
    assert deviations[0] < 1e-12
    assert deviations[1] > 1e-6
