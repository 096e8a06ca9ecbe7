"""Explainers leave nothing behind, wherever they are called."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.explainers import SMOE, FastCAM, GradCAM
from lightning_saliency.explainers.base import (
    Explainer,
    activations_and_gradients,
    undisturbed,
    unwrap,
)
from lightning_saliency.functional.statistics import smoe_scale
from lightning_saliency.scales.taps import ScaleTaps

from .networks import Fixed, assert_same, images, network, scale, snapshot


class Noisy(nn.Module):
    """Draws random numbers and writes to its buffers in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("written", torch.zeros(3))
        self.register_buffer("replaced", torch.zeros(()))
        self.register_buffer("nothing", None)
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.written += torch.rand(3)
        self.replaced = self.replaced + 1
        return self.linear(x.mean(dim=(2, 3)))


# --- nothing is left behind


def half_frozen() -> nn.Sequential:
    """In training, but for a frozen BatchNorm, with gradients in ``.grad``, a frozen weight and somebody's hook."""
    model = network().train()
    model.bn1.eval()
    model(images()).sum().backward()
    model.conv1.weight.requires_grad_(False)
    model.conv2.register_forward_hook(lambda module, args, output: None)
    return model


def test_explaining_leaves_no_trace() -> None:
    model = half_frozen()
    before = snapshot(model)
    GradCAM(model)(images())  # the first call also searches for scales
    GradCAM(model, "conv2")(before["values"][0].new_zeros(2, 3, 16, 16))
    FastCAM(model)(torch.ones(2, 3, 16, 16), targets=3)
    after = snapshot(model)
    del before["rng"], after["rng"]  # images() drew numbers
    assert_same(before, after)


@pytest.mark.parametrize("where", ["forward", "explain", "target"])
def test_an_exception_leaves_no_trace(where: str) -> None:
    model = half_frozen()
    inputs = images()
    before = snapshot(model)

    def fail(*_: Any) -> Any:
        raise FloatingPointError("on purpose")

    if where == "forward":
        handle = model.linear.register_forward_hook(fail)
        with pytest.raises(FloatingPointError, match="on purpose"):
            GradCAM(model, "conv2")(inputs)
        handle.remove()
    elif where == "explain":
        with pytest.raises(FloatingPointError, match="on purpose"):
            Fixed(model, fail)(inputs, 0)
    else:
        with pytest.raises(ValueError, match="5 classes"):
            GradCAM(model, "conv2")(inputs, 5)
    assert_same(before, snapshot(model))


def test_buffers_and_random_numbers_of_an_eval_pass_are_put_back() -> None:
    model = Noisy()
    written, replaced = model.written, model.replaced
    before = snapshot(model)
    drawn = []
    with undisturbed(model):
        for _ in range(2):
            model(torch.ones(1, 3, 4, 4))
            drawn.append(model.written.clone())
    assert not torch.equal(drawn[0], drawn[1] - drawn[0])
    assert_same(before, snapshot(model))
    assert model.written is written
    assert model.replaced is replaced


def test_a_buffer_saved_by_the_callers_graph_is_not_written_to() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factor", torch.tensor([2.0, float("nan"), 3.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    model = Scaled()
    x = torch.ones(3, requires_grad=True)
    y = model(x)
    with undisturbed(model):
        model(x)
    y[0].backward()
    assert x.grad is not None
    assert x.grad[0] == 2


def test_modes_are_not_set_by_calling_train_or_eval() -> None:
    """Some networks merge weights there, and a second call need not undo the first."""

    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> Merging:
            raise AssertionError("train() was called")

    model = nn.Sequential(Merging(2, 2), nn.Dropout())
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("explainer", [GradCAM, FastCAM, SMOE])
def test_taps_wait_for_the_callers_own_pass(explainer: type[Explainer]) -> None:
    model, inputs = network().eval(), images()
    with ScaleTaps(model, [scale("relu2")]) as taps:
        taps.start()
        explainer(model)(torch.randn(5, 3, 16, 16))
        model(inputs)
        [map_] = taps.take()
    torch.testing.assert_close(map_, smoe_scale(model[:6](inputs)))


def test_undisturbed_may_be_nested() -> None:
    model = half_frozen()
    before = snapshot(model)
    with undisturbed(model):
        with undisturbed(model):
            assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert_same(before, snapshot(model))


# --- wherever it is called


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("explainer", [GradCAM, FastCAM])
def test_grad_modes(context: Callable[[], Any], explainer: type[Explainer]) -> None:
    model = network()
    inputs, targets = images(), torch.tensor([1, 4])
    expected = explainer(model)(inputs, targets)
    with context():
        # Made in here, they are inference tensors under inference_mode.
        maps = explainer(model)(inputs.clone(), targets.clone())
        assert torch.is_grad_enabled() is (context in (nullcontext, torch.enable_grad))
    assert torch.equal(maps, expected)
    assert not maps.requires_grad
    assert not maps.is_inference()


def test_autocast_is_followed_and_half_precision_comes_close() -> None:
    model, inputs = network().eval(), images(4)
    seen = []
    model.conv2.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    exact = GradCAM(model, "relu2")(inputs, 2)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = GradCAM(model, "relu2")(inputs, 2)
    assert seen[-1] is torch.bfloat16
    assert rounded.dtype is torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
