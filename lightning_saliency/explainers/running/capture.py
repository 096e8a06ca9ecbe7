"""Activations of chosen layers and the gradients of a class score with respect to them, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.explainers.running.outputs import Output, class_logits, plain_logits, select_scores
from lightning_saliency.explainers.running.state import undisturbed, unwrap
from lightning_saliency.scales.scale import Scale, as_grid, patch_tokens
from lightning_saliency.scales.taps import ScaleTaps
from lightning_saliency.scales.tracing.trace import plain_name, taken_type


def activations_and_gradients(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    scales: Sequence[Scale],
    output: Output = None,
    *,
    taps: ScaleTaps | None = None,
    scores: Callable[[Tensor], Tensor] = plain_logits,
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """The activations A of some layers and ∂S/∂A, where S is each image's target score, from one forward pass.

    The graph is built only from the shallowest of the layers upward, and no gradient of a weight is computed: the
    backward pass costs what the head costs. The network is run ``undisturbed``.

    A module called several times in a pass is read at its last call. A layer's activation is what the network computed,
    whatever is later done to it in place.

    Args:
        model: The network.
        images: ``[B, C, H, W]`` on the network's device.
        targets: ``[B]`` int64; ``None``: the predicted classes.
        scales: The layers, as ``find_scales`` or ``named_scales`` return them.
        output: Takes the logits out of what the network returns, see ``Explainer``.
        taps: Taps that record this pass, while all others pause; the caller reads their maps.
        scores: The scores ``[B, classes]`` of the network's logits, of which each image's target score is S; by default
            the logits, see ``class_scores``.

    Returns:
        One pair (activations, gradients) per layer, both ``[B, C, h, w]`` (views of the network's own layout) and
        detached, and the logits as ``class_logits`` returns them, detached.

    Raises:
        ValueError: If a target is out of range, the logits have another shape or do not depend on a layer, or the
            network has no such module.
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
        # The hooks stay until the gradients are there: gradient checkpointing runs parts of the network again for them.
        with _tapped(network, scales, differentiable=True) as captured:
            if taps is not None:
                taps.start()
            logits = class_logits(network(images.clone()), output, images)
            tensors = _all_captured(captured, scales)
            own, _ = select_scores(logits, targets if targets is None else as_ordinary(targets), scores)
            if not own.requires_grad:
                raise ValueError(
                    f"The logits do not depend on {_names(scales)}, or the network computes them without gradients "
                    "(under torch.no_grad() or detached). Choose a layer after that part of the network."
                )
            gradients = torch.autograd.grad(own.sum(), tensors, allow_unused=True)
    pairs = []
    for scale, tensor, gradient in zip(scales, tensors, gradients, strict=True):
        if gradient is None:
            raise ValueError(f"The logits do not depend on {_names([scale])}. Choose a layer on the way to the logits.")
        pairs.append((_as_channels_first(tensor.detach(), scale, images), _as_channels_first(gradient, scale, images)))
    return pairs, logits.detach()


def activations_only(
    model: nn.Module,
    images: Tensor,
    scales: Sequence[Scale],
    output: Output = None,
) -> tuple[list[Tensor], Tensor]:
    """The activations of some layers, from one forward pass without a graph.

    Args:
        model: The network.
        images: ``[B, C, H, W]`` on the network's device.
        scales: The layers, as ``find_scales`` or ``named_scales`` return them.
        output: Takes the logits out of what the network returns, see ``Explainer``.

    Returns:
        One tensor ``[B, C, h, w]`` per layer and the logits, as ``activations_and_gradients`` returns them.

    Raises:
        ValueError: If the logits have another shape, or the network has no such module.
        RuntimeError: If a layer was not run.
    """
    with undisturbed(model), torch.no_grad():
        images = as_ordinary(images)
        network = unwrap(model)
        with _tapped(network, scales, differentiable=False) as captured:
            logits = class_logits(network(images.clone()), output, images)
            tensors = _all_captured(captured, scales)
    return [_as_channels_first(tensor, scale, images) for tensor, scale in zip(tensors, scales, strict=True)], logits


def depends_on(model: nn.Module, images: Tensor, scales: Sequence[Scale], output: Output = None) -> list[bool]:
    """Whether the predicted classes' scores have a gradient by each of some tensors that is not zero at all positions.

    Args:
        model: The network.
        images: ``[B, C, H, W]`` on the network's device.
        scales: The tensors. Class and register tokens are no positions.
        output: Takes the logits out of what the network returns, see ``Explainer``.

    Returns:
        One answer per tensor; ``False`` where the network does not run it, or cannot be differentiated.
    """
    with undisturbed(model):
        images = as_ordinary(images)
        if len(scales) > 1 and images.is_floating_point():
            # Of a graph from the images on no tensor is a leaf, which the network could not write to. For one tensor
            # the graph begins there, and costs what the head costs.
            images.requires_grad_()
        network = unwrap(model)
        with _tapped(network, scales, differentiable=True) as captured:
            try:
                own, _ = select_scores(class_logits(network(images.clone()), output, images), None)
                tensors = [captured[index][0] for index in captured]
                gradients = torch.autograd.grad(own.sum(), tensors, allow_unused=True) if own.requires_grad else ()
            except RuntimeError:  # no gradient is no reason to fail: masks are scored without any
                return [False] * len(scales)
    answers = [False] * len(scales)
    for index, gradient in zip(captured, gradients, strict=False):
        if gradient is not None:
            if scales[index].layout == "tokens":
                size = (images.shape[-2], images.shape[-1])
                gradient = gradient[:, patch_tokens(gradient.shape[1], scales[index], size)[0]]
            answers[index] = bool((gradient != 0).any())
    return answers


def as_ordinary(tensor: Tensor) -> Tensor:
    """The tensor, detached; copied if it is an inference tensor, which autograd could not save."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def as_taken(images: Tensor, model: nn.Module) -> Tensor:
    """The images as ordinary ones, see `as_ordinary`, in a floating-point type that the network has.

    Images of another type, which its parameters would refuse, are converted as whoever runs the network does it, see
    `taken_type`. Integers stay as they are.

    Example:
        >>> as_taken(torch.zeros(1, 3, 8, 8, dtype=torch.float64), nn.Conv2d(3, 4, 3)).dtype
        torch.float32
    """
    images = as_ordinary(images)
    return images.to(taken_type(model, images)) if images.is_floating_point() else images


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
        replaced, found = _replace_first_tensor(args, partial(take, index))
        return (replaced, kwargs) if found else (args, _replace_first_tensor(kwargs, partial(take, index))[0])

    def after(index: int, _module: nn.Module, _args: tuple[Any, ...], returned: Any) -> Any:
        return _replace_first_tensor(returned, partial(take, index))[0]

    modules = {
        # As the scales are named.
        plain_name(name): module
        for name, module in reversed(list(network.named_modules(remove_duplicate=False)))
    }
    unknown = [scale.module for scale in scales if scale.module not in modules]
    if unknown:
        raise ValueError(
            f"Got scales at {', '.join(map(repr, unknown))}, which the network does not have. Give this network's own "
            "scales, as find_scales(model, images) or named_scales(model, names, images) returns them."
        )
    handles = []
    try:
        for index, scale in enumerate(scales):
            module = modules[scale.module]
            if scale.read == "input":
                handles.append(module.register_forward_pre_hook(partial(before, index), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(partial(after, index)))
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _replace_first_tensor(value: Any, replace: Callable[[Tensor], Tensor]) -> tuple[Any, bool]:
    """``value`` with its first tensor, depth first, replaced, and whether there was one."""
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
            f"The forward pass did not run {_names(missing)}, or handed no tensor through it. Choose a layer that the "
            "network runs in eval mode (scripted modules cannot be read inside)."
        )
    changed = [scale for index, scale in enumerate(scales) if captured[index][0]._version != captured[index][1]]
    if changed:
        raise RuntimeError(
            f"The network overwrote {_names(changed)} in place after it was read. Choose the output of the module that "
            "computes it, by its name."
        )
    return [captured[index][0] for index in range(len(scales))]


def _as_channels_first(tensor: Tensor, scale: Scale, images: Tensor) -> Tensor:
    grid, channels = as_grid(tensor, scale, (images.shape[-2], images.shape[-1]))
    return grid.movedim(channels, 1)


def _names(scales: Sequence[Scale]) -> str:
    return ", ".join(f"the {scale.read} of {scale.module or 'the network itself'!r}" for scale in scales)
