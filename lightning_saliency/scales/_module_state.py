"""Keeping what a network keeps: the state that a pass of our own may change is put back after it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    counters, queues, caches, and the states of metrics). Of parameters the values are restored where a module that is
    no layer of ``torch.nn`` holds them; a layer's own weights change in an optimiser's step alone, and so do not the
    running statistics of normalisation layers in eval mode. What lies outside of the modules is not restored, nor are
    the attributes of other objects that a module holds.

    Inside, what a LightningModule logs in its ``forward`` is not logged.

    Args:
        model: The network.
    """
    modules = list(model.modules())
    attributes = [(module, dict(vars(module))) for module in modules]
    restores = [restore for module in modules for restore in _content_of(module)]
    try:
        for module in modules:
            if hasattr(type(module), "log_dict") and hasattr(type(module), "training_step"):
                vars(module)["log"] = vars(module)["log_dict"] = _ignore
        yield
    finally:
        for module, values in attributes:
            _refill(vars(module), values)
        for restore in restores:
            restore()


def _ignore(*_args: object, **_kwargs: object) -> None:
    """Stands where a LightningModule's ``log`` is."""


def _content_of(module: nn.Module) -> Iterator[_Restore]:
    layer = _is_layer(type(module))
    for name, value in vars(module).items():
        if name == "_buffers" and _only_reads_buffers(type(module)):
            yield from _content(value, 0)
        elif name == "_parameters":
            yield from _content(value, 0 if layer else 1)
        elif name != "_modules":
            yield from _content(value, _DEPTH)
        else:
            yield from _content(value, 0)


def _content(value: Any, depth: int) -> Iterator[_Restore]:
    """Functions that give a value, and what lies up to ``depth`` levels inside it, its present content back."""
    if isinstance(value, (dict, list, set, deque)):
        copy = value.copy()
        yield lambda: _refill(value, copy)
        if depth > 0 and not isinstance(value, set):
            for each in value.values() if isinstance(value, dict) else value:
                if not isinstance(each, _PLAIN):
                    yield from _content(each, depth - 1)
    elif isinstance(value, Tensor):
        # Inference tensors cannot be written to in an ordinary pass, tensors on the meta device have no values.
        if type(value) in (Tensor, nn.Parameter, nn.Buffer) and not value.is_inference() and not value.is_meta:
            yield _tensor_restore(value)
    elif isinstance(value, np.ndarray):
        values = value.copy()
        yield lambda: np.copyto(value, values)
    elif isinstance(value, torch.Generator):
        state = value.get_state()
        yield lambda: value.set_state(state)
    elif isinstance(value, np.random.Generator):
        bits = value.bit_generator
        numpy_state = bits.state
        yield lambda: setattr(bits, "state", numpy_state)
    elif isinstance(value, np.random.RandomState):
        legacy = value.get_state()
        yield lambda: value.set_state(legacy)
    elif isinstance(value, random.Random):
        python = value.getstate()
        yield lambda: value.setstate(python)


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
        if list(map(id, value.values())) != list(map(id, content.values())) or list(value) != list(content):
            for key in [key for key in value if key not in content]:
                del value[key]
            value.update(content)
            if list(value) != list(content):
                value.clear()
                value.update(content)
    elif isinstance(value, (list, deque)):
        if list(map(id, value)) != list(map(id, content)):
            value.clear()
            value.extend(content)
    elif value != content:
        value.clear()
        value.update(content)


_PLAIN = (int, float, bool, str, bytes, type(None))
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
