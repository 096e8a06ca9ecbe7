"""The regions of objects, from masks and boxes in the forms in which batches carry them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import convert_bounding_box_format

from lightning_saliency.batches.tree import is_dense, plain
from lightning_saliency.checks import check_choice
from lightning_saliency.functional.localization import boxes_to_masks

_RELATIVE = "relative_"
#: Formats of boxes, as ``torchvision.tv_tensors.BoundingBoxFormat`` names them; also relative to the image's sides.
BOX_FORMATS = tuple(
    prefix + form.name.lower()
    for prefix in ("", _RELATIVE)
    for form in tv_tensors.BoundingBoxFormat
    if not (prefix and form.name.endswith("R"))  # an angle is not relative to the sides
)


def check_box_format(form: str) -> str:
    """The format in lower case, or an error that lists the formats."""
    lower = form.lower() if isinstance(form, str) else form
    check_choice("box_format", lower, BOX_FORMATS)
    return lower


def mask_regions(masks: Any, count: int, size: Sequence[int], ignore_index: int | None) -> Tensor | None:
    """Where the objects of masks are.

    Args:
        masks: ``[B, H, W]`` or ``[B, n, H, W]``, or B of ``[H, W]`` or ``[n, H, W]``: bool, or whole numbers of which 0
            is no object. Floating-point ones count if, but for ``ignore_index``, they hold 0 and one whole number;
            others are depths, densities or other quantities, and no objects.
        count: B.
        size: ``(H, W)`` of the images. Masks of volumes of ``(T, H, W)`` are ``[B, T, H, W]`` or ``[B, n, T, H, W]``.
        ignore_index: The number of pixels without a label; they, negative numbers and NaN cover nothing.

    Returns:
        bool ``[B, H, W]`` or ``[B, T, H, W]``; ``None`` where these are no masks of objects of that number and size.

    Example:
        >>> mask_regions(torch.tensor([[[0, 2, 255]]]), 1, (1, 3), 255)
        tensor([[[False,  True, False]]])
        >>> mask_regions(torch.tensor([[[0.1, 0.7, 0.2]]]), 1, (1, 3), 255) is None
        True
    """
    single = _one_an_image(masks, count)
    if single is None or any(mask.shape[-len(size) :] != torch.Size(size) for mask in single):
        return None
    # A tensor is looked at as a whole: each question asked of a device costs a wait.
    parts = (
        [plain(masks).reshape(count, -1, *size)]
        if isinstance(masks, Tensor)
        else [mask.reshape(1, -1, *size) for mask in single]
    )
    regions, ignored, floats = [], [], []
    for part in parts:
        nothing = torch.zeros_like(part, dtype=torch.bool)
        ignored.append(nothing if ignore_index is None or part.dtype == torch.bool else part == ignore_index)
        inside = (part > 0) & ~ignored[-1]
        regions.append(inside.any(1))
        if part.is_floating_point():
            floats.append((part[inside], part[~inside & ~ignored[-1]]))
    if floats and not _marks_objects(*(torch.cat(values) for values in zip(*floats, strict=True))):
        return None
    found = torch.cat(regions)
    if bool(torch.stack([one.any() for one in ignored]).any() & ~found.any()):
        warnings.warn(
            f"The masks of a batch hold nothing but 0 and {ignore_index}, which means pixels without a label, so that "
            f"they show no object. If {ignore_index} marks the objects, give ignore_index=None.",
            stacklevel=2,
        )
    return found


def _marks_objects(inside: Tensor, outside: Tensor) -> bool:
    """Whether floating-point values are marks: 0 (or less, whole) outside, one and the same whole number inside."""
    if not bool(((outside == outside.round()) | outside.isnan()).all()):
        return False
    if not inside.numel():
        return True
    low, high = inside.min(), inside.max()
    return bool((low == high) & (low == low.round())) and (bool((outside == 0).any()) or low.item() == 1)


def box_regions(boxes: Any, count: int, size: tuple[int, int], box_format: str, known: bool = False) -> Tensor | None:
    """Where the objects of boxes are.

    Args:
        boxes: ``[B, 4]``, ``[B, n, 4]``, or B of ``[n, 4]`` (or lists of four numbers). Rows of NaN or without area are
            padding. ``tv_tensors.BoundingBoxes`` tell their format themselves.
        count: B.
        size: ``(H, W)`` of the images.
        box_format: Format of all others, one of ``BOX_FORMATS``. Rotated boxes cover the pixels whose centres they
            hold.
        known: Whether boxes of the same source were in pixels. A GPU is not waited for then to learn whether these are:
            if they are not, they cover nothing, and nothing is said.

    Returns:
        bool ``[B, H, W]``; ``None`` where these are no boxes of that number and format.

    Example:
        >>> box_regions([[[1, 0, 2, 1]]], 1, (1, 4), "xywh")
        tensor([[[False,  True,  True, False]]])
    """
    single = _one_an_image(boxes, count)
    if single is None:
        return None
    rows, forms = [], []
    for box in single:
        told = next((one for one in (box, boxes) if isinstance(one, tv_tensors.BoundingBoxes)), None)
        form = box_format if told is None else told.format.name.lower()
        width = 8 if form.endswith("xyxyxyxy") else 5 if form.endswith("r") else 4
        values = plain(box).to(torch.float32)
        if values.numel() == 0:
            values = values.reshape(0, width)
        if values.ndim not in (1, 2) or values.shape[-1] != width:
            return None
        rows.append(values.reshape(-1, width))
        forms.append((form, told is not None))
    if len(set(forms)) > 1:
        one_by_one = [_regions([own], *form, size, known) for own, form in zip(rows, forms, strict=True)]
        found = [one for one in one_by_one if one is not None]
        return torch.cat(found) if len(found) == count else None
    return _regions(rows, *forms[0], size, known)


def _regions(rows: list[Tensor], form: str, told: bool, size: tuple[int, int], known: bool) -> Tensor | None:
    """The union ``[B, H, W]`` of each image's boxes ``[n, 4]``, or rotated ones, all of one format.

    ``None``, with a warning, where they are not told to be relative and look like it; see `box_regions` for ``known``.
    """
    padded = pad_sequence(rows, batch_first=True, padding_value=math.nan)
    width = padded.shape[-1]
    if form.startswith(_RELATIVE):
        padded = padded * torch.tensor([size[1], size[0]], device=padded.device).repeat(width // 2)
    certain = told or form.startswith(_RELATIVE) or width != 4
    relative = None if certain else _looks_relative(padded, size)
    unread = known and padded.device.type != "cpu"
    if relative is not None and not unread and bool(relative):
        warnings.warn(
            "The boxes of a batch lie within [0, 1], a single pixel, and are left out. If they are relative to the "
            f"images' sides, give box_format='{_RELATIVE}{form}'.",
            stacklevel=3,
        )
        return None
    old = tv_tensors.BoundingBoxFormat[form.removeprefix(_RELATIVE).upper()]
    if width == 4:
        corners = convert_bounding_box_format(
            padded.flatten(0, 1), old_format=old, new_format=tv_tensors.BoundingBoxFormat.XYXY
        )
        found = boxes_to_masks(plain(corners).reshape(padded.shape), size)
        return found if relative is None else found & ~relative
    return torch.stack([_rotated_region(own, old, size) for own in padded])


def _rotated_region(rows: Tensor, old: tv_tensors.BoundingBoxFormat, size: tuple[int, int]) -> Tensor:
    """The union ``[H, W]`` of an image's rotated boxes."""
    quads = tv_tensors.BoundingBoxFormat["XYXYXYXY"]
    corners = plain(convert_bounding_box_format(rows, old_format=old, new_format=quads)).reshape(-1, 4, 2)
    rows_, columns = (torch.arange(side, device=rows.device) + 0.5 for side in size)
    points = torch.stack(torch.meshgrid(columns, rows_, indexing="xy"), -1)
    along = (corners.roll(-1, 1) - corners)[:, :, None, None]
    across = points - corners[:, :, None, None]
    # A point is inside if all four edges pass it on the same side.
    turn = along[..., 0] * across[..., 1] - along[..., 1] * across[..., 0]
    return ((turn > 0).all(1) | (turn < 0).all(1)).any(0)


def _looks_relative(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether the boxes ``[B, n, 4]`` of one image or more lie within its first pixel, and not on its edges: a bool."""
    real = rows.isfinite().all(2) & (rows[..., 2:] > 0).all(2)
    inside = ((rows >= 0) & (rows <= 1)).all(2) | ~real
    fractional = (rows % 1 != 0).any(2) & real
    return (inside.all(1) & fractional.any(1)).any() & (max(size) > 1)


def _one_an_image(values: Any, count: int) -> list[Tensor] | None:
    """One tensor an image, or ``None`` where there are not ``count``."""
    if not isinstance(values, (Tensor, Sequence)) or isinstance(values, str) or not _readable(values):
        return None
    single = isinstance(values, Tensor) and values.ndim == 0
    if single or not count or len(values) != count or not all(map(_readable, values)):
        return None
    try:
        items = [value if isinstance(value, Tensor) else torch.as_tensor(value) for value in values]
    except (TypeError, ValueError, RuntimeError):
        return None  # texts, polygons of different lengths
    return [item if isinstance(item, tv_tensors.BoundingBoxes) else plain(item) for item in items]


def _readable(value: Any) -> bool:
    return not isinstance(value, Tensor) or (is_dense(value) and not value.is_complex())
