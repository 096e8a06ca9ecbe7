"""Views of classes for heads and labels of every kind."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.callbacks import SaliencyMonitor
from lightning_saliency.callbacks.monitor import MonitorConfigurationError
from lightning_saliency.explainers import Explainer, GradCAM
from tests.callbacks.monitor.helpers import Module, SmallNet, trainer
from tests.explainers.test_heads import Net

ASKED: list[list[int]] = []


class Asked(GradCAM):
    """Grad-CAM that notes the classes it is asked for."""

    def _explain(self, images, targets):
        ASKED.append(targets.tolist())
        return super()._explain(images, targets)


def first_tensor(returned: Any) -> torch.Tensor:
    while not isinstance(returned, torch.Tensor):
        returned = vars(returned) if is_dataclass(returned) else returned
        items = returned.values() if isinstance(returned, dict) else returned
        returned = next(item for item in items if item is not None)
    return returned


class AnyHead(Module):
    """Trains any head on any labels; hands out what ``logits`` are of its output."""

    def __init__(self, net: nn.Module, logits: Any = None) -> None:
        super().__init__(net)
        self.logits = logits

    def training_step(self, batch, batch_idx):
        return first_tensor(self(batch[0])).square().mean()

    def validation_step(self, batch, batch_idx):
        returned = self(batch[0])
        return {"logits": self.logits(returned)} if self.logits else None


def watched(folder, module: AnyHead, labels: torch.Tensor, **settings: Any) -> list[str]:
    """Names of the views of which there are pictures."""
    ASKED.clear()
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.rand(4, 3, 16, 16), labels), 4)
    monitor = SaliencyMonitor(num_images=4, views={"lovi": None, "class": Asked}, log_at_start=False, **settings)
    run = trainer(folder, monitor, epochs=1)
    run.fit(module, data, data)
    assert run.global_step == 1
    return sorted(path.parent.name for path in folder.rglob("*step=*.png"))


SHAPES = torch.zeros(4, 16, 16, dtype=torch.int64)
SHAPES[0, :4], SHAPES[0, 4:6], SHAPES[1, 3:5], SHAPES[2] = 2, 1, 3, 255


@pytest.mark.parametrize(
    ("net", "settings", "labels", "expected"),
    [
        (Net("plain", 1), {}, torch.tensor([0, 1, 1, 0]), [0, 1, 1, 0]),
        (Net("plain", 1), {}, torch.tensor([[0.0], [1.0], [1.0], [float("nan")]]), [0, 1, 1, None]),
        (Net("flat", 1), {}, torch.tensor([1.0, 0.0, 1.0, 0.0]), [1, 0, 1, 0]),
        (Net("flat", 1), {}, torch.tensor([True, False, True, True]), [1, 0, 1, 1]),
        (Net("plain", 1), {}, torch.tensor([0, -1, 255, 1]), [0, None, None, 1]),
        (Net("plain"), {}, torch.tensor([3, -100, 255, 4]), [3, None, None, None]),
        (Net("plain"), {}, torch.eye(4), [0, 1, 2, 3]),
        (Net("plain"), {}, torch.tensor([[0.0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]]), [1, None, 0, 3]),
        (Net("heads"), {"output": "heads.color"}, torch.tensor([3, 2, 1, 0]), [3, 2, 1, 0]),
        (Net("pair"), {"output": 1}, torch.tensor([3, 2, 1, 0]), [3, 2, 1, 0]),
        (Net("dataclass"), {"output": lambda seen: seen.color}, torch.tensor([3, 2, 1, 0]), [3, 2, 1, 0]),
        (Net("object"), {}, torch.tensor([3, 2, 1, 0]), [3, 2, 1, 0]),
        (Net("out"), {}, SHAPES, [2, 3, None, 0]),
        (Net("pixels"), {}, SHAPES[:, None], [2, 3, None, 0]),
        (Net("squeezed", 1), {}, (SHAPES == 3)[:, None].float(), [0, 1, 0, 0]),
        (Net("out"), {}, torch.tensor([3, 2, 1, 0]), [3, 2, 1, 0]),
    ],
)
def test_views_show_the_labels_class_or_the_predicted_one(tmp_path, net, settings, labels, expected):
    assert watched(tmp_path, AnyHead(net), labels, **settings) == ["class", "lovi"]
    [asked] = ASKED
    assert len(asked) == 4
    assert [None if given is None else found for found, given in zip(asked, expected, strict=True)] == expected
    classes = 2 if net.linear.out_features == 1 else 4
    assert all(0 <= found < classes for found in asked)


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        (1, torch.tensor([18, 71, 34, 2])),
        (1, torch.tensor([0.2, 3.5, -1.5, 0.0])),
        (1, torch.tensor([[0.2], [0.5], [0.7], [0.0]])),
        (4, torch.arange(16.0).view(4, 4)),
    ],
)
def test_a_regression_is_refused_with_the_reason(tmp_path, outputs, labels):
    with pytest.warns(UserWarning, match="this looks like a regression"):
        drawn = watched(tmp_path, AnyHead(Net("plain", outputs)), labels)
    assert drawn == ["lovi"]  # what needs no class goes on
    assert not ASKED


@pytest.mark.parametrize(
    ("net", "logits"),
    [
        (Net("plain", 1), lambda returned: returned),
        (Net("flat", 1), lambda returned: returned),
        (Net("squeezed", 1), lambda returned: returned[:, None]),
        (Net("out"), lambda returned: returned["out"]),
    ],
)
def test_captions_tell_the_predicted_class(tmp_path, monkeypatch, net, logits):
    captions: list[list[str]] = []

    def keep(*arguments: Any, **options: Any) -> None:
        captions.append(options["captions"])

    monkeypatch.setattr("lightning_saliency.callbacks.monitor.film.log_picture_to", keep)
    watched(tmp_path, AnyHead(net, logits), torch.tensor([-1, -1, -1, -1]))
    [asked] = ASKED  # the predicted classes: no weight changes between validation and the view
    assert captions == [[f"→ {target}" for target in asked]] * 2


def test_an_explainer_that_cannot_be_told_where_the_logits_are():
    def mine(model: nn.Module) -> Explainer:
        return GradCAM(model)

    with pytest.raises(MonitorConfigurationError, match="output"):
        SaliencyMonitor(views={"mine": mine}, output="logits")
    monitor = SaliencyMonitor(
        views={"smoe": None, "own": {"class_path": "grad_cam", "init_args": {"output": "b"}}}, output="a"
    )
    assert monitor.views["own"](SmallNet()).output == "b"
    assert monitor.views["smoe"](SmallNet()).output == "a"
