"""The base class: targets, images, logits and the maps' range."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import googlenet

from lightning_saliency.explainers import GradCAM
from lightning_saliency.explainers.base import (
    logits_of,
)
from lightning_saliency.explainers.labelled import explain_labels
from lightning_saliency.explainers.registry import build_explainer
from lightning_saliency.networks import build_network

from .networks import Fixed, images, network


def test_targets_default_to_the_predicted_class() -> None:
    model, inputs = network().eval(), images(6)
    predicted = model(inputs).argmax(dim=1)
    for explainer in (GradCAM(model, "relu2"), Fixed(model, lambda x, targets: x[:, 0] * (targets + 1)[:, None, None])):
        assert torch.equal(explainer(inputs), explainer(inputs, predicted))
    seen = []
    Fixed(model, lambda x, targets: seen.append(targets) or x[:, 0])(inputs)
    assert torch.equal(seen[0], predicted)


def test_one_target_for_all_and_targets_of_each() -> None:
    model, inputs = network(), images(3)
    explainer = GradCAM(model, "relu2")
    assert torch.equal(explainer(inputs, 2), explainer(inputs, torch.full((3,), 2)))
    per_image = explainer(inputs, torch.tensor([0, 3, 4]))
    for index, target in enumerate([0, 3, 4]):
        assert torch.equal(per_image[index], explainer(inputs, target)[index])


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (5, ValueError, r"targets \[5\] for a network with 5 classes. Allowed are 0 to 4"),
        (-1, ValueError, r"targets \[-1\] for a network with 5 classes. Allowed are 0 to 4"),
        (torch.tensor([0, 9]), ValueError, r"Got the targets \[9\]"),
        (torch.tensor([1]), ValueError, r"Got targets \[1\] for 2 images. Allowed are \[2\]"),
        (torch.tensor(1), ValueError, r"Got targets \[\] for 2 images. Allowed are \[2\]"),
        (torch.tensor([[0], [1]]), ValueError, r"Got targets \[2, 1\] for 2 images. Allowed are \[2\]"),
        (torch.tensor([0, 1], dtype=torch.int32), TypeError, r"Got targets of torch\.int32. Allowed is torch\.int64"),
        (torch.tensor([0.0, 1.0]), TypeError, r"Got targets of torch\.float32. Allowed is torch\.int64"),
        (True, TypeError, "Got targets of type bool"),
        ([0, 1], TypeError, "Got targets of type list"),
    ],
)
def test_wrong_targets(targets: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GradCAM(network(), "relu2")(images(), targets)


def test_the_callers_targets_and_images_are_not_changed() -> None:
    model, inputs, targets = network(), images(), torch.tensor([1, 2])
    copies = inputs.clone(), targets.clone()
    GradCAM(model, "conv1:input")(inputs, targets)
    assert torch.equal(inputs, copies[0])
    assert torch.equal(targets, copies[1])
    assert not inputs.requires_grad
    inputs.requires_grad_()
    GradCAM(model, "relu2")(inputs, targets)
    assert inputs.requires_grad
    assert inputs.grad is None


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            torch.zeros(3, 16, 16),
            ValueError,
            r"Got images \[3, 16, 16\]\..*add the batch dimension with images\[None\]",
        ),
        (torch.zeros(2, 16), ValueError, r"Got images \[2, 16\]\..*; reshape them\.$"),
        (torch.zeros(2, 3, 0, 16), ValueError, r"Got images \[2, 3, 0, 16\]"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), TypeError, r"Got images of torch\.uint8.*convert them"),
        ("photo.jpg", TypeError, "Got images of type str"),
    ],
)
def test_wrong_images(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GradCAM(network(), "relu2")(wrong)


def test_an_empty_batch_has_no_maps() -> None:
    maps = GradCAM(network())(torch.zeros(0, 3, 16, 12), torch.zeros(0, dtype=torch.int64))
    assert maps.shape == (0, 16, 12)
    assert maps.dtype is torch.float32


def test_maps_are_upsampled_and_stretched_image_by_image() -> None:
    raw = torch.tensor([[[1.0, 2.0], [3.0, 5.0]], [[7.0, 7.0], [7.0, 7.0]], [[-3.0, 0.0], [0.0, -3.0]]])
    maps = Fixed(network(), lambda images, targets: raw)(images(3, (4, 6)), 0)
    expected = nn.functional.interpolate(raw[:, None], (4, 6), mode="bilinear")[:, 0]
    assert maps.shape == (3, 4, 6)
    torch.testing.assert_close(maps[0], (expected[0] - 1) / 4)
    assert not maps[1].any()
    assert maps[2].min() == 0
    assert maps[2].max() == 1


@pytest.mark.parametrize("kind", ["tensor", "logits", "out", "single", "tuple", "list", "nested"])
def test_logits_of_whatever_a_network_returns(kind: str) -> None:
    logits, other = torch.zeros(2, 5), torch.ones(2, 7)
    returned: Any = {
        "tensor": logits,
        "logits": SimpleNamespace(logits=logits, aux_logits=other),
        "out": {"aux": other, "out": logits},
        "single": {"anything": logits},
        "tuple": (logits, other),
        "list": [None, logits],
        "nested": OrderedDict(aux=other, logits=logits),
    }[kind]
    assert logits_of(returned) is logits


def test_googlenet_in_training_mode_returns_three_outputs() -> None:
    model = googlenet(weights=None, init_weights=False, aux_logits=True, num_classes=6).train()
    returned = model(torch.randn(2, 3, 64, 64))
    assert logits_of(returned) is returned.logits
    inputs = torch.randn(2, 3, 64, 64)
    maps = GradCAM(model, "inception4c")(inputs, 2)
    assert model.training
    assert model.inception4c.training
    assert torch.equal(maps, GradCAM(model.eval(), "inception4c")(inputs, 2))
    assert maps.amax() == 1


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"a": torch.zeros(1), "b": torch.zeros(1)}, r"a mapping with the keys \['a', 'b'\].*output="),
        (("text", None), "returned a tuple of 2, in which no logits were found"),
        (None, "returned NoneType"),
    ],
)
def test_no_logits(returned: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        logits_of(returned)


class Returning(nn.Module):
    """A convolution and whatever the function makes of it."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


