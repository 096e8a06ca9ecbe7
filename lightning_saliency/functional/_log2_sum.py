"""The sum of log₂ x over the channels with few logarithms, each being the slowest operation of SMOE Scale by far."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_saliency.functional._columns import differentiable


def log2_sum_(columns: Tensor, dim: int, mean: Tensor, eps: float) -> Tensor:
    """Σₖ log₂ xₖ over `dim`, overwriting `columns`.

    Args:
        columns: Values ≥ `eps` > 0.
        dim: The dimension to reduce.
        mean: The mean over `dim`, which bounds the values.
        eps: The lower bound.
    """
    for parts in _factors(columns, dim, mean, eps):
        columns, *others = columns.chunk(parts, dim)
        for other in others:
            paired = columns if columns.shape == other.shape else columns.narrow(dim, 0, other.shape[dim])
            paired.mul_(other)
    return columns.log2_().sum(dim)


def log2_sum(columns: Tensor, dim: int) -> Tensor:
    """Σₖ log₂ xₖ over `dim` for autograd and the compiler: nothing is overwritten and no branch looks at the values.

    For the compiler: with xₖ = 2^eₖ · mₖ, the exponents eₖ add up as integers, and a product of mantissas in [1, 2)
    stays in range whatever the values. Autograd, which does not see through bits, gets a logarithm of each value.

    Args:
        columns: Values > 0, normal numbers.
        dim: The dimension to reduce.
    """
    if differentiable(columns):
        return columns.log2().sum(dim)
    integer, bits, one = (
        (torch.int64, 52, 0x3FF << 52) if columns.dtype == torch.float64 else (torch.int32, 23, 0x7F << 23)
    )
    raw = columns.view(integer)
    exponents = ((raw >> bits) - (one >> bits)).sum(dim, dtype=integer)
    mantissas = ((raw & ((1 << bits) - 1)) | one).view(columns.dtype)
    quarter = columns.shape[dim] // 4
    rest = mantissas.narrow(dim, 4 * quarter, columns.shape[dim] - 4 * quarter)
    total = exponents + rest.log2().sum(dim)
    if quarter == 0:
        return total
    product = mantissas.narrow(dim, 0, quarter)
    for k in range(1, 4):
        product = product * mantissas.narrow(dim, k * quarter, quarter)
    return total + product.log2().sum(dim)


def _factors(columns: Tensor, dim: int, mean: Tensor, eps: float) -> tuple[int, ...]:
    """Into how many parts to split the channels, repeatedly, so that no product of parts leaves the type's range."""
    if mean.numel() == 0:
        return ()
    finfo = torch.finfo(columns.dtype)
    largest = mean.amax().item() * columns.shape[dim]  # no value exceeds the sum of its column, which is at hand
    for parts in ((3, 2), (2, 2)):
        root = 1 / math.prod(parts)
        if eps > 2 * finfo.tiny**root and largest < 0.5 * finfo.max**root:
            return parts
    return ()
