"""A device that is none: tensors that say they lie elsewhere, and a list of what copies them and what waits for them.

On a CPU, ``tensor.cpu()`` does nothing and ``float(tensor)`` waits for nobody, so a profile there is blind to what a
GPU pays for. Here each tensor of the stand-in device holds one of the CPU and computes with it, but every transfer,
every number read back and every copy passes through torch's dispatcher, as it would on a GPU, and is noted with the
line of the package that asked for it. Times mean nothing here; counts are exact.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import lightning_saliency

#: Torch needs a device that it knows; nothing else here uses this one.
DEVICE = torch.device("meta")
PACKAGE = Path(lightning_saliency.__file__).parent

#: Operators whose result is another copy of values that were there before.
COPIES = frozenset(
    [
        "clone",
        "copy_",
        "_to_copy",
        "cat",
        "stack",
        "index",
        "index_select",
        "gather",
        "constant_pad_nd",
        "reflection_pad2d",
        "replication_pad2d",
        "nan_to_num",
        "repeat",
        "roll",
        "flip",
        "expand_copy",
    ]
)
#: Operators whose result the host has to know before it goes on.
WAITS = frozenset(
    [
        "_local_scalar_dense",
        "equal",
        "is_nonzero",
        "nonzero",
        "masked_select",
        "_unique",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "bincount",
    ]
)
#: Kind, operator and line -> how often it came, and bytes in all.
Counts = dict[tuple[str, str, str], tuple[float, float]]


class Event(NamedTuple):
    """One operator that copies or waits.

    Attributes:
        kind: ``"copy"`` or ``"wait"``.
        operator: Its name in torch's dispatcher.
        line: The line of the package that called it, ``file.py:12 function``; ``"the network"`` for the network's own.
        size: Bytes that it made; 0 for one that only waits.
    """

    kind: str
    operator: str
    line: str
    size: int


class Elsewhere(Tensor):
    """A tensor of the stand-in device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        tensor: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        tensor.inner = inner
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})

    # What torch does not ask its dispatcher for where a tensor has no memory of its own.

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def item(self) -> Any:
        return torch.ops.aten._local_scalar_dense.default(self)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def as_subclass(self, kind: type) -> Tensor:  # type: ignore[override]
        return self  # stands in for a plain tensor already

    def new_tensor(self, values: Any, dtype: torch.dtype | None = None) -> Tensor:  # type: ignore[override]
        return torch.tensor(values, dtype=dtype or self.dtype, device=self.device)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __index__(self) -> int:
        return int(self.item())


class Events(TorchDispatchMode):
    """Inside the ``with``, tensors can be moved to `DEVICE`, and what copies or waits is noted.

    Args:
        least: Bytes from which a copy on the device counts.

    Attributes:
        found: The events in order; the network's own lie under the line ``"the network"``.
    """

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least
        self.found: list[Event] = []
        self._patches = ExitStack()

    def __enter__(self) -> Events:
        # This device has no autocast to be switched off, and torch.tensor would make no values on it.
        for name, function in (("autocast", _no_autocast), ("tensor", _sent(torch.tensor))):
            self._patches.enter_context(mock.patch.object(torch, name, function))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled():
            # There, operators that consist of others come as they are.
            super().__enter__()
            try:
                parts = function.decompose(*args, **(kwargs or {}))
            finally:
                super().__exit__(None, None, None)
            if parts is not NotImplemented:
                return parts
        out = _run(function, args, kwargs or {})
        event = self._event(function, args, kwargs or {}, out)
        if event is not None:
            self.found.append(event)
        return out

    def counted(self) -> Counts:
        """How often each kind of event came, and how many bytes it made in all."""
        counts: Counts = {}
        for *event, size in self.found:
            times, bytes_ = counts.get(tuple(event), (0, 0))
            counts[tuple(event)] = (times + 1, bytes_ + size)
        return counts

    def _event(self, function: Any, args: Any, kwargs: Any, out: Any) -> Event | None:
        name = function.overloadpacket.__name__
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        here = any(isinstance(value, Elsewhere) for value in given)
        made = [value for value in tree_leaves(out) if isinstance(value, Tensor)]
        size = sum(value.numel() * value.element_size() for value in made)
        if name in ("_to_copy", "copy_"):
            source = args[0] if name == "_to_copy" else args[1]
            crosses = isinstance(source, Elsewhere) != isinstance(made[0], Elsewhere)
            to_host = crosses and isinstance(source, Elsewhere)
            patient = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
            if crosses and (to_host or not patient):
                return Event("wait", f"{name} {'to' if to_host else 'from'} the host", _line(), size)
            if crosses:
                return None
        if not here:
            return None
        if name in WAITS or (name in ("index", "index_put_", "index_put") and _by_mask(args[1])):
            return Event("wait", name, _line(), 0)
        if name.startswith("index") and any(
            isinstance(one, Tensor) and not isinstance(one, Elsewhere) for one in given
        ):
            return Event("wait", f"{name} by numbers from the host", _line(), size)
        if name in COPIES and size >= self.least:
            return Event("copy", name, _line(), size)
        return None


def _no_autocast(*given: Any, **named: Any) -> AbstractContextManager[None]:
    return nullcontext()


def _sent(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.tensor`` that makes a tensor on the CPU, and sends it from there."""

    def made(*given: Any, device: Any = None, **named: Any) -> Tensor:
        tensor = make(*given, **named)
        return tensor if device is None else tensor.to(device)

    return made


def _by_mask(indices: Any) -> bool:
    return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in indices)


def _run(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What an operator makes of tensors of both kinds, computed on the CPU."""
    given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    device = kwargs.get("device")
    elsewhere = any(isinstance(one, Elsewhere) for one in given) if device is None else device.type == DEVICE.type

    def inside(value: Any) -> Any:
        if isinstance(value, Elsewhere):
            return value.inner
        return torch.device("cpu") if isinstance(value, torch.device) else value

    # What is written to stays the tensor that it is.
    known = {id(one.inner): one for one in given if isinstance(one, Elsewhere)}

    def outside(value: Any) -> Any:
        if not elsewhere or not isinstance(value, Tensor) or isinstance(value, Elsewhere):
            return value
        return known.get(id(value)) or Elsewhere(value)

    return tree_map(outside, function(*tree_map(inside, args), **tree_map(inside, kwargs)))


def _line() -> str:
    """The line of the package that is nearest to the operator; what a module of the network does is its own."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(str(PACKAGE)):
            place = Path(path).relative_to(PACKAGE).as_posix()
            return f"{place}:{frame.f_lineno} {frame.f_code.co_name}"
        if path.endswith("torch/nn/modules/module.py"):
            return "the network"
        frame = frame.f_back
    return "others"
