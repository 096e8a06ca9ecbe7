"""Counting FLOPs forward and backward, as torch counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.utils.flop_counter import FlopCounterMode, flop_registry
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
    tracker = ModuleTracker()

    def split(formula: Callable[..., int]) -> Callable[..., int]:
        def counted(*arguments: Any, **options: Any) -> int:
            count = formula(*arguments, **options)
            if tracker.is_bw:
                flops.backward += count
            else:
                flops.forward += count
            return count

        counted._get_raw = True  # type: ignore[attr-defined]  # its arguments are tensors, not shapes
        return counted

    with FlopCounterMode(display=False, custom_mapping={op: split(formula) for op, formula in flop_registry.items()}):
        yield flops
