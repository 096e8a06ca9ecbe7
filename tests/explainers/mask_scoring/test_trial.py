"""A new fast copy is tried on the first image, and replaced where it does not do what the network does."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_saliency.explainers import GroupCAM
from lightning_saliency.explainers.mask_scoring import fast_inference, score_masks
from lightning_saliency.explainers.mask_scoring.fast_forward import FastCopy
from lightning_saliency.metrics.base import scoring

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MASKS = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


class LeNet(nn.Module):
    """PyTorch's first tutorial: its view needs the images' own memory format."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc = nn.Linear(16 * 5 * 5, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.view(-1, 16 * 5 * 5))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.eval()

    def features(self, x):
        return self.norm(self.conv(x)).relu().mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


class Deep(Small):
    """Holds a volume's weights, which have no channels last of images."""

    def __init__(self):
        super().__init__()
        self.volume = nn.Conv3d(1, 1, 1)

    def forward(self, x):
        return super().forward(self.volume(x[:, None])[:, 0])


class Branching(Small):
    """A proxy is no tensor: the trace takes the wrong branch."""

    def forward(self, x):
        return super().forward(x * 5 if isinstance(x, torch.Tensor) else x)


class SinglePrecisionHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        x = self.conv(x).relu().mean((2, 3))
        with torch.autocast("cpu", enabled=False):
            return self.head(x.float())


def _is_channels_last(network):
    weight = network.get_submodule("conv1" if hasattr(network, "conv1") else "conv").weight
    return weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", [None, "bf16"])
@pytest.mark.parametrize(("build", "channels_last"), [(Small, True), (Deep, True), (LeNet, False)])
def test_the_fastest_copy_that_works_is_taken(build, channels_last, precision):
    torch.manual_seed(0)
    model = build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied = fast_inference(model, precision, IMAGES)
        scores = score_masks(model, IMAGES, MASKS, 1, fast=True, precision=precision)
    assert _is_channels_last(copied) == channels_last
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules())
    exact = score_masks(model, IMAGES, MASKS, 1, precision=precision)
    assert torch.allclose(scores, exact, atol=1e-5 if precision is None else 1e-2)


@pytest.mark.parametrize(
    ("build", "reason"),
    [(Branching, "on the first image it returns something else"), (SinglePrecisionHead, "RuntimeError: mat1 and mat2")],
)
def test_an_ordinary_copy_stands_in_for_one_that_does_not_work(build, reason):
    torch.manual_seed(0)
    model = build()
    with pytest.warns(UserWarning, match=f"faster copy of {build.__name__} cannot be used: {reason}"):
        found = score_masks(model, IMAGES, MASKS, 1, score="logit", fast=True, precision="bf16")
    assert torch.equal(found, score_masks(model, IMAGES, MASKS, 1, score="logit", precision="bf16"))


@pytest.mark.filterwarnings("ignore:The faster copy of Branching")
def test_the_ordinary_copy_follows_the_network():
    model = Branching()
    copied = FastCopy(model, None)
    first = copied.current(IMAGES)
    with torch.no_grad():
        model.conv.weight.neg_()
        assert torch.equal(copied.current(IMAGES)(IMAGES), model(IMAGES))
    assert copied.current() is first


def test_explainers_and_metrics_with_a_network_that_needs_its_own_memory_format():
    torch.manual_seed(0)
    model = LeNet()
    exact = GroupCAM(model, "conv2", groups=4)(IMAGES, 1)
    assert torch.allclose(GroupCAM(model, "conv2", groups=4, fast=True, precision="bf16")(IMAGES, 1), exact, atol=0.1)
    with scoring(model) as own, scoring(model, "bf16") as fast:
        assert torch.allclose(fast(IMAGES), own(IMAGES), atol=0.01)
        assert not torch.equal(fast(IMAGES), own(IMAGES))


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_random_numbers_and_states_do_not_count_and_are_kept(precision):
    class Restless(Small):
        def __init__(self):
            super().__init__()
            self.register_buffer("passes", torch.zeros(()))
            self.seen = []

        def forward(self, x):
            self.passes.add_(1)
            self.seen.append(x)
            return self.head(F.dropout(self.features(x + 0.1 * torch.randn_like(x)), 0.5, training=True))

    torch.manual_seed(0)
    model = Restless()
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied = FastCopy(model, precision).current(IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.passes == copied.passes == 0
    assert model.seen == []


def test_where_the_network_itself_has_no_finite_answer_nothing_is_compared():
    model = Small()
    nn.init.constant_(model.head.bias, float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied = FastCopy(model, None).current(IMAGES)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules())


def test_without_an_image_the_copy_is_not_tried():
    copied = fast_inference(LeNet(), None, IMAGES[:0])
    assert _is_channels_last(copied)


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
@pytest.mark.filterwarnings("ignore:torch.fx cannot follow")
def test_a_scripted_network_is_copied():
    model = torch.jit.script(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    found = score_masks(model, IMAGES, MASKS, 1, score="logit", fast=True)
    assert torch.allclose(found, score_masks(model, IMAGES, MASKS, 1, score="logit"), atol=0.02)


@pytest.mark.slow
def test_of_what_a_compiled_copy_returns_only_what_has_the_batchs_length_is_cut(monkeypatch):
    class WithLoss(Small):
        def forward(self, x):
            logits = super().forward(x)
            return logits.square().sum(), logits, self.head.weight

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    copied = FastCopy(WithLoss(), None, compiled=True).current(IMAGES)
    with torch.no_grad():
        loss, logits, weight = copied(torch.cat([IMAGES, IMAGES[:1]]))
        shapes = [each.shape for each in copied(IMAGES)]
    assert (loss.shape, logits.shape, weight.shape) == ((), (3, 4), (4, 8))
    assert shapes == [(), (2, 4), (4, 8)]
