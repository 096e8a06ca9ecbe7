"""What every pass of our own through a network needs: eval mode, nothing recorded, state and random numbers kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from lightning_saliency.randomness import isolated_rng
from lightning_saliency.scales.tracing.module_state import kept_state
from lightning_saliency.scales.tracing.recording import recording_paused

#: The networks that passes of our own are going on through.
_UNDER_WAY: ContextVar[tuple[nn.Module, ...]] = ContextVar("under_way", default=())


@contextmanager
def eval_pass(model: nn.Module, *images: Tensor) -> Iterator[None]:
    """Inside, every submodule is in eval mode, inference mode is off, and taps do not record.

    On leaving, also by an exception, each submodule has its own training flag and what else it keeps back (see
    `kept_state`), and the random number generators of Python, NumPy, the CPU and the CUDA devices in use their state.
    Modes are set by attribute, not by ``model.eval()``: some networks merge weights or freeze layers in there. A pass
    inside another one of the same network keeps nothing by itself: what the outer one leaves is the outer one's state.

    Args:
        model: The network.
        images: Images; only their device is used.
    """
    if any(model is each for each in _UNDER_WAY.get()):
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
        token = _UNDER_WAY.set((*_UNDER_WAY.get(), model))
        try:
            yield
        finally:
            _UNDER_WAY.reset(token)
