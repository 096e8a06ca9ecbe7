"""Hiding pixels of images and showing others instead: by rank (ROAR, KAR) and under smooth masks (Group-CAM, SISE)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_saliency.checks import check_fraction, check_images, check_no_nan
from lightning_saliency.functional._columns import upcast
from lightning_saliency.functional.fills import Fill, blur, fill_images


def top_fraction(saliency: Tensor, fraction: float) -> Tensor:
    """The most salient ``round(fraction · H · W)`` pixels of each map, exactly that many whatever the ties.

    Ties at the boundary are decided in reading order, the upper left first, so that a map gets the same mask in every
    batch and on every device. ``round`` is Python's: a half goes to the even number.

    Args:
        saliency: ``[..., H, W]``, any real dtype, no NaN.
        fraction: Share of the pixels, in [0, 1].

    Returns:
        ``[..., H, W]`` bool, ``True`` on the most salient pixels.

    Raises:
        ValueError: If the fraction is outside [0, 1], if there are fewer than two dimensions, or if a map holds NaN.

    Example:
        >>> top_fraction(torch.tensor([[[0.1, 0.9], [0.5, 0.5]]]), 0.5)
        tensor([[[False,  True],
                 [ True, False]]])
    """
    check_fraction(fraction)
    if saliency.ndim < 2:
        raise ValueError(
            f"Got saliency maps {list(saliency.shape)}. Allowed are [..., H, W]; add the missing dimensions."
        )
    flat = upcast(saliency).flatten(-2)
    count, pixels = round(fraction * flat.shape[-1]), flat.shape[-1]
    check_no_nan(saliency)
    if count == 0 or flat.numel() == 0:
        return torch.zeros_like(saliency, dtype=torch.bool)
    # The value of the last pixel that is taken, found from the nearer end.
    if 2 * count <= pixels:
        boundary = flat.topk(count, sorted=False).values.amin(-1, keepdim=True)
    else:
        boundary = flat.topk(pixels - count + 1, largest=False, sorted=False).values.amax(-1, keepdim=True)
    chosen = flat >= boundary
    if bool((chosen.sum(-1, dtype=torch.int32) > count).any()):
        above, tied = flat > boundary, flat == boundary
        wanted = count - above.sum(-1, keepdim=True)
        chosen = above | (tied & (tied.cumsum(-1, dtype=torch.int32) <= wanted))
    return chosen.view(saliency.shape)


def above_mean(maps: Tensor, sigmas: float = 0.0) -> Tensor:
    """The pixels that are greater than their own map's mean by more than so many of its standard deviations.

    Group-CAM's fine-tuning (Sec. 5) cuts at the mean, ``sigmas=0``; MaskTune (Taghanaki et al. 2022) hides what lies
    above μ + 2σ. σ is the population standard deviation of the map's pixels.

    Args:
        maps: ``[..., H, W]``, floating point.
        sigmas: k, any real number.

    Returns:
        ``[..., H, W]`` bool.

    Example:
        >>> above_mean(torch.tensor([[[0.0, 0.0, 0.0, 4.0]]])), above_mean(torch.tensor([[[0.0, 0.0, 0.0, 4.0]]]), 2.0)
        (tensor([[[False, False, False,  True]]]), tensor([[[False, False, False, False]]]))
    """
    threshold = maps.mean((-2, -1), keepdim=True)
    if sigmas != 0:
        threshold = threshold + sigmas * maps.std((-2, -1), correction=0, keepdim=True)
    return maps > threshold


def salient_patches(maps: Tensor, shares: Tensor) -> Tensor:
    """A rectangle round each map's highest pixel, of the image's proportions (SaliencyMix, Uddin et al. 2021, Eq. 2).

    Of a share a its sides are ⌊H·√a⌋ and ⌊W·√a⌋, rounded down to even numbers; what lies beyond the image is cut off.
    Of several highest pixels the first in reading order is the centre.

    Args:
        maps: ``[n, H, W]``, no NaN.
        shares: ``[n]`` in [0, 1], the share of the image's area.

    Returns:
        ``[n, H, W]`` bool.

    Example:
        >>> salient_patches(torch.tensor([[[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]), torch.tensor([1.0])).int()
        tensor([[[0, 1, 1, 1],
                 [0, 1, 1, 1]]], dtype=torch.int32)
    """
    height, width = maps.shape[-2:]
    peaks = maps.flatten(1).argmax(1)
    inside = []
    for places, side in ((peaks // width, height), (peaks % width, width)):
        half = (side * shares.to(maps.device).double().sqrt() + 1e-9).long() // 2
        along = torch.arange(side, device=maps.device)
        inside.append((along >= (places - half)[:, None]) & (along < (places + half)[:, None]))
    return inside[0][:, :, None] & inside[1][:, None, :]


def soft_edges(regions: Tensor, softness: float) -> Tensor:
    """Regions whose edges are blurred by a Gaussian.

    Args:
        regions: ``[B, H, W]``, bool or in [0, 1].
        softness: Standard deviation of the Gaussian as a share of the shorter side, in [0, 1); 0: hard edges.

    Returns:
        ``[B, H, W]`` float32 in [0, 1].

    Example:
        >>> soft_edges(torch.tensor([[[0.0, 0.0, 1.0, 1.0]] * 4]), softness=0.25)[0, 0]
        tensor([0.1169, 0.3049, 0.6951, 0.8831])
    """
    regions = regions.float()
    side = min(regions.shape[-2:])
    if softness * side < 1e-3 or regions.numel() == 0:
        return regions
    # Three standard deviations to each side hold all but a thousandth of the kernel.
    sigma = softness * side
    size = 2 * math.ceil(3 * sigma) + 1
    return blur(regions[:, None], size, max(sigma, 1.0))[:, 0].clamp(0, 1)


def remove_most_salient(
    images: Tensor, saliency: Tensor, fraction: float, fill: Fill = "zero", *, generator: torch.Generator | None = None
) -> Tensor:
    """Images whose most salient pixels are filled over (ROAR: remove and retrain).

    Args:
        images: ``[B, C, H, W]``, floating point.
        saliency: ``[B, H, W]``; exactly ``round(fraction · H · W)`` pixels are removed, see `top_fraction`.
        fraction: Share of the pixels removed, in [0, 1].
        fill: What is put there, see `fill_images`.
        generator: Source of the randomness of ``fill="noise"``, on the images' device.

    Returns:
        ``[B, C, H, W]``, a new tensor of the images' dtype.

    Raises:
        ValueError: If shapes do not fit, the fraction is outside [0, 1], or the fill is unknown.

    Example:
        >>> remove_most_salient(torch.ones(1, 1, 1, 4), torch.tensor([[[4.0, 3.0, 2.0, 1.0]]]), 0.25)
        tensor([[[[0., 1., 1., 1.]]]])
    """
    chosen = _top_of_images(images, saliency, fraction)
    return torch.where(chosen, fill_images(images, fill, generator=generator), images)


def keep_most_salient(
    images: Tensor, saliency: Tensor, fraction: float, fill: Fill = "zero", *, generator: torch.Generator | None = None
) -> Tensor:
    """Images of which only the most salient pixels are left (KAR: keep and retrain).

    Args:
        images: ``[B, C, H, W]``, floating point.
        saliency: ``[B, H, W]``; exactly ``round(fraction · H · W)`` pixels are kept, see `top_fraction`.
        fraction: Share of the pixels kept, in [0, 1].
        fill: What is put everywhere else, see `fill_images`.
        generator: Source of the randomness of ``fill="noise"``, on the images' device.

    Returns:
        ``[B, C, H, W]``, a new tensor of the images' dtype.

    Raises:
        ValueError: If shapes do not fit, the fraction is outside [0, 1], or the fill is unknown.

    Example:
        >>> keep_most_salient(torch.ones(1, 1, 1, 4), torch.tensor([[[4.0, 3.0, 2.0, 1.0]]]), 0.25)
        tensor([[[[1., 0., 0., 0.]]]])
    """
    chosen = _top_of_images(images, saliency, fraction)
    return torch.where(chosen, images, fill_images(images, fill, generator=generator))


def resize_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps at another resolution, (tri-)linear, pixel centres aligned as pixels (``align_corners=False``).

    Args:
        maps: ``[..., h, w]``, or ``[..., t, h, w]`` of volumes, floating point.
        size: ``(H, W)``, or ``(T, H, W)``.

    Returns:
        ``[..., H, W]`` or ``[..., T, H, W]``, at least float32; the very tensor where nothing is to be done.
    """
    maps = upcast(maps)
    others, own = maps.shape[: -len(size)], maps.shape[-len(size) :]
    if own == torch.Size(size):
        return maps
    if maps.numel() == 0:
        return maps.new_zeros(*others, *size)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return interpolate(maps.reshape(-1, 1, *own), size=list(size), mode=mode, align_corners=False).view(*others, *size)


def attribution_masks(feature_maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Feature maps rescaled so that each spans exactly [0, 1] once upsampled to an image's size.

    Ω of SISE's Eq. 6 and the masks of Score-CAM: upsample, then min-max. Bilinear weights sum to one, so the rescaling
    may as well be done before the upsampling; the masks returned are at the feature maps' own, small resolution.

    Args:
        feature_maps: ``[N, h, w]``.
        size: ``(H, W)`` of the images.

    Returns:
        The masks ``[N, h, w]``, and ``[N]`` the sum of each upsampled mask over its H·W pixels. A map that is constant
        once upsampled says nothing: its mask and its sum are zero.

    Example:
        >>> masks, sums = attribution_masks(torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]]), (1, 2))
        >>> masks.tolist(), sums.tolist()
        ([[[0.0, 1.0]], [[0.0, 0.0]]], [1.0, 0.0])
    """
    upsampled = resize_maps(feature_maps, size)
    low, high = upsampled.amin((-2, -1)), upsampled.amax((-2, -1))
    span = high - low
    # A constant map comes out of the interpolation with rounding noise, which must not be blown up into a mask.
    varied = span > 8 * torch.finfo(span.dtype).eps * torch.maximum(low.abs(), high.abs())
    scale = torch.where(varied, 1 / span.where(varied, torch.ones_like(span)), torch.zeros_like(span))
    masks = (upcast(feature_maps) - low[:, None, None]) * scale[:, None, None]
    return masks, (upsampled - low[:, None, None]).sum((-2, -1)) * scale


def _top_of_images(images: Tensor, saliency: Tensor, fraction: float) -> Tensor:
    check_images(images)
    expected = (images.shape[0], *images.shape[-2:])
    if saliency.shape != torch.Size(expected):
        raise ValueError(
            f"Got saliency maps {list(saliency.shape)} for images {list(images.shape)}. Allowed is {list(expected)}; "
            "resize the maps to the images first."
        )
    return top_fraction(saliency, fraction).unsqueeze(1)


def blend(images: Tensor, baseline: Tensor, masks: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Images where the mask is one, the baseline where it is zero, and a mixture between (Group-CAM, Eq. 5).

    I' = I ⊙ M + Ĩ ⊙ (1 − M), with Ĩ the baseline.

    Args:
        images: ``[B, C, H, W]``, floating point.
        baseline: Broadcasts to ``[B, C, H, W]``, for example ``blur(images)``.
        masks: ``[B, h, w]`` in [0, 1], one mask per image, or ``[B, M, h, w]``, M of them. Masks of another size than
            the images' are upsampled bilinearly first.
        out: Where to write the result, of its shape and dtype; no gradients then. ``None``: a new tensor.

    Returns:
        ``[B, C, H, W]`` for one mask per image, ``[B, M, C, H, W]`` for M, of the images' dtype.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> blend(torch.ones(1, 1, 1, 3), torch.zeros(1, 1, 1, 3), torch.tensor([[[0.0, 0.25, 1.0]]]))
        tensor([[[[0.0000, 0.2500, 1.0000]]]])
    """
    check_images(images)
    if masks.ndim not in (3, 4) or masks.shape[0] != images.shape[0]:
        raise ValueError(
            f"Got masks {list(masks.shape)} for images {list(images.shape)}. Allowed are [B, h, w] and [B, M, h, w] "
            f"with the images' B = {images.shape[0]}; add or drop a dimension."
        )
    weights = resize_maps(masks, (images.shape[-2], images.shape[-1])).to(images.dtype).unsqueeze(-3)
    baseline = baseline.to(images.dtype).expand(images.shape)
    if masks.ndim == 4:
        images, baseline = images.unsqueeze(1), baseline.unsqueeze(1)
    return torch.lerp(baseline, images, weights, out=out)
