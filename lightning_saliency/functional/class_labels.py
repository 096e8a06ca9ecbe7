"""What the labels of a batch say of the class of each image."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_saliency.functional.class_scores import most_frequent_classes

#: Stands for a label that is no class.
NO_CLASS = -1


def label_classes(labels: Tensor, count: int) -> Tensor | None:
    """The classes that labels name, in whatever form data sets have them.

    | labels | read as |
    | --- | --- |
    | integers ``[B]`` or ``[B, 1]`` | classes; -1 for negative ones, as ``ignore_index`` has them |
    | bools, or floats 0 and 1, ``[B]`` or ``[B, 1]`` | class 0 or 1; -1 for NaN and negative ones |
    | other floats in [0, 1], ``[B]`` or ``[B, 1]`` | weights ``[1 - w, w]`` of the classes 0 and 1 |
    | zeros and ones, or floats in [0, 1], ``[B, N]`` | weights of N classes; 0 for NaN and -1 |
    | masks ``[B, h, w]`` or ``[B, 1, h, w]`` of whole numbers | see `most_frequent_classes` |
    | zeros and ones ``[B, N, h, w]`` | the same, of N classes a pixel |

    Args:
        labels: A tensor of a batch.
        count: B, the number of images.

    Returns:
        ``[B]`` int64, a class an image, -1 where there is none (numbers beyond the network's classes, such as 255, stay
        as they are: how many classes there are is the network's matter); or ``[B, N]`` float32 in [0, 1], the weight of
        each class. ``None`` for anything else, such as the numbers that a regression is to find.

    Example:
        >>> label_classes(torch.tensor([3, -100]), 2), label_classes(torch.tensor([[1.0], [torch.nan]]), 2)
        (tensor([ 3, -1]), tensor([ 1, -1]))
        >>> label_classes(torch.tensor([[1.0, 0.0, 1.0]]), 1), label_classes(torch.tensor([0.25]), 1)
        (tensor([[1., 0., 1.]]), tensor([[0.7500, 0.2500]]))
        >>> label_classes(torch.tensor([[[0, 2], [2, 255]]]), 1), label_classes(torch.tensor([12.5, -3.0]), 2)
        (tensor([2]), None)
    """
    if labels.ndim not in (1, 2, 3, 4) or labels.shape[0] != count or not labels.numel() or labels.is_complex():
        return None
    labels = labels.detach()
    if labels.ndim > 2:
        return _classes_of_masks(labels)
    whole = not labels.is_floating_point()
    if labels[0].numel() == 1:
        labels = labels.reshape(count)
        if whole:
            return labels.long().clamp(min=NO_CLASS)
        known = _known(labels)
        if not _in_unit_range(labels[known]):
            return None
        if bool(((labels == 0) | (labels == 1))[known].all()):
            return torch.where(known, labels, NO_CLASS).long()
        yes = torch.where(known, labels, 0.0).float()
        return torch.stack([torch.where(known, 1 - yes, 0.0), yes], dim=1)
    weights = labels.float()
    known = _known(weights)
    return torch.where(known, weights, 0.0) if _in_unit_range(weights[known]) else None


def main_classes(labels: Tensor, count: int) -> Tensor | None:
    """One class for each image: the one with the largest weight, of several that are present the first.

    The first and not the one the network prefers, so that a film shows the same class of an image in every epoch.

    Args:
        labels: See `label_classes`. Weights ``[B, N]`` count as labels only if they are zeros and ones, or if each row
            sums to 1 (soft labels), and those of a yes-no question only if they are zeros and ones: other numbers in
            [0, 1] may be anything, such as coordinates.
        count: B, the number of images.

    Returns:
        ``[B]`` int64, -1 where there is none; ``None`` if these are no labels.

    Example:
        >>> main_classes(torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), 2)
        tensor([ 1, -1])
        >>> main_classes(torch.tensor([0.25]), 1), main_classes(torch.tensor([[0.5, 0.25, 0.75]]), 1)
        (None, None)
    """
    found = label_classes(labels, count)
    if found is None or found.ndim == 1:
        return found
    hard = bool(((found == 0) | (found == 1)).all())
    if not hard and (labels[0].numel() == 1 or not bool(((found.sum(1) - 1).abs() < 1e-3).all())):
        return None
    return torch.where(found.amax(1) > 0, found.argmax(1), NO_CLASS)


def no_classes(labels: Tensor, count: int) -> Tensor | None:
    """What stands for numbers ``[B]`` or ``[B, N]`` that are to be found by a regression: -1 − N for each image.

    Returns:
        ``[B]`` int64; ``None`` for other tensors, and for those that hold classes.

    Example:
        >>> no_classes(torch.tensor([12.5, 3.0]), 2), no_classes(torch.tensor([[0.5, 7.0]]), 1)
        (tensor([-2, -2]), tensor([-3]))
    """
    numbers = labels.is_floating_point() and labels.ndim in (1, 2) and labels.shape[0] == count and labels.numel() > 0
    if not numbers or main_classes(labels, count) is not None:
        return None
    return torch.full((count,), -1 - labels[0].numel(), dtype=torch.int64, device=labels.device)


def _classes_of_masks(masks: Tensor) -> Tensor | None:
    if masks.is_floating_point() and not bool(((masks == masks.round()) & (masks >= -100) & (masks <= 255)).all()):
        return None
    if masks.ndim == 3 or masks.shape[1] == 1:
        return most_frequent_classes(masks.long().flatten(1)[..., None])
    if not bool(((masks == 0) | (masks == 1)).all()):
        return None
    of_pixels = torch.where((masks != 0).any(1), masks.long().argmax(dim=1), NO_CLASS)
    return most_frequent_classes(of_pixels)


def _known(labels: Tensor) -> Tensor:
    return ~(labels.isnan() | (labels == -1) | (labels == -100))


def _in_unit_range(values: Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())
