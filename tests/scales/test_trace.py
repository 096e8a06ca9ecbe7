"""The probing forward pass leaves nothing behind, whatever the network does in it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_saliency.scales.find import find_scales, named_scales
from lightning_saliency.scales.tracing.trace import prepared, trace, untouched
from tests.networks import Chain, ConvNet, TokenTransformer, brief, conv_block

EXPECTED = ["pool1 in 32 8", "pool2 in 16 12", "average in 8 16"]


class Restless(nn.Module):
    """Changes everything that a module can change about itself, draws random numbers, and may fail at the end."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)
        self.linear = nn.Linear(8, 10)
        self.register_buffer("mean", torch.tensor([0.5, float("nan")]))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", None)
        self.count, self.seen, self.cache, self.names, self.fail = 0, [], {"a": 1}, {"x"}, False

    def forward(self, x):
        x = self.pool(self.conv(x) + torch.rand(()))
        x = F.dropout(x, 0.5, training=True)
        self.mean.data.add_(1)
        self.steps += 1
        self.table = torch.ones(3)
        self.register_buffer("more", torch.ones(2))
        self.count += 1
        self.seen.append(x)
        self.names.add("y")
        self.cache.pop("a", None)
        self.cache["b"] = x
        self.attention = x
        self.conv.train()
        self.conv.weight.grad = torch.zeros_like(self.conv.weight)
        if self.fail:
            raise RuntimeError("this network always fails")
        return self.linear(x.mean((2, 3)))


def everything(model):
    """All that can be compared about a network, by value."""
    return {
        "modes": {name: module.training for name, module in model.named_modules()},
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {name: value.grad for name, value in model.named_parameters()},
        "buffers": {name: id(value) for name, value in model.named_buffers()},
        "hooks": {
            name: (
                list(module._forward_hooks),
                list(module._forward_pre_hooks),
                list(module._forward_hooks_with_kwargs),
            )
            for name, module in model.named_modules()
        },
        "attributes": {
            name: {key: copy.copy(value) for key, value in vars(module).items() if not key.startswith("_")}
            for name, module in model.named_modules()
        },
        "rng": torch.get_rng_state(),
    }


def assert_same(first, second):
    for part in first:
        if part == "rng":
            assert torch.equal(first[part], second[part])
        elif part == "state":
            assert first[part].keys() == second[part].keys()
            for name, value in first[part].items():
                torch.testing.assert_close(second[part][name], value, rtol=0, atol=0, equal_nan=True)
        else:
            assert first[part] == second[part], part


@pytest.mark.parametrize("fail", [False, True])
def test_a_restless_network_is_put_back(fail):
    model = Restless().train()
    model.pool.eval()
    model.fail = fail
    images = torch.rand(2, 3, 32, 32)
    before = everything(model)
    if fail:
        with pytest.raises(RuntimeError, match="this network always fails"):
            find_scales(model, images)
    else:
        assert brief(find_scales(model, images)) == ["pool in 32 8"]
    assert_same(before, everything(model))


@pytest.mark.parametrize("find", [find_scales, lambda model, images: named_scales(model, ["block1"], images)])
def test_modes_statistics_gradients_and_random_numbers_are_as_before(find):
    model = ConvNet().train()
    model.block2.eval()
    F.cross_entropy(model(torch.rand(4, 3, 32, 32)), torch.arange(4)).backward()
    gradient, images = model.linear.weight.grad, torch.rand(1, 3, 32, 32)
    before, versions = everything(model), [buffer._version for buffer in model.buffers()]
    find(model, images)
    assert_same(before, everything(model))
    assert versions == [buffer._version for buffer in model.buffers()]
    assert model.linear.weight.grad is gradient


def test_one_image_is_enough_in_train_mode():
    # BatchNorm of a 1×1 grid refuses a single image in train mode.
    model = Chain(conv_block(3, 8), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8), nn.Flatten()).train()
    assert brief(find_scales(model, torch.rand(1, 3, 8, 8))) == ["m1 in 8 8"]


def test_other_hooks_stay_run_and_keep_their_order():
    model, ran = ConvNet(), []
    model.pool1.register_forward_pre_hook(lambda *_: ran.append("first"))
    once = model.pool1.register_forward_pre_hook(lambda *_: (ran.append("once"), once.remove())[1])
    model.pool1.register_forward_pre_hook(lambda *_: ran.append("last"))
    images = torch.rand(1, 3, 32, 32)
    before = everything(model)
    find_scales(model, images)
    assert ran == ["first", "once", "last"]
    assert_same(before, everything(model))


