"""One map out of K: the weighted mean of the scales' maps (SMOE paper, Eq. 3), and SISE's cascade."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_saliency.checks import check_minimum, check_scale_maps, did_you_mean
from lightning_saliency.functional._columns import upcast
from lightning_saliency.functional.normalization import min_max

PRIOR_WEIGHTS: tuple[float, ...] = (0.18, 0.15, 0.37, 0.4, 0.72)
"""Expected accuracy of ResNet-50's five scales, shallow to deep (SMOE paper, Sec. 3.2)."""


_NAMED = ("equal", "ramp", "deep", "prior")
# What a side of a grid has at least that says where something is.
_FEWEST_CELLS = 4


def scale_weights(weights: str | Sequence[float], count: int) -> tuple[float, ...]:
    """The weights of `count` scales, shallow to deep (SMOE paper, Sec. 3.2); not normalised.

    Args:
        weights: `"equal"` for 1 each, `"ramp"` for 1, 2, …, K, `"deep"` for 1 each of the deeper half (⌊K/2⌋, at least
            one) and 0 of the others, `"prior"` for the paper's `PRIOR_WEIGHTS` (K = 5 only),
            or K numbers ≥ 0, not all 0.
        count: Number of scales K ≥ 1.

    Raises:
        ValueError: If the name is unknown, `"prior"` is asked for another number of scales than five, or the
            numbers are not K finite numbers ≥ 0 with a sum above 0.

    >>> scale_weights("ramp", 4)
    (1.0, 2.0, 3.0, 4.0)
    >>> scale_weights("deep", 5)
    (0.0, 0.0, 0.0, 1.0, 1.0)
    """
    check_minimum("count", count, 1, "give the number of scales")
    if isinstance(weights, str):
        if weights == "equal":
            return (1.0,) * count
        if weights == "ramp":
            return tuple(float(k) for k in range(1, count + 1))
        if weights == "deep":
            return tuple(float(k >= count - max(1, count // 2)) for k in range(count))
        if weights != "prior":
            raise ValueError(
                f"Got weights={weights!r}. Allowed are 'equal', 'ramp', 'deep', 'prior' "
                f"and {count} numbers; use one of them.{did_you_mean(weights, _NAMED)}"
            )
        if count != len(PRIOR_WEIGHTS):
            raise ValueError(
                f"Got weights='prior' for {count} scales. Allowed are {len(PRIOR_WEIGHTS)} scales, since the weights "
                f"were measured on those of ResNet-50; use 'ramp', 'equal' or {count} numbers."
            )
        return PRIOR_WEIGHTS
    numbers = tuple(float(weight) for weight in weights)
    if len(numbers) != count:
        raise ValueError(
            f"Got {len(numbers)} weights for {count} scales: {numbers}. Allowed is one weight for each scale; give "
            f"{count} numbers, or 'equal' or 'ramp'."
        )
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or not 0 < sum(numbers) < math.inf:
        raise ValueError(
            f"Got weights={numbers}. Allowed are finite numbers from 0, not all 0; give 0 to leave a scale out."
        )
    return numbers


def overlay_weights(grids: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """The weights of the scales in the film's overlay: 1 for the deeper half of those that can say where, else 0.

    A grid of fewer than four cells a side cannot: of a small image, the last scales of a network for large ones say
    "left" or "right" at the most. They are left out unless all scales are so coarse.

    Args:
        grids: Height and width of each of the K scales' maps, shallow to deep.

    >>> overlay_weights([(32, 32), (16, 16), (8, 8), (4, 4)])
    (0.0, 0.0, 1.0, 1.0)
    >>> overlay_weights([(24, 24), (12, 12), (6, 6), (3, 3), (2, 2)])
    (0.0, 0.0, 1.0, 0.0, 0.0)
    """
    telling = [place for place, grid in enumerate(grids) if min(grid) >= _FEWEST_CELLS] or list(range(len(grids)))
    chosen = telling[-max(1, len(telling) // 2) :]
    return tuple(float(place in chosen) for place in range(len(grids)))


def combine(maps: Tensor, weights: str | Sequence[float] = "equal") -> Tensor:
    """Weighted mean over the scales: c = Σₖ wₖ γₖ / Σₖ wₖ (SMOE paper, Eq. 3).

    Args:
        maps: `[B, K, H, W]`, each scale's map after normalisation and upsampling to one size.
        weights: Weights of the K scales, see `scale_weights`.

    Returns:
        `[B, H, W]`, at each pixel between the smallest and the largest of its K values.

    Raises:
        TypeError: If `maps` is not a real floating-point tensor.
        ValueError: If it does not have four dimensions or K = 0, or `scale_weights` refuses the weights.

    >>> maps = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
    >>> combine(maps, weights=(1, 3))
    tensor([[[0.7500]]])
    """
    check_scale_maps(maps)
    numbers = scale_weights(weights, maps.shape[1])
    largest = max(numbers)
    total = sum(number / largest for number in numbers)
    maps = upcast(maps)
    shares = torch.tensor([number / largest / total for number in numbers], dtype=maps.dtype, device=maps.device)
    mean = (maps * shares[:, None, None]).sum(1)
    # The shares add up to 1 only up to rounding; a mean leaves the range of its values by none.
    low, high = torch.aminmax(maps.detach(), dim=1)
    return torch.clamp(mean, low, high)


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
