"""BatchNorms folded into the convolutions before them."""

from __future__ import annotations

import operator
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from lightning_saliency.explainers.mask_scoring.whole_calls import calls_whole

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """The network with every BatchNorm folded that directly follows a convolution used once, for nothing else.

    Args:
        model: The network, in eval mode; it may be changed.

    Returns:
        The network, called with images alone, and the names of these convolutions, each with its BatchNorm's.

    Warns:
        UserWarning: If ``torch.fx`` cannot follow the network's code.
    """
    if not any(isinstance(module, _NORMS) for module in model.modules()):
        return model, {}
    try:
        traced = fx.GraphModule(model, _Tracer().trace(model), type(model).__name__)
    except Exception as error:  # The network's own code runs on proxies here and may raise anything.
        inner = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
        is_module = any(base.__name__ == "LightningModule" for base in type(model).__mro__)
        if len(inner) == 1 and is_module and calls_whole(type(model), inner[0]):
            network, names = fold_batch_norms(model.get_submodule(inner[0]))
            setattr(model, inner[0], network)
            return model, {f"{inner[0]}.{conv}": f"{inner[0]}.{norm}" for conv, norm in names.items()}
        warnings.warn(
            f"torch.fx cannot follow {type(model).__name__}.forward ({type(error).__name__}: {error}). Its BatchNorms "
            "are not folded, which costs a few per cent of speed; to fold them, use a network whose forward does not "
            "branch on its data, and sets no autocast of its own.",
            stacklevel=5,
        )
        return model, {}
    folded: dict[str, str] = {}
    modules = dict(traced.named_modules())
    uses = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    # Whose weights are read beside the calls.
    uses.update(node.target.rpartition(".")[0] for node in traced.graph.nodes if node.op == "get_attr")
    for norm_node in list(traced.graph.nodes):
        norm = modules.get(str(norm_node.target)) if norm_node.op == "call_module" else None
        if not isinstance(norm, _NORMS) or norm.running_mean is None or uses[str(norm_node.target)] > 1:
            continue
        before = norm_node.all_input_nodes[0]
        layer = modules.get(str(before.target)) if before.op == "call_module" else None
        if (
            not isinstance(layer, CONVOLUTIONS)
            or isinstance(layer, nn.modules.conv._ConvTransposeNd)
            or len(before.users) > 1
            or uses[str(before.target)] > 1
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


def folded_weights(layer: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that also does what the BatchNorm behind it does."""
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


class _Tracer(fx.Tracer):
    """Follows a network's code as it runs when it is given images alone: its other arguments have their defaults."""

    #: What the code computes of buffers is computed anew in each pass.
    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self._depth = _autocast_depth()

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        # A graph does not hold such a context: what lies inside would run without it.
        if _autocast_depth() != self._depth:
            raise fx.proxy.TraceError("a part of it runs under an autocast of its own")
        return super().create_node(*args, **kwargs)


def _autocast_depth() -> int:
    """How many contexts of autocast are open."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()
