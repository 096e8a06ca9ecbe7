"""FastCAM: the product of its two parts, from one forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from lightning_saliency.explainers import SMOE, FastCAM, GradCAM, GradCAMPlusPlus, LayerCAM, XGradCAM
from lightning_saliency.functional.normalization import min_max


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(weights=None, num_classes=10).train()


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(1)
    return nn.functional.interpolate(torch.randn(4, 3, 9, 12), (64, 96), mode="bicubic")


@pytest.mark.parametrize(
    ("cam", "method"),
    [("gradcam", GradCAM), ("gradcam++", GradCAMPlusPlus), ("xgradcam", XGradCAM), ("layercam", LayerCAM)],
)
@pytest.mark.parametrize("targets", [None, 3, torch.tensor([1, 5, 0, 9])])
def test_products_of_the_two_maps(model: nn.Module, images: Tensor, cam: str, method: Any, targets: Any) -> None:
    smoe = SMOE(model, weights="ramp").scales(images).combined()
    class_map = method(model)(images, targets)
    explainer = FastCAM(model, cam=cam, weights="ramp")
    torch.testing.assert_close(explainer(images, targets), min_max(smoe * class_map), atol=1e-5, rtol=0)
    rest = min_max(smoe * (1 - class_map))
    torch.testing.assert_close(explainer.non_class(images, targets), rest, atol=1e-5, rtol=0)
    shown = FastCAM(model, cam=cam, weights="ramp", shown="non_class")
    torch.testing.assert_close(shown(images, targets), rest, atol=1e-5, rtol=0)


def test_options_reach_both_parts(model: nn.Module, images: Tensor) -> None:
    explainer = FastCAM(model, "layer3", statistic="std", weights=[1, 2], layers=["layer1", "layer2"], cam="gradcam")
    smoe = SMOE(model, "std", [1, 2], ["layer1", "layer2"]).scales(images).combined()
    expected = min_max(smoe * GradCAM(model, "layer3")(images, 2))
    torch.testing.assert_close(explainer(images, 2), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"statistic": "truncnormal_mean"}, {"layers": ["layer4"], "layer": "layer4"}])
@pytest.mark.parametrize("targets", [None, 3])
def test_exactly_one_forward_pass(
    model: nn.Module, images: Tensor, options: dict[str, Any], targets: int | None
) -> None:
    explainer = FastCAM(model, **options)
    explainer(images, targets)  # the first call searches for scales
    calls = []
    handle = model.conv1.register_forward_hook(lambda module, args, output: calls.append(output.shape[0]))
    explainer(images, targets)
    assert calls == [4]
    explainer.non_class(images, targets)
    assert calls == [4, 4]
    handle.remove()


def test_a_class_map_of_zeros_leaves_all_to_the_non_class_map() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    nn.init.constant_(model[-1].weight, -1)
    images = torch.randn(2, 3, 16, 16)
    explainer = FastCAM(model, "1", layers=["1"])
    assert not explainer(images, 1).any()
    torch.testing.assert_close(explainer.non_class(images, 1), SMOE(model, layers=["1"])(images))


def test_a_batch_equals_its_images_one_by_one(model: nn.Module, images: Tensor) -> None:
    explainer, targets = FastCAM(model), torch.tensor([4, 2, 0, 8])
    together = explainer(images, targets)
    for index in range(4):
        alone = explainer(images[index : index + 1], targets[index : index + 1])[0]
        torch.testing.assert_close(together[index], alone, atol=1e-4, rtol=0)


def test_no_hook_is_left_also_after_an_error(model: nn.Module, images: Tensor) -> None:
    explainer = FastCAM(model)
    with pytest.raises(ValueError, match="10 classes"):
        explainer(images, 10)
    with pytest.raises(ValueError, match="10 classes"):
        explainer.non_class(images, 10)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert module.training


def test_wrong_options(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"Got cam='cam'. Allowed are 'gradcam', 'gradcam\+\+', 'xgradcam'"):
        FastCAM(model, cam="cam")
    with pytest.raises(ValueError, match=r"Got layer as an empty sequence. Allowed is at least one"):
        FastCAM(model, layer=())
    with pytest.raises(ValueError, match="smoe_scale"):
        FastCAM(model, statistic="mode")
    with pytest.raises(ValueError, match="shown='both'"):
        FastCAM(model, shown="both")
    with pytest.raises(ValueError, match="normalization='beta'"):
        FastCAM(model, normalization="beta")
