"""Hooks stay with their module: what copies, saves, traces or exports it in the middle of a step does not meet them."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from lightning_saliency.scales import find_scales
from lightning_saliency.scales.reader import ScaleReader
from lightning_saliency.scales.taps import ScaleTaps
from lightning_saliency.scales.tracing.hooks import Hook


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.stem(x)).mean((2, 3)))


IMAGES = torch.rand(2, 3, 8, 8)
TOOLS = {
    "torch.jit.script": torch.jit.script,
    "torch.jit.trace": lambda network: torch.jit.trace(network, IMAGES),
    "torch.export": lambda network: torch.export.export(network, (IMAGES,)).module(),
    "strict torch.export": lambda network: torch.export.export(network, (IMAGES,), strict=True).module(),
    "torch.fx": torch.fx.symbolic_trace,
    "a copy of the copy": copy.deepcopy,
}


def read(reader: ScaleReader, network: nn.Module, meanwhile=lambda: None) -> list[torch.Tensor]:
    """The maps of a step, in the middle of which something happens."""
    reader.start(IMAGES)
    with torch.no_grad():
        network(IMAGES)
    meanwhile()
    return reader.take().maps


@pytest.fixture
def network() -> nn.Module:
    return Net().eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("later", [False, True])
def test_a_copy_can_be_given_to_any_tool(network, tool, later):
    reader, made = ScaleReader(network), []
    if later:
        read(reader, network)
    read(reader, network, lambda: made.append(TOOLS[tool](copy.deepcopy(network))))
    torch.testing.assert_close(made[0](IMAGES), network(IMAGES))


def test_a_copy_has_the_hooks_of_others_alone(network):
    def own(_module, _args, output):
        return output + 1

    network.register_forward_hook(own)
    with ScaleTaps(network, find_scales(network, IMAGES)):
        twin = copy.deepcopy(nn.ModuleDict({"network": network}))["network"]
    assert list(twin._forward_hooks.values()) == [own]
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in twin.children())
    torch.testing.assert_close(twin(IMAGES), network(IMAGES))


def test_a_hook_that_is_copied_alone_does_nothing():
    called = []
    handle = Hook.on(nn.ReLU().register_forward_hook, lambda *_: called.append(True))
    hook = Hook(lambda *_: called.append(True))
    for copied in (copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))):
        assert copied(nn.ReLU(), (), None) is None
    assert not called
    handle.remove()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", sorted(set(TOOLS) - {"torch.jit.script", "a copy of the copy"}))
@pytest.mark.parametrize("later", [False, True])
def test_the_network_itself_can_be_traced_meanwhile(network, tool, later):
    reader, made = ScaleReader(network), []
    expected = read(reader, network)
    if not later:
        reader = ScaleReader(network)
    found = read(reader, network, lambda: made.append(TOOLS[tool](network)))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(made[0](IMAGES), network(IMAGES))


def test_what_cannot_be_scripted_says_so(network):
    def script():
        with pytest.raises(AttributeError, match=r"copy\.deepcopy"):
            torch.jit.script(network)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(ScaleReader(network), network, script)
        torch.jit.script(network)


def test_what_is_saved_in_a_step_can_be_loaded_without_this_package():
    network, buffer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)), io.BytesIO()
    reader = ScaleReader(network)
    reader.start(IMAGES)
    torch.save(network, buffer)
    reader.close()
    code = (
        "import sys, io, torch\n"
        "sys.modules['lightning_saliency'] = None\n"
        "network = torch.load(io.BytesIO(sys.stdin.buffer.read()), weights_only=False)\n"
        "print(tuple(network(torch.rand(2, 3, 8, 8)).shape))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=buffer.getvalue(), capture_output=True, check=False)
    assert done.stdout.decode().strip() == "(2, 4, 3, 3)", done.stderr.decode()
