"""The SMOE explainer: Eq. 2 and 3 on the tensors that a forward pass by hand delivers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from lightning_saliency.deployment import explain_tiled
from lightning_saliency.explainers import SMOE
from lightning_saliency.functional.fusion import combine, scale_weights
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.normalization import gamma_cdf, min_max, normal_cdf
from lightning_saliency.functional.statistics import STATISTICS, smoe_scale
from lightning_saliency.scales.find import find_scales


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 1),
        nn.ReLU(inplace=True),
    )


def by_hand(model: nn.Sequential, images: Tensor, weights: str | list[float]) -> tuple[Tensor, Tensor]:
    """The normalised maps ``[B, 3, H, W]`` and their mean, from the ReLUs' outputs."""
    activations, x = [], images
    for module in model:
        x = x if isinstance(module, nn.Dropout) else module(x)
        if isinstance(module, nn.ReLU):
            activations.append(x)
    size = (images.shape[2], images.shape[3])
    maps = torch.stack([resize_maps(normal_cdf(smoe_scale(x)), size) for x in activations], dim=1)
    return maps, combine(maps, scale_weights(weights, 3))


@pytest.mark.parametrize("weights", ["equal", "ramp", [0.2, 0.0, 3.0]])
def test_maps_of_all_scales_and_their_weighted_mean(weights: Any) -> None:
    model, images = network().eval(), torch.randn(3, 3, 24, 16)
    with torch.no_grad():
        maps, mean = by_hand(model, images, weights)
    model.train()
    found = SMOE(model, weights=weights, layers=["2", "5", "9"]).scales(images)
    torch.testing.assert_close(found.maps, maps)
    torch.testing.assert_close(found.combined(), mean)
    assert found.names == ("2", "5", "9")
    assert not found.maps.requires_grad
    assert all(module.training for module in model.modules())
    explained = SMOE(model, weights=weights, layers=["2", "5", "9"])(images)
    torch.testing.assert_close(explained, min_max(mean))


def test_scales_are_found() -> None:
    model, images = resnet18(weights=None, num_classes=4), torch.randn(2, 3, 64, 64)
    found = SMOE(model).scales(images)
    scales = find_scales(model, images)
    assert found.names == tuple(scale.name for scale in scales)
    assert found.maps.shape == (2, len(scales), 64, 64)
    assert torch.equal(SMOE(model, layers=scales).scales(images).maps, found.maps)
    assert torch.equal(SMOE(model, layers=scales[-1:])(images), min_max(found.maps[:, -1]))


def test_the_map_is_class_free_and_needs_no_logits() -> None:
    model, images = network(), torch.randn(2, 3, 16, 16)
    explainer = SMOE(model, layers=["2", "5"])
    expected = explainer(images)
    assert torch.equal(explainer(images, 3), expected)
    assert torch.equal(explainer(images, torch.tensor([0, 7])), expected)
    with pytest.raises(ValueError, match=r"Got targets \[1\] for 2 images. Allowed are \[2\]"):
        explainer(images, torch.tensor([0]))


def test_one_forward_pass_and_no_graph() -> None:
    model, images = network(), torch.randn(2, 3, 16, 16, requires_grad=True)
    calls = []
    model.register_forward_hook(lambda module, args, output: calls.append(output.requires_grad))
    SMOE(model, layers=["2", "5"])(images)
    assert calls[-1:] == [False]
    calls.clear()
    explainer = SMOE(model, layers=["2", "5"])
    explainer(images)
    calls.clear()
    explainer(images)
    assert calls == [False]


@pytest.mark.parametrize("statistic", sorted(STATISTICS))
def test_every_statistic(statistic: str) -> None:
    model, images = network(), torch.randn(2, 3, 16, 16)
    maps = SMOE(model, statistic, layers=["2", "5"])(images)
    assert maps.isfinite().all()
    assert maps.amin() == 0
    assert maps.amax() == 1


@pytest.mark.parametrize("rectify", ["relu", "abs", "softplus"])
@pytest.mark.parametrize(("normalization", "squash"), [("normal", normal_cdf), ("gamma", gamma_cdf)])
def test_rectifier_and_normalization(rectify: str, normalization: Any, squash: Any) -> None:
    """Of scales read before the ReLU, where the rectifier matters."""
    model, images = network().eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = model[:2](images)
    found = SMOE(model, f"smoe_scale:{rectify}", layers=["1"], normalization=normalization).scales(images)
    expected = resize_maps(squash(smoe_scale(before, rectify=rectify)), (16, 16))
    torch.testing.assert_close(found.maps[:, 0], expected)
    tiled = explain_tiled(SMOE(model, f"smoe_scale:{rectify}", layers=["1"], normalization=normalization), images[0])
    torch.testing.assert_close(tiled, min_max(expected[:1])[0], atol=1e-5, rtol=0)


def test_a_batch_equals_its_images_one_by_one() -> None:
    explainer, images = SMOE(network(), layers=["2", "5", "9"]), torch.randn(8, 3, 16, 16)
    together = explainer(images)
    for index in range(8):
        torch.testing.assert_close(together[index], explainer(images[index : index + 1])[0])


def test_inference_mode_and_half_precision() -> None:
    model, images = network(), torch.randn(2, 3, 16, 16)
    explainer = SMOE(model, layers=["2", "5"])
    expected = explainer(images)
    with torch.inference_mode():
        maps = explainer.scales(images).maps
        assert not maps.is_inference()
        assert torch.equal(explainer(images), expected)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = explainer(images)
    assert 0 < (rounded - expected).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"statistic": "smoe"}, ValueError, "smoe_scale"),
        ({"statistic": "smoe_scale:ABS"}, ValueError, "Got rectify='ABS'. Allowed are 'relu', 'abs', 'softplus'"),
        ({"statistic": "truncnormal_std:abs"}, ValueError, "All but the truncated-normal ones take a rectifier"),
        ({"normalization": "beta"}, ValueError, "Got normalization='beta'. Allowed are 'normal', 'gamma'"),
        (
            {"layers": []},
            ValueError,
            r"Got layers=\[\]. Allowed are 'auto' and at least one module, its name or a Scale",
        ),
        (
            {"layers": [3]},
            TypeError,
            r"Got layers=\[3\]. Allowed are 'auto' and at least one module, its name or a Scale",
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SMOE(network(), **options)


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2"):
        SMOE(network(), weights=[1, 2, 3], layers=["2", "5"])(torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        SMOE(network(), layers=["2"]).scales(torch.randn(3, 16, 16))