def test_shapes_of_logits() -> None:
    inputs = images()
    flat = Returning(lambda x: x.mean(dim=(2, 3)))
    expected = GradCAM(flat, "conv")(inputs, 2)
    spatial = Returning(lambda x: x.mean(dim=(2, 3), keepdim=True))
    spatial.load_state_dict(flat.state_dict())
    assert torch.equal(GradCAM(spatial, "conv")(inputs, 2), expected)
    binary = Returning(lambda x: x[:, 2].mean(dim=(1, 2)))
    binary.load_state_dict(flat.state_dict())
    assert torch.equal(GradCAM(binary, "conv")(inputs, 1), expected)
    queries = Returning(lambda x: {"out": x.flatten(2), "aux": x})
    queries.load_state_dict(flat.state_dict())
    with pytest.raises(ValueError, match=r"Got logits \[2, 4, 196\] for 2 images. Allowed are \[B, N\], and"):
        GradCAM(queries, "conv")(inputs, 2)
    reduced = GradCAM(queries, "conv", output=lambda returned: returned["out"].mean(dim=2))
    torch.testing.assert_close(reduced(inputs, 2), expected)
    with pytest.raises(TypeError, match=r"from output=. Allowed is a tensor of logits"):
        GradCAM(queries, "conv", output=lambda returned: returned)(inputs, 2)


def test_layers_of_another_type() -> None:
    with pytest.raises(TypeError, match=r"Got layer of type int. Allowed are a module or its name, a Scale and None"):
        Fixed(network(), lambda images, targets: images[:, 0], layer=4)


class Bytes(nn.Module):
    """Scales images of bytes itself."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images.float() / 255)


@pytest.mark.parametrize("name", ["smoe", "grad_cam", "grad_cam_plus_plus", "x_grad_cam", "layer_cam", "fast_cam"])
def test_networks_of_bytes_are_explained_where_images_are_neither_changed_nor_differentiated(name):
    torch.manual_seed(0)
    network = build_network("small_cnn", 4, options={"width": 4}).eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    targets = torch.tensor([0, 1, 2])
    expected = build_explainer(name, network)(images.float() / 255, targets)
    assert torch.allclose(build_explainer(name, Bytes(network))(images, targets), expected, atol=1e-5)
    assert expected.amax() == 1


def test_other_methods_say_what_they_take():
    network = Bytes(build_network("small_cnn", 4, options={"width": 4}))
    for name in ("group_cam", "smooth_grad_cam_plus_plus"):
        with pytest.raises(
            TypeError, match=r"Got images of torch.uint8\. Allowed are floating.*all but Smooth Grad-CAM"
        ):
            build_explainer(name, network)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["grad_cam", "fast_cam", "group_cam", "smoe", "gradient"])
def test_images_of_another_floating_point_type_are_taken_as_the_network_takes_them(name, dtype) -> None:
    pytest.importorskip("captum")
    explainer, inputs = build_explainer(name, network()), images(2).to(dtype)
    expected = explainer(inputs.float(), 1)
    found = explainer(inputs, 1)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(explainer.logits(inputs), explainer.logits(inputs.float()))


def test_a_network_of_several_types_gets_images_of_any_of_them_as_they_are() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.conv = nn.Conv2d(3, 4, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.dtype)
            return (self.conv(x) * self.scale).mean((2, 3))

    seen: list[torch.dtype] = []
    GradCAM(Mixed(), "conv")(images(2).double(), 1)
    assert set(seen) == {torch.float64}


def test_images_of_which_logits_are_asked_are_checked() -> None:
    with pytest.raises(ValueError, match=r"Got images \[3, 16, 16\]"):
        GradCAM(network(), "relu2").logits(images()[0])


def test_labels_of_no_images() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    for name in ("grad_cam", "smoe"):
        explainer = build_explainer(name, network())
        assert explain_labels(explainer, images(2)[:0], none).shape == (0, 16, 16)
    with pytest.raises(ValueError, match="for 2 images"):
        explain_labels(GradCAM(network(), "relu2"), images(2), none)
