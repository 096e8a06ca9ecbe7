"""What every explainer shares: ``(images, targets) -> maps [B, H, W] in [0, 1]``, and no trace left in the network."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.explainers.running.capture import (
    activations_and_gradients,
    activations_only,
    as_ordinary,
    as_taken,
)
from lightning_saliency.explainers.running.layer import explained_scale
from lightning_saliency.explainers.running.outputs import (
    Output,
    check_range,
    checked_targets,
    class_logits,
    logits_of,
    parse_output,
    select_scores,
    select_targets,
)
from lightning_saliency.explainers.running.state import undisturbed, unwrap
from lightning_saliency.functional.class_scores import predicted_classes
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.normalization import min_max
from lightning_saliency.scales.find import find_scales, named_scales
from lightning_saliency.scales.scale import Scale
from lightning_saliency.scales.tracing.tensor_refs import layer_name

__all__ = [
    "Explainer",
    "Layer",
    "Output",
    "activations_and_gradients",
    "activations_only",
    "as_ordinary",
    "as_taken",
    "check_images",
    "check_range",
    "checked_targets",
    "class_logits",
    "logits_of",
    "named_layer",
    "parse_output",
    "select_scores",
    "select_targets",
    "undisturbed",
    "unwrap",
]

#: How a user says which layer is meant.
Layer: TypeAlias = str | nn.Module | Scale


class Explainer(ABC):
    """A saliency map of each image of a batch, for each image's own target class.

    An explainer may be called at any time, also in the middle of a training or validation step, under ``no_grad`` or
    ``inference_mode``, and under autocast, which it follows. It runs the network in eval mode, eagerly even where it is
    compiled, and leaves it as it was: see ``undisturbed``.

    A subclass implements ``_explain``, and ``_explain_predicted`` where its own pass yields the prediction.

    Args:
        model: The network, from images ``[B, C, H, W]`` to logits ``[B, N]``; to one logit z, ``[B, 1]`` or ``[B]``, of
            which class 1 has the logit z and class 0 has −z; or to logits of each pixel, ``[B, N, h, w]``, of which a
            class's score is the mean over the pixels predicted as it, see ``functional.class_scores``. Wrappers of
            ``torch.compile`` and ``DistributedDataParallel`` are taken off.
        layer: The layer to look at: the dotted name of a module, or the module itself, whose output is read
            (``"name:input"``: its input), or a ``Scale``. ``None``: the network's last scale that the class's score
            depends on, see `explained_scale`: what enters the last block of a network with a class token.
        output: What takes the logits out of what the network returns, where it returns more than one thing: a function
            such as ``lambda returned: returned["queries"].amax(dim=1)``; or a key, the name of an attribute, a
            position, or a dotted path of these, such as ``"heads.color"``. ``None``: ``logits_of``.

    Raises:
        TypeError: If ``model`` is not an ``nn.Module``, or ``layer`` is not a name, a module or a ``Scale``.
        ValueError: If ``layer`` is a module of another network.

    A map that is zero because the gradient is exactly zero is said once, by a warning.
    """

    #: Whether the map depends on the target; ``False``: there is one map for all classes.
    class_specific = True
    #: Whether volumes and clips ``[B, C, T, H, W]`` are explained, too, by maps ``[B, T, H, W]``.
    takes_volumes = False
    #: Whether images of integers are explained, too, for networks that scale them themselves: the explainer neither
    #: changes images nor takes gradients by them.
    takes_integers = False

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | None = None,
        *,
        output: Output = None,
    ) -> None:
        if layer is not None and not isinstance(layer, (str, nn.Module, Scale)):
            raise TypeError(
                f"Got layer of type {type(layer).__name__}. Allowed are a module or its name, a Scale and None (the "
                "last scale); use one of them."
            )
        self.model = unwrap(model)
        self.layer = None if layer is None else named_layer(self.model, layer)
        self.output = parse_output(output)
        self._found: dict[tuple[object, ...], tuple[Scale, ...]] = {}
        self._said_zero = False

    def __call__(self, images: Tensor, targets: Tensor | int | None = None) -> Tensor:
        """The saliency maps of a batch.

        Args:
            images: ``[B, C, H, W]``, floating point of any type, on the network's device and normalised as the network
                takes them; where ``takes_volumes``, also ``[B, C, T, H, W]``; where ``takes_integers``, also integers.
            targets: ``[B]`` int64, one class per image; an int, the same for all; ``None``: the predicted classes.

        Returns:
            ``[B, H, W]`` (``[B, T, H, W]``) float32 on the images' device. Each map is stretched to [0, 1] by itself
            (min-max); a constant map is all zeros. An image on which the network's activations are not finite has no
            finite map either.

        Raises:
            TypeError: If ``images`` or ``targets`` are of another type.
            ValueError: If they have another shape, or a target is not a class of the network.
        """
        return self._run(images, targets, self._explain_any)

    @abstractmethod
    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """The maps ``[B, h, w]`` of any size and range; the base class brings them to the images' size and to [0, 1].

        Called inside ``undisturbed(self.model)`` with detached images ``[B, C, H, W]``, B ≥ 1, and targets ``[B]``
        int64 on the images' device, whose range ``select_scores`` checks.
        """

    def _explain_predicted(self, images: Tensor) -> Tensor:
        """As ``_explain``, for the predicted classes; costs one more forward pass unless overridden."""
        if not self.class_specific:  # and whether the network has classes does not matter
            return self._explain(images, torch.zeros(images.shape[0], dtype=torch.int64, device=images.device))
        return self._explain(images, predicted_classes(self.logits(images)))

    def _explain_any(self, images: Tensor, targets: Tensor | None) -> Tensor:
        return self._explain_predicted(images) if targets is None else self._explain(images, targets)

    def logits(self, images: Tensor) -> Tensor:
        """The network's logits ``[B, N]`` or ``[B, N, h, w]`` from one forward pass in eval mode, without a graph.

        What they say of the classes is told by ``class_scores`` and ``predicted_classes`` of ``functional``.
        """
        check_images(images, self.takes_volumes, self.takes_integers)
        with undisturbed(self.model), torch.no_grad():
            images = as_taken(images, self.model)
            return class_logits(self.model(images.clone()), self.output, images)

    def _run(
        self,
        images: Tensor,
        targets: Tensor | int | None,
        explain: Callable[[Tensor, Tensor | None], Tensor],
    ) -> Tensor:
        """``__call__`` with another function than ``_explain``, for explainers with a second kind of map."""
        check_images(images, self.takes_volumes, self.takes_integers)
        size = images.shape[2:]
        with undisturbed(self.model):
            classes = checked_targets(targets, images.shape[0])
            if images.shape[0] == 0:
                return images.new_zeros((0, *size), dtype=torch.float32)
            images = as_taken(images, self.model)
            try:
                raw = explain(images, classes if classes is None else classes.to(images.device))
            except RuntimeError as error:
                if images.is_floating_point():
                    raise
                raise TypeError(
                    f"Got images of {images.dtype}, which the network does not take ({error}). Allowed are "
                    "floating-point images, normalised as the network takes them; convert them, for example with "
                    "images / 255."
                ) from error
            # Half precision has too few digits to interpolate in.
            raw = raw.detach() if raw.dtype == torch.float64 else raw.detach().float()
            return stretched(resize_maps(raw, size)).float()

    def _last_scale(self, images: Tensor) -> Scale:
        """The layer to look at, for images of this size."""
        return self._scale(images, self.layer)

    def _scale(self, images: Tensor, layer: Layer | None) -> Scale:
        """The ``Scale`` of a module's name, or the network's last scale, for images of this size."""
        if layer is not None:
            layer = named_layer(self.model, layer)
            return layer if isinstance(layer, Scale) else self._named_scales(images, (layer,))[0]
        key = ("explained", *images.shape[1:])
        if key not in self._found:
            scale, known = explained_scale(self.model, images, self._all_scales(images), self.output)
            # A head may be zero for now.
            if not known:
                return scale
            self._found[key] = (scale,)
        return self._found[key][0]

    def _gradients(
        self, images: Tensor, targets: Tensor | None, scales: Sequence[Scale], **options: Any
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """`activations_and_gradients`; a gradient that is exactly zero is said once."""
        pairs, logits = activations_and_gradients(self.model, images, targets, scales, self.output, **options)
        zero = torch.stack([(gradients == 0).flatten(1).all(dim=1) for _, gradients in pairs]).all(dim=0)
        self._say_zero(zero, " and ".join(f"the {scale.read} of {scale.module!r}" for scale in scales))
        return pairs, logits

    def _say_zero(self, zero: Tensor, where: str) -> None:
        """Warn, once, of images whose maps are zero because the gradient is.

        Args:
            zero: ``[B]`` bool.
            where: The tensors that the gradient belongs to.
        """
        if self._said_zero or not bool(zero.any()):
            return
        self._said_zero = True
        warnings.warn(
            f"The gradient of the class's score by {where} is exactly zero for {int(zero.sum())} of {len(zero)} images "
            "and their maps are zero. Either the head's weights are zero (as some networks begin), or nothing behind "
            "that layer reads its positions (a class token alone is read), or a saturated or dead activation lies "
            "behind it. Train the network first, or name a layer nearer to the image with layer=. This is said once.",
            stacklevel=2,
        )

    def _all_scales(self, images: Tensor) -> tuple[Scale, ...]:
        """The network's scales for images of this size, found once."""
        key = (tuple(images.shape[1:]),)
        if key not in self._found:
            self._found[key] = find_scales(self.model, images[:1])
        return self._found[key]

    def _named_scales(self, images: Tensor, layers: tuple[str, ...]) -> tuple[Scale, ...]:
        """The scales of modules given by name, for images of this size, found once."""
        key = (tuple(images.shape[1:]), layers)
        if key not in self._found:
            self._found[key] = named_scales(self.model, layers, images[:1])
        return self._found[key]


