"""A trained network on real images: the metrics put a good map, a random one and its opposite in this order."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_saliency.explainers import GradCAM
from lightning_saliency.metrics import AverageDrop, DeletionAUC, InsertionAUC

pytestmark = pytest.mark.shared


def trained_network(shared_data: Path) -> nn.Module:
    spec = importlib.util.spec_from_file_location("cifar_resnet", shared_data / "cifar_resnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.CifarResNet(20)
    model.load_state_dict(torch.load(shared_data / "weights" / "cifar10_resnet20.pth", weights_only=True))
    return model.eval()


def images_and_labels(shared_data: Path, count: int) -> tuple[Tensor, Tensor]:
    subset = np.load(shared_data / "cifar10" / "cifar10_subset.npz")
    images = torch.from_numpy(subset["x_test"][:: len(subset["x_test"]) // count][:count]).permute(0, 3, 1, 2) / 255
    labels = torch.from_numpy(subset["y_test"][:: len(subset["y_test"]) // count][:count]).long()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean.view(3, 1, 1)) / std.view(3, 1, 1), labels


def test_the_metrics_tell_good_maps_from_bad_ones(shared_data: Path) -> None:
    model = trained_network(shared_data)
    images, labels = images_and_labels(shared_data, 40)
    good = GradCAM(model, "layer2")(images, labels)
    values: dict[str, dict[str, float]] = {}
    # Of 32 × 32 pixels, 15 % are too few to recognise anything by, whichever they are: half of them for the drop.
    for name, maps in {"good": good, "random": torch.rand(good.shape), "opposite": -good}.items():
        metrics = {
            "insertion": InsertionAUC(steps=10),
            "deletion": DeletionAUC(steps=10),
            "drop": AverageDrop(fraction=0.5),
        }
        for metric in metrics.values():
            metric.update(model, images, maps, labels)
        values[name] = {key: metric.compute().item() for key, metric in metrics.items()}
    overall = {name: value["insertion"] - value["deletion"] for name, value in values.items()}
    assert overall["good"] > overall["random"] + 0.05
    assert overall["random"] > overall["opposite"] + 0.05
    assert abs(overall["random"]) < 0.05
    assert values["good"]["drop"] < values["opposite"]["drop"]
