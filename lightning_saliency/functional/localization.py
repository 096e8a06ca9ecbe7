"""Where a saliency map puts its weight, and whether the annotated object lies there.

Every score is per image, `[B]`, with no loop over images. Saliency maps `[B, H, W]` may have any real dtype; they are
computed in at least float32. A map with a NaN scores NaN, or raises an error where the function says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_saliency.checks import check_minimum
from lightning_saliency.functional.masking import top_fraction

__all__ = [
    "bbox_score",
    "boxes_to_masks",
    "energy_pointing_game",
    "pointing_game",
    "top_fraction_iou",
]


def energy_pointing_game(saliency: Tensor, masks: Tensor) -> Tensor:
    r"""Fraction of each map's energy that lies on the object: ‖S ⊙ G‖₁ / ‖S‖₁ (SISE, EBPG).

    A constant map scores the share of the image that the object covers. So does a map of zeros, which points nowhere:
    its 0 / 0 is taken as the limit of constant maps.

    Args:
        saliency: Maps S ``[B, H, W]``.
        masks: Ground truth G, bool ``[B, H, W]``: True on the object. An empty one scores 0.

    Returns:
        ``[B]`` in [0, 1].

    Raises:
        ValueError: If the shapes differ or are not ``[B, H, W]``.
        TypeError: If ``masks`` is not bool.

    Example:
        >>> import torch
        >>> saliency = torch.tensor([[[3.0, 1.0], [0.0, 0.0]]])
        >>> energy_pointing_game(saliency, torch.tensor([[[True, False], [True, False]]]))
        tensor([0.7500])
    """
    saliency = _checked_maps(saliency, masks)
    return (_shares(saliency) * masks.flatten(1)).sum(1).clamp(max=1.0)


def pointing_game(saliency: Tensor, masks: Tensor, tolerance: float = 0) -> Tensor:
    r"""Whether the most salient pixel of each map hits the object (Group-CAM, Sec. 4.4).

    A hit if the maximum lies on the mask or within ``tolerance`` pixels of it (Euclidean distance of pixel centres). Of
    several equal maxima the first in reading order counts, so that a constant map gains nothing from being so.

    Args:
        saliency: Maps ``[B, H, W]``.
        masks: Ground truth, bool ``[B, H, W]``: the union of the objects of the category. An empty one is a miss.
        tolerance: Pixels by which a hit may be off. The pointing game on photographs is commonly played with 15.

    Returns:
        ``[B]``: 1 for a hit, 0 for a miss.

    Raises:
        ValueError: If the shapes differ or are not ``[B, H, W]``, or if ``tolerance`` is negative.
        TypeError: If ``masks`` is not bool.

    Example:
        >>> import torch
        >>> saliency = torch.tensor([[[0.0, 0.0, 0.9], [0.0, 0.1, 0.0]]])
        >>> masks = torch.tensor([[[True, False, False], [True, False, False]]])
        >>> pointing_game(saliency, masks), pointing_game(saliency, masks, tolerance=2)
        (tensor([0.]), tensor([1.]))
    """
    saliency = _checked_maps(saliency, masks)
    check_minimum("tolerance", tolerance, 0, kind="numbers of pixels")
    if saliency.numel() == 0:
        return saliency.new_zeros(saliency.shape[0])
    height, width = saliency.shape[1:]
    peak = saliency.flatten(1).argmax(1)
    rows = torch.arange(height, device=peak.device) - (peak // width).unsqueeze(1)
    columns = torch.arange(width, device=peak.device) - (peak % width).unsqueeze(1)
    near = rows.square().unsqueeze(2) + columns.square().unsqueeze(1) <= tolerance**2
    return _nan_with(saliency, (near & masks).flatten(1).any(1))


def top_fraction_iou(saliency: Tensor, masks: Tensor, fraction: float = 0.2) -> Tensor:
    r"""Intersection over union of the most salient pixels of each map and the object (SISE, mIoU).

    Exactly ``round(fraction · H · W)`` pixels are taken, equal values in reading order.

    Args:
        saliency: Maps ``[B, H, W]``.
        masks: Ground truth, bool ``[B, H, W]``. An empty one scores 0.
        fraction: Share of the pixels taken, in [0, 1]; 0.2 in the paper.

    Returns:
        ``[B]`` in [0, 1].

    Raises:
        ValueError: If the shapes differ or are not ``[B, H, W]``, if ``fraction`` is outside [0, 1], or if a map
            holds NaN.
        TypeError: If ``masks`` is not bool.

    Example:
        >>> import torch
        >>> saliency = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
        >>> top_fraction_iou(saliency, torch.tensor([[[True, False], [True, False]]]), fraction=0.5)
        tensor([0.3333])
    """
    saliency = _checked_maps(saliency, masks)
    top = top_fraction(saliency, fraction)
    shared, joined = (top & masks).flatten(1).sum(1), (top | masks).flatten(1).sum(1)
    return (shared / joined.clamp(min=1)).to(saliency.dtype)


def bbox_score(saliency: Tensor, masks: Tensor) -> Tensor:
    r"""Fraction of the N most salient pixels of each map that lie on the object, N its size in pixels (SISE, Bbox).

    Exactly N pixels are taken, equal values in reading order.

    Args:
        saliency: Maps ``[B, H, W]``.
        masks: Ground truth, bool ``[B, H, W]``, N pixels of it True. An empty one scores 0.

    Returns:
        ``[B]`` in [0, 1].

    Raises:
        ValueError: If the shapes differ or are not ``[B, H, W]``.
        TypeError: If ``masks`` is not bool.

    Example:
        >>> import torch
        >>> saliency = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
        >>> bbox_score(saliency, torch.tensor([[[True, False], [True, False]]]))
        tensor([0.5000])
    """
    saliency = _checked_maps(saliency, masks)
    objects = masks.flatten(1).sum(1, keepdim=True)
    order = saliency.flatten(1).argsort(dim=1, descending=True, stable=True)
    ordered = masks.flatten(1).gather(1, order)
    taken = torch.arange(ordered.shape[1], device=ordered.device) < objects
    return _nan_with(saliency, (ordered & taken).sum(1) / objects.squeeze(1).clamp(min=1))


def boxes_to_masks(boxes: Tensor | Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    r"""The union of each image's boxes as a mask.

    A pixel (row i, column j) covers the square [j, j + 1] × [i, i + 1]. It belongs to a box whose inside it overlaps,
    however little: boxes are rounded outwards, so that none vanishes, and one with whole coordinates covers (x2 −
    x1)(y2 − y1) pixels. Parts outside the image are cut off.

    Args:
        boxes: ``[B, n, 4]`` or one ``[n_i, 4]`` for each image, as x1, y1, x2, y2 in pixels. A row with a NaN, or
            without area, is padding and covers nothing.
        size: ``(H, W)`` of the masks.

    Returns:
        bool ``[B, H, W]``.

    Raises:
        ValueError: If ``boxes`` has another shape, or ``size`` is negative.

    Example:
        >>> import torch
        >>> boxes_to_masks([torch.tensor([[0, 0, 2, 1]]), torch.tensor([[1.5, 0.0, 9.0, 9.0]])], (2, 3)).int()
        tensor([[[1, 1, 0],
                 [0, 0, 0]],
                [[0, 1, 1],
                 [0, 1, 1]]], dtype=torch.int32)
    """
    height, width = size
    if height < 0 or width < 0:
        raise ValueError(f"Got size={size}. Allowed are (H, W) in pixels, each from 0; give the images' size.")
    if not isinstance(boxes, Tensor):
        shapes = [tuple(one.shape) for one in boxes]
        if any(len(shape) != 2 or shape[1] != 4 for shape in shapes):
            raise ValueError(
                f"Got boxes {[list(shape) for shape in shapes]}. Allowed is [n, 4] for each image; give torch.zeros(0, "
                "4) for an image without boxes."
            )
        if not shapes:
            return torch.zeros(0, height, width, dtype=torch.bool)
        boxes = pad_sequence([one.to(torch.float32) for one in boxes], batch_first=True, padding_value=math.nan)
    if boxes.ndim != 3 or boxes.shape[2] != 4:
        raise ValueError(f"Got boxes {list(boxes.shape)}. Allowed are [B, n, 4]; add the missing dimensions.")
    x1, y1, x2, y2 = boxes.to(torch.float32).unsqueeze(3).unbind(2)
    real = (x2 > x1) & (y2 > y1)
    left = torch.arange(width, device=boxes.device)
    top = torch.arange(height, device=boxes.device)
    columns = (left < x2) & (left + 1 > x1)
    rows = (top < y2) & (top + 1 > y1) & real
    # A product of [H, n] and [n, W] counts the boxes over each pixel without an [n, H, W] tensor.
    return torch.bmm(rows.transpose(1, 2).float(), columns.float()) > 0


def _nan_with(saliency: Tensor, scores: Tensor) -> Tensor:
    """The scores ``[B]``, NaN where the map has one: an order of pixels takes it for the largest value."""
    return scores.to(saliency.dtype).masked_fill(saliency.isnan().flatten(1).any(1), math.nan)


def _shares(saliency: Tensor) -> Tensor:
    """Each map as a distribution over its pixels, ``[B, N]``; uniform for a map of zeros."""
    energy = saliency.abs().flatten(1)
    if energy.numel() == 0:
        return energy
    peak = energy.amax(1, keepdim=True)
    # Relative to the maximum first: the sum of huge or denormal values would leave the range of the type.
    energy = torch.where(peak == 0, torch.ones_like(energy), energy / peak)
    return energy / energy.sum(1, keepdim=True)


def _checked_maps(saliency: Tensor, masks: Tensor | None = None) -> Tensor:
    """``saliency`` in at least float32, after checking it and the masks that go with it."""
    if saliency.ndim != 3:
        raise ValueError(
            f"Got saliency maps {list(saliency.shape)}. Allowed are [B, H, W]; squeeze the dimension of the channels, "
            "or add that of the batch."
        )
    if masks is not None:
        if masks.shape != saliency.shape:
            raise ValueError(
                f"Got masks {list(masks.shape)} for saliency maps {list(saliency.shape)}. Allowed is one shape for "
                "both; join an image's objects by masks.any(1), and resize the maps to the masks."
            )
        if masks.dtype != torch.bool:
            raise TypeError(f"Got masks of {masks.dtype}. Allowed is torch.bool; compare first, for example masks > 0.")
    return saliency.to(torch.promote_types(saliency.dtype, torch.float32))
