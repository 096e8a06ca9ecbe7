"""Activations and gradients of any layer, from the head's backward pass alone."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_saliency.explainers import GradCAM
from lightning_saliency.explainers.base import (
    activations_and_gradients,
    activations_only,
)

from .networks import images, network, scale

Pair = namedtuple("Pair", ["first", "second"])


def test_gradients_are_those_of_a_whole_backward_pass() -> None:
    """For several layers, each image's own target, in-place ReLUs behind them and modules read at their input."""
    model, inputs = network().eval(), images(3)
    targets = torch.tensor([4, 0, 2])
    scales = [scale("conv2"), scale("bn1"), scale("pool", "input"), scale("average", "input"), scale("linear")]
    kept = {}
    handles = [
        model.bn1.register_forward_hook(lambda m, a, output: kept.update(bn1=output.clone())),
        model.pool.register_forward_pre_hook(lambda m, args: kept.update(pool=args[0])),
        model.conv2.register_forward_hook(lambda m, a, output: kept.update(conv2=output.clone())),
        model.average.register_forward_pre_hook(lambda m, args: kept.update(average=args[0])),
    ]
    plain = copy.deepcopy(model)
    plain.relu1.inplace = plain.relu2.inplace = False
    for handle in handles:
        handle.remove()
    x = inputs
    tensors = {}
    for name, module in plain.named_children():
        x = module(x)
        tensors[name] = x
    expected = torch.autograd.grad(
        x.gather(1, targets[:, None]).sum(), [tensors[name] for name in ("conv2", "bn1", "relu1", "relu2")]
    )
    found, logits = activations_and_gradients(model, inputs, targets, scales[:4])
    torch.testing.assert_close(logits, x)
    for (activations, gradients), name, gradient in zip(
        found, ("conv2", "bn1", "relu1", "relu2"), expected, strict=True
    ):
        assert torch.equal(activations, tensors[name])
        torch.testing.assert_close(gradients, gradient)
        assert not activations.requires_grad
        assert not gradients.requires_grad
    only, _ = activations_only(model, inputs, scales[:4])
    for activations, name in zip(only, ("conv2", "bn1", "relu1", "relu2"), strict=True):
        assert torch.equal(activations, tensors[name])


def test_inference_tensors_at_the_very_start_of_the_network() -> None:
    model, inputs, targets = network().eval(), images(), torch.tensor([1, 4])
    scales = [scale("conv1", "input"), scale("conv2")]
    expected, _ = activations_and_gradients(model, inputs, targets, scales)
    with torch.inference_mode():
        found, _ = activations_and_gradients(model, inputs.clone(), targets.clone(), scales)
    assert torch.equal(found[0][1], expected[0][1])
    assert expected[0][1].abs().sum() > 0


class Counting(torch.autograd.Function):
    """The identity; counts its backward passes."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        Counting.calls += 1
        return gradient


class Marked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Counting.apply(x)


def test_the_backward_pass_goes_no_further_than_the_layer() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), Marked(), nn.Conv2d(4, 8, 3), Marked(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        for layer, calls in (("2", 1), ("0", 2)):
            Counting.calls = 0
            GradCAM(model, layer)(images())
            assert Counting.calls == calls
            if layer == "2":
                assert max(saved) < 2 * 3 * 16 * 16  # neither images nor the first activation were kept
    assert all(parameter.grad is None for parameter in model.parameters())


class Around(nn.Module):
    """A module whose input also goes round it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.ReLU(inplace=False), nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return (self.block(x) + 2 * x.sin()).mean(dim=(2, 3))


def test_the_gradient_of_an_input_includes_the_way_round_the_module() -> None:
    model, inputs = Around(), images()
    x = model.stem(inputs).detach().requires_grad_()
    (expected,) = torch.autograd.grad((model.block(x) + 2 * x.sin()).mean(dim=(2, 3))[:, 1].sum(), x)
    [(_, gradients)], _ = activations_and_gradients(model, inputs, torch.tensor([1, 1]), [scale("block", "input")])
    torch.testing.assert_close(gradients, expected)


