"""The layers of a network from the top down, and its weights, to be put back after they were randomised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import torch
from torch import Tensor, nn

from lightning_saliency.explainers.base import undisturbed

#: Blocks coarser than this share of the steps allowed are no use: neighbouring layers are put together instead.
_COARSEST = 1 / 3


@dataclass(frozen=True)
class Layers:
    """Modules whose weights are randomised together.

    Args:
        name: Name of the group: the dotted path of the module, or of the block that holds the modules; ``"(network)"``
            for the network's own parameters.
        modules: Dotted paths of the modules, topmost first; each stands for its own parameters and buffers, not its
            children's.
    """

    name: str
    modules: tuple[str, ...]


def layers_from_top(model: nn.Module, example: Tensor, max_steps: int = 20) -> tuple[Layers, ...]:
    """All modules with weights, from the output to the input, in at most ``max_steps`` groups.

    The order is that of the calls in one forward pass, by the last call of a module that is used repeatedly. A
    module that is never called itself (the output projection of ``nn.MultiheadAttention``, an auxiliary head) goes with
    the module around it. Where there are more layers than ``max_steps``, they are grouped by block, that is, by the
    first parts of their paths, the finest blocks that fit; where the network has no such blocks (a flat sequence),
    neighbours are put together as evenly as possible.

    Args:
        model: The network.
        example: Images ``[B, C, H, W]``, B ≥ 1, for one forward pass that leaves no trace.
        max_steps: Maximum number of groups, from 1.

    Returns:
        Groups without common modules, which together hold every parameter.

    Raises:
        ValueError: If ``max_steps`` is below 1 or the network has no weights.

    Example:
        >>> block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), block, nn.Flatten())
        >>> [layers.name for layers in layers_from_top(model, torch.rand(1, 3, 8, 8))]
        ['1.1', '1.0', '0']
        >>> layers_from_top(model, torch.rand(1, 3, 8, 8), max_steps=2)
        (Layers(name='1', modules=('1.1', '1.0')), Layers(name='0', modules=('0',)))
    """
    if max_steps < 1:
        raise ValueError(f"Got max_steps={max_steps}. Allowed are whole numbers from 1; 20 is the default.")
    found = _from_top(model, example)
    if not found:
        raise ValueError(
            f"Got a {type(model).__name__} without parameters. Give a network whose weights can be changed."
        )
    if len(found) <= max_steps:
        return tuple(Layers(name or "(network)", modules) for name, modules in found)
    for depth in range(max(name.count(".") + 1 for name, _ in found), 0, -1):
        blocks: dict[str, list[str]] = {}
        for name, modules in found:
            blocks.setdefault(".".join(name.split(".")[:depth]), []).extend(modules)
        if len(blocks) <= max_steps:
            if len(blocks) < _COARSEST * max_steps:
                break
            return tuple(Layers(name or "(network)", tuple(modules)) for name, modules in blocks.items())
    bounds = [round(step * len(found) / max_steps) for step in range(max_steps + 1)]
    parts = [found[start:stop] for start, stop in pairwise(bounds)]
    return tuple(
        Layers(_joined([name for name, _ in part]), tuple(chain.from_iterable(modules for _, modules in part)))
        for part in parts
    )


class OriginalWeights:
    """A copy of a network's parameters and buffers, to be restored later.

    Args:
        model: The network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._values = [tensor.detach().clone() for tensor in self._tensors()]

    def restore(self) -> None:
        """Put them back, in place."""
        with torch.no_grad():
            for tensor, values in zip(self._tensors(), self._values, strict=True):
                tensor.copy_(values)

    def _tensors(self) -> list[Tensor]:
        return [*self._model.parameters(), *self._model.buffers()]


def _from_top(model: nn.Module, example: Tensor) -> list[tuple[str, tuple[str, ...]]]:
    """The modules that are called and their weights: path and the paths that go with it, topmost first."""
    names = {module: name for name, module in model.named_modules()}
    last_call: dict[str, int] = {}

    def note(module: nn.Module, arguments: object) -> None:
        last_call.pop(names[module], None)
        last_call[names[module]] = len(last_call)

    hooks = [module.register_forward_pre_hook(note) for module in names]
    try:
        with undisturbed(model), torch.no_grad():
            model(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
    members: dict[str, list[str]] = {name: [] for name in reversed(last_call)}
    for module, name in names.items():
        if _has_weights(module):
            around = name
            while around not in members:
                around = around.rpartition(".")[0]
            members[around].append(name)
    return [(name, tuple(paths)) for name, paths in members.items() if paths]


def _has_weights(module: nn.Module) -> bool:
    if any(True for _ in module.parameters(recurse=False)):
        return True
    # A normalisation without affine parameters still has what it learnt in its running statistics.
    return callable(getattr(module, "reset_parameters", None)) and any(True for _ in module.buffers(recurse=False))


def _joined(names: Sequence[str]) -> str:
    first, last = names[0] or "(network)", names[-1] or "(network)"
    return first if len(names) == 1 else f"{first} … {last}"
