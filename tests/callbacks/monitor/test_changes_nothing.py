"""Training is bit for bit what it would be without the monitor."""

import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torchvision.models import resnet18

from lightning_saliency.callbacks import SaliencyMonitor
from tests.callbacks.monitor.helpers import Module, loader, trainer


class _ResNet(nn.Module):
    """ResNet-18 with BatchNorm, and dropout before its head."""

    def __init__(self):
        super().__init__()
        self.body = resnet18(num_classes=16)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 4))

    def forward(self, x):
        return self.head(self.body(x))


def _train(tmp_path, callbacks, workers, watch=None):
    pl.seed_everything(7, workers=True)
    module = Module(_ResNet(), learning_rate=0.01)
    run = trainer(tmp_path, *callbacks)
    options = {"size": 32, "form": "dict", "workers": workers}
    run.fit(module, loader(12, shuffle=True, **options), loader(8, **options))
    return {
        "weights": module.state_dict(),
        "optimizer": run.optimizers[0].state_dict()["state"],
        "losses": module.losses,
        "validation": run.callback_metrics["val/loss"],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "flags": [m.training for m in module.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()],
        "gradients": [p.grad for p in module.parameters()],
    }


def _equal(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_equal, left, right))
    return left == right


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_epochs_are_bit_identical(tmp_path, workers):
    plain = _train(tmp_path / "plain", [], workers)
    watched = _train(
        tmp_path / "watched",
        [
            SaliencyMonitor(views=("lovi", "combined", "scales", "fast_cam", "group_cam")),
            SaliencyMonitor(stage="train", name="training"),
            SaliencyMonitor(indices="worst", num_images=3, name="worst"),
        ],
        workers,
    )
    for what, value in plain.items():
        assert _equal(value, watched[what]), what


def test_the_comparison_sees_a_difference(tmp_path):
    class Disturbing(pl.Callback):
        def on_validation_epoch_end(self, run, module):
            torch.rand(1)

    plain = _train(tmp_path / "plain", [], 0)
    disturbed = _train(tmp_path / "disturbed", [Disturbing()], 0)
    assert not _equal(plain["losses"], disturbed["losses"])
    assert not _equal(plain["torch"], disturbed["torch"])
