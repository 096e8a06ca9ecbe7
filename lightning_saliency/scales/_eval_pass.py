"""What every pass of our own through a network needs: eval mode, nothing recorded, random numbers and buffers kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lightning_saliency.scales._recording import recording_paused


@contextmanager
def eval_pass(model: nn.Module, *images: Tensor) -> Iterator[None]:
    """Inside, every submodule is in eval mode, inference mode is off, and taps do not record.

    On leaving, also by an exception, each submodule has its own training flag back, and the random number generators of
    the CPU and of the CUDA devices in use their state. Modes are set by attribute, not by ``model.eval()``: some
    networks merge weights or freeze layers in there.

    Args:
        model: The network.
        images: Images; only their device is used.
    """
    modules = list(model.modules())
    flags = [module.training for module in modules]
    devices = {tensor.device.index for tensor in (*images, *model.parameters()) if tensor.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(recording_paused())
        stack.enter_context(torch.random.fork_rng(devices=sorted(devices)))
        try:
            for module in modules:
                module.training = False
            yield
        finally:
            for module, flag in zip(modules, flags, strict=True):
                module.training = flag


def put_back(buffers: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Give buffers their former values, as pairs (buffer, values).

    A buffer is written to only if it differs, two NaN counting as the same: a write invalidates graphs of the caller's
    that saved the buffer.
    """
    for buffer, values in buffers:
        if not buffer.is_meta and not bool(((buffer == values) | ((buffer != buffer) & (values != values))).all()):
            with torch.no_grad():
                buffer.copy_(values)
