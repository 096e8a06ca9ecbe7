"""What a pass of our own leaves as it was: every kind of state that a module may keep, each one by itself."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_saliency.scales.tracing.eval_pass import eval_pass
from lightning_saliency.scales.tracing.module_state import kept_state


class Keeping(nn.Module):
    """Keeps one value under a name; not a layer of ``torch.nn``."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.kept = value


def draw(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return torch.rand((), generator=generator).item()
    return generator.random()


def swap(container: OrderedDict) -> None:
    container.move_to_end("a")


def inside(change: Any, *path: Any) -> Any:
    def changed(value: Any) -> None:
        for key in path:
            value = value[key]
        change(value)

    return changed


CONTAINERS = {
    "list, longer": ([1, 2], lambda kept: kept.append(3)),
    "list, shorter": ([1, 2], lambda kept: kept.pop()),
    "list, in another order": ([1, 2], lambda kept: kept.reverse()),
    "queue": (deque([1, 2], maxlen=2), lambda kept: kept.append(3)),
    "set": ({1, 2}, lambda kept: kept.add(3)),
    "dict, one more": ({"a": 1}, lambda kept: kept.update(b=2)),
    "dict, one less": ({"a": 1, "b": 2}, lambda kept: kept.pop("b")),
    "dict, another value": ({"a": 1}, lambda kept: kept.update(a=2)),
    "dict, another name": ({"a": 1}, lambda kept: kept.update(b=kept.pop("a"))),
    "dict, in another order": (OrderedDict(a=1, b=2), swap),
    "dict of lists": ({"a": [1]}, inside(lambda kept: kept.append(2), "a")),
    "list of dicts of queues": ([{"a": deque([1])}], inside(lambda kept: kept.append(2), 0, "a")),
    "four levels": ([[[[1]]]], inside(lambda kept: kept.append(2), 0, 0, 0)),
}


@pytest.mark.parametrize("name", list(CONTAINERS))
def test_containers(name):
    value, change = CONTAINERS[name]
    module, before = Keeping(value), repr(value)
    with kept_state(module):
        change(value)
        assert repr(value) != before
    assert repr(value) == before
    assert module.kept is value


def test_entries_are_the_same_objects():
    inner = [1]
    module = Keeping({"a": inner, "b": (1, 2)})
    with kept_state(module):
        module.kept["a"] = [1]  # equal, but another one
    assert module.kept["a"] is inner


def test_attributes_are_set_back_taken_away_and_given_back():
    module = Keeping(1)
    module.gone = "here"
    with kept_state(module):
        module.kept += 1
        module.new = 5
        del module.gone
    assert module.kept == 1
    assert module.gone == "here"
    assert not hasattr(module, "new")


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.tensor([1.0, 2.0]),
        lambda: torch.tensor([1, 2]),
        lambda: torch.tensor([True, False]),
        lambda: torch.tensor([float("nan")]),
        lambda: torch.tensor(3.0),
        lambda: nn.Parameter(torch.tensor([1.0, 2.0])),
        lambda: np.array([1.0, 2.0]),
    ],
    ids=["float", "int", "bool", "nan", "scalar", "parameter", "numpy"],
)
@pytest.mark.parametrize("nested", [False, True])
def test_values_that_are_written_in_place(make, nested):
    value = make()
    module = Keeping({"a": [value]} if nested else value)
    before = value.clone().detach() if isinstance(value, torch.Tensor) else value.copy()
    with kept_state(module), torch.no_grad():
        value[...] = 0
    np.testing.assert_array_equal(np.asarray(value.detach() if isinstance(value, torch.Tensor) else value), before)
    assert (module.kept["a"][0] if nested else module._parameters.get("kept", vars(module).get("kept"))) is value


def test_a_number_that_became_none():
    value = torch.tensor([1.0, float("nan"), 2.0])
    with kept_state(Keeping(value)):
        value[0] = float("nan")
    assert value.nan_to_num(nan=-1.0).tolist() == [1, -1, 2]


def test_a_tensor_of_another_size_gets_its_own_back():
    module = Keeping(None)
    module.register_buffer("queue", torch.arange(4.0))
    queue = module.queue
    with kept_state(module), torch.no_grad():
        module.queue.resize_(7)
    assert module.queue is queue
    assert queue.tolist() == [0, 1, 2, 3]


def test_what_is_unchanged_is_not_written_to():
    value = torch.tensor([float("nan"), 2.0])
    version = value._version
    with kept_state(Keeping(value)):
        pass
    assert value._version == version


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.Generator().manual_seed(1),
        lambda: np.random.default_rng(1),
        lambda: np.random.RandomState(1),
        lambda: random.Random(1),
    ],
    ids=["torch", "numpy", "numpy's old", "python"],
)
def test_generators_of_its_own(make):
    generator, same = make(), make()
    with kept_state(Keeping([generator])):
        draw(generator)
    assert draw(generator) == draw(same)


def test_after_an_exception_too():
    module = Keeping([1])

    def interrupted():
        with kept_state(module):
            module.kept.append(2)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        interrupted()
    assert module.kept == [1]


def test_statistics_of_a_subclass_are_restored():
    class Mine(nn.BatchNorm2d):
        def forward(self, x):
            self.num_batches_tracked += 1
            return super().forward(x)

    module = Mine(2)
    with eval_pass(module):
        module(torch.rand(1, 2, 3, 3))
    assert module.num_batches_tracked == 0


