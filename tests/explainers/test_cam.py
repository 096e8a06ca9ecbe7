"""Grad-CAM, Grad-CAM++ and XGrad-CAM against other libraries, by their definition, and on every kind of network."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam
from PIL import Image
from torch import Tensor, nn
from torchcam import methods as torchcam
from torchvision.models import (
    SwinTransformer,
    VisionTransformer,
    densenet121,
    mobilenet_v3_small,
    resnet18,
    squeezenet1_0,
)
from torchvision.models.vgg import make_layers
from torchvision.transforms import v2

from lightning_saliency.explainers import GradCAM, GradCAMPlusPlus, XGradCAM
from lightning_saliency.explainers.base import activations_and_gradients
from lightning_saliency.explainers.cam import ClassActivationMap
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.normalization import min_max
from lightning_saliency.scales.find import find_scales
from lightning_saliency.scales.scale import Scale

METHODS = [GradCAM, GradCAMPlusPlus, XGradCAM]


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(weights=None, num_classes=10).eval()


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Eight smooth pictures, so that the maps differ."""
    torch.manual_seed(1)
    return nn.functional.interpolate(torch.randn(8, 3, 9, 9), (96, 96), mode="bicubic")


def vit(**options: Any) -> VisionTransformer:
    model = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5, **options
    )
    nn.init.normal_(model.heads[-1].weight, std=0.5)  # torchvision starts it at zero, and every gradient with it
    return model


def swin() -> SwinTransformer:
    return SwinTransformer(
        patch_size=[2, 2], embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4], num_classes=5
    )


# --- independent libraries


@pytest.mark.parametrize(("method", "name"), [(GradCAM, "GradCAM"), (XGradCAM, "XGradCAM")])
def test_torchcam_agrees(resnet: nn.Module, photos: Tensor, method: type[ClassActivationMap], name: str) -> None:
    for layer in ("layer4", "layer3.0.conv2"):
        targets = torch.arange(8)
        with getattr(torchcam, name)(resnet, layer) as extractor:
            [raw] = extractor(targets.tolist(), resnet(photos), normalized=False)
        expected = min_max(resize_maps(raw.detach(), (96, 96)))
        torch.testing.assert_close(method(resnet, layer)(photos, targets), expected, atol=1e-5, rtol=0)


def test_captum_agrees(resnet: nn.Module, photos: Tensor) -> None:
    targets = torch.arange(8)
    raw = LayerGradCam(resnet, resnet.layer3).attribute(photos, targets, relu_attributions=True)
    expected = min_max(resize_maps(raw.detach()[:, 0], (96, 96)))
    torch.testing.assert_close(GradCAM(resnet, "layer3")(photos, targets), expected, atol=1e-5, rtol=0)


# --- by definition


