"""A faster copy of a network, for many passes without gradients."""

from __future__ import annotations

import copy
import operator
import warnings
from collections import Counter, OrderedDict
from typing import Literal, cast

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from lightning_saliency.explainers.base import unwrap

Precision = Literal["bf16", "fp16"]
PRECISIONS: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fast_inference(model: nn.Module, precision: Precision | None = "bf16") -> nn.Module:
    """A copy of the network for inference: BatchNorm folded away, channels last, weights in half precision.

    The copy is in eval mode, carries none of the hooks that were registered on the network, and shares no memory with
    it: it is a snapshot of its weights. Run it under ``torch.no_grad()``, under ``torch.autocast`` of the same
    precision, on images in ``torch.channels_last``.

    A BatchNorm is folded where ``torch.fx`` can follow the network's code and finds it behind a convolution whose
    output goes nowhere else. Of a network that cannot be followed (control flow that depends on the data), the
    BatchNorms stay, with a warning; the other two settings still apply.

    Args:
        model: The network; wrappers are taken off.
        precision: Weights of convolutions and linear layers are stored in it, so that autocast need not convert them
            anew in each pass. ``None``: they stay as they are.

    Returns:
        A module called as ``model`` is.

    Warns:
        UserWarning: If the network cannot be followed.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
        >>> sorted(type(module).__name__ for module in fast_inference(model, None).children())
        ['Conv2d', 'ReLU']
    """
    duplicate = _copy_without_hooks(unwrap(model)).eval()
    if any(isinstance(module, _NORMS) for module in duplicate.modules()):
        duplicate = _fold_batch_norms(duplicate)
    for parameter in duplicate.parameters():
        parameter.requires_grad_(False)
    if precision is not None:
        for module in duplicate.modules():
            if isinstance(module, (*_CONVOLUTIONS, nn.Linear)) and not is_parametrized(module):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(PRECISIONS[precision])
    return duplicate.to(memory_format=torch.channels_last)


def _copy_without_hooks(model: nn.Module) -> nn.Module:
    """A deep copy without forward and backward hooks, except those with which ``torch.nn.utils`` computes weights.

    Hooks are bound to other objects, a trainer perhaps: copied, they would drag these along and report the copy's
    passes.
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
    return copy.deepcopy(model, memo)


def _fold_batch_norms(model: nn.Module) -> nn.Module:
    """The network with every BatchNorm folded that directly follows a convolution used once, for nothing else."""
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:  # The network's own code runs on proxies here and may raise anything.
        warnings.warn(
            f"torch.fx cannot follow {type(model).__name__}.forward ({type(error).__name__}: {error}). Its BatchNorms "
            "are not folded, which costs a few per cent of speed; to fold them, use a network whose forward does not "
            "branch on its data.",
            stacklevel=4,
        )
        return model
    modules = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for norm_node in list(traced.graph.nodes):
        norm = modules.get(str(norm_node.target)) if norm_node.op == "call_module" else None
        if not isinstance(norm, _NORMS) or norm.running_mean is None or calls[norm_node.target] > 1:
            continue
        before = norm_node.args[0]
        layer = modules.get(str(before.target)) if before.op == "call_module" else None
        if (
            not isinstance(layer, _CONVOLUTIONS)
            or isinstance(layer, nn.modules.conv._ConvTransposeNd)
            or len(before.users) > 1
            or calls[before.target] > 1
            or is_parametrized(layer)
            or layer._forward_pre_hooks
        ):
            continue
        parent, _, name = str(before.target).rpartition(".")
        setattr(operator.attrgetter(parent)(traced) if parent else traced, name, fuse_conv_bn_eval(layer, norm))
        norm_node.replace_all_uses_with(before)
        traced.graph.erase_node(norm_node)
    traced.graph.lint()
    traced.recompile()
    traced.delete_all_unused_submodules()
    return cast(nn.Module, traced)
