"""Running a network without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from lightning_saliency.scales.tracing.eval_pass import eval_pass


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, ``DistributedDataParallel`` and ``DataParallel`` wrappers.

    Our own passes have no gradients to reduce between processes, and compiled code would not run hooks registered
    after it was compiled.

    Raises:
        TypeError: If ``model`` is not an ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Got model of type {type(model).__name__}. Allowed is a torch.nn.Module; give the network.")
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (DataParallel, DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` can be run and differentiated by its activations; outside, nothing has changed.

    Inside, every submodule is in eval mode, no parameter requires a gradient (so a graph is built only from where a
    tensor is made to require one), gradients are enabled even below ``torch.no_grad()`` and ``torch.inference_mode()``,
    and compiled modules run eagerly, since compiled code does not see hooks registered later. Taps that wait for one of
    the caller's passes do not record. Autocast stays as the caller has it.

    On leaving, also by an exception, each parameter has its ``requires_grad`` back, each module what it kept before
    (its training flag, buffers, counters, queues, caches, generators of its own, the states of metrics), and the random
    number generators of Python, NumPy, the CPU and the model's CUDA devices their state. What a LightningModule logs in
    its ``forward`` is not logged. ``.grad`` is not touched. Calls may be nested; the
    outermost one of a network sets aside and restores.

    Args:
        model: The network; wrappers are allowed, see ``unwrap``.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3).eval()).train()
        >>> model[1].eval().training, model[0].training
        (False, True)
        >>> with undisturbed(model):
        ...     model[1].training, model[0].training
        (False, False)
        >>> model[1].training, model[0].training
        (False, True)
    """
    # Inference tensors cannot have the flag set outside inference mode, and build no graph either.
    parameters = [
        parameter for parameter in model.parameters() if parameter.requires_grad and not parameter.is_inference()
    ]
    with ExitStack() as stack:
        stack.enter_context(eval_pass(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            # This also keeps autocast from remembering weights cast in here, which are cut off from their parameters:
            # the caller's own forward under the same autocast would use them and leave the weights without gradient.
            for parameter in parameters:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)
