"""Every explainer on a trained network and a photograph: each class in its own place, and nothing left behind.

And those whose maps need no gradient on small transformers.
"""

from __future__ import annotations

import copy
import csv
import importlib.util
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer, squeezenet1_0
from torchvision.transforms import v2

from lightning_saliency.explainers import EXPLAINERS, SMOE, GroupCAM, ScoreCAM, build_explainer

from .networks import assert_same, snapshot

SIZE = (168, 224)
PHOTOGRAPH = "images/000000000074.jpg"
KUVASZ, MOUNTAIN_BIKE = 222, 671

# Few masks, groups and steps: seconds each.
FEW: dict[str, dict[str, Any]] = {
    "group_cam": {"groups": 8},
    "score_cam": {"layer": "features.12.squeeze_activation"},
    "rise": {"masks": 40, "grid": 4},
    "sise": {"max_masks": 5},
    "gradient_smoothgrad_sq": {"samples": 4},
    "guided_backprop_smoothgrad_sq": {"samples": 4},
    "integrated_gradients": {"n_steps": 6},
    "integrated_gradients_smoothgrad_sq": {"n_steps": 4, "samples": 3},
    "occlusion": {"sliding_window_shapes": (3, 42, 42), "strides": (3, 42, 42)},
    "torchcam:LayerCAM": {"layer": "features"},
    "smooth_grad_cam_plus_plus": {"samples": 4},
    "xrai": {"steps": 8, "algorithm": "fast"},
}
INSTALLED = [name for name in EXPLAINERS if name != "xrai" or importlib.util.find_spec("saliency") is not None]
CLASS_SPECIFIC = [*(name for name in INSTALLED if name != "smoe"), "torchcam:LayerCAM"]


class Fuse:
    """Counts passes, and fails the one numbered ``fatal``."""

    def __init__(self) -> None:
        self.passes = 0
        self.fatal = 0

    def burn(self) -> None:
        self.passes += 1
        if self.passes == self.fatal:
            raise FloatingPointError("on purpose")


