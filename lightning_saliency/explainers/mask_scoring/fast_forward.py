"""A faster copy of a network, for many passes without gradients."""

from __future__ import annotations

import copy
import operator
import warnings
from collections import Counter, OrderedDict
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_map_only

from lightning_saliency.explainers.base import unwrap
from lightning_saliency.explainers.mask_scoring.precisions import PRECISIONS, Precision
from lightning_saliency.explainers.mask_scoring.whole_calls import calls_whole

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fast_inference(model: nn.Module, precision: Precision | None = "bf16") -> nn.Module:
    """A copy of the network for inference: BatchNorm folded away, channels last, weights in another precision.

    The copy is in eval mode, carries none of the hooks that were registered on the network, and shares no memory with
    it: it is a snapshot of its weights. Run it under ``torch.no_grad()``, under ``torch.autocast`` of the same
    precision, on images in ``torch.channels_last``.

    A BatchNorm is folded where ``torch.fx`` can follow the network's code and finds it directly after a convolution
    whose output is not used elsewhere. If the network cannot be followed (control flow that depends on the data, parts
    of a ``Sequential`` taken by a slice), the BatchNorms stay, with a warning; the other two settings still apply. If a
    ``LightningModule`` cannot be followed, its only child with parameters is tried, see `calls_whole`.

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
    return _fast_copy(model, precision)[0]


class FastCopy:
    """A `fast_inference` copy that is kept, and brought up to date with the network's weights at each use.

    That costs a pass over the weights, where a new copy would also trace the network again. The network's code must
    stay as it is; where parameters or buffers come, go, or change their shape or device, a new copy is made.

    Args:
        model: The network that is copied.
        precision: Precision of the copy, see `fast_inference`.
        compiled: Run the copy through ``torch.compile``, which takes up to a minute at the first call. Batches smaller
            than the largest so far are filled up, so that a last, smaller one needs no second compilation.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1)).eval()
        >>> copied = FastCopy(model, precision=None)
        >>> first = copied.current()
        >>> _ = nn.init.constant_(model[0].weight, 3.0)
        >>> copied.current() is first, round(first.get_submodule("0").weight.item(), 3)
        (True, 3.0)
    """

    def __init__(self, model: nn.Module, precision: Precision | None = "bf16", compiled: bool = False) -> None:
        self.model = unwrap(model)
        self.precision: Precision | None = precision
        self.compiled = compiled
        self._layout: object = None
        self._network: nn.Module | None = None
        self._runner: nn.Module | None = None
        self._folded: dict[str, str] = {}

    def current(self) -> nn.Module:
        """The copy, with the weights and statistics that the network has now."""
        network = self._updated()
        if not self.compiled:
            return network
        if self._runner is None:
            self._runner = _Compiled(network)
        return self._runner

    def _updated(self) -> nn.Module:
        tensors = _tensors(self.model)
        layout = [(name, tensor.shape, tensor.device) for name, tensor in tensors.items()]
        if self._network is None or layout != self._layout:
            self._network, self._folded = _fast_copy(self.model, self.precision)
            self._layout = layout
            self._runner = None
            return self._network
        with torch.no_grad():
            own = _tensors(self._network)
            for conv, norm in self._folded.items():
                values = _folded_weights(self.model.get_submodule(conv), self.model.get_submodule(norm))
                for name, value in zip((f"{conv}.weight", f"{conv}.bias"), values, strict=True):
                    own.pop(name).copy_(value)
            for name, tensor in own.items():
                # What tracing made of the code's own constants has no counterpart, and does not change.
                if name in tensors:
                    tensor.copy_(tensors[name])
        return self._network


class _Compiled(nn.Module):
    """Runs a network compiled, even where compiled modules are set to run eagerly, for one batch size.

    Args:
        network: Returns tensors whose first dimension is the batch's, alone or in containers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._compiled = torch.compile(network)
        self._size = 0

    def forward(self, images: Tensor) -> Any:
        """The network's outputs for images ``[B, C, H, W]``."""
        count = images.shape[0]
        self._size = max(self._size, count)
        if count < self._size:
            images = torch.cat([images, images[-1:].expand(self._size - count, -1, -1, -1)])
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.compiler.set_stance("default"):
            returned = self._compiled(images)
        return tree_map_only(Tensor, lambda tensor: tensor[:count], returned)


def _fast_copy(model: nn.Module, precision: Precision | None) -> tuple[nn.Module, dict[str, str]]:
    """The copy, and which convolution of the network (by name) took in which BatchNorm."""
    duplicate = inference_copy(model)
    folded: dict[str, str] = {}
    if any(isinstance(module, _NORMS) for module in duplicate.modules()):
        duplicate, folded = _fold_batch_norms(duplicate)
    if precision is not None:
        for module in duplicate.modules():
            if isinstance(module, (*_CONVOLUTIONS, nn.Linear)) and not is_parametrized(module):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(PRECISIONS[precision])
    return duplicate.to(memory_format=torch.channels_last), folded


def _take_off_wrappers(model: nn.Module) -> None:
    """Put compiled modules inside a copy back in their wrappers' place: a trace does not see through these."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(inner := getattr(child, "_orig_mod", None), nn.Module):
                setattr(parent, name, inner)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, by names without the wrappers of ``torch.compile``."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}


def _folded_weights(layer: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = fuse_conv_bn_weights(
        cast(Tensor, layer.weight),
        cast("Tensor | None", layer.bias),
        cast(Tensor, norm.running_mean),
        cast(Tensor, norm.running_var),
        cast(float, norm.eps),
        cast("Tensor | None", norm.weight),
        cast("Tensor | None", norm.bias),
    )
    return weight, bias


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


def _fold_batch_norms(model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """The network with every BatchNorm folded that directly follows a convolution used once, for nothing else.

    Also the names of these convolutions, each with its BatchNorm's.
    """
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:  # The network's own code runs on proxies here and may raise anything.
        inner = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
        is_module = any(base.__name__ == "LightningModule" for base in type(model).__mro__)
        if len(inner) == 1 and is_module and calls_whole(type(model), inner[0]):
            network, names = _fold_batch_norms(model.get_submodule(inner[0]))
            setattr(model, inner[0], network)
            return model, {f"{inner[0]}.{conv}": f"{inner[0]}.{norm}" for conv, norm in names.items()}
        warnings.warn(
            f"torch.fx cannot follow {type(model).__name__}.forward ({type(error).__name__}: {error}). Its BatchNorms "
            "are not folded, which costs a few per cent of speed; to fold them, use a network whose forward does not "
            "branch on its data.",
            stacklevel=5,
        )
        return model, {}
    folded: dict[str, str] = {}
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
        folded[str(before.target)] = str(norm_node.target)
        norm_node.replace_all_uses_with(before)
        traced.graph.erase_node(norm_node)
    traced.graph.lint()
    traced.recompile()
    traced.delete_all_unused_submodules()
    return cast(nn.Module, traced), folded
