"""Counting FLOPs forward and backward, as torch counts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker


@dataclass
class Flops:
    """FLOPs so far.

    Attributes:
        forward: Outside of backward passes.
        backward: During backward passes.
    """

    forward: int = 0
    backward: int = 0


@contextmanager
def counted_flops() -> Iterator[Flops]:
    """Counts the FLOPs of convolutions, matrix products and attention, by ``torch.utils.flop_counter``'s formulas.

    A multiplication and the addition that follows it are two FLOPs. Operations of single elements count nothing.

    Yields:
        The FLOPs so far, known when the context ends.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(3, 5, bias=False)
        >>> with counted_flops() as flops:
        ...     layer(torch.ones(2, 3)).sum().backward()
        >>> flops
        Flops(forward=60, backward=60)
    """
    flops = Flops()
    with _Counting(flops):
        yield flops


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of its __init_subclass__
    # `FlopCounterMode` also follows modules through backward passes, which fails with explainers that ask for the
    # gradients of single tensors.
    def __init__(self, flops: Flops) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = flops
        self.tracker = ModuleTracker()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            count = formula(*args, **kwargs, out_val=out)
            if self.tracker.is_bw:
                self.flops.backward += count
            else:
                self.flops.forward += count
        return out
