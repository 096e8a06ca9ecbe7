"""LayerCAM and Smooth Grad-CAM++ beside torchcam, in volumes, in any batch, and within a time limit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchcam import methods as torchcam

from lightning_saliency.explainers import GradCAMPlusPlus, LayerCAM, SmoothGradCAMPlusPlus, build_explainer
from lightning_saliency.explainers.mask_scoring.budget import limited_scoring
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.normalization import min_max

from .networks import images, network


def test_layer_cam_is_torchcams() -> None:
    model, inputs, targets = network().eval(), images(3), torch.tensor([4, 0, 2])
    with torchcam.LayerCAM(model, "relu2") as extractor:
        [raw] = extractor(targets.tolist(), model(inputs), normalized=False)
    found = LayerCAM(model, "relu2")(inputs, targets)
    torch.testing.assert_close(found, min_max(resize_maps(raw.detach(), (16, 16))), atol=1e-5, rtol=0)


def test_the_noise_is_the_same_in_every_batch_and_for_every_range() -> None:
    model, inputs = network(), images(4) * torch.tensor([1.0, 3.0, 0.2, 1.0]).view(4, 1, 1, 1)
    explainer, targets = SmoothGradCAMPlusPlus(model, "relu1", samples=3), torch.tensor([0, 1, 2, 3])
    state = torch.get_rng_state()
    together = explainer(inputs, targets)
    assert torch.equal(torch.get_rng_state(), state)
    alone = torch.cat([explainer(inputs[i : i + 1], targets[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    other = SmoothGradCAMPlusPlus(model, "relu1", samples=3, seed=1)(inputs, targets)
    assert not torch.allclose(together, other, atol=1e-3)


def test_tiny_gradients_do_not_underflow() -> None:
    model, inputs = network().eval(), images(2)
    expected = SmoothGradCAMPlusPlus(model, "relu1", samples=3)
    before = expected(inputs, 1)
    with torch.no_grad():
        model.linear.weight.mul_(1e-20)
        model.linear.bias.zero_()
    plain = GradCAMPlusPlus(model, "relu1")(inputs, 1)
    after = SmoothGradCAMPlusPlus(model, "relu1", samples=3)(inputs, 1)
    assert after.amax() == plain.amax() == 1
    assert before.shape == after.shape


def test_passes_and_time_limit() -> None:
    model, seen = network(), []
    explainer = build_explainer("smooth_grad_cam_plus_plus", model, layer="relu2", samples=5)
    explainer(images(3), 1)  # the first call looks for the layer
    model.conv1.register_forward_hook(lambda _module, args, _output: seen.append(len(args[0])))
    explainer(images(3), 1)
    assert seen == [3] * 6
    with limited_scoring(0.0) as budget:
        explainer(images(3), 1)
    assert (budget.asked, budget.run) == (15, 3)


def test_volumes_and_several_layers() -> None:
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 4, 3, padding=1), nn.ReLU()
    )
    model = nn.Sequential(*model, nn.AdaptiveAvgPool3d(1), nn.Flatten())
    clips = torch.randn(2, 1, 4, 12, 12)
    for explainer in (LayerCAM(model), SmoothGradCAMPlusPlus(model, samples=2)):
        assert explainer(clips, 2).shape == (2, 4, 12, 12)
    several = SmoothGradCAMPlusPlus(network(), ["relu1", "relu2"], samples=2)(images(), 3)
    assert several.shape == (2, 16, 16)


@pytest.mark.parametrize("options", [{"samples": 0}, {"samples": 1.5}, {"stdevs": -0.5}, {"stdevs": float("nan")}])
def test_wrong_noise(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"Got {next(iter(options))}=.* Allowed are (whole )?numbers from [01]"):
        SmoothGradCAMPlusPlus(network(), **options)
