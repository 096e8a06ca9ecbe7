"""Networks that write to their input: the maps are those of the same network without, and the images are left alone."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from lightning_saliency.explainers import EXPLAINERS, GradCAM, build_explainer, explain_labels, score_masks
from lightning_saliency.metrics.base import scoring
from tests.explainers.networks import network
from tests.explainers.test_heads import OPTIONS


class Normalised(nn.Module):
    """Normalises images itself: in place, as they are handed in, or in new memory."""

    def __init__(self, inner: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.inner = inner.eval()
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            x -= 0.4
            x /= 0.2
        else:
            x = (x - 0.4) / 0.2
        return self.inner(x)


def _both(inner: nn.Module, make, size: int = 16) -> tuple[Tensor, Tensor]:
    """What is made of a network that writes to its input, and of the same one that does not."""
    images = torch.rand(3, 3, size, size)
    given = images.clone()
    found = make(Normalised(inner, True), given)
    assert torch.equal(given, images)
    return found, make(Normalised(inner, False), images)


@pytest.mark.parametrize("name", [*EXPLAINERS, "torchcam:LayerCAM"])
def test_maps(name: str) -> None:
    pytest.importorskip({"xrai": "saliency", "torchcam:LayerCAM": "torchcam"}.get(name, "captum"))
    torch.manual_seed(0)
    options = OPTIONS.get(name, {})
    targets = torch.tensor([1, 2, 3])
    found, expected = _both(network(), lambda model, images: build_explainer(name, model, **options)(images, targets))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.amax() > 0


def test_logits_scores_and_maps_of_labels() -> None:
    torch.manual_seed(0)
    labels, masks = torch.tensor([1, -1, 255]), torch.rand(3, 2, 4, 4)

    def of_metrics(model: nn.Module, images: Tensor) -> Tensor:
        with scoring(model) as own, scoring(model, "bf16") as fast:
            return torch.cat([own(images), fast(images), own(images)])

    pixelwise = nn.Conv2d(3, 4, 1)
    for inner, make in (
        (network(), lambda model, images: explain_labels(GradCAM(model), images, labels)),
        (network(), lambda model, images: GradCAM(model).logits(images)),
        (network(), of_metrics),
        (pixelwise, lambda model, images: score_masks(model, images, masks, 1, score="logit")),
    ):
        found, expected = _both(inner, make)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_layer_that_a_class_token_depends_on_is_found() -> None:
    torch.manual_seed(0)
    inner = VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4
    )
    nn.init.normal_(inner.heads.head.weight, std=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, expected = _both(inner, lambda model, images: GradCAM(model)(images, 1), size=32)
    torch.testing.assert_close(found, expected)
    assert (expected.amax(dim=(1, 2)) == 1).all()
