"""Telling images apart, and finding them again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

# Sums of an image's rows and columns that are kept of each channel: 8 × 8.
_SIDE = 8
# Images are gone through a few at a time, as their copies in float64 need eight bytes a value.
_CHUNK = 16
_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def fingerprint(images: Tensor | Sequence[Tensor]) -> Tensor:
    r"""A few numbers of each image that all of its pixels take part in.

    For each channel x ``[H, W]``: u x vᵀ / √(HW) with fixed random matrices u ``[8, H]`` and v ``[8, W]`` whose rows
    have the mean 0, and the mean of x. So a single dot on an even ground is told from another one elsewhere.

    Args:
        images: ``[B, C, H, W]``, or a sequence of B images ``[C, H, W]`` of one number of channels; or volumes
            ``[B, C, T, H, W]``, which are taken as images of their slices, one below the other.

    Returns:
        ``[B, C·65 + 4]`` float32 on the CPU; the last four are H, W, the root mean square of the image and the relative
        rounding error of its type, see `same_images`.

    Example:
        >>> dots = torch.zeros(2, 1, 64, 64)
        >>> dots[0, 0, 5, 5] = dots[1, 0, 5, 6] = 1
        >>> same_images(fingerprint(dots), fingerprint(dots))
        tensor([[ True, False],
                [False,  True]])
    """
    if not isinstance(images, Tensor):
        if len({image.shape for image in images}) == 1:
            return fingerprint(torch.stack(list(images)))
        return torch.cat([fingerprint(image[None]) for image in images])
    deep = images.ndim == 5
    images = images.flatten(2, 3) if deep else images
    rounding = torch.finfo(images.dtype).eps if images.is_floating_point() else 0.0
    # Apple's devices have no float64.
    precise = torch.float32 if images.device.type == "mps" else torch.float64
    height, width = images.shape[-2:]
    rows, columns = (_projection(side).to(images.device, precise) for side in (height, width))
    prints = []
    for chunk in torch.split(images.detach(), 1 if deep else _CHUNK):
        # NaN equals nothing, not even itself.
        pixels = torch.nan_to_num(chunk.to(precise), posinf=0.0, neginf=0.0)
        seen = (rows @ pixels @ columns.T / (height * width) ** 0.5).flatten(1)
        power = pixels.square().mean((1, 2, 3)).sqrt()[:, None]
        known = power.new_tensor([height, width]).expand(len(chunk), 2)
        error = torch.full_like(power, rounding)
        prints.append(torch.cat([seen, pixels.mean((2, 3)), known, power, error], 1).float().cpu())
    return torch.cat(prints) if prints else torch.zeros(0, images.shape[1] * (_SIDE**2 + 1) + 4)


def same_images(prints: Tensor, others: Tensor) -> Tensor:
    """Which images are the same, but for the rounding of the coarser of their two types.

    Args:
        prints: ``[n, k]``, from `fingerprint`.
        others: ``[m, k]``, or of images of another number of channels, which are never the same.

    Returns:
        bool ``[n, m]``.

    Example:
        >>> images = torch.rand(1, 3, 16, 16)
        >>> [same_images(fingerprint(images), fingerprint(other)).item() for other in (images.half(), images + 0.01)]
        [True, False]
    """
    if prints.shape[1] != others.shape[1]:
        return torch.zeros(len(prints), len(others), dtype=torch.bool)
    (seen, size, power, rounding), (seen2, size2, power2, rounding2) = (
        (one[:, :-4], one[:, -4:-2], one[:, -2], one[:, -1]) for one in (prints, others)
    )
    # Rounding errors of pixels add up at random; a sum of float32 is not better than 1e-6. Three times that is allowed.
    coarser = torch.maximum(rounding[:, None], rounding2[None]).clamp(min=1e-6)
    allowed = 3 * coarser * torch.maximum(power[:, None], power2[None])
    apart = (seen[:, None] - seen2[None]).abs().amax(-1)
    return (apart <= allowed) & (size[:, None] == size2[None]).all(-1)


def content_keys(images: Tensor) -> list[int]:
    """A number of 64 bits for each image that the same pixels have again, bit for bit, in any batch on any device.

    It is the sum, modulo 2⁶⁴, of the pixels' bits as whole numbers, each times a random odd one. Whole numbers add up
    the same in any order.

    Args:
        images: ``[B, C, H, W]``, floating point.

    Example:
        >>> images = torch.rand(3, 1, 8, 8)
        >>> images[2] = images[0]
        >>> first, second, third = content_keys(images)
        >>> first == third, first == second, content_keys(images[1:2]) == [second]
        (True, False, True)
    """
    pixels = images.detach().contiguous()
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[pixels.element_size()]
    weights = _odd_numbers(tuple(pixels.shape[1:]), str(pixels.device))
    sums = [(chunk.view(whole).flatten(1).long() * weights).sum(1) for chunk in torch.split(pixels, _CHUNK)]
    return [key for part in sums for key in part.tolist()]


@lru_cache(maxsize=16)
def _odd_numbers(shape: tuple[int, ...], device: str) -> Tensor:
    """Random odd numbers of 63 bits, one a pixel, others for each shape, the same in every process and run."""
    seed = sum(side * 1000003**place for place, side in enumerate(shape, 1)) % 2**63
    count = math.prod(shape)
    drawn = torch.randint(-(2**62), 2**62, (count,), generator=torch.Generator().manual_seed(seed))
    return (drawn * 2 + 1).to(device)


@lru_cache(maxsize=16)
def _projection(side: int) -> Tensor:
    """Random numbers ``[8, side]`` whose rows have the mean 0, the same in every process and run."""
    drawn = torch.randn(_SIDE, side, generator=torch.Generator().manual_seed(side), dtype=torch.float64)
    return drawn - drawn.mean(1, keepdim=True)