class Shared(nn.Module):
    """One ReLU, three times, as in a ResNet block."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = self.relu(conv(x))
        return x.mean(dim=(2, 3))


def test_a_module_called_several_times_is_read_at_its_last_call() -> None:
    model, inputs = Shared(), images()
    x = inputs
    for conv in model.convs:
        x = conv(x).relu()
    [(activations, gradients)], _ = activations_and_gradients(model, inputs, torch.tensor([1, 2]), [scale("relu")])
    assert torch.equal(activations, x)
    assert gradients[0, 1].unique().tolist() == pytest.approx([1 / 256])
    assert not gradients[0, 0].any()


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, self.stem(x), use_reentrant=False).tanh().mean(dim=(2, 3))


@pytest.mark.parametrize("layer", ["stem", "body.1", "body"])
def test_gradient_checkpointing(layer: str) -> None:
    model, inputs = Checkpointed(), images()
    plain = nn.Sequential(OrderedDict(stem=model.stem, body=model.body, tanh=nn.Tanh(), pool=nn.AdaptiveAvgPool2d(1)))
    torch.testing.assert_close(GradCAM(model, layer)(inputs, 1), GradCAM(plain, layer)(inputs, 1))


class Packing(nn.Module):
    """Takes keywords and returns the tensor in a container."""

    def __init__(self, container: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.container = container

    def forward(self, *, scale: float, hidden: Tensor) -> Any:
        return self.container(self.conv(hidden) * scale)


class Unpacking(nn.Module):
    def __init__(self, container: Callable[[Tensor], Any], item: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 3)
        self.packing = Packing(container)
        self.item = item

    def forward(self, x: Tensor) -> Tensor:
        return self.item(self.packing(scale=2.0, hidden=self.stem(x))).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("container", "item"),
    [
        (lambda x: (None, x, 7), lambda value: value[1]),
        (lambda x: [x], lambda value: value[0]),
        (lambda x: Pair(x, "text"), lambda value: value.first),
        (lambda x: {"mask": None, "hidden": x}, lambda value: value["hidden"]),
    ],
)
def test_keywords_and_containers(container: Callable[[Tensor], Any], item: Callable[[Any], Tensor]) -> None:
    model, inputs = Unpacking(container, item), images()
    scales = [scale("packing"), scale("packing", "input")]
    [(activations, gradients), (entering, _)], _ = activations_and_gradients(
        model, inputs, torch.tensor([1, 1]), scales
    )
    assert torch.equal(entering, model.stem(inputs))
    assert torch.equal(activations, 2 * model.packing.conv(entering))
    assert gradients[:, 1].unique().tolist() == pytest.approx([1 / 144])
    assert not gradients[:, 0].any()


def test_layers_that_cannot_be_read() -> None:
    inputs = images()

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Conv2d(3, 4, 3)
            self.beside = nn.Conv2d(3, 4, 3)
            self.unused = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.beside(x)
            return self.used(x).mean(dim=(2, 3))

    with pytest.raises(RuntimeError, match="did not run the output of 'unused'"):
        activations_and_gradients(Odd(), inputs, None, [scale("unused")])
    with pytest.raises(ValueError, match="do not depend on the output of 'beside'"):
        activations_and_gradients(Odd(), inputs, None, [scale("beside")])
    with pytest.raises(ValueError, match="do not depend on the output of 'beside'"):
        activations_and_gradients(Odd(), inputs, None, [scale("used"), scale("beside")])
    with pytest.raises(ValueError, match="Got scales at 'conv', 'conv2', which the network does not have"):
        activations_and_gradients(Odd(), inputs, None, [scale("conv"), scale("used"), scale("conv2")])
    with pytest.raises(RuntimeError, match="did not run the output of 'unused'"):
        activations_only(Odd(), inputs, [scale("unused")])


def test_a_part_of_the_network_without_gradients() -> None:
    """A frozen backbone under ``no_grad`` can be explained from its end on, not inside."""

    class Transfer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.backbone(x)
            return self.head(x.mean(dim=(2, 3)))

    model, inputs = Transfer(), images()
    plain = nn.Sequential(
        OrderedDict(backbone=model.backbone, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=model.head)
    )
    torch.testing.assert_close(GradCAM(model, "backbone")(inputs, 3), GradCAM(plain, "backbone")(inputs, 3))
    with pytest.raises(ValueError, match=r"under torch\.no_grad\(\) or detached\). Choose a layer after"):
        GradCAM(model, "backbone.0")(inputs, 3)


def test_a_tensor_overwritten_in_place_is_not_taken_for_another() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)
            self.second = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            y = self.second(x)
            x.add_(1)
            return (x + y).mean(dim=(2, 3))

    with pytest.raises(RuntimeError, match="in-place operation"):
        activations_and_gradients(Overwriting(), images(), None, [scale("second", "input")])
    with pytest.raises(RuntimeError, match="overwrote the input of 'second' in place"):
        activations_and_gradients(Overwriting(), images(), None, [scale("first"), scale("second", "input")])
    found, _ = activations_only(Overwriting(), images(), [scale("second", "input")])
    assert found[0].shape == (2, 4, 14, 14)
