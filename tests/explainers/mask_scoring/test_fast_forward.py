"""The fast copy computes what the network computes, and is a copy."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
import torchvision
from torch import nn

from lightning_saliency.explainers import RISE
from lightning_saliency.explainers.mask_scoring.copies import inference_copy
from lightning_saliency.explainers.mask_scoring.fast_forward import FastCopy, fast_inference


def _with_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def _norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_0", "densenet121"])
def test_the_copy_agrees_with_the_network(name):
    model = _with_statistics(torchvision.models.get_model(name, weights=None))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        exact = fast_inference(model, precision=None)(images.contiguous(memory_format=torch.channels_last))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = fast_inference(model)(images.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(exact, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert torch.allclose(half.float(), expected, atol=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "left"), [("resnet18", 0), ("mobilenet_v2", 0), ("densenet121", 62)])
def test_batch_norms_behind_a_convolution_are_folded(name, left):
    # DenseNet normalises before it convolves; only the second norm of each layer and the stem's follow a convolution.
    model = torchvision.models.get_model(name, weights=None)
    before = _norms(model)
    assert _norms(fast_inference(model)) == left
    assert _norms(model) == before


def test_shared_and_branching_convolutions_are_not_folded():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.used_twice, self.shared, self.plain = (nn.Conv2d(3, 3, 1) for _ in range(3))
            self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(3) for _ in range(3))

        def forward(self, x):
            first = self.used_twice(x)
            second = self.norm1(first) + first
            third = self.norm2(self.shared(second)) + self.shared(x)
            return self.norm3(self.plain(third))

    model = _with_statistics(Branching())
    images = torch.randn(2, 3, 5, 5)
    duplicate = fast_inference(model, precision=None)
    assert _norms(duplicate) == 2
    with torch.no_grad():
        assert torch.allclose(duplicate(images), model(images), atol=1e-5)


def test_a_network_that_cannot_be_followed_is_copied_as_it_is_with_a_warning():
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

        def forward(self, x):
            return self.layers(x) if x.sum() > 0 else self.layers(-x)

    model = _with_statistics(Restless())
    with pytest.warns(UserWarning, match="cannot follow Restless"):
        duplicate = fast_inference(model, precision=None)
    images = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        assert torch.allclose(duplicate(images), model(images), atol=1e-6)
    assert _norms(duplicate) == 1


class Sliced(nn.Module):
    """Takes its network apart by slices, as those do that return features beside the logits."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x):
        return self.net[1:](self.net[:1](x))


class SlicedModule(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Sliced().net

    forward = Sliced.forward


class CountedModule(SlicedModule):
    """Also uses what lies between the convolution and its BatchNorm."""

    def forward(self, x):
        before = self.net[0](x)
        return self.net[1:](before) + before


class HelpedModule(SlicedModule):
    """Takes it apart in a method of its own, by an index or another name."""

    def forward(self, x):
        return self.features(x) if x.sum() > 0 else self.features(-x)

    def features(self, x):
        layers = self.net
        before = layers[0](x)
        return layers[2](layers[1](before)) + before


@pytest.mark.parametrize("build", [Sliced, SlicedModule, CountedModule, HelpedModule])
@pytest.mark.filterwarnings("ignore:torch.fx cannot follow")
def test_a_network_that_takes_its_parts_itself_gives_what_it_gave(build):
    model = _with_statistics(build())
    images = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        assert torch.allclose(fast_inference(model, precision=None)(images), model(images), atol=1e-5)


def test_the_copy_shares_nothing_and_has_no_hooks():
    class Holder:
        def __init__(self):
            self.calls = 0

        def __deepcopy__(self, memo):
            raise AssertionError("a hook's owner was copied")

        def hook(self, *_):
            self.calls += 1

    model = _with_statistics(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    )
    images = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        model(images)
    holder = Holder()
    for module in model:
        module.register_forward_hook(holder.hook)
        module.register_forward_pre_hook(holder.hook)
        module.register_full_backward_hook(holder.hook)
    duplicate = fast_inference(model, precision=None)
    with torch.no_grad():
        expected = duplicate(images)
    assert holder.calls == 0
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in duplicate.parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(duplicate(images), expected)
    assert len(model[0]._forward_hooks) == 1


def test_weight_norm_and_parametrizations_survive():
    plain = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
    parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))
    model = _with_statistics(nn.Sequential(plain, nn.BatchNorm2d(4), parametrized, nn.BatchNorm2d(4)))
    images = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        expected = model(images)
        assert torch.allclose(fast_inference(model, precision=None)(images), expected, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.allclose(fast_inference(model)(images).float(), expected, atol=0.1)


def test_precision_is_that_of_convolutions_and_linear_layers():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 2))
    duplicate = fast_inference(model, "fp16")
    assert [parameter.dtype for parameter in duplicate.parameters()] == [torch.float16] * 2 + [torch.float32] * 2 + [
        torch.float16
    ] * 2
    assert not any(parameter.requires_grad for parameter in duplicate.parameters())
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
@pytest.mark.parametrize(
    "scripted",
    [
        lambda layer: torch.jit.script(layer),
        lambda layer: torch.jit.trace(layer, torch.rand(1, 3, 8, 8)),
        lambda layer: nn.Sequential(torch.jit.script(nn.Sequential(layer))),
    ],
    ids=["scripted", "traced", "nested"],
)
def test_a_network_with_scripted_parts_is_copied(scripted):
    model = nn.Sequential(scripted(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    images = torch.rand(2, 3, 8, 8)
    duplicate = inference_copy(model)
    assert torch.equal(duplicate(images), model(images))
    assert not any(parameter.requires_grad for parameter in duplicate.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        next(duplicate.parameters()).zero_()
    assert next(model.parameters()).any()


def test_tensors_that_a_network_keeps_of_a_training_pass_are_copied():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))

        def forward(self, x):
            self.last = self.conv(x)
            self.history = [{"features": self.last}]
            return self.last.mean((2, 3))

    model = Keeps()
    images = torch.rand(2, 3, 8, 8)
    expected = model(images)
    assert not model.last.is_leaf
    assert not model.conv.weight.is_leaf
    duplicate = inference_copy(model)
    assert torch.equal(duplicate.last, model.last)
    assert not duplicate.last.requires_grad
    assert duplicate.history[0]["features"] is duplicate.last
    assert torch.equal(duplicate(images), expected)


class Tied(nn.Module):
    """Two layers share a weight; the first one's BatchNorm is folded."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.norm(self.first(x)))


def test_weights_that_layers_share_are_brought_up_to_date_under_each_name():
    model = _with_statistics(Tied())
    images = torch.rand(2, 3, 5, 5)
    copied = FastCopy(model, None)
    first = copied.current()
    with torch.no_grad():
        model.first.weight.mul_(3)
        assert torch.allclose(copied.current()(images), model(images), atol=1e-5)
    assert copied.current() is first
    assert _norms(first) == 0


def test_a_copy_is_made_anew_where_the_network_has_changed_its_type():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.rand(2, 3, 8, 8)
    explainer = RISE(model, masks=4, fast=True)
    explainer(images, 1)
    model.double()
    assert torch.allclose(explainer(images.double(), 1), RISE(model, masks=4)(images.double(), 1), atol=1e-4)