def test_a_graph_of_the_callers_is_not_invalidated():
    model = ConvNet().eval()
    loss = model(torch.rand(2, 3, 32, 32)).sum()
    find_scales(model, torch.rand(1, 3, 32, 32))
    loss.backward()
    assert model.block1[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_in_any_gradient_mode_and_training_goes_on(mode):
    tables, gradients = [], []

    class Caching(nn.Module):
        """Keeps outside of itself what it computed first: an inference tensor there would break its training."""

        def __init__(self):
            super().__init__()
            self.network = ConvNet()

        def forward(self, x):
            if not tables:
                tables.append(x.new_full((), 2))
            gradients.append(torch.is_grad_enabled())
            return self.network(x * tables[0] if x.requires_grad else x.mul_(tables[0]))

    model, images = Caching(), torch.ones(2, 3, 32, 32)
    with mode():
        example = images.clone()
        scales = find_scales(model, example)
        assert torch.equal(example, images)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert gradients == [False]
    assert brief(scales) == [f"network.{line}" for line in EXPECTED]
    images.requires_grad_()
    model(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_weights_cast_by_autocast_still_get_gradients():
    model = ConvNet()
    with torch.autocast("cpu", torch.bfloat16):
        find_scales(model, torch.rand(1, 3, 32, 32))
        loss = model(torch.rand(2, 3, 32, 32)).sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("images", [torch.rand(1, 3, 32, 32), torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)])
def test_the_network_s_own_dtype_is_used(dtype, images):
    assert brief(find_scales(ConvNet().to(dtype), images)) == EXPECTED


def test_a_network_on_the_meta_device_or_without_parameters():
    assert brief(find_scales(ConvNet().to("meta"), torch.rand(1, 3, 32, 32))) == EXPECTED
    assert prepared(nn.ReLU(), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).dtype == torch.float32


def test_compiled_networks_are_neither_compiled_nor_recompiled_by_the_probe():
    compiled_graphs = []

    def backend(graph, _inputs):
        compiled_graphs.append(graph)
        return graph.forward

    model = ConvNet().eval()
    images = torch.rand(2, 3, 32, 32)
    compiled = torch.compile(model, backend=backend)
    assert brief(find_scales(compiled, images)) == EXPECTED
    assert not compiled_graphs
    # Their names lead to the modules both ways.
    for scale in find_scales(compiled, images):
        assert compiled.get_submodule(scale.module) is model.get_submodule(scale.module)
    assert brief(named_scales(compiled, ["_orig_mod.block1", "block1"], images))[1] == "block1 out 32 8"
    with torch.no_grad():
        compiled(images)
        graphs = len(compiled_graphs)
        assert graphs > 0
        assert brief(find_scales(compiled, images)) == EXPECTED
        compiled(images)
    assert len(compiled_graphs) == graphs

    torch.compiler.reset()
    partly = Chain(torch.compile(conv_block(3, 8), backend=backend), nn.MaxPool2d(2), conv_block(8, 8))
    partly.m2.compile(backend=backend)
    assert brief(find_scales(partly, images)) == ["m1 in 32 8", "m2 out 16 8"]
    assert len(compiled_graphs) == graphs


def test_the_trace_is_the_tree_of_calls():
    model = Chain(ConvNet())
    root = trace(model, prepared(model, torch.rand(3, 3, 32, 32)))
    assert (root.name, root.inputs, root.outputs) == ("", (1, 3, 32, 32), ((1, 10),))
    assert [call.name for call in root.children] == ["m0"]
    names = [call.name for call in root.children[0].children]
    assert names == [f"m0.{name}" for name, _ in ConvNet().named_children()]
    block = root.children[0].children[0]
    assert [type(call.module) for call in block.children] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert all(call.parent is block for call in block.children)


def test_an_error_that_the_network_catches_does_not_confuse_the_tree():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.bad, self.good, self.pool = Chain(nn.Conv2d(5, 8, 1)), nn.Conv2d(3, 8, 1), nn.MaxPool2d(2)

        def forward(self, x):
            try:
                x = self.bad(x)
            except RuntimeError:
                x = self.good(x)
            return self.pool(x).mean((2, 3))

    model = Chain(Tries(), nn.Linear(8, 10))
    root = trace(model, torch.rand(1, 3, 8, 8))
    assert [call.name for call in root.children] == ["m0", "m1"]
    assert brief(find_scales(model, torch.rand(1, 3, 8, 8))) == ["m0.pool in 8 8"]


def test_keyword_arguments_and_nested_outputs_are_seen():
    class Inner(nn.Module):
        def forward(self, mask, *, x):
            return {"none": None, "features": (x * 2, [x])}

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.inner = nn.Conv2d(3, 8, 1), Inner()

        def forward(self, x):
            return self.inner(None, x=self.conv(x))

    scales = named_scales(Outer(), ["inner:input", "inner", ""], torch.rand(1, 3, 8, 8))
    assert brief(scales) == ["inner in 8 8", "inner out 8 8", " out 8 8"]


def test_a_network_s_own_eval_is_not_called():
    class Merging(ConvNet):
        def train(self, mode=True):
            if not mode:
                raise AssertionError("eval() merges weights")
            return super().train(mode)

    assert brief(find_scales(Merging(), torch.rand(1, 3, 32, 32))) == EXPECTED


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_cuda_device():
    model = Chain(TokenTransformer(), lambda x: F.dropout(x, training=True)).cuda().half()
    torch.rand(1, device="cuda")
    state = torch.cuda.get_rng_state()
    scales = find_scales(model, torch.rand(1, 3, 32, 32))
    assert [scale.layout for scale in scales] == ["tokens"] * 4
    assert torch.equal(state, torch.cuda.get_rng_state())


def test_untouched_can_be_nested():
    model, images = ConvNet().train(), torch.rand(1, 3, 8, 8)
    with untouched(model, images):
        with untouched(model, images):
            assert not model.training
        assert not model.pool1.training
    assert model.training
    assert model.pool1.training
