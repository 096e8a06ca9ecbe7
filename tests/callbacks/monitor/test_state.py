"""What a network keeps or draws in its forward pass is the same with the monitor as without it."""

import collections
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from torch import nn

from lightning_saliency.callbacks import GroupCAMAugmentation, SaliencyMonitor
from lightning_saliency.explainers import FastCAM
from tests.callbacks.monitor.helpers import Module, SmallNet, loader, trainer


class Counter(SmallNet):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x * (1 + 0.001 * self.calls))


class Queue(SmallNet):
    def __init__(self):
        super().__init__()
        self.means = {"last": collections.deque(maxlen=3)}

    def forward(self, x):
        self.means["last"].append(x.mean().item())
        return super().forward(x - sum(self.means["last"]) / 9)


class AverageInAParameter(SmallNet):
    def __init__(self):
        super().__init__()
        self.average = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x):
        self.average.data.mul_(0.9).add_(x.mean().detach() * 0.1)
        return super().forward(x - self.average.detach())


class AverageInATensor(SmallNet):
    def __init__(self):
        super().__init__()
        self.kept = [torch.zeros(())]

    def forward(self, x):
        self.kept[0].mul_(0.9).add_(x.mean().detach() * 0.1)
        return super().forward(x - self.kept[0])


class AverageInAnArray(SmallNet):
    def __init__(self):
        super().__init__()
        self.average = np.zeros(1)

    def forward(self, x):
        self.average *= 0.9
        self.average += 0.1 * x.mean().item()
        return super().forward(x - float(self.average[0]))


class OwnGenerators(SmallNet):
    def __init__(self):
        super().__init__()
        self.generators = (torch.Generator().manual_seed(3), np.random.default_rng(3), random.Random(3))
        self.torch, self.numpy, self.python = self.generators

    def forward(self, x):
        noise = self.numpy.normal() + self.python.random()
        return super().forward(x + 0.01 * torch.randn(x.shape, generator=self.torch) + 0.01 * noise)


class GlobalGenerators(SmallNet):
    def forward(self, x):
        noise = np.random.uniform() + random.random()  # noqa: NPY002
        return super().forward(x * (1 + 0.01 * noise) + 0.01 * torch.randn_like(x))


class Metric(SmallNet):
    def __init__(self):
        super().__init__()
        self.seen = torchmetrics.MeanMetric()

    def forward(self, x):
        self.seen.update(x.mean().detach())
        return super().forward(x - self.seen.compute())


NETWORKS = [
    Counter,
    Queue,
    AverageInAParameter,
    AverageInATensor,
    AverageInAnArray,
    OwnGenerators,
    GlobalGenerators,
    Metric,
]
CALLBACKS = {
    "by default": lambda: SaliencyMonitor(),
    "with class views": lambda: SaliencyMonitor(views=("lovi", "fast_cam", "grad_cam")),
    "in training": lambda: SaliencyMonitor(stage="train", views=("lovi", "grad_cam")),
    "augmented with probability 0": lambda: GroupCAMAugmentation(probability=0.0),
}


def _outcome(tmp_path, network, callback, **options):
    pl.seed_everything(7, workers=True)
    module = Module(network())
    run = trainer(tmp_path, *([] if callback is None else [callback]), **options)
    run.fit(module, loader(shuffle=True, form="dict"), loader(8, form="dict"))
    own = (random.random(), np.random.uniform(), torch.rand(1).item())  # noqa: NPY002
    return module.losses, run.callback_metrics["val/loss"].item(), module.state_dict(), own


@pytest.mark.grid(every=3)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "callback", "sanity_steps"),
    [
        *((network, "with class views", steps) for network in NETWORKS for steps in (0, 2)),
        *(
            (network, name, 2)
            for network in (Counter, OwnGenerators, GlobalGenerators)
            for name in CALLBACKS
            if name != "with class views"
        ),
    ],
)
def test_training_is_bit_identical(tmp_path, network, callback, sanity_steps):
    plain = _outcome(tmp_path / "plain", network, None, num_sanity_val_steps=sanity_steps)
    watched = _outcome(tmp_path / "watched", network, CALLBACKS[callback](), num_sanity_val_steps=sanity_steps)
    assert watched[0] == plain[0]
    assert watched[1] == plain[1]
    assert all(torch.equal(value, watched[2][name]) for name, value in plain[2].items())
    assert watched[3] == plain[3]


@pytest.mark.parametrize("network", NETWORKS)
def test_an_explainer_leaves_a_network_as_it_was(network):
    torch.manual_seed(1)
    images = torch.rand(2, 3, 16, 16)

    def outputs(explained):
        torch.manual_seed(2), np.random.seed(2), random.seed(2)  # noqa: NPY002
        torch.manual_seed(2)
        net = network().eval()
        net(images)
        if explained:
            FastCAM(net)(images, torch.tensor([0, 1]))
        return torch.stack([net(images), net(images)])

    assert torch.equal(outputs(True), outputs(False))


def test_what_forward_logs_is_logged_once(tmp_path):
    class Logging(Module):
        def forward(self, x):
            logits = super().forward(x)
            self.log("mean", logits.mean(), on_step=False, on_epoch=True)
            return logits

    values = []
    for callback in (None, SaliencyMonitor(views=("lovi", "fast_cam", "group_cam"))):
        pl.seed_everything(7)
        run = trainer(tmp_path, *([] if callback is None else [callback]))
        run.fit(Logging(), loader(), loader())
        values.append(run.callback_metrics["mean"].item())
    assert values[0] == values[1]
