"""Keeping what a network keeps: the state that a pass of our own may change is put back after it."""

from __future__ import annotations

import random
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Containers inside containers are looked into so many levels deep.
_DEPTH = 3
_Restore = Callable[[], object]


@contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """On leaving, also by an exception, what the modules of a network keep is as it was.

    Restored are every module's attributes, and the content of those that are dicts, lists, sets, deques, NumPy arrays,
    tensors or random number generators, also inside of each other (so also tables of hooks, buffers and parameters,
    counters, queues, caches, and the states of metrics). The weights of layers of ``torch.nn``, too, which a network
    with a moving average of itself changes in its ``forward``: they are copied in the first pass over a layer, and from
    then on only where that pass changed them. The running statistics of normalisation layers do not change in eval
    mode. What lies outside of the modules is not restored, nor are the attributes of other objects that a module holds.

    Inside, what a LightningModule logs in its ``forward`` is not logged.

    Args:
        model: The network.
    """
    modules = list(model.modules())
    attributes = [(module, dict(vars(module))) for module in modules]
    kept = _Kept()
    for module in modules:
        kept.add_module(module)
    try:
        for module in modules:
            if hasattr(type(module), "log_dict") and hasattr(type(module), "training_step"):
                vars(module)["log"] = vars(module)["log_dict"] = _ignore
        yield
    finally:
        for module, values in attributes:
            _refill(vars(module), values)
        kept.restore()
        kept.judge_layers()


def _ignore(*_args: object, **_kwargs: object) -> None:
    """Stands where a LightningModule's ``log`` is."""


class _Kept:
    """The present content of values, to be given back to them."""

    def __init__(self) -> None:
        self._restores: list[_Restore] = []
        # Most containers of a network are tables of hooks without an entry.
        self._empty: list[Any] = []
        # Layers, and the versions of their weights: each write to a tensor counts it up.
        self._layers: list[tuple[nn.Module, list[tuple[Tensor, int]]]] = []

    def restore(self) -> None:
        """Give every value its content back."""
        for value in self._empty:
            if value:
                value.clear()
        for restore in self._restores:
            restore()

    def judge_layers(self) -> None:
        """Know from now on which layers kept their weights in this pass, and need not be copied in the next one."""
        for layer, versions in self._layers:
            _STEADY.set(layer, all(weight._version == version for weight, version in versions))

    def add_module(self, module: nn.Module) -> None:
        """Keep the content of a module's attributes, not that of the modules inside it."""
        kind = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            self._add_scripted(module)
        for name, value in vars(module).items():
            # Quick for what nearly all attributes are.
            if type(value) in _PLAIN:
                continue
            if type(value) in _TABLES and not value:
                self._empty.append(value)
            elif name == "_modules" or (name == "_buffers" and _only_reads_buffers(kind)):
                self._add(value, 0)
            elif name == "_parameters":
                steady = _is_layer(kind) and _STEADY.holds(module)
                if _is_layer(kind):
                    self._layers.append((module, _versions(value.values())))
                self._add(value, 0 if steady else 1)
            else:
                self._add(value, _DEPTH)

    def _add_scripted(self, module: nn.Module) -> None:
        """Keep a scripted module's mode and buffers, which are no attributes of Python's; a frozen one has no mode."""
        training = getattr(module, "training", None)
        if training is not None:
            self._restores.append(lambda: setattr(module, "training", training))
        for buffer in module.buffers(recurse=False):
            self._add(buffer, 0)

    def _add(self, value: Any, depth: int) -> None:
        """Keep a value's content, and what lies up to ``depth`` levels inside it."""
        add = self._restores.append
        if isinstance(value, (dict, list, set, deque)):
            copy = value.copy()
            add(lambda: _refill(value, copy))
            if depth > 0 and not isinstance(value, set):
                for each in value.values() if isinstance(value, dict) else value:
                    if type(each) not in _PLAIN:
                        self._add(each, depth - 1)
        elif isinstance(value, Tensor):
            # Inference tensors cannot be written to in an ordinary pass, tensors on the meta device have no values.
            if type(value) in (Tensor, nn.Parameter, nn.Buffer) and not value.is_inference() and not value.is_meta:
                add(_tensor_restore(value))
        elif isinstance(value, np.ndarray):
            values = value.copy()
            add(lambda: np.copyto(value, values))
        elif isinstance(value, torch.Generator):
            state = value.get_state()
            add(lambda: value.set_state(state))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            numpy_state = bits.state
            add(lambda: setattr(bits, "state", numpy_state))
        elif isinstance(value, np.random.RandomState):
            legacy = value.get_state()
            add(lambda: value.set_state(legacy))
        elif isinstance(value, random.Random):
            python = value.getstate()
            add(lambda: value.setstate(python))


class _Steady:
    """Layers whose weights no pass has changed. Layers that are gone are forgotten."""

    def __init__(self) -> None:
        self._layers: dict[int, weakref.ref[nn.Module]] = {}

    def holds(self, layer: nn.Module) -> bool:
        """Whether the layer is one of them."""
        found = self._layers.get(id(layer))
        return found is not None and found() is layer

    def set(self, layer: nn.Module, steady: bool) -> None:
        """Say whether it is one of them."""
        key = id(layer)
        if steady and not self.holds(layer):
            self._layers[key] = weakref.ref(layer, lambda _: self._layers.pop(key, None))
        elif not steady:
            self._layers.pop(key, None)


_STEADY = _Steady()


def _versions(weights: Iterable[Tensor | None]) -> list[tuple[Tensor, int]]:
    """The tensors and how often each was written to; inference tensors do not count it."""
    return [(weight, weight._version) for weight in weights if weight is not None and not weight.is_inference()]


def _tensor_restore(tensor: Tensor) -> _Restore:
    values = tensor.detach().clone()

    def restore() -> None:
        # Written to only if it differs, two NaN counting as the same: a write invalidates graphs that saved the tensor.
        if tensor.shape != values.shape:
            tensor.data = values
        elif not bool(((tensor == values) | ((tensor != tensor) & (values != values))).all()):
            with torch.no_grad():
                tensor.copy_(values)

    return restore


def _refill(value: Any, content: Any) -> None:
    """Give a container its former entries back, touching it only if an entry is not the same object."""
    if isinstance(value, dict):
        if not (
            len(value) == len(content)
            and all(map(is_, value.values(), content.values()))
            and (all(map(is_, value, content)) or list(value) == list(content))
        ):
            for key in [key for key in value if key not in content]:
                del value[key]
            value.update(content)
            if list(value) != list(content):
                value.clear()
                value.update(content)
    elif isinstance(value, (list, deque)):
        if len(value) != len(content) or not all(map(is_, value, content)):
            value.clear()
            value.extend(content)
    elif value != content:
        value.clear()
        value.update(content)


_PLAIN = frozenset({int, float, complex, bool, str, bytes, tuple, type(None)})
_TABLES = frozenset({dict, OrderedDict, set})
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
# Their running statistics are only read in eval mode. Subclasses may do as they please.
_NORMALIZATION = frozenset(
    {
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.SyncBatchNorm,
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
    }
)


def _only_reads_buffers(kind: type[nn.Module]) -> bool:
    return kind in _NORMALIZATION


def _is_layer(kind: type[nn.Module]) -> bool:
    """Whether a class is, or is made from, a layer of ``torch.nn``."""
    return any(
        parent.__module__.startswith("torch.nn.modules") and parent not in _CONTAINERS for parent in kind.__mro__
    )
