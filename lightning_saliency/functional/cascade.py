"""Otsu's threshold and the fusion of visualisation maps from shallow to deep (SISE, fourth phase)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_saliency.functional.normalization import min_max


def otsu_threshold(maps: Tensor) -> Tensor:
    """The threshold of each map that parts its values into the two most distant groups (Otsu 1979).

    The cut between two distinct values with the largest variance between the two groups, n₀ · n₁ · (μ₀ − μ₁)²; the
    lowest if there are several. The threshold is the largest value of the lower group: foreground is what lies strictly
    above it. The values are ranked exactly. A histogram would misplace the pixels in the bin of the cut; scikit-image
    finds the same threshold if its histogram has a bin for every distinct value.

    Args:
        maps: ``[..., h, w]``, any real dtype, finite.

    Returns:
        ``[...]``, one threshold per map, at least float32. For a constant map it is the constant, so that no value lies
        above it.

    Raises:
        ValueError: If a map has no pixels.

    Example:
        >>> otsu_threshold(torch.tensor([[0.0, 0.1, 0.9, 1.0]]))
        tensor(0.1000)
    """
    if maps.ndim < 2 or maps.shape[-1] * maps.shape[-2] == 0:
        raise ValueError(
            f"Got maps {list(maps.shape)}. Allowed are [..., h, w] with at least one pixel; check the sizes."
        )
    values = maps.flatten(-2)
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    ranked = values.sort(dim=-1).values
    lowest = ranked[..., :1]
    if ranked.shape[-1] == 1:
        return lowest.squeeze(-1)
    # Scaled to [0, 1], or maps of tiny values would underflow in the square and far offsets cancel in the sums.
    span = ranked[..., -1:] - lowest
    scaled = (ranked - lowest) / torch.where(span > 0, span, torch.ones_like(span))
    below = torch.arange(1, ranked.shape[-1], dtype=ranked.dtype, device=ranked.device)
    above = ranked.shape[-1] - below
    sums = scaled.cumsum(-1)
    distance = (sums[..., -1:] - sums[..., :-1]) / above - sums[..., :-1] / below
    variance = below * above * distance.square()
    # Along a run of equal values the variance is convex in the cut, so that the largest never lies inside the run.
    cut = variance.argmax(-1, keepdim=True)
    return ranked.gather(-1, cut).squeeze(-1)


def cascade_fusion(visualization_maps: Tensor | Sequence[Tensor]) -> Tensor:
    """The visualisation maps of a network's blocks, shallow to deep, fused into one (SISE, Fig. 6).

    F₁ = V₁; F_{i+1} = (F_i + V_{i+1}) · [V_{i+1} > Otsu(V_{i+1})], each V scaled to [0, 1] first: what a deeper block
    does not support is removed, what it supports keeps the detail of the shallower ones. The paper adds the maps as
    they are, but their ranges differ by block.

    A constant map (a block of which no mask survived, or a single pixel) supports nothing and contradicts nothing:
    it is skipped.

    Args:
        visualization_maps: ``[B, K, H, W]``, or K maps ``[B, H, W]``, the shallowest first; finite.

    Returns:
        ``[B, H, W]``, at least float32, in [0, K].

    Raises:
        ValueError: If there are no maps, or their shapes differ.

    Example:
        >>> shallow, deep = torch.tensor([[[0.0, 1.0, 0.5]]]), torch.tensor([[[0.0, 0.0, 2.0]]])
        >>> cascade_fusion([shallow, deep])
        tensor([[[0.0000, 0.0000, 1.5000]]])
    """
    maps = list(visualization_maps.unbind(1)) if isinstance(visualization_maps, Tensor) else list(visualization_maps)
    if not maps or any(one.ndim != 3 or one.shape != maps[0].shape for one in maps):
        raise ValueError(
            f"Got visualisation maps {[list(one.shape) for one in maps]}. Allowed is at least one, all [B, H, W] of "
            "one size; upsample them to the image's size first."
        )
    fused = _spread(maps[0])
    for deeper in maps[1:]:
        scaled = _spread(deeper)
        supported = scaled > otsu_threshold(scaled)[..., None, None]
        constant = scaled.amax((-2, -1), keepdim=True) == 0
        fused = torch.where(constant, fused, (fused + scaled) * supported)
    return fused


def _spread(maps: Tensor) -> Tensor:
    """Each map min-maxed; zero everywhere where it is constant."""
    constant = maps.amax((-2, -1), keepdim=True) == maps.amin((-2, -1), keepdim=True)
    return torch.where(constant, torch.zeros_like(scaled := min_max(maps)), scaled)
