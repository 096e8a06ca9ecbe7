"""Maps of the classes that labels name, whatever the labels hold."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_saliency.explainers.base import Explainer
from lightning_saliency.functional.class_scores import IGNORED, class_count, predicted_classes


class NoClassesError(ValueError):
    """The network's output has no classes whose maps could be made; maps that need no class are not affected."""


def explain_labels(explainer: Explainer, images: Tensor, labels: Tensor | None) -> Tensor:
    """The map of each image for its label's class; for the predicted class where the label is no class.

    No class are negative labels (-1, -100), and numbers beyond the network's classes, such as 255.

    Args:
        explainer: Makes the maps. Where its maps do not depend on the class, labels are not looked at.
        images: ``[B, C, H, W]``, see ``Explainer``.
        labels: ``[B]`` int64, -1 for none and -1 − N for N numbers that are no classes, as ``find_classes``
            returns them; ``None``: the predicted classes.

    Returns:
        ``[B, H, W]`` float32 in [0, 1], see ``Explainer``.

    Raises:
        NoClassesError: If the labels are as many numbers as the network's outputs, or its one output has labels other
            than 0 and 1: it is a regression.

    Example:
        >>> from torch import nn
        >>> from lightning_saliency.explainers import GradCAM
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> explain_labels(GradCAM(network, layer="1"), torch.rand(3, 3, 8, 8), torch.tensor([2, -1, 255])).shape
        torch.Size([3, 8, 8])
    """
    if not explainer.class_specific:
        labels = None
    if labels is None or not labels.numel():
        return explainer(images, labels)
    logits = explainer.logits(images)
    labels = labels.to(logits.device)
    _refuse_numbers(logits, labels)
    classes = class_count(logits)
    return explainer(images, torch.where((labels >= 0) & (labels < classes), labels, predicted_classes(logits)))


def _refuse_numbers(logits: Tensor, labels: Tensor) -> None:
    outputs = logits.shape[1]
    beyond = labels[(labels > 1) & (labels != IGNORED)]
    if bool((labels == -1 - outputs).any()) and bool((labels < -1).any()):
        given = f"{outputs} number{'s' * (outputs > 1)} for each image"
    elif outputs == 1 and len(beyond):
        given = f"labels such as {int(beyond[0])}"
    else:
        return
    raise NoClassesError(
        f"Got {given} for a network with {outputs} output{'s' * (outputs > 1)}: this looks like a regression, whose "
        "output has no classes. Allowed are integer labels, and 0 and 1 for a single output; leave out the maps of "
        "classes (SMOE Scale needs no class), or say with output= where the network returns the logits of classes."
    )
