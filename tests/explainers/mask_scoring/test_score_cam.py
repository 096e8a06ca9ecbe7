"""Score-CAM against torchcam and against its formula."""

from __future__ import annotations

import pytest
import torch
import torchcam
from torch import nn
from torch.nn.functional import interpolate

from lightning_saliency.explainers.score_cam import ScoreCAM


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(4)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 9, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(9, 4),
    )
    with torch.no_grad():
        network[7].weight.mul_(20)
    return network.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 20, 16, generator=torch.Generator().manual_seed(2))


TARGETS = torch.tensor([0, 3, 1, 1])


def _literal(network, image, target, score):
    """One image, one channel at a time."""
    with torch.no_grad():
        activations = network[:5](image[None])[0]
        scores = []
        for channel in activations:
            mask = interpolate(channel[None, None], size=image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
            span = mask.max() - mask.min()
            mask = (mask - mask.min()) / span if span > 0 else torch.zeros_like(mask)
            gain = (
                score(network((image * mask)[None]))[0, target]
                - score(network(torch.zeros_like(image)[None]))[0, target]
            )
            scores.append(gain)
        weights = torch.stack(scores).softmax(0)
        return (weights[:, None, None] * activations).sum(0).relu()


@pytest.mark.parametrize(("score", "function"), [("softmax", lambda z: z.softmax(1)), ("logit", lambda z: z)])
def test_it_is_the_formula(network, images, score, function):
    maps = ScoreCAM(network, "4", score=score)(images, TARGETS)
    for image, target, found in zip(images, TARGETS, maps, strict=True):
        raw = _literal(network, image, target, function)
        raw = interpolate(raw[None, None], size=image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
        assert torch.allclose(found, (raw - raw.min()) / (raw.max() - raw.min()), atol=1e-4)


@pytest.mark.parametrize("dead", [1, 4, 9])
def test_channels_that_show_nothing_are_scored_as_one(network, images, dead):
    with torch.no_grad():
        network[3].bias[9 - dead :] = -100
    explainer = ScoreCAM(network, "4")
    explainer(images[:1])
    seen = []
    hook = network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    maps = explainer(images, TARGETS)
    hook.remove()
    assert sum(seen) == 4 * (1 + 9 - dead + 1)
    for image, target, found in zip(images, TARGETS, maps, strict=True):
        raw = _literal(network, image, target, lambda z: z.softmax(1))
        raw = interpolate(raw[None, None], size=image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
        span = raw.max() - raw.min()
        assert torch.allclose(found, (raw - raw.min()) / (span if span > 0 else 1), atol=1e-4)


def test_with_logits_it_ranks_pixels_as_torchcam_does(network, images):
    with torchcam.methods.ScoreCAM(network, "4", input_shape=(3, 20, 16)) as reference:
        with torch.no_grad():
            logits = network(images)
        (expected,) = reference(TARGETS.tolist(), logits)
    expected = interpolate(expected[:, None], size=(20, 16), mode="bilinear", align_corners=False)[:, 0]
    maps = ScoreCAM(network, "4", score="logit")(images, TARGETS)
    for one, other in zip(maps, expected, strict=True):
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
        assert correlation > 0.98


def test_channels_plus_one_forward_passes_an_image(network, images):
    explainer = ScoreCAM(network, "4")
    explainer(images[:1])
    seen = []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    for targets in (None, TARGETS):
        seen.clear()
        explainer(images, targets)
        assert sum(seen) == 4 * (9 + 1)


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_neither_batch_nor_chunk_matter(network, images, batch_size):
    together = ScoreCAM(network, "4", batch_size=batch_size)(images, TARGETS)
    explainer = ScoreCAM(network, "4")
    alone = torch.cat([explainer(images[i : i + 1], TARGETS[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_dead_channels_and_constant_images_are_finite(network, images):
    with torch.no_grad():
        network[3].weight[:4] = 0
        network[3].bias[:4] = -1
    assert ScoreCAM(network, "4")(images).isfinite().all()
    with torch.no_grad():
        network[3].bias[4:] = -1000
    assert torch.equal(ScoreCAM(network, "4")(images), torch.zeros(4, 20, 16))
    assert ScoreCAM(network, "1")(torch.ones(1, 3, 20, 16)).isfinite().all()


def test_the_fill_shows_where_the_mask_is_zero(network, images):
    blurred = ScoreCAM(network, "4", fill="blur", score="logit")(images, TARGETS)
    assert not torch.allclose(blurred, ScoreCAM(network, "4", score="logit")(images, TARGETS), atol=1e-3)