def test_the_callers_autocast_keeps_its_gradients(mode: Callable[[], Any]) -> None:
    """Autocast remembers cast weights: those cast without a graph must not be met by the caller's own forward."""
    model, inputs = network(), images()

    def gradients(explain: bool) -> list[Tensor]:
        copied = copy.deepcopy(model).eval()
        with torch.autocast("cpu", torch.bfloat16):
            if explain:
                with mode():
                    GradCAM(copied, "conv2")(inputs)
            copied(inputs).sum().backward()
        return [parameter.grad for parameter in copied.parameters()]

    expected = gradients(explain=False)
    assert all(gradient is not None for gradient in expected)
    assert_same(gradients(explain=True), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_networks_own_precision(dtype: torch.dtype) -> None:
    model = network().eval()
    inputs = images()
    expected = GradCAM(model, "relu2")(inputs, 1)
    other = copy.deepcopy(model).to(dtype)
    [(activations, gradients)], logits = activations_and_gradients(other, inputs.to(dtype), None, [scale("relu2")])
    assert activations.dtype == gradients.dtype == logits.dtype == dtype
    maps = GradCAM(other, "relu2")(inputs.to(dtype), 1)
    assert maps.dtype is torch.float32
    torch.testing.assert_close(maps, expected, atol=1e-5 if dtype is torch.float64 else 0.1, rtol=0)


def test_float64_is_computed_in_float64() -> None:
    """A map of differences that float32 does not resolve."""
    ramp = 1 + 1e-12 * torch.arange(16.0, dtype=torch.float64).reshape(1, 4, 4)
    maps = Fixed(network().double(), lambda images, targets: ramp)(images(1, (4, 4)).double(), 0)
    torch.testing.assert_close(maps, torch.arange(16.0).reshape(1, 4, 4) / 15, atol=1e-3, rtol=0)


class Classifier(LightningModule):
    """Explains in every step, if asked to."""

    def __init__(self, model: nn.Module, explain: bool) -> None:
        super().__init__()
        self.model = model
        self.explainer = FastCAM(model) if explain else None
        self.modes: list[bool] = []

    def _look(self, batch: list[Tensor]) -> None:
        if self.explainer is not None:
            maps = self.explainer(batch[0], batch[1])
            assert maps.shape == (batch[0].shape[0], 16, 16)
            assert maps.amax() == 1
            self.modes.append(torch.is_inference_mode_enabled())

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        logits = self.model(batch[0])
        self._look(batch)  # between forward and backward
        loss = nn.functional.cross_entropy(logits, batch[1])
        return loss + nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self._look(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_with_an_explainer_in_every_step_equals_training_without(precision: Any) -> None:
    data = TensorDataset(torch.randn(12, 3, 16, 16), torch.randint(5, (12,)))
    start = network()
    states = []
    for explain in (False, True):
        model = copy.deepcopy(start)
        module = Classifier(model, explain)
        if explain and precision == "bf16-mixed" and torch.__version__ < (2, 7):
            # The first map's search for layers clears autocast's weights, after which torch 2.6 rounds the two
            # forward passes' gradients of that step each for itself.
            module.explainer(*data[:4])
        torch.manual_seed(5)
        trainer = Trainer(
            max_epochs=2,
            accelerator="cpu",
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, DataLoader(data, 4, shuffle=True), DataLoader(data, 6))
            trainer.validate(module, DataLoader(data, 6), verbose=False)
        states.append(model.state_dict())
    assert True in module.modes
    assert False in module.modes
    assert_same(dict(states[0]), dict(states[1]))
    assert not torch.equal(states[0]["conv1.weight"], start.conv1.weight)


def test_compiled_networks_are_explained_eagerly() -> None:
    model, inputs = network().eval(), images()
    expected = GradCAM(model, "conv2")(inputs, 1)
    graphs = []

    def count(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(model, backend=count)
    assert unwrap(compiled) is model
    with torch.no_grad():
        before = compiled(inputs)
        compiled_graphs = len(graphs)
        assert compiled_graphs > 0
        assert torch.equal(GradCAM(compiled, "conv2")(inputs, 1), expected)
        assert torch.equal(compiled(inputs), before)
    assert len(graphs) == compiled_graphs
    in_place = network().eval()
    in_place.load_state_dict(model.state_dict())
    in_place.compile(backend=count)
    with torch.no_grad():
        in_place(inputs)
        compiled_graphs = len(graphs)
        assert torch.equal(GradCAM(in_place, "conv2")(inputs, 1), expected)
        in_place(inputs)
    assert len(graphs) == compiled_graphs
    torch.compiler.reset()


def test_wrappers_are_taken_off() -> None:
    model = network()
    assert unwrap(nn.DataParallel(model)) is model
    inputs = images()
    assert torch.equal(GradCAM(nn.DataParallel(model), "conv2")(inputs), GradCAM(model, "conv2")(inputs))
    with pytest.raises(TypeError, match=r"Got model of type function. Allowed is a torch\.nn\.Module"):
        GradCAM(lambda images: images)  # type: ignore[arg-type]
