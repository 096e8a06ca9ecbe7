"""What is read in a traced forward pass, and which tensor a user's name for it means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lightning_saliency.checks import close_names
from lightning_saliency.scales.tracing.grids import Grid, Grids, Side, settled
from lightning_saliency.scales.tracing.origins import Shape
from lightning_saliency.scales.tracing.trace import Call, plain_name, trace


@dataclass(frozen=True)
class TensorRef:
    """One tensor of a trace: the first that entered a call or came out of it, and the grid it lies on."""

    call: Call
    side: Side
    grid: Grid

    @property
    def shape(self) -> Shape | None:
        """The tensor's shape; ``None`` if there was no tensor."""
        return shape_at(self.call, self.side)


def shape_at(call: Call, side: Side) -> Shape | None:
    """Shape of the first tensor on one side of a call; ``None`` if there was none."""
    return call.inputs if side == "input" else next(iter(call.outputs), None)


def settle(model: nn.Module, images: Tensor, root: Call, refs: Sequence[TensorRef]) -> list[TensorRef]:
    """The same references, with NCHW and NHWC distinguished where one trace cannot do it.

    The width of the images, doubled in a second trace, doubles only in the dimension that is the width. A network that
    raises an error on such images leaves a trace as far as it came; what lies beyond keeps the layout that the types of
    the modules suggest.

    Args:
        model: The network.
        images: The images that ``root`` was traced with.
        root: The network's own call.
        refs: The tensors to be read.
    """
    if not any(ref.grid.ambiguous for ref in refs):
        return list(refs)
    wider = trace(model, torch.cat([images, images], dim=3), may_fail=True)
    calls = dict(_numbered(wider))
    numbers = {id(call): number for number, call in _numbered(root)}
    result = []
    for ref in refs:
        other = calls.get(numbers[id(ref.call)])
        if ref.grid.ambiguous and ref.shape is not None and other is not None:
            ref = replace(ref, grid=settled(ref.grid, ref.shape, shape_at(other, ref.side)))
        result.append(ref)
    return result


def layer_name(model: nn.Module, layer: nn.Module) -> str:
    """The path of a module that the user gives as a layer, without what ``torch.compile`` adds.

    Raises:
        ValueError: If it is no module of the network.
    """
    for name, module in model.named_modules():
        # The user may hold the module inside a compiled one, or the compiled one itself.
        if module is layer or getattr(module, "_orig_mod", None) is layer:
            return plain_name(name)
    raise ValueError(
        f"Got a {type(layer).__name__} that is no module of {type(model).__name__}. Allowed are modules of this very "
        "network and their names; take it from there, as in network.layer4 (a copy of a network has its own modules)."
    )


def split_layer(model: nn.Module, layer: str | nn.Module) -> tuple[nn.Module, str, Side]:
    """The module that a user's name for a layer means, the module's path, and the side to read.

    Args:
        model: The network.
        layer: A dotted path, with or without ``":input"`` or ``":output"`` after it; or the module, whose output is
            read.

    Raises:
        TypeError: If ``layer`` is neither.
        ValueError: If the network has no such module.
    """
    if isinstance(layer, nn.Module):
        layer = layer_name(model, layer)
        return model.get_submodule(layer), layer, "output"
    if not isinstance(layer, str):
        raise TypeError(
            f"Got a layer of type {type(layer).__name__}. Allowed are the name of a module and the module; give one."
        )
    candidates: list[tuple[str, Side]] = [(layer, "output")]
    for side in ("input", "output"):
        if layer.endswith(f":{side}"):
            candidates.append((layer.removesuffix(f":{side}"), side))
    for name, side in candidates:
        try:
            return model.get_submodule(name), name, side
        except AttributeError:
            continue
    unknown = candidates[-1][0]
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    close = close_names(unknown, names, 5)
    nearest = f" The closest names are {', '.join(map(repr, close))}." if close else ""
    raise ValueError(
        f"Got a layer of {type(model).__name__}, which has no module named {unknown!r}.{nearest} Allowed are dotted "
        "paths, as in [name for name, _ in model.named_modules()]; 'name:input' reads what enters the module."
    )


def named_tensor_ref(root: Call, grids: Grids, module: nn.Module, name: str, side: Side) -> TensorRef:
    """What is read at a module that the user named; of several calls in one pass the first.

    Args:
        root: The network's own call.
        grids: Its grids.
        module: The module.
        name: The module's name, for the messages.
        side: The side to read.

    Raises:
        ValueError: If the module is not called, or on several shapes, or the tensor lies on no grid.
    """
    calls = [call for call in root.walk() if call.module is module]
    if not calls:
        inside = list(dict.fromkeys(call.name for call in root.walk() if call.name.startswith(f"{name}.")))
        hint = f" Called inside it are {', '.join(map(repr, inside[:5]))}." if inside else ""
        raise ValueError(
            f"The module {name!r} is not called in a forward pass in eval mode, so nothing can be read there.{hint} "
            "Name a module that the network calls; containers that are only looped over are not."
        )
    shapes = {shape_at(call, side) for call in calls}
    if len(shapes) > 1:
        different = ", ".join(sorted(str(list(shape or ())) for shape in shapes))
        raise ValueError(
            f"The module {name!r} is called {len(calls)} times in one forward pass, its {side}s having the different "
            f"shapes {different}. Name a module that is called once."
        )
    # Of several calls the first is meant, as by the taps that read it later.
    grid, shape = grids.of(calls[0], side), shapes.pop()
    # One position is a grid where the image itself has no more.
    one_pixel = grids.image.is_vector and shape is not None and len(shape) == 4
    if grid is None or (grid.is_vector and not one_pixel):
        raise ValueError(
            f"Got the {side} of {name!r}, which has no grid: for one image it is "
            f"{'no tensor' if shape is None else list(shape)}. Allowed are [1, C, h, w], [1, h, w, C] and [1, tokens, "
            "C] of more than one position, in the image's proportions; name a module nearer to the image, whose "
            "tensor is not pooled, flattened or cut into windows."
        )
    return TensorRef(calls[0], side, grid)


def _numbered(root: Call) -> Iterator[tuple[tuple[str, int], Call]]:
    """Each call with its module's name and its 1-based index among the calls of that name."""
    seen: dict[str, int] = {}
    for call in root.walk():
        seen[call.name] = seen.get(call.name, 0) + 1
        yield (call.name, seen[call.name]), call
