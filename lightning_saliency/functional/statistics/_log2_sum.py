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


def sum_and_log2_sum(columns: Tensor, dim: int, eps: float) -> tuple[Tensor, Tensor]:
    """Σₖ xₖ and Σₖ log₂ xₖ over `dim` for autograd and the compiler: no overwriting, no branch on the values.

    For the compiler: with xₖ = 2^eₖ · mₖ, the exponents eₖ add up as integers, and a product of mantissas in [1, 2)
    stays in range whatever the values. Every sum runs over the same quarter of the channels, so that one loop reads
    them once. Autograd, which does not see through bits, gets a logarithm of each value, and `torch.export`, since ONNX
    has no bits either, one of four values.

    Args:
        columns: Values ≥ `eps`.
        dim: The dimension to reduce.
        eps: The lower bound, a normal number.
    """
    if differentiable(columns):
        return columns.sum(dim), columns.log2().sum(dim)
    if torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling():
        return columns.sum(dim), _exported_log2_sum(columns, dim, eps)
    integer, bits, one = (
        (torch.int64, 52, 0x3FF << 52) if columns.dtype == torch.float64 else (torch.int32, 23, 0x7F << 23)
    )
    quarter, left = columns.shape[dim] // 4, columns.shape[dim] % 4
    *parts, rest = columns.split_with_sizes([quarter] * 4 + [left], dim)
    values = torch.zeros_like(parts[0])
    exponents = torch.full_like(values, -4 * (one >> bits), dtype=integer)
    mantissas = torch.ones_like(values)
    for part in parts:
        raw = part.view(integer)
        values = values + part
        exponents = exponents + (raw >> bits)
        mantissas = mantissas * ((raw & ((1 << bits) - 1)) | one).view(part.dtype)
    total, logs = values.sum(dim), mantissas.log2().sum(dim) + exponents.sum(dim, dtype=integer)
    return (total + rest.sum(dim), logs + rest.log2().sum(dim)) if left else (total, logs)


def _exported_log2_sum(columns: Tensor, dim: int, eps: float) -> Tensor:
    """Σₖ log₂ xₖ over `dim` in operators that every runtime has.

    A product of two values counts as a quarter of the root of the largest number at most, so that none of four is
    infinite: exact for float32 values of up to 2·10⁹.
    """
    finfo = torch.finfo(columns.dtype)
    quarter, left = columns.shape[dim] // 4, columns.shape[dim] % 4
    if quarter == 0 or eps <= 2 * finfo.tiny**0.25:
        return columns.log2().sum(dim)
    first, second, third, fourth, rest = columns.split_with_sizes([quarter] * 4 + [left], dim)
    largest = finfo.max**0.5 / 4
    products = (first * second).clamp_max(largest) * (third * fourth).clamp_max(largest)
    logs = products.log2().sum(dim)
    return logs + rest.log2().sum(dim) if left else logs


def _factors(columns: Tensor, dim: int, mean: Tensor, eps: float) -> tuple[int, ...]:
    """Into how many parts to split the channels, repeatedly, so that no product of parts leaves the type's range."""
    if mean.numel() == 0 or mean.device.type != "cpu":
        return ()  # an accelerator has logarithms to spare, and to ask it for the largest mean is to wait for it
    finfo = torch.finfo(columns.dtype)
    largest = mean.amax().item() * columns.shape[dim]  # no value exceeds the sum of its column, which is at hand
    for parts in ((3, 2), (2, 2)):
        root = 1 / math.prod(parts)
        if eps > 2 * finfo.tiny**root and largest < 0.5 * finfo.max**root:
            return parts
    return ()
