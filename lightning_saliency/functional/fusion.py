"""One map out of K: the weighted mean of the scales' maps (SMOE paper, Eq. 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_saliency.checks import check_minimum, check_scale_maps, did_you_mean
from lightning_saliency.functional._columns import upcast

PRIOR_WEIGHTS: tuple[float, ...] = (0.18, 0.15, 0.37, 0.4, 0.72)
"""Expected accuracy of ResNet-50's five scales, shallow to deep (SMOE paper, Sec. 3.2)."""


_NAMED = ("equal", "ramp", "deep", "prior")


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
