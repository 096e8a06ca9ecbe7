"""Masks laid over the images that they belong to."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_saliency.functional.masking import blend


def masked_images(images: Tensor, fill: Tensor, masks: Tensor, owners: Tensor) -> Tensor:
    """The masked images ``[N, C, H, W]``, see `blend`, of the images' layout.

    Args:
        images: ``[B, C, H, W]``.
        fill: ``[B, C, H, W]``, what shows where a mask is zero.
        masks: ``[N, h, w]`` in [0, 1], on the images' device.
        owners: ``[N]`` int64, the image of each mask. On the CPU they spare copies of the images: runs of masks of one
            image are laid over a view of it.

    Example:
        >>> images, fill = torch.arange(1.0, 3.0).reshape(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
        >>> masks = torch.tensor([1.0, 0.5, 0.5]).reshape(3, 1, 1)
        >>> masked_images(images, fill, masks, torch.tensor([0, 0, 1])).flatten()
        tensor([1.0000, 0.5000, 1.0000])
    """
    if owners.device.type == "cpu":
        numbers, counts = torch.unique_consecutive(owners, return_counts=True)
        if 2 * len(numbers) <= len(owners) or len(numbers) == 1:
            # In the images' own layout, such as channels last.
            blended = torch.empty_like(images[:1].expand(len(owners), -1, -1, -1))
            parts = (torch.split(whole, counts.tolist()) for whole in (blended, masks))
            for number, part, own in zip(numbers.tolist(), *parts, strict=True):
                one = slice(number, number + 1)
                blend(images[one], fill[one], own[None], out=part[None])
            return blended
        owners = owners.to(images.device, non_blocking=True)
    return blend(images[owners], fill[owners], masks)
