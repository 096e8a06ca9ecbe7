"""Group-CAM against Algorithm 1 as a loop, and its relation to Grad-CAM."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_saliency.explainers import GradCAM, GroupCAM

from .loops import group_cam as loop
from .loops.grad_cam import finished, grad_cam
from .loops.resampling import Array, min_max
from .networks import TinyNetwork, random_images

SIZES = [(16, 16), (12, 20)]
CHANNELS = 7
GROUPS = (1, 3, CHANNELS)
BLUR = (7, 3.0)


def group_cam_loop(
    model: TinyNetwork,
    image: torch.Tensor,
    layer: str,
    target: int,
    groups: int,
    theta: float | None = 70,
    blur: tuple[int, float] = BLUR,
    gradients: bool = True,
) -> Array:
    """Eq. 7 of one image `[3, H, W]`, before it is scaled to [0, 1]."""
    with torch.no_grad():
        activations = model.until(image[None], layer)
    return loop.group_cam(
        model,
        image.numpy(),
        lambda x: model.after(x, layer),
        activations,
        target,
        groups,
        theta,
        *blur,
        gradients=gradients,
    )


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("theta", [70, 45.5, None])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_group_cam(height: int, width: int, theta: float | None, groups: int) -> None:
    model, images = TinyNetwork(CHANNELS), random_images(2, height, width)
    explainer = GroupCAM(model, "block2", groups=groups, theta=theta, kernel_size=BLUR[0], sigma=BLUR[1])
    maxima = []
    for targets in (torch.tensor([0, 1]), torch.tensor([2, 3])):
        got = explainer(images, targets)
        for b in range(2):
            expected = group_cam_loop(model, images[b], "block2", int(targets[b]), groups, theta)
            maxima.append(expected.max())
            np.testing.assert_allclose(got[b].numpy(), min_max(expected), atol=1e-6)
    assert max(maxima) > 1e-3


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("theta", [70, None])
def test_without_gradients_every_channel_weighs_the_same(groups: int, theta: float | None) -> None:
    model, images = TinyNetwork(CHANNELS), random_images(2, 12, 20)
    explainer = GroupCAM(
        model, "block2", groups=groups, theta=theta, kernel_size=BLUR[0], sigma=BLUR[1], gradients=False
    )
    targets = torch.tensor([2, 0])
    got = explainer(images, targets)
    maxima = []
    for b in range(2):
        expected = group_cam_loop(model, images[b], "block2", int(targets[b]), groups, theta, gradients=False)
        maxima.append(expected.max())
        np.testing.assert_allclose(got[b].numpy(), min_max(expected), atol=1e-6)
    assert max(maxima) > 1e-3


def test_the_papers_defaults() -> None:
    """32 groups (here of 64 channels), θ = 70 and the blur of 224 pixels, in proportion."""
    model, images = TinyNetwork(64), random_images(1, 8, 12)
    got = GroupCAM(model, "block2")(images, 1)
    expected = group_cam_loop(model, images[0], "block2", 1, groups=32, blur=loop.blur_of(images[0].numpy()))
    assert expected.max() > 1e-3
    np.testing.assert_allclose(got[0].numpy(), min_max(expected), atol=1e-6)


@pytest.mark.parametrize("groups", GROUPS)
def test_dead_and_constant_channels_contribute_nothing(groups: int) -> None:
    """Eq. 4 is 0/0 for a constant mask: with G = K the dead channel and the constant one are groups of their own."""
    model, images = TinyNetwork(CHANNELS), random_images(1, 16, 16)
    norm = model.block2[1]
    with torch.no_grad():
        norm.weight[2:4] = 0
        norm.bias[2:4] = torch.tensor([-1.0, 0.7], dtype=torch.float64)
    explainer = GroupCAM(model, "block2", groups=groups, kernel_size=BLUR[0], sigma=BLUR[1])
    maxima = []
    for target in range(4):
        expected = group_cam_loop(model, images[0], "block2", target, groups)
        maxima.append(expected.max())
        np.testing.assert_allclose(explainer(images, target)[0].numpy(), min_max(expected), atol=1e-6)
    assert max(maxima) > 1e-3


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_one_group_without_denoising_is_grad_cam(height: int, width: int) -> None:
    """ "If the number of groups … is set to 1, and no de-noising strategy is applied, then [it is] Grad-CAM".

    Eq. 6 and 7 multiply the one mask by its gain: the same map if the mask raises the score, none at all if not.
    """
    model, images = TinyNetwork(CHANNELS), random_images(2, height, width)
    group_cam = GroupCAM(model, "block2", groups=1, theta=None, kernel_size=BLUR[0], sigma=BLUR[1])
    plain = GradCAM(model, "block2")
    raised = 0
    for target in range(4):
        maps, reference = group_cam(images, target), plain(images, target)
        for b in range(2):
            literal = group_cam_loop(model, images[b], "block2", target, groups=1, theta=None)
            with torch.no_grad():
                activations = model.until(images[b : b + 1], "block2")
            literal_grad_cam = grad_cam(lambda x: model.after(x, "block2"), activations, target)
            if literal.max() == 0:
                assert maps[b].max() == 0
                continue
            raised += 1
            np.testing.assert_allclose(min_max(literal), finished(literal_grad_cam, height, width), atol=1e-9)
            np.testing.assert_allclose(maps[b].numpy(), reference[b].numpy(), atol=1e-6)
    assert raised >= 2


def test_groups_lose_no_channel() -> None:
    for channels in range(1, 20):
        for groups in range(1, channels + 1):
            bounds = loop.group_bounds(channels, groups)
            sizes = [stop - first for first, stop in bounds]
            assert [k for first, stop in bounds for k in range(first, stop)] == list(range(channels))
            assert max(sizes) - min(sizes) <= 1
