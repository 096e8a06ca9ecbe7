"""Heads of every kind: one logit, logits of pixels, several heads, objects; and labels that name no class."""

from __future__ import annotations

import pickle
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import segmentation

from lightning_saliency.explainers import (
    CONTROL_MAPS,
    EXPLAINERS,
    ExplainerSpec,
    GradCAM,
    NoClassesError,
    build_explainer,
    explain_labels,
    score_masks,
)
from lightning_saliency.explainers.base import activations_and_gradients, class_logits
from lightning_saliency.functional.class_scores import class_scores
from tests.explainers.networks import Fixed, images, scale

Pair = namedtuple("Pair", ["color", "shape"])  # what networks return has no types


@dataclass
class Seen:
    color: Tensor
    shape: Tensor


class ModelOutput(OrderedDict):
    """As Hugging Face has it: an ordered dictionary whose entries are attributes, too."""

    __getattr__ = OrderedDict.__getitem__


class Net(nn.Module):
    """Two scales and a head of any kind."""

    def __init__(self, head: str, classes: int = 4, plain: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.linear = nn.Linear(8, classes)
        self.head = head

    def forward(self, x: Tensor) -> Any:
        x = self.features(x)
        logits = self.linear(x.mean((2, 3)))
        pixels = self.linear(x.movedim(1, -1)).movedim(-1, 1)
        large = nn.functional.interpolate(pixels, scale_factor=4, mode="bilinear")
        return {
            "plain": lambda: logits,
            "flat": lambda: logits[:, 0],
            "pixels": lambda: pixels,
            "large": lambda: large,
            "squeezed": lambda: large[:, 0],
            "last": lambda: large.movedim(1, -1),
            "out": lambda: {"out": large, "aux": pixels},
            "heads": lambda: {"heads": {"color": logits, "shape": pixels}},
            "pair": lambda: (logits, pixels),
            "loss": lambda: (logits.mean(), logits),
            "named": lambda: Pair(logits, pixels),
            "dataclass": lambda: Seen(logits, pixels),
            "object": lambda: ModelOutput(loss=None, logits=logits),
        }[self.head]()


def first(returned: Any) -> Any:
    """To be found by its path."""
    return returned[0]


def net(head: str, classes: int = 4) -> Net:
    torch.manual_seed(3)
    return Net(head, classes)


OPTIONS: dict[str, dict[str, Any]] = {
    "rise": {"masks": 8, "grid": 3},
    "group_cam": {"groups": 3, "theta": None, "kernel_size": 5, "sigma": 3.0},
    "occlusion": {"sliding_window_shapes": (3, 8, 8), "strides": (3, 4, 4)},
    "integrated_gradients": {"n_steps": 4},
    "integrated_gradients_smoothgrad_sq": {"n_steps": 4, "samples": 2},
    "gradient_smoothgrad_sq": {"samples": 2},
    "guided_backprop_smoothgrad_sq": {"samples": 2},
    "smooth_grad_cam_plus_plus": {"samples": 2},
    "xrai": {"steps": 2, "algorithm": "fast"},
}
NAMES = (*EXPLAINERS, *CONTROL_MAPS, "torchcam:LayerCAM", "torchcam:ScoreCAM")
HEADS = {
    "one logit": ("plain", 1, None),
    "one flat logit": ("flat", 1, None),
    "pixels": ("pixels", 4, None),
    "one logit a pixel": ("squeezed", 1, None),
    "a dictionary": ("out", 4, None),
    "a nested head": ("heads", 4, "heads.color"),
    "an object": ("object", 4, None),
}


def built(name: str, model: nn.Module, output: Any = None) -> Any:
    if name.startswith("torchcam"):
        pytest.importorskip("torchcam")
        return build_explainer(name, model, layer="features.4", output=output)
    if name in list(EXPLAINERS)[list(EXPLAINERS).index("gradient") :]:
        pytest.importorskip("saliency" if name == "xrai" else "captum")
    spec = ExplainerSpec.parse(name).with_options(**OPTIONS.get(name, {}))
    return spec.with_output(output)(model)


@pytest.mark.grid(every=5)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", NAMES)
def test_every_explainer_on_every_head(name: str, head: str) -> None:
    kind, classes, output = HEADS[head]
    explainer, inputs = built(name, net(kind, classes), output), images(2, (16, 16))
    maps = [explainer(inputs, target) for target in (0, 1)]
    for map_ in (*maps, explainer(inputs)):
        assert map_.shape == (2, 16, 16)
        assert map_.isfinite().all()
    if explainer.class_specific:
        # Absolute gradients of a logit and of its negative may be the same.
        if classes > 1 or type(explainer).__name__ not in ("CaptumExplainer", "FullGrad"):
            assert not torch.equal(*maps)
        with pytest.raises(ValueError, match="Allowed are 0 to"):
            explainer(inputs, max(classes, 2))


@pytest.mark.parametrize("name", ["grad_cam", "grad_cam_plus_plus", "x_grad_cam", "fast_cam", "sise", "group_cam"])
def test_one_logit_is_two_classes(name: str) -> None:
    """The same maps as of a network whose two logits are the one and its negative."""

    class Both(Net):
        def forward(self, x: Tensor) -> Tensor:
            one = super().forward(x)
            return torch.cat([-one, one], dim=1)

    one, both = net("plain", 1), Both("plain", 1)
    both.load_state_dict(one.state_dict())
    inputs = images(4, (16, 16))
    options = {**OPTIONS.get(name, {}), **({"score": "sigmoid"} if name in ("sise", "group_cam") else {})}
    for target in (0, 1, None):
        expected = build_explainer(name, both, **options)(inputs, target)
        torch.testing.assert_close(build_explainer(name, one, **options)(inputs, target), expected)


@pytest.mark.parametrize("head", ["pixels", "large", "last", "out", "squeezed"])
def test_the_score_of_a_pixelwise_class_is_that_of_its_own_pixels(head: str) -> None:
    model, inputs = net(head, 1 if head == "squeezed" else 4), images(3, (16, 16))
    logits = class_logits(model(inputs), None, inputs)
    assert logits.ndim == 4
    targets = torch.tensor([1, 0, 1])
    [(_, gradients)], returned = activations_and_gradients(model, inputs, targets, [scale("features.4")])
    torch.testing.assert_close(returned, logits)

    def reduced(output: Any) -> Tensor:
        pixelwise = class_logits(output, None, inputs)
        pixelwise = torch.cat([-pixelwise, pixelwise], 1) if pixelwise.shape[1] == 1 else pixelwise
        own = []
        for image in range(3):
            winners = pixelwise[image].argmax(0)
            classes = range(pixelwise.shape[1])
            pixels = [winners == index if (winners == index).any() else winners >= 0 for index in classes]
            own.append(torch.stack([pixelwise[image, index][pixels[index]].mean() for index in classes]))
        return torch.stack(own)

    torch.testing.assert_close(class_scores(logits, "logit"), reduced(model(inputs)))
    [(_, expected)], _ = activations_and_gradients(model, inputs, targets, [scale("features.4")], reduced)
    torch.testing.assert_close(gradients, expected)


def test_masked_images_are_scored_where_the_whole_image_shows_the_class() -> None:
    class Bright(nn.Module):
        """Two logits a pixel; class 1 where the image is bright."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(x[:, :1]), 4 * x[:, :1] - 2], dim=1)

    inputs = torch.zeros(1, 1, 4, 4)
    inputs[..., :2, :] = 1.0  # eight pixels of class 1
    masks = torch.zeros(1, 3, 4, 4)
    masks[0, 0, :1] = 1.0
    masks[0, 1, :2] = 1.0
    scores = score_masks(Bright(), inputs, masks, 1, fill="zero", score="logit")
    assert scores.tolist() == [[0.0, 2.0, -2.0]]  # not 2 where the mask leaves half of them


@pytest.mark.parametrize(
    ("head", "output"),
    [
        ("heads", "heads.color"),
        ("heads", lambda returned: returned["heads"]["color"]),
        ("pair", 0),
        ("pair", "0"),
        ("loss", 1),
        ("loss", None),
        ("named", "color"),
        ("named", None),
        ("dataclass", "color"),
        ("object", "logits"),
        ("pair", "tests.explainers.test_heads.first"),
    ],
)
def test_where_the_logits_are(head: str, output: Any) -> None:
    inputs = images(2, (16, 16))
    expected = GradCAM(net("plain"), "features.4")(inputs, 2)
    explainer = GradCAM(net(head), "features.4", output=output)
    assert torch.equal(explainer(inputs, 2), expected)
    if not callable(output) and output != "tests.explainers.test_heads.first":
        assert pickle.loads(pickle.dumps(explainer.output)) == output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("color", r"keys \['heads'\], in which 'color' was not found"),
        ("heads.size", "'size' was not found"),
        (3, "'3' was not found"),
        (1.5, r"Got output=1\.5"),
        (True, "Got output=True"),
    ],
)
def test_places_without_logits(output: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        GradCAM(net("heads"), "features.4", output=output)(images(2, (16, 16)), 1)


def test_decisions_are_no_logits() -> None:
    with pytest.raises(ValueError, match="no scores"):
        GradCAM(net("plain"), "features.4", output=lambda returned: returned.argmax(1))(images(2, (16, 16)), 1)


# --- labels -----------------------------------------------------------------------------------------------------------


def asked_for(model: nn.Module) -> Fixed:
    """An explainer whose maps tell the class: the pixel of that number is one."""

    def dots(inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.one_hot(targets, inputs.shape[2] * inputs.shape[3]).view(-1, *inputs.shape[2:]).float()

    return Fixed(model, dots)


@pytest.mark.parametrize(("head", "classes"), [("plain", 4), ("plain", 1), ("out", 4), ("squeezed", 1)])
@pytest.mark.parametrize("label", [-1, -100, 255, 4])
def test_labels_that_are_no_class_take_the_predicted_one(head: str, classes: int, label: int) -> None:
    if classes == 1 and label == 4:
        label = -3  # two numbers, of a network with one output
    explainer, inputs = asked_for(net(head, classes)), images(3, (16, 16))
    predicted = explainer(inputs).flatten(1).argmax(1)
    found = explain_labels(explainer, inputs, torch.tensor([1, label, 0])).flatten(1).argmax(1)
    assert found.tolist() == [1, predicted[1], 0]
    assert explain_labels(explainer, inputs, None).flatten(1).argmax(1).tolist() == predicted.tolist()


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (1, [-2, -2, -2], "1 number for each image"),
        (4, [-5, -5, -5], "4 numbers for each image"),
        (1, [34, 0, 71], "labels such as 34"),
    ],
)
def test_a_regression_has_no_maps_of_classes(classes: int, labels: list[int], message: str) -> None:
    model, inputs = net("plain", classes), images(3, (16, 16))
    for name in ("grad_cam", "fast_cam", "rise"):
        with pytest.raises(NoClassesError, match=message):
            explain_labels(built(name, model), inputs, torch.tensor(labels))
    for name in ("smoe", "edges", "random_blobs"):  # maps that need no class go on
        assert explain_labels(built(name, model), inputs, torch.tensor(labels)).shape == (3, 16, 16)


def test_maps_without_a_class_need_no_logits() -> None:
    model = net("plain")
    model.linear = nn.Identity()
    model.head = "heads"  # a dictionary in which nothing looks like logits
    for name in ("smoe", *CONTROL_MAPS):
        assert build_explainer(name, model)(images(2, (16, 16))).shape == (2, 16, 16)


# --- networks of others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("builder", [segmentation.lraspp_mobilenet_v3_large, segmentation.deeplabv3_mobilenet_v3_large])
@pytest.mark.parametrize("name", ["grad_cam", "fast_cam"])
def test_segmentation_networks_of_torchvision(builder: Any, name: str) -> None:
    torch.manual_seed(0)
    model = builder(weights=None, weights_backbone=None, num_classes=4)
    explainer, inputs = built(name, model), images(2, (64, 64))
    maps = [explainer(inputs, target) for target in (None, 1, 2)]
    assert all(map_.shape == (2, 64, 64) and map_.isfinite().all() for map_ in maps)
    assert not torch.equal(maps[1], maps[2])
    assert model.training


def hugging_face(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "resnet":
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=4)
        return transformers.ResNetForImageClassification(config)
    if kind == "yes-no":
        config = transformers.ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_labels=1)
        return transformers.ConvNextForImageClassification(config)
    options: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16}
    return transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**options, num_labels=4))


@pytest.mark.parametrize("kind", ["resnet", "yes-no", "segformer"])
def test_networks_of_hugging_face(kind: str) -> None:
    model, inputs = hugging_face(kind), images(2, (64, 64))
    for name in ("grad_cam", "group_cam"):
        maps = [built(name, model)(inputs, target) for target in (None, 0, 1)]
        assert all(map_.shape == (2, 64, 64) and map_.isfinite().all() for map_ in maps)
