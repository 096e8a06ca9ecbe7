"""What the network itself returned in a step, for predictions and losses where the step returns no logits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_saliency.explainers.base import Output, class_logits, parse_output
from lightning_saliency.functional.class_scores import label_losses, predicted_classes
from lightning_saliency.scales.reader import BatchImages, entering_images
from lightning_saliency.scales.tracing.hooks import Hook


def told_classes(returned: Any, output: Output, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The classes ``[B]`` that a network's return value tells, and the logits ``[B, N]`` behind them.

    The logits are those that an explainer finds, see `class_logits`; those of pixels count only under a name, or where
    the user says where they are: without one they may be images, as an autoencoder returns them. Whole numbers ``[B]``
    are classes that were decided already.

    Args:
        returned: What the network returned.
        output: What takes the logits out of it; ``None``: they are searched for.
        images: What it was given, ``[B, C, H, W]``.

    Returns:
        Both, or ``None`` for what there is not.

    Raises:
        Exception: If ``output`` was given and finds no logits.

    Example:
        >>> told_classes((torch.tensor(0.7), torch.tensor([-1.0, 2.0])), None, torch.zeros(2, 3, 8, 8))
        (tensor([0, 1]), tensor([[-1.],
                [ 2.]]))
        >>> told_classes(torch.zeros(2, 3, 8, 8), None, torch.zeros(2, 3, 8, 8))
        (None, None)
    """
    decided = isinstance(returned, Tensor) and not returned.is_floating_point() and not returned.is_complex()
    if output is None and decided:
        return (returned.long(), None) if returned.shape == images.shape[:1] else (None, None)
    try:
        logits = class_logits(returned, output, images)
    except (TypeError, ValueError):
        if output is not None:
            raise
        return None, None
    if logits.ndim == 2:
        return predicted_classes(logits), logits
    nameless = isinstance(returned, (Tensor, tuple, list)) and not hasattr(returned, "_fields")
    named = output is not None or not nameless
    return (predicted_classes(logits) if named else None), None


class NetworkPredictions:
    """Sees the network's outputs during one step, and keeps the classes, and the losses, that they tell.

    Args:
        output: What takes the logits out of what the network returns, see ``Explainer``; ``None``: they are searched
            for.
    """

    def __init__(self, output: Output = None) -> None:
        self.output = parse_output(output)
        self._handle: RemovableHandle | None = None
        self._look: _Look | None = None

    def watch(self, network: nn.Module, images: Tensor, labels: Tensor | None = None) -> None:
        """Watch the passes to come.

        Args:
            network: The network; its outputs stay as they are.
            images: The batch's images, by which the passes over them are recognised.
            labels: The images' classes, where their losses are asked for.
        """
        self.close()
        self._look = _Look(images, labels, self.output)
        self._handle = Hook.on(network.register_forward_hook, self._look, with_kwargs=True)

    def take(self) -> tuple[Tensor | None, Tensor | None]:
        """The predicted classes, -1 for none, and the losses, −∞ for none, ``[B]``; ``None`` where nothing tells.

        They are those of the pass over the batch's own images, or of several such passes if these went through one
        after another in chunks. Of images that are not recognised it is the first pass over as many.

        Raises:
            Exception: What the given ``output`` raised where nothing was found.
        """
        look = self._look
        self.close()
        if look is None:
            return None, None
        if look.found is None and look.error is not None and self.output is not None:
            raise look.error
        return look.found, look.losses

    def close(self) -> None:
        """Take off the hook."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._look = None, None


class _Look:
    """What the hook does."""

    def __init__(self, images: Tensor, labels: Tensor | None, output: Output) -> None:
        self.found: Tensor | None = None
        self.losses: Tensor | None = None
        self.error: Exception | None = None
        self._images, self._batch = images, BatchImages(images)
        self._labels, self._output = labels, output
        self._recognised = False

    def __call__(self, _module: nn.Module, args: object, kwargs: object, returned: object) -> None:
        try:
            with torch.no_grad():
                self._note(entering_images((args, kwargs), self._images.ndim), returned)
        except Exception as error:  # of whatever a network returns; a step must not end for a caption
            self.error = error

    def _note(self, entering: Tensor | None, returned: object) -> None:
        """Take the classes of outputs that are those of the batch's images."""
        entering = self._images if entering is None else entering
        rows = self._batch.rows(entering)
        if not rows.exact and (self.found is not None or len(entering) != self._batch.count):
            return
        classes, logits = told_classes(returned, self._output, entering)
        if classes is None:
            return
        if rows.exact and not self._recognised:
            self.found = self.losses = None
        self._recognised = rows.exact
        known = [(row, image) for row, image in enumerate(rows.images) if image >= 0]
        at, of = (torch.tensor(each, device=classes.device) for each in zip(*known, strict=True))
        self.found = self._filled(self.found, -1, classes, at, of)
        if self._labels is not None and logits is not None:
            losses = label_losses(logits[at], self._labels.to(at.device)[of])
            self.losses = self._filled(self.losses, -math.inf, losses, torch.arange(len(at), device=at.device), of)

    def _filled(self, values: Tensor | None, none: float, new: Tensor, at: Tensor, of: Tensor) -> Tensor:
        """The images' values so far, with those that are new in the places of images that had none."""
        values = (
            torch.full((self._batch.count,), none, dtype=new.dtype, device=new.device) if values is None else values
        )
        return values.index_put((of,), torch.where(values[of] == none, new[at].detach(), values[of]))