@pytest.mark.parametrize(
    "draws",
    [lambda: torch.rand(()).item(), lambda: float(np.random.rand()), random.random],  # noqa: NPY002
    ids=["torch", "numpy", "python"],
)
def test_global_generators_go_on_where_they_were(draws):
    model = nn.Linear(2, 2)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    expected = draws()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
    with eval_pass(model):
        draws()
        assert not model.training
    assert draws() == expected
    assert model.training


@pytest.mark.parametrize("form", ["attribute", "in a list", "buffer", "parameter"])
def test_tensors_without_values_are_left_alone(form):
    value = torch.empty(3, device="meta")
    module = Keeping([value] if form == "in a list" else value if form == "attribute" else None)
    if form == "buffer":
        module.register_buffer("table", value)
    elif form == "parameter":
        module.weight = nn.Parameter(value)
    with kept_state(module):
        module.count = 1
    assert not hasattr(module, "count")


def _counting():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * self.calls

    return torch.jit.script(Counting())


PARTS = {
    "batch norm": lambda: torch.jit.script(nn.BatchNorm2d(3)),
    "dropout": lambda: torch.jit.script(nn.Dropout(0.5)),
    "nested": lambda: torch.jit.script(nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.Dropout(0.5)))),
    "traced": lambda: torch.jit.trace(nn.BatchNorm2d(3), torch.rand(2, 3, 4, 4)),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(nn.BatchNorm2d(3).eval())),
    "with a counter": _counting,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("part", PARTS)
def test_scripted_parts_are_in_their_own_mode_again(part):
    torch.manual_seed(0)
    network, images = nn.Sequential(PARTS[part](), nn.ReLU()), torch.rand(2, 3, 4, 4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [getattr(module, "training", None) for module in network.modules()]
    with eval_pass(network, images):
        assert not any(getattr(module, "training", None) for module in network.modules())
        assert torch.equal(network(images), network(images)) or part == "with a counter"
    assert [getattr(module, "training", None) for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("make", [dict, OrderedDict, set, list, deque], ids=lambda make: make.__name__)
def test_what_was_empty_is_empty_again(make):
    value = make()
    with kept_state(Keeping(value)):
        if isinstance(value, dict):
            value["a"] = 1
        elif isinstance(value, set):
            value.add(1)
        else:
            value.append(1)
    assert not value


def test_hooks_that_a_pass_leaves_are_gone():
    module = Keeping(None)
    with kept_state(module):
        module.register_forward_hook(lambda *_: None)
    assert not module._forward_hooks


class Averaged(nn.Module):
    """Moves a copy of its layers towards them in each pass, as BYOL, MoCo and DINO do.

    Args:
        move: How: on the parameters, on their data, or by other data.
        frozen: Whether the copy's parameters ask for no gradients.
        every: Only in each so-many-th pass.
    """

    def __init__(self, move: str, frozen: bool = True, every: int = 1) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.target = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).requires_grad_(not frozen)
        self.move, self.every, self.passes = move, every, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        if self.passes % self.every == 0:
            with torch.no_grad():
                for target, online in zip(self.target.parameters(), self.online.parameters(), strict=True):
                    if self.move == "in place":
                        target.mul_(0.9).add_(online + 1, alpha=0.1)
                    elif self.move == "data in place":
                        target.data.mul_(0.9).add_(online.data + 1, alpha=0.1)
                    else:
                        target.data = 0.9 * target.data + 0.1 * (online.data + 1)
        return self.online(images)


@pytest.mark.parametrize("move", ["in place", "data in place", "other data"])
@pytest.mark.parametrize("frozen", [True, False])
def test_weights_of_layers_that_a_pass_averages_are_put_back_each_time(move: str, frozen: bool) -> None:
    network = Averaged(move, frozen).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(3):
        with kept_state(network), torch.no_grad():
            network(torch.rand(2, 3, 8, 8))
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    # The network's own passes change them as ever.
    network(torch.rand(2, 3, 8, 8))
    assert not torch.equal(network.target[0].weight, before["target.0.weight"])


def test_a_layer_that_kept_its_weights_in_a_first_pass_and_not_later_is_copied_from_then_on() -> None:
    network = Averaged("in place", every=2).eval()
    images = torch.rand(2, 3, 8, 8)
    with kept_state(network), torch.no_grad():
        network(images)
    for number in range(3):
        network.passes = 1
        before = network.target[0].weight.detach().clone()
        with kept_state(network), torch.no_grad():
            network(images)
        assert torch.equal(network.target[0].weight, before) == (number > 0)


def test_weights_that_no_pass_changes_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    images, clone, copied = torch.rand(2, 3, 8, 8), torch.Tensor.clone, []
    monkeypatch.setattr(torch.Tensor, "clone", lambda self, *a, **k: copied.append(self.shape) or clone(self, *a, **k))
    for expected in (2, 0):
        copied.clear()
        with kept_state(network), torch.no_grad():
            network(images)
        assert len(copied) == expected


@pytest.mark.parametrize("end", ["in turn", "the outer one first", "by an error"])
def test_passes_may_end_in_any_order(end):
    """Whatever was ended how, the next pass of a network sets its state aside."""
    one, other = nn.Sequential(nn.Dropout()), nn.Sequential(nn.Dropout())
    outer, inner = ExitStack(), ExitStack()
    outer.enter_context(eval_pass(one))
    inner.enter_context(eval_pass(other))
    error = KeyError("of the network's") if end == "by an error" else None
    for stack in (outer, inner) if end == "the outer one first" else (inner, outer):
        stack.__exit__(None if error is None else type(error), error, None)
    for model in (one, other):
        assert model[0].training
        with eval_pass(model):
            assert not model[0].training
        assert model[0].training
