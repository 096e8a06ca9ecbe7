"""What every pass of our own through a network needs: eval mode, nothing recorded, state and random numbers kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_saliency.randomness import isolated_rng
from lightning_saliency.scales.tracing.module_state import kept_state
from lightning_saliency.scales.tracing.recording import recording_paused


@dataclass(eq=False)
class _Pass:
    """A pass of our own through a network; whoever ended it, and in which thread, it is not open any more."""

    model: nn.Module
    open: bool = True


_UNDER_WAY: ContextVar[tuple[_Pass, ...]] = ContextVar("under_way", default=())


@contextmanager
def eval_pass(model: nn.Module, *images: Tensor) -> Iterator[None]:
    """Inside, every submodule is in eval mode, inference mode is off, and taps do not record.

    On leaving, also by an exception, each submodule has its own training flag and what else it keeps back (see
    `kept_state`), and the random number generators of Python, NumPy, the CPU and the CUDA devices in use their state.
    Modes are set by attribute, not by ``model.eval()``: some networks merge weights or freeze layers in there. A pass
    inside another one of the same network changes and keeps nothing by itself, and relies on the outer one for it.

    Args:
        model: The network.
        images: Images; only their device is used.
    """
    if any(each.open and each.model is model for each in _UNDER_WAY.get()):
        with torch.inference_mode(False):
            yield
        return
    devices = {tensor.device.index for tensor in (*images, *model.parameters()) if tensor.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(recording_paused())
        stack.enter_context(isolated_rng())
        stack.enter_context(torch.random.fork_rng(devices=sorted(devices)))
        stack.enter_context(kept_state(model))
        for module in model.modules():
            if getattr(module, "training", True):  # nn.Module looks long at what it is given; a frozen script has none
                module.training = False
        own = _Pass(model)
        _UNDER_WAY.set((*_UNDER_WAY.get(), own))
        try:
            yield
        finally:
            own.open = False
            _UNDER_WAY.set(tuple(each for each in _UNDER_WAY.get() if each.open))