class Restless(nn.Module):
    """Passes on what it gets, draws a number, writes to its buffers, and may raise."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.register_buffer("written", torch.zeros(3))
        self.register_buffer("replaced", torch.zeros(()))
        self.fuse = fuse

    def forward(self, x: Tensor) -> Tensor:
        self.written += torch.rand(3)
        self.replaced = self.replaced + 1
        self.fuse.burn()
        return x


@pytest.fixture(scope="module")
def squeezenet(shared_data: Path) -> nn.Module:
    model = squeezenet1_0(weights=None)
    model.load_state_dict(torch.load(shared_data / "weights" / "squeezenet1_0_imagenet.pth", weights_only=True))
    return model


@pytest.fixture(scope="module")
def street(shared_data: Path) -> tuple[Tensor, Tensor, Tensor]:
    """A photograph ``[1, 3, H, W]`` of a dog before a bicycle, and the box of each, ``[H, W]`` bool."""
    folder = shared_data / "coco128_boxes"
    prepare = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(SIZE, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    boxes = {name: torch.zeros(SIZE, dtype=torch.bool) for name in ("dog", "bicycle")}
    with (folder / "boxes.csv").open() as file:
        for row in csv.DictReader(file):
            if row["file"] == PHOTOGRAPH and row["class_name"] in boxes:
                across, down = SIZE[1] / float(row["width"]), SIZE[0] / float(row["height"])
                columns = slice(round(float(row["xmin"]) * across), round(float(row["xmax"]) * across))
                rows = slice(round(float(row["ymin"]) * down), round(float(row["ymax"]) * down))
                boxes[row["class_name"]][rows, columns] = True
    image: Tensor = prepare(Image.open(folder / PHOTOGRAPH).convert("RGB"))
    return image[None], boxes["dog"], boxes["bicycle"]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "options", "factor"),
    [
        # Probabilities, as they are in the paper's formula, differ by so little from mask to mask that all channels
        # weigh nearly the same: the two maps differ in the right places, but hardly.
        *((name, {}, 1.0 if name == "score_cam" else 1.3) for name in CLASS_SPECIFIC),
        ("score_cam", {"score": "logit"}, 1.3),
    ],
)
def test_each_class_is_in_its_own_place(
    squeezenet: nn.Module, street: tuple[Tensor, Tensor, Tensor], name: str, options: dict[str, Any], factor: float
) -> None:
    image, dog_box, bicycle_box = street
    explainer = build_explainer(name, squeezenet, **FEW.get(name, {}), **options)
    dog, bicycle = explainer(image.expand(2, -1, -1, -1), torch.tensor([KUVASZ, MOUNTAIN_BIKE]))
    assert dog.shape == bicycle.shape == SIZE

    def share(map_: Tensor, box: Tensor) -> float:
        return float(map_[box].sum() / map_.sum())

    assert share(dog, dog_box) > factor * share(bicycle, dog_box)
    assert share(bicycle, bicycle_box) > factor * share(dog, bicycle_box)


@pytest.mark.shared
@pytest.mark.parametrize("name", CLASS_SPECIFIC)
def test_nothing_is_left_behind_in_a_trained_network(
    squeezenet: nn.Module, street: tuple[Tensor, Tensor, Tensor], name: str
) -> None:
    """Also where the forward raises: in the first pass, the second, half-way and in the last."""
    fuse = Fuse()
    parts = copy.deepcopy(squeezenet)
    model = nn.Sequential(
        OrderedDict(features=parts.features, restless=Restless(fuse), classifier=parts.classifier, flatten=nn.Flatten())
    ).train()
    model.features[3].eval()
    model.features[0].weight.requires_grad_(False)
    model.features[12].expand3x3.weight.grad = torch.ones_like(model.features[12].expand3x3.weight)
    model.features[5].register_forward_hook(lambda module, args, output: None)
    images = nn.functional.interpolate(street[0], (64, 64)).expand(2, -1, -1, -1)
    targets = torch.tensor([KUVASZ, MOUNTAIN_BIKE])
    options = FEW.get(name, {}) | ({"masks": 12, "batch_size": 8} if name == "rise" else {})
    before = snapshot(model)

    maps = build_explainer(name, model, **options)(images, targets)
    assert_same(before, snapshot(model))
    assert maps.isfinite().all()
    total = fuse.passes
    assert total > 0
    for fatal in sorted({1, min(2, total), (total + 1) // 2, total}):
        fuse.passes, fuse.fatal = 0, fatal
        with pytest.raises(FloatingPointError, match="on purpose"):
            build_explainer(name, model, **options)(images, targets)
        assert fuse.passes == fatal
        assert_same(before, snapshot(model))
    fuse.fatal = 0
    assert torch.equal(build_explainer(name, model, **options)(images, targets), maps)


# --- transformers


def swin() -> SwinTransformer:
    return SwinTransformer(
        patch_size=[2, 2], embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4], num_classes=5
    )


def vit() -> VisionTransformer:
    model = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5
    )
    nn.init.normal_(model.heads[-1].weight, std=0.5)  # torchvision starts it at zero, and every gradient with it
    return model


@pytest.mark.parametrize("build", [swin, vit])
@pytest.mark.parametrize(("explainer", "options"), [(GroupCAM, {"groups": 4}), (ScoreCAM, {}), (SMOE, {})])
def test_transformers(build: Any, explainer: Any, options: dict[str, Any]) -> None:
    model, images = build(), torch.randn(3, 3, 32, 32)
    found = explainer(model, **options)
    maps = found(images, torch.tensor([4, 0, 2]))
    assert maps.shape == (3, 32, 32)
    assert maps.isfinite().all()
    assert maps.amin() >= 0
    assert maps.amax() == 1
    assert maps.std(dim=(1, 2)).amax() > 0.05
    torch.testing.assert_close(found(images[1:2], 0), maps[1:2], atol=1e-3, rtol=0)
