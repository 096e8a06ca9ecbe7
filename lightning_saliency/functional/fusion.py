"""One map out of K: the weighted mean of the scales' maps (SMOE paper, Eq. 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_saliency.functional._columns import check_floating, upcast

PRIOR_WEIGHTS: tuple[float, ...] = (0.18, 0.15, 0.37, 0.4, 0.72)
"""Expected accuracy of ResNet-50's five scales, shallow to deep (SMOE paper, Sec. 3.2)."""


def scale_weights(weights: str | Sequence[float], count: int) -> tuple[float, ...]:
    """The weights of `count` scales, shallow to deep (SMOE paper, Sec. 3.2); not normalised.

    Args:
        weights: `"equal"` for 1 each, `"ramp"` for 1, 2, …, K, `"prior"` for the paper's `PRIOR_WEIGHTS` (K = 5 only),
            or K numbers ≥ 0, not all 0.
        count: Number of scales K ≥ 1.

    Raises:
        ValueError: If the name is unknown, `"prior"` is asked for another number of scales than five, or the
            numbers are not K finite numbers ≥ 0 with a sum above 0.

    >>> scale_weights("ramp", 4)
    (1.0, 2.0, 3.0, 4.0)
    """
    if count < 1:
        raise ValueError(
            f"Expected `count` to be at least 1, but got {count}; there is nothing to weight without a scale."
        )
    if isinstance(weights, str):
        if weights == "equal":
            return (1.0,) * count
        if weights == "ramp":
            return tuple(float(k) for k in range(1, count + 1))
        if weights != "prior":
            raise ValueError(
                f"Expected `weights` to be 'equal', 'ramp', 'prior' or {count} numbers, but got {weights!r}."
            )
        if count != len(PRIOR_WEIGHTS):
            raise ValueError(
                f"Expected {len(PRIOR_WEIGHTS)} scales with weights='prior', which were measured on ResNet-50's five,"
                f" but got {count}; use 'ramp', 'equal' or {count} numbers."
            )
        return PRIOR_WEIGHTS
    numbers = tuple(float(weight) for weight in weights)
    if len(numbers) != count:
        raise ValueError(
            f"Expected one weight for each of the {count} scales, but got {len(numbers)}: {numbers};"
            f" give {count} numbers, or 'equal' or 'ramp'."
        )
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or not 0 < sum(numbers) < math.inf:
        raise ValueError(
            f"Expected `weights` to be finite numbers of 0 or more, not all 0, but got {numbers};"
            " a weight of 0 leaves a scale out."
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
        ValueError: If it has no four dimensions or K = 0, or `scale_weights` refuses the weights.

    >>> maps = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
    >>> combine(maps, weights=(1, 3))
    tensor([[[0.7500]]])
    """
    check_floating(maps, "maps")
    if maps.ndim != 4 or maps.shape[1] == 0:
        raise ValueError(
            f"Expected `maps` to have shape [B, K, H, W] with at least one scale, but got {tuple(maps.shape)};"
            " bring the maps to one size and stack them along dimension 1."
        )
    numbers = scale_weights(weights, maps.shape[1])
    largest = max(numbers)
    total = sum(number / largest for number in numbers)
    maps = upcast(maps)
    shares = torch.tensor([number / largest / total for number in numbers], dtype=maps.dtype, device=maps.device)
    mean = (maps * shares[:, None, None]).sum(1)
    # The shares add up to 1 only up to rounding; a mean leaves the range of its values by none.
    low, high = torch.aminmax(maps.detach(), dim=1)
    return torch.clamp(mean, low, high)
