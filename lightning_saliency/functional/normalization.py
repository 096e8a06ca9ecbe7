"""Bringing each saliency map to [0, 1] by itself, before those of all scales are combined (SMOE paper, Sec. 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_saliency.checks import check_floating
from lightning_saliency.functional._columns import moments, upcast, widest
from lightning_saliency.functional.statistics.distributions import fit_gamma


def normal_cdf(maps: Tensor) -> Tensor:
    """Squashes each map by the normal distribution fitted to its own values: Φ((s − μ) / σ).

    μ is the mean and σ the population standard deviation (correction 0) of the map's h·w values (SMOE paper, γ(s; μ, σ)
    of Eq. 3). A map without spread, that is with σ within a few rounding errors of its values, becomes 0.5 everywhere.

    Args:
        maps: `[..., h, w]`, any range, h·w ≥ 1; half precision is computed in float32.

    Returns:
        `[..., h, w]` in [0, 1]. A NaN in a map makes the whole map NaN.

    Raises:
        TypeError: If `maps` is not a real floating-point tensor.
        ValueError: If it has fewer than two dimensions, or h·w = 0.

    >>> normal_cdf(torch.tensor([[[0.0, 1.0], [1.0, 2.0]]]))
    tensor([[[0.0786, 0.5000],
             [0.5000, 0.9214]]])
    """
    values = _flat(maps)
    # Half of each value, so that no difference of two overflows.
    mean, std = moments(values / 2, -1)
    rounding = 4 * torch.finfo(values.dtype).eps * values.detach().abs().amax(-1) / 2
    constant = std <= rounding
    scores = (values / 2 - mean.unsqueeze(-1)) / torch.where(constant, 1, std).unsqueeze(-1)
    probabilities: Tensor = torch.special.ndtr(torch.where(constant.unsqueeze(-1), 0, scores))
    return probabilities.reshape(maps.shape)


def gamma_cdf(maps: Tensor) -> Tensor:
    """Squashes each map by the gamma distribution fitted to its own values: P(k, s / θ).

    k and θ are the maximum-likelihood shape and scale of the map's h·w values (SMOE paper, Eq. 10-13) and P the
    regularised lower incomplete gamma function, taken exactly (`torch.special.gammainc`), so that an outlier stays the
    most salient pixel. The values are divided by the map's mean first and 1e-6 is added to each, so that a 0 has a
    logarithm and the result does not depend on the map's unit.

    A gamma distribution has no mass below 0: negative values count as 0; take `normal_cdf` for statistics of either
    sign. A map without spread becomes 0.5 everywhere. The gradient takes k as a constant, since torch has no
    derivative of P by k.

    Args:
        maps: `[..., h, w]`, ≥ 0, h·w ≥ 1; computed in float64, returned in float32 or float64.

    Returns:
        `[..., h, w]` in [0, 1]. A NaN in a map makes the whole map NaN.

    Raises:
        TypeError, ValueError: As in `normal_cdf`.

    >>> gamma_cdf(torch.tensor([[[1.0, 1.0], [1.0, 10.0]]]))
    tensor([[[0.2734, 0.2734],
             [0.2734, 0.9519]]])
    """
    values = _flat(maps)
    wide = widest(values).clamp_min(0)
    scale = wide.mean(-1, keepdim=True)
    wide = wide / torch.where(scale == 0, 1, scale) + 1e-6
    mean, shape = fit_gamma(wide, -1)
    shape = shape.detach().unsqueeze(-1)
    constant = shape.isinf() | (scale == 0)
    shape = torch.where(constant, 1, shape)
    probabilities = torch.special.gammainc(shape.expand_as(wide), wide * shape / mean.unsqueeze(-1))
    return torch.where(constant, 0.5, probabilities).to(values.dtype).reshape(maps.shape)


def min_max(maps: Tensor) -> Tensor:
    """Stretches each map linearly to [0, 1]: (s − min s) / (max s − min s); a constant map becomes 0 everywhere.

    Args:
        maps: `[..., h, w]`, any range, h·w ≥ 1; half precision is computed in float32.

    Returns:
        `[..., h, w]` in [0, 1]. A NaN in a map makes the whole map NaN.

    Raises:
        TypeError, ValueError: As in `normal_cdf`.

    >>> min_max(torch.tensor([[[2.0, 3.0], [4.0, 6.0]]]))
    tensor([[[0.0000, 0.2500],
             [0.5000, 1.0000]]])
    """
    # Half of each value, so that no difference of two overflows.
    values = _flat(maps) / 2
    # Not `aminmax`, which has no gradient in torch 2.6.
    low, high = values.amin(dim=-1, keepdim=True), values.amax(dim=-1, keepdim=True)
    reach = high - low
    return ((values - low) / torch.where(reach == 0, 1, reach)).reshape(maps.shape)


def _flat(maps: Tensor) -> Tensor:
    """`[..., h·w]` in the working precision."""
    check_floating(maps, "maps")
    if maps.ndim < 2 or maps.shape[-1] * maps.shape[-2] == 0:
        raise ValueError(
            f"Got maps {list(maps.shape)}. Allowed are [..., h, w] with at least one pixel; reduce activations to maps "
            "with a statistic first."
        )
    return upcast(maps).flatten(-2)