def named_layer(model: nn.Module, layer: Layer) -> str | Scale:
    """A layer as the user gives it, a module by its name.

    Raises:
        ValueError: If it is a module of another network.
    """
    return layer_name(model, layer) if isinstance(layer, nn.Module) else layer


def stretched(maps: Tensor) -> Tensor:
    """``min_max`` of each image's map, or of each volume's ``[B, T, H, W]`` as a whole."""
    return min_max(maps.flatten(1, -2)).reshape(maps.shape)


def check_images(images: Tensor, volumes: bool = False, integers: bool = False) -> None:
    """Raise unless ``images`` is a floating-point tensor ``[B, C, H, W]``, or, if allowed, one of another kind.

    Args:
        images: What is checked.
        volumes: Whether ``[B, C, T, H, W]`` is allowed, too.
        integers: Whether integers are allowed, too.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"Got images of type {type(images).__name__}. Allowed is a tensor [B, C, H, W]; convert them.")
    if images.ndim not in ((4, 5) if volumes else (4,)) or min(images.shape[1:]) == 0:
        advice = "add the batch dimension with images[None]" if images.ndim == 3 else "reshape them"
        if images.ndim == 5:
            advice = "volumes and clips are explained by SMOE, the class activation maps and FastCAM"
        raise ValueError(f"Got images {list(images.shape)}. Allowed are [B, C, H, W] of at least one pixel; {advice}.")
    if not images.is_floating_point() and (not integers or images.is_complex() or images.dtype == torch.bool):
        other = "integers are explained by SMOE, the class activation maps (all but Smooth Grad-CAM++) and FastCAM"
        raise TypeError(
            f"Got images of {images.dtype}. Allowed are floating-point images, normalised as the network takes them; "
            f"convert them, for example with images / 255, or where the network does that itself, {other}."
        )
