"""Activations of chosen layers and the gradients of a class score with respect to them, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_saliency.explainers._state import undisturbed, unwrap
from lightning_saliency.scales import Scale, as_grid
from lightning_saliency.taps import first_tensor

#: Keys under which dictionaries usually carry the logits, the likeliest first.
LOGIT_KEYS = ("logits", "out", "output", "preds", "predictions", "scores")


def logits_of(output: Any) -> Tensor:
    """The tensor of class scores in whatever a network returns.

    Args:
        output: A tensor; an object with a ``logits`` attribute (torchvision's ``GoogLeNetOutputs``, most of Hugging
            Face); a mapping with one of the keys ``logits``, ``out``, ``output``, ``preds``, ``predictions``,
            ``scores`` or with one entry only; a tuple or list, whose first tensor counts.

    Raises:
        TypeError: If there is no such tensor.

    Example:
        >>> logits_of({"out": torch.zeros(2, 10), "aux": torch.zeros(2, 10)}).shape
        torch.Size([2, 10])
    """
    found = _find_logits(output)
    if found is None:
        described = (
            f"a mapping with the keys {sorted(map(str, output))}"
            if isinstance(output, Mapping)
            else type(output).__name__
        )
        raise TypeError(
            f"The network returned {described}, in which no logits were found. Expected a tensor, an object with .logits, "
            f"a mapping with one of {', '.join(LOGIT_KEYS)}, or a tuple. Say where they are with output=, for example "
            "output=lambda returned: returned['classes']."
        )
    return found


def class_logits(returned: Any, output: Callable[[Any], Tensor] | None, batch: int) -> Tensor:
    """The logits ``[B, N]`` of a network's return value.

    Args:
        returned: What the network returned.
        output: Takes the logits out of it; ``None``: ``logits_of``.
        batch: B.

    Returns:
        ``[B, N]``. ``[B]`` becomes ``[B, 1]`` and ``[B, N, 1, 1]`` is flattened.

    Raises:
        TypeError: If no tensor was found.
        ValueError: If it has another shape, as that of a segmentation network has.
    """
    logits = logits_of(returned) if output is None else output(returned)
    if not isinstance(logits, Tensor):
        raise TypeError(f"Expected output= to return a tensor of logits [B, N], but got {type(logits).__name__}.")
    if logits.ndim == 1:
        logits = logits[:, None]
    elif logits.ndim > 2 and all(size == 1 for size in logits.shape[2:]):
        logits = logits.flatten(1)
    if logits.ndim != 2 or logits.shape[0] != batch or logits.shape[1] == 0:
        raise ValueError(
            f"Expected logits [B, N] for {batch} images, but got {list(logits.shape)}. Reduce them with output=; for a "
            "segmentation network for example output=lambda returned: returned['out'].mean(dim=(2, 3))."
        )
    return logits


def checked_targets(targets: Tensor | int | None, batch: int) -> Tensor | None:
    """Targets as ``[B]`` int64 (their range is checked once the number of classes is known).

    Raises:
        TypeError: If they are neither an int, nor an int64 tensor, nor ``None``.
        ValueError: If the tensor's shape is not ``[B]``.
    """
    if targets is None:
        return None
    if isinstance(targets, int) and not isinstance(targets, bool):
        return torch.full((batch,), targets, dtype=torch.int64)
    if not isinstance(targets, Tensor):
        raise TypeError(
            "Expected targets to be an int, an int64 tensor [B] or None (the predicted class), "
            f"but got {type(targets).__name__}."
        )
    if targets.dtype != torch.int64:
        raise TypeError(
            f"Expected targets of dtype torch.int64, but got {targets.dtype}: convert them with targets.long()."
        )
    if targets.shape != (batch,):
        raise ValueError(
            f"Expected one target for each of the {batch} images, [{batch}], but got {list(targets.shape)}."
        )
    return targets.detach().clone()


def select_scores(logits: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each image's own target logit.

    Args:
        logits: ``[B, N]``.
        targets: ``[B]`` int64 on any device; ``None``: the class with the largest logit.

    Returns:
        The scores ``[B]`` and the targets ``[B]`` on the logits' device.

    Raises:
        ValueError: If a target is no class of the network.
    """
    classes = logits.shape[1]
    if targets is None:
        targets = logits.detach().argmax(dim=1)
    elif targets.numel() and not (0 <= int(targets.min()) and int(targets.max()) < classes):
        wrong = sorted({int(target) for target in targets if not 0 <= int(target) < classes})
        raise ValueError(
            f"Expected targets from 0 to {classes - 1}, the network having {classes} classes, but got {wrong}."
        )
    targets = targets.to(logits.device)
    return logits.gather(1, targets[:, None])[:, 0], targets