def powers_of_the_gradient(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++ as it is usually written, with g² and g³."""
    a, g = activations.double(), gradients.double()
    alpha = (g**2 / (2 * g**2 + g**3 * a.sum(dim=(2, 3), keepdim=True))).nan_to_num()
    weights = (alpha * g.clamp(min=0)).sum(dim=(2, 3))
    return torch.einsum("bc,bchw->bhw", weights, a).clamp(min=0)


def test_grad_cam_plus_plus_without_powers_equals_the_usual_form() -> None:
    activations = torch.rand(3, 6, 5, 4, dtype=torch.float64)
    gradients = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    gradients[0, :2] = 0
    activations[1, 3] = 0
    found = GradCAMPlusPlus.from_gradients(activations, gradients)
    torch.testing.assert_close(found, powers_of_the_gradient(activations, gradients))
    assert found.dtype is torch.float64


def test_grad_cam_plus_plus_does_not_underflow() -> None:
    """In float32, powers of gradients of 1e-20 vanish."""
    activations, gradients = torch.rand(1, 6, 5, 4), torch.randn(1, 6, 5, 4)
    tiny = GradCAMPlusPlus.from_gradients(activations, 1e-20 * gradients)
    # Of small gradients, α is 1/2.
    expected = torch.einsum("bc,bchw->bhw", gradients.relu().sum(dim=(2, 3)) / 2, activations)
    torch.testing.assert_close(tiny * 1e20, expected)


@pytest.mark.parametrize("offset", [0.0, 1e-7, -1e-7, -3.0])
def test_grad_cam_plus_plus_of_signed_activations_weighs_no_gradient_more_than_half(offset: float) -> None:
    activations = torch.tensor([[[[-1.0 + offset, -1.0]], [[9.0, 1.0]]]])
    gradients = torch.tensor([[[[1.0, 0.5]], [[1.0, -2.0]]]])
    # First channel: 2 + g ΣA is about 0 or negative, and ΣA is taken as 0; second: 2 + 10. Weights 1.5/2 and 1/12.
    expected = (activations * torch.tensor([0.75, 1 / 12])[:, None, None]).sum(1).relu()
    torch.testing.assert_close(GradCAMPlusPlus.from_gradients(activations, gradients), expected)


def test_weights_of_grad_cam_and_xgrad_cam() -> None:
    activations = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]], [[2.0, -1.0]]]])
    gradients = torch.tensor([[[[2.0, 4.0]], [[5.0, 5.0]], [[1.0, -3.0]]]])
    # Means 3, 5, -1; weighted means (2 + 12)/4, 0, (2 + 3)/1.
    torch.testing.assert_close(GradCAM.from_gradients(activations, gradients), torch.tensor([[[1.0, 10.0]]]))
    torch.testing.assert_close(XGradCAM.from_gradients(activations, gradients), torch.tensor([[[13.5, 5.5]]]))


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_summed_in_float32(method: type[ClassActivationMap]) -> None:
    activations, gradients = torch.rand(2, 64, 7, 7).bfloat16(), torch.randn(2, 64, 7, 7).bfloat16()
    expected = method.from_gradients(activations.double(), gradients.double()).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = method.from_gradients(activations, gradients)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_nowhere_positive_is_zero(method: type[ClassActivationMap]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    nn.init.constant_(model[-1].weight, -1)
    assert not method(model, "1")(torch.randn(2, 3, 16, 16)).any()


# --- batches, layers, sizes


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_its_images_one_by_one(
    resnet: nn.Module, photos: Tensor, method: type[ClassActivationMap]
) -> None:
    targets = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    explainer = method(resnet)
    together = explainer(photos, targets)
    for index in range(8):
        alone = explainer(photos[index : index + 1], targets[index : index + 1])[0]
        torch.testing.assert_close(together[index], alone, atol=1e-4, rtol=0)
    assert len(set(together.mean(dim=(1, 2)).tolist())) > 4


def test_the_default_layer_is_the_last_scale(resnet: nn.Module, photos: Tensor) -> None:
    assert torch.equal(GradCAM(resnet)(photos, 3), GradCAM(resnet, "layer4")(photos, 3))
    assert torch.equal(GradCAM(resnet, find_scales(resnet, photos)[-1])(photos, 3), GradCAM(resnet)(photos, 3))


def test_scales_are_searched_for_once_a_size(
    resnet: nn.Module, photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = []

    def counted(*args: Any) -> tuple[Scale, ...]:
        searches.append(args[1].shape)
        return find_scales(*args)

    monkeypatch.setattr("lightning_saliency.explainers.base.find_scales", counted)
    explainer = GradCAM(resnet)
    for size in (64, 64, 96, 64, 96):
        explainer(photos[:2, :, :size, :size], 1)
    assert searches == [(1, 3, 64, 64), (1, 3, 96, 96)]


def test_several_layers_give_the_mean_of_their_maps(resnet: nn.Module, photos: Tensor) -> None:
    layers = ("layer4", "layer2", "layer3.0.conv1:input")
    each = torch.stack([GradCAM(resnet, layer)(photos, 7) for layer in layers])
    together = GradCAM(resnet, layers)(photos, 7)
    torch.testing.assert_close(together, min_max(each.mean(dim=0)), atol=1e-5, rtol=0)
    assert torch.equal(GradCAM(resnet, list(layers[:1]))(photos, 7), each[0])


@pytest.mark.parametrize(("layer", "error"), [((), ValueError), (3, TypeError), (("layer4", 3), TypeError)])
def test_wrong_layers(resnet: nn.Module, layer: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="layer"):
        GradCAM(resnet, layer)


@pytest.mark.parametrize("size", [(64, 64), (80, 48), (33, 97)])
def test_sizes_and_aspects(resnet: nn.Module, size: tuple[int, int]) -> None:
    explainer = GradCAMPlusPlus(resnet)
    maps = explainer(torch.randn(2, 3, *size))
    assert maps.shape == (2, *size)
    assert maps.amin() == 0
    assert maps.amax() == 1


def test_maps_follow_the_picture(resnet: nn.Module, photos: Tensor) -> None:
    """Mirrored, the picture has the mirrored map: here exactly, there being no padding."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(8, 8, 1), nn.ReLU())
    model = nn.Sequential(*model, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    maps = GradCAM(model, "4")(photos, 2)
    torch.testing.assert_close(GradCAM(model, "4")(photos.flip(-1), 2), maps.flip(-1))


# --- architectures


def small_vgg(num_classes: int) -> nn.Sequential:
    """A head that tells positions apart, unlike one that averages."""
    head = [nn.Flatten(), nn.Linear(16 * 8 * 8, 32), nn.ReLU(inplace=True), nn.Linear(32, num_classes)]
    return nn.Sequential(make_layers([8, "M", 16, "M", 16, "M"]), *head)


@pytest.mark.parametrize("build", [small_vgg, densenet121, mobilenet_v3_small, squeezenet1_0])
def test_convolutional_networks(build: Any) -> None:
    torch.manual_seed(0)
    model, images = build(num_classes=7).train(), torch.randn(2, 3, 64, 64)
    maps = [method(model)(images, torch.tensor([2, 5])) for method in METHODS]
    for map_ in maps:
        assert map_.shape == (2, 64, 64)
        assert map_.isfinite().all()
        assert map_.amax() == 1
    assert not torch.equal(maps[0], maps[1])
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("method", METHODS)
def test_swin_is_read_in_its_own_layout(method: type[ClassActivationMap]) -> None:
    model, images = swin(), torch.randn(3, 3, 32, 48)
    maps = method(model)(images, torch.tensor([0, 1, 2]))
    assert maps.shape == (3, 32, 48)
    assert maps.amax() == 1
    first = find_scales(model, images)[0]
    assert first.layout == "NHWC"
    assert method(model, first)(images, 1).shape == (3, 32, 48)
    kept = {}
    handle = model.features.register_forward_hook(lambda module, args, output: kept.update(x=output))
    logits = model.eval()(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), kept["x"])
    scale = Scale(module="features", read="output", grid=(8, 12), channels=32, layout="NHWC")
    [(activations, gradients)], _ = activations_and_gradients(model, images, torch.tensor([1, 1, 1]), [scale])
    torch.testing.assert_close(activations, kept["x"].permute(0, 3, 1, 2))
    torch.testing.assert_close(gradients, gradient.permute(0, 3, 1, 2))


@pytest.mark.parametrize("method", METHODS)
def test_a_vision_transformer_is_read_where_its_patches_still_count(method: type[ClassActivationMap]) -> None:
    model, images = vit(), torch.randn(4, 3, 32, 32)
    maps = method(model)(images)
    assert maps.shape == (4, 32, 32)
    assert (maps.amax(dim=(1, 2)) == 1).sum() >= 3
    last = find_scales(model, images)[-1]
    assert (last.layout, last.prefix_tokens) == ("tokens", 1)


def test_the_patches_of_a_vision_transformer_are_told_from_its_class_token() -> None:
    model, images = vit().eval(), torch.randn(2, 3, 32, 32)
    block = model.encoder.layers[1]
    kept = {}
    handle = block.register_forward_pre_hook(lambda module, args: kept.update(x=args[0]))
    logits = model(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), kept["x"])
    scale = Scale("encoder.layers.encoder_layer_1", "input", (4, 4), 32, "tokens", prefix_tokens=1)
    [(activations, gradients)], _ = activations_and_gradients(model, images, torch.tensor([3, 3]), [scale])
    torch.testing.assert_close(activations.flatten(2).mT, kept["x"][:, 1:])
    torch.testing.assert_close(gradients.flatten(2).mT, gradient[:, 1:])
    assert gradients.abs().max() > 0


