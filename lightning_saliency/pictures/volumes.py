"""The picture of a volume or clip: its middle frame, and the maps there."""

from __future__ import annotations

from torch import Tensor

from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.normalization import normal_cdf


def middle_image(image: Tensor) -> Tensor:
    """The frame T // 2 of a volume ``[C, T, H, W]``; an image ``[C, H, W]`` as it is.

    Example:
        >>> import torch
        >>> middle_image(torch.arange(4.0).view(1, 4, 1, 1)).item(), middle_image(torch.rand(3, 8, 8)).shape
        (2.0, torch.Size([3, 8, 8]))
    """
    return image[:, image.shape[1] // 2] if image.ndim == 4 else image


def middle_map(map_: Tensor, image: Tensor) -> Tensor:
    """The map that belongs to an image's shown frame.

    Args:
        map_: ``[h, w]`` of an image, as it is; or ``[t, h, w]`` of a volume, interpolated linearly along t.
        image: ``[C, H, W]`` or ``[C, T, H, W]``.

    Returns:
        ``[h, w]``.

    Example:
        >>> import torch
        >>> ramp = torch.tensor([0.0, 1.0]).view(2, 1, 1)
        >>> middle_map(ramp, torch.zeros(1, 4, 8, 8)).item()  # the frames 0 to 3 are at 0, 0.25, 0.75, 1
        0.75
    """
    if map_.ndim == 2:
        return map_
    frames = image.shape[1]
    return resize_maps(map_, (frames, *map_.shape[1:]))[frames // 2]


def squashed_map(statistic: Tensor, image: Tensor) -> Tensor:
    """A scale's raw map in [0, 1] by its normal CDF, that of a volume's as a whole, at the image's shown frame.

    Args:
        statistic: ``[h, w]``, or ``[t, h, w]`` of a volume.
        image: See `middle_map`.

    Returns:
        ``[h, w]``.
    """
    return middle_map(normal_cdf(statistic.flatten(0, -2)).reshape(statistic.shape), image)