def activations_and_gradients(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    scales: Sequence[Scale],
    output: Callable[[Any], Tensor] | None = None,
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """The activations A of some layers and ∂S/∂A, S being each image's own target logit, from one forward pass.

    The graph is built only from the shallowest of the layers upward, and no gradient of a weight is computed: the
    backward pass costs what the head costs. The network is run ``undisturbed``.

    A module called several times in a pass is read at its last call. A layer's activation is what the network computed,
    whatever is later done to it in place.

    Args:
        model: The network.
        images: ``[B, C, H, W]`` on the network's device.
        targets: ``[B]`` int64; ``None``: the predicted classes.
        scales: The layers, as ``find_scales`` or ``named_scales`` return them.
        output: Takes the logits ``[B, N]`` out of what the network returns; ``None``: ``logits_of``.

    Returns:
        One pair (activations, gradients) a layer, both ``[B, C, h, w]`` (views of the network's own layout) and
        detached, and the logits ``[B, N]``, detached.

    Raises:
        ValueError: If a target is out of range, the logits have another shape, or they do not depend on a layer.
        RuntimeError: If a layer was not run.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> scale = Scale(module="0", read="output", grid=(6, 6), channels=4, layout="NCHW")
        >>> [(activations, gradients)], logits = activations_and_gradients(model, torch.rand(2, 3, 8, 8), None, [scale])
        >>> activations.shape, gradients.shape, logits.shape
        (torch.Size([2, 4, 6, 6]), torch.Size([2, 4, 6, 6]), torch.Size([2, 4]))
    """
    with undisturbed(model):
        images = as_ordinary(images)
        network = unwrap(model)
        # The hooks stay until the gradients are there: gradient checkpointing runs a part of the network again for them.
        with _tapped(network, scales, differentiable=True) as captured:
            logits = class_logits(network(images), output, images.shape[0])
            tensors = _all_captured(captured, scales)
            scores, _ = select_scores(logits, targets if targets is None else as_ordinary(targets))
            if not scores.requires_grad:
                raise ValueError(
                    f"The logits do not depend on {_names(scales)}, or the network computes them without gradients "
                    "(under torch.no_grad() or detached). Choose a layer after that part of the network."
                )
            gradients = torch.autograd.grad(scores.sum(), tensors, allow_unused=True)
    pairs = []
    for scale, tensor, gradient in zip(scales, tensors, gradients, strict=True):
        if gradient is None:
            raise ValueError(f"The logits do not depend on {_names([scale])}: choose a layer on the way to the logits.")
        pairs.append((_as_channels_first(tensor.detach(), scale), _as_channels_first(gradient, scale)))
    return pairs, logits.detach()


def activations_only(
    model: nn.Module,
    images: Tensor,
    scales: Sequence[Scale],
    output: Callable[[Any], Tensor] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """The activations of some layers, from one forward pass without a graph.

    Args:
        model: The network.
        images: ``[B, C, H, W]`` on the network's device.
        scales: The layers, as ``find_scales`` or ``named_scales`` return them.
        output: Takes the logits ``[B, N]`` out of what the network returns; ``None``: ``logits_of``.

    Returns:
        One tensor ``[B, C, h, w]`` a layer and the logits ``[B, N]``, as ``activations_and_gradients`` returns them.

    Raises:
        ValueError: If the logits have another shape.
        RuntimeError: If a layer was not run.
    """
    with undisturbed(model), torch.no_grad():
        images = as_ordinary(images)
        network = unwrap(model)
        with _tapped(network, scales, differentiable=False) as captured:
            logits = class_logits(network(images), output, images.shape[0])
            tensors = _all_captured(captured, scales)
    return [_as_channels_first(tensor, scale) for tensor, scale in zip(tensors, scales, strict=True)], logits


def as_ordinary(tensor: Tensor) -> Tensor:
    """The tensor, detached; copied if it is an inference tensor, which autograd could not save."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


@contextmanager
def _tapped(
    network: nn.Module, scales: Sequence[Scale], *, differentiable: bool
) -> Iterator[dict[int, tuple[Tensor, int]]]:
    """Hooks that collect the tensor of each scale and its version, by the scale's position.

    ``differentiable``: the network goes on with a copy of the tensor, on which in-place operations do no harm, and the
    tensor itself becomes a leaf of the graph where it does not belong to one yet. To make it a leaf where it stands,
    and not a detached copy of it, lets the gradient of a module's input include the paths round the module.
    """
    captured: dict[int, tuple[Tensor, int]] = {}

    def take(index: int, tensor: Tensor) -> Tensor:
        if not differentiable:
            copied = tensor.clone()
            captured[index] = (copied, copied._version)
            return tensor
        if not tensor.requires_grad:
            tensor.requires_grad_()
        captured[index] = (tensor, tensor._version)
        with torch.enable_grad():
            return tensor.clone()

    def before(
        index: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if first_tensor(args) is not None:
            return _replace_first_tensor(args, partial(take, index))[0], kwargs
        return args, _replace_first_tensor(kwargs, partial(take, index))[0]

    def after(index: int, _module: nn.Module, _args: tuple[Any, ...], returned: Any) -> Any:
        return _replace_first_tensor(returned, partial(take, index))[0]

    handles = []
    try:
        for index, scale in enumerate(scales):
            module = network.get_submodule(scale.module)
            if scale.read == "input":
                handles.append(module.register_forward_pre_hook(partial(before, index), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(partial(after, index)))
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _replace_first_tensor(value: Any, replace: Callable[[Tensor], Tensor]) -> tuple[Any, bool]:
    """``value`` with its first tensor, in the order of ``first_tensor``, replaced, and whether there was one."""
    if isinstance(value, Tensor):
        return replace(value), True
    if isinstance(value, Mapping):
        for key, item in value.items():
            new, found = _replace_first_tensor(item, replace)
            if found:
                copied = copy(value)
                copied[key] = new  # type: ignore[index]  # what networks return or take is a dict of some kind
                return copied, True
    elif isinstance(value, (tuple, list)):
        for position, item in enumerate(value):
            new, found = _replace_first_tensor(item, replace)
            if found:
                items = [*value[:position], new, *value[position + 1 :]]
                return (type(value)(*items) if hasattr(value, "_fields") else type(value)(items)), True
    return value, False


def _all_captured(captured: Mapping[int, tuple[Tensor, int]], scales: Sequence[Scale]) -> list[Tensor]:
    missing = [scale for index, scale in enumerate(scales) if index not in captured]
    if missing:
        raise RuntimeError(
            f"The forward pass did not run {_names(missing)}, or handed no tensor through it: choose a layer that the "
            "network runs in eval mode (scripted modules cannot be read inside)."
        )
    changed = [scale for index, scale in enumerate(scales) if captured[index][0]._version != captured[index][1]]
    if changed:
        raise RuntimeError(
            f"The network overwrote {_names(changed)} in place after it was read: choose the output of the module that "
            "computes it, by its name."
        )
    return [captured[index][0] for index in range(len(scales))]


def _as_channels_first(tensor: Tensor, scale: Scale) -> Tensor:
    grid, channels = as_grid(tensor, scale)
    return grid.movedim(channels, 1)


def _names(scales: Sequence[Scale]) -> str:
    return ", ".join(f"the {scale.read} of {scale.module or 'the network itself'!r}" for scale in scales)


def _find_logits(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "logits", None), Tensor):
        return cast(Tensor, output.logits)
    if isinstance(output, Mapping):
        candidates = [output[key] for key in LOGIT_KEYS if key in output]
        if not candidates and len(output) == 1:
            candidates = list(output.values())
    elif isinstance(output, (tuple, list)):
        candidates = list(output)
    else:
        return None
    return next((candidate for candidate in candidates if isinstance(candidate, Tensor)), None)
