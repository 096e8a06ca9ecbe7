"""A network with folded BatchNorms computes what it computed, however its code reads its own parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_saliency.explainers.mask_scoring.fast_forward import FastCopy, fast_inference


class Base(nn.Module):
    """A convolution with a BatchNorm, another convolution, and a head."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.other = nn.Conv2d(3, 3, 3, padding=1)
        self.register_buffer("scale", torch.ones(1))
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.1, 0.5)
        self.eval()

    def features(self, x):
        return self.other(self.norm(self.conv(x)).relu())

    def forward(self, x):
        return self.features(x).mean((2, 3))


class OptionalFeatures(Base):
    def forward(self, x, features=None, *, gain=2.0, **more):
        if features is None and gain == 2.0 and not more:
            x = x * 10
        return super().forward(x)


class OptionalMask(Base):
    def forward(self, x, mask=None):
        return super().forward(x if mask is None else x * mask)


class TiedWeight(Base):
    def features(self, x):
        return F.conv2d(super().features(x), self.conv.weight, padding=1)


class ReadStatistics(Base):
    def features(self, x):
        return super().features(x) - self.norm.running_mean.view(1, 3, 1, 1)


class ByKeyword(Base):
    def features(self, x):
        return self.other(input=self.norm(input=self.conv(input=x)).relu())


@pytest.mark.parametrize(
    ("build", "left"), [(OptionalFeatures, 0), (OptionalMask, 0), (TiedWeight, 1), (ReadStatistics, 1), (ByKeyword, 0)]
)
def test_the_answers_are_the_networks(build, left):
    model, images = build(), torch.randn(2, 3, 9, 9)
    copied = fast_inference(model, None)
    with torch.no_grad():
        torch.testing.assert_close(copied(images), model(images), rtol=1e-4, atol=1e-5)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in copied.modules()) == left


def test_what_the_code_computes_of_a_buffer_follows_it():
    class Scaled(Base):
        def forward(self, x):
            return super().forward(x * self.scale.square())

    model, images = Scaled(), torch.randn(2, 3, 9, 9)
    copied = FastCopy(model, None)
    first = copied.current()
    model.scale.fill_(3)
    with torch.no_grad():
        torch.testing.assert_close(copied.current()(images), model(images), rtol=1e-4, atol=1e-5)
    assert copied.current() is first


@pytest.mark.parametrize("enabled", [False, True])
def test_an_autocast_of_the_networks_own_stays(enabled):
    class Mixed(Base):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                return super().forward(x.float())

    model, images = Mixed(), torch.randn(2, 3, 9, 9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=not enabled):
        with pytest.warns(UserWarning, match="autocast of its own"):
            copied = fast_inference(model, None)
        assert torch.allclose(copied(images), model(images), atol=1e-6)
