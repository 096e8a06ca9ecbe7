"""Copies of a network that share nothing with it."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn

from lightning_saliency.explainers.base import unwrap
from lightning_saliency.scales.tracing.trace import tensors_in


def inference_copy(model: nn.Module) -> nn.Module:
    """A copy of a network in eval mode, without hooks, gradients or the wrappers of ``torch.compile``.

    It shares no memory with the network. Hooks with which ``torch.nn.utils`` computes weights stay.
    """
    with torch.no_grad():  # a scripted module's parameters would be copied as functions of its own
        duplicate = _copy_without_hooks(unwrap(model)).eval()
    _take_off_wrappers(duplicate)
    for parameter in duplicate.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return duplicate


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, under each of their names, without the wrappers of ``torch.compile``."""
    parameters = model.named_parameters(remove_duplicate=False)
    buffers = model.named_buffers(remove_duplicate=False)
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in (*parameters, *buffers)}


def _copy_without_hooks(model: nn.Module) -> nn.Module:
    """A deep copy without forward and backward hooks, except those with which ``torch.nn.utils`` computes weights.

    Hooks are bound to other objects, a trainer perhaps: copied, they would drag these along and report the copy's
    passes. Of tensors that modules keep of a pass with gradients the values are copied, not the graph.
    """
    memo: dict[int, object] = {}
    for module in model.modules():
        for name, hooks in vars(module).items():
            if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and isinstance(hooks, dict):
                kept = (
                    (key, copy.deepcopy(hook))
                    for key, hook in hooks.items()
                    if type(hook).__module__.startswith("torch.nn.utils")
                )
                memo[id(hooks)] = OrderedDict(kept)
        for tensor in tensors_in(vars(module)):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(model, memo)


def _take_off_wrappers(model: nn.Module) -> None:
    """Put compiled modules inside a copy back in their wrappers' place: a trace does not see through these."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(inner := getattr(child, "_orig_mod", None), nn.Module):
                setattr(parent, name, inner)