# --- trained networks on photographs


DOG_AND_BICYCLE = "images/000000000074.jpg"


@pytest.fixture(scope="module")
def squeezenet(shared_data: Path) -> nn.Module:
    model = squeezenet1_0(weights=None).train()
    model.load_state_dict(torch.load(shared_data / "weights" / "squeezenet1_0_imagenet.pth", weights_only=True))
    return model


@pytest.fixture(scope="module")
def street(shared_data: Path) -> tuple[Tensor, dict[str, Tensor]]:
    """A photograph ``[1, 3, 192, 256]`` of a dog before a bicycle, and where each is, ``[192, 256]`` bool."""
    folder = shared_data / "coco128_boxes"
    prepare = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((192, 256), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    masks = {name: torch.zeros(192, 256, dtype=torch.bool) for name in ("dog", "bicycle")}
    with (folder / "boxes.csv").open() as file:
        for row in csv.DictReader(file):
            if row["file"] == DOG_AND_BICYCLE and row["class_name"] in masks:
                left, right = (round(float(row[key]) / float(row["width"]) * 256) for key in ("xmin", "xmax"))
                top, bottom = (round(float(row[key]) / float(row["height"]) * 192) for key in ("ymin", "ymax"))
                masks[row["class_name"]][top:bottom, left:right] = True
    image: Tensor = prepare(Image.open(folder / DOG_AND_BICYCLE).convert("RGB"))
    return image[None], masks


@pytest.mark.shared
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", [None, "features"])
def test_a_trained_network_tells_a_dog_from_a_bicycle(
    squeezenet: nn.Module,
    street: tuple[Tensor, dict[str, Tensor]],
    method: type[ClassActivationMap],
    layer: str | None,
) -> None:
    image, masks = street
    kuvasz, mountain_bike = 222, 671
    dog, bicycle = method(squeezenet, layer)(image.expand(2, -1, -1, -1), torch.tensor([kuvasz, mountain_bike]))

    def share(map_: Tensor, mask: Tensor) -> float:
        return float(map_[mask].sum() / map_.sum())

    assert share(dog, masks["dog"]) > 1.5 * share(bicycle, masks["dog"])
    assert share(bicycle, masks["bicycle"]) > 1.5 * share(dog, masks["bicycle"])
    assert share(dog, masks["dog"]) > 1.5 * float(masks["dog"].float().mean())
    assert share(bicycle, masks["bicycle"]) > 1.5 * float(masks["bicycle"].float().mean())


@pytest.mark.shared
def test_torchcam_agrees_on_a_photograph(squeezenet: nn.Module, street: tuple[Tensor, dict[str, Tensor]]) -> None:
    image, _ = street
    squeezenet.eval()
    with torchcam.GradCAM(squeezenet, "features") as extractor:
        [raw] = extractor(671, squeezenet(image), normalized=False)
    expected = min_max(resize_maps(raw.detach(), (192, 256)))
    torch.testing.assert_close(GradCAM(squeezenet, "features")(image, 671), expected, atol=1e-5, rtol=0)
