"""Counting the images that are passed through a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


@contextmanager
def counted_passes(size: tuple[int, int]) -> Iterator[list[int]]:
    """Counts the images that are passed through any network as a whole while the context lasts.

    A call on images ``[N, C, *size]`` counts if the module has parameters and is called from outside of any module.
    Passes of a copy of the network, with which some explainers score masked images, count; transforms of images do not.

    Args:
        size: Height and width of the images.
    """
    count, depth = [0], [0]

    def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        depth[0] += 1
        images = arguments[0] if arguments else None
        if depth[0] == 1 and isinstance(images, Tensor) and images.ndim == 4 and tuple(images.shape[2:]) == size:
            count[0] += len(images) if next(module.parameters(), None) is not None else 0

    def leave(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        depth[0] -= 1

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()
