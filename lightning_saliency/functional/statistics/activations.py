"""The statistics that are taken of the activations as they are, and the table of all by their names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lightning_saliency.checks import check_choice, check_eps, check_minimum, did_you_mean
from lightning_saliency.functional._columns import RECTIFIERS, differentiable, moments, reduce_columns
from lightning_saliency.functional.statistics._log2_sum import log2_sum_, sum_and_log2_sum
from lightning_saliency.functional.statistics.distributions import (
    gamma_scale,
    lognormal_entropy,
    lognormal_mean,
    truncnormal_entropy,
    truncnormal_mean,
    truncnormal_std,
)


@dataclass(frozen=True)
class Statistic:
    """A statistic by its name.

    Attributes:
        name: Name in configurations and tables.
        function: `function(activations, *, dim=1)`, which reduces `dim`.
        pre_activation: True if it needs the tensor before the activation function (the truncated-normal ones).
    """

    name: str
    function: Callable[..., Tensor]
    pre_activation: bool = False

    def __call__(self, activations: Tensor, *, dim: int = 1) -> Tensor:
        """The statistic of each column along `dim`."""
        return self.function(activations, dim=dim)


def smoe_scale(activations: Tensor, *, dim: int = 1, eps: float = 1e-6, rectify: str = "relu") -> Tensor:
    """SMOE Scale of each column: its mean times the information in the mean given the values.

    φ = μ · (log₂ μ − (1/C) Σₖ log₂ xₖ) = (1/C) Σₖ μ · log₂(μ / xₖ)   (SMOE paper, Eq. 1 and Eq. 2)

    where xₖ is the rectified activation plus `eps` and μ the mean of the xₖ. It is never negative, and exactly 0 where
    all values of a column are equal: a difference of the two logarithms within their rounding error counts as none, so
    that a dead layer gives a constant map instead of amplified noise.

    Six channels are multiplied before one logarithm is taken, or four, wherever that many stay in the range of their
    type. Under `torch.compile` the logarithm is taken of four mantissas and the exponents are added as integers.

    Args:
        activations: `[B, C, *S]`, any range; a linear bottleneck or a GELU, SiLU network has negative values too.
        dim: The dimension of the C channels.
        eps: Added to each value, so that log₂ 0 does not occur.
        rectify: What becomes of negative values: `"relu"` 0, `"abs"` |x|, `"softplus"` ln(1 + eˣ) for all x.

    Returns:
        The map `[B, *S]`, in units of the activations.

    Raises:
        TypeError: If `activations` is not a real floating-point tensor.
        ValueError: If `dim` is out of range or empty, `eps` not positive, or `rectify` unknown.

    >>> column = torch.tensor([0.5, 1.0]).repeat(4).reshape(1, 8, 1)  # Table 3, first row
    >>> round(smoe_scale(column).item(), 3)
    0.064
    """
    check_eps(eps)

    def kernel(columns: Tensor, dim: int) -> Tensor:
        channels = columns.shape[dim]
        if torch.compiler.is_compiling() or differentiable(columns):
            total, sum_of_logs = sum_and_log2_sum(columns + eps, dim, eps)
            mean = total / channels
        else:
            columns = columns.add_(eps)
            mean = columns.mean(dim)
            sum_of_logs = log2_sum_(columns, dim, mean, eps)
        log_of_mean = mean.log2()
        gain = torch.sub(log_of_mean, sum_of_logs, alpha=1 / channels)
        # 1 above the rounding error, 0 below: by sign(), since a comparison and a mask take three times as long.
        size = log_of_mean.detach().abs().clamp_min_(1)
        beyond = torch.sub(gain.detach(), size, alpha=8 * torch.finfo(gain.dtype).eps).sign_().clamp_min_(0)
        return mean * gain * beyond

    return reduce_columns(kernel, activations, dim, rectify)


def std(activations: Tensor, *, dim: int = 1, rectify: str = "relu") -> Tensor:
    """Population standard deviation of each rectified column: √((1/C) Σₖ (xₖ − μ)²) (SMOE paper, Table 1).

    Args:
        activations: `[B, C, *S]`.
        dim: The dimension of the C channels.
        rectify: Treatment of negative values, see `smoe_scale`.

    Returns:
        The map `[B, *S]`, ≥ 0; exactly 0 for a constant column, and for C = 1.

    Raises:
        TypeError, ValueError: As in `smoe_scale`.

    >>> std(torch.tensor([[2.0, 4.0]])).item()
    1.0
    """
    return reduce_columns(lambda columns, dim: moments(columns, dim)[1], activations, dim, rectify)


def mean(activations: Tensor, *, dim: int = 1, rectify: str = "relu") -> Tensor:
    """Mean of each rectified column: (1/C) Σₖ xₖ (the "Normal Mean" of the SMOE paper's Table 1).

    Arguments, result and errors as in `std`.

    >>> mean(torch.tensor([[-2.0, 4.0]])).item()
    2.0
    """
    return reduce_columns(lambda columns, dim: columns.mean(dim), activations, dim, rectify)


def max(activations: Tensor, *, dim: int = 1, rectify: str = "relu") -> Tensor:
    """Largest value of each rectified column.

    Arguments, result and errors as in `std`.

    >>> max(torch.tensor([[-2.0, 4.0]])).item()
    4.0
    """
    return reduce_columns(lambda columns, dim: columns.amax(dim), activations, dim, rectify)


def shannon_entropy(activations: Tensor, *, dim: int = 1, rectify: str = "relu") -> Tensor:
    """Shannon entropy, in bits, of each rectified column read as a distribution over channels.

    H = −Σₖ pₖ log₂ pₖ,  pₖ = xₖ / Σⱼ xⱼ,  0 · log₂ 0 = 0   (SMOE paper, Table 1)

    Args:
        activations: `[B, C, *S]`.
        dim: The dimension of the C channels.
        rectify: Treatment of negative values, see `smoe_scale`.

    Returns:
        The map `[B, *S]`, in [0, log₂ C] bits; 0 for a dead column (all values 0).

    Raises:
        TypeError, ValueError: As in `smoe_scale`.

    >>> shannon_entropy(torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]])).item()
    2.0
    """

    def kernel(columns: Tensor, dim: int) -> Tensor:
        shares = _shares(columns, dim)
        # The bound keeps 0 · log₂ 0 at 0, and its gradient finite.
        return -(shares * shares.clamp_min(torch.finfo(shares.dtype).tiny).log2()).sum(dim)

    return reduce_columns(kernel, activations, dim, rectify)


def renyi_entropy(activations: Tensor, *, dim: int = 1, order: float = 2.0, rectify: str = "relu") -> Tensor:
    """Rényi entropy, in bits, of each rectified column read as a distribution over channels.

    H_a = log₂(Σₖ pₖᵃ) / (1 − a),  pₖ = xₖ / Σⱼ xⱼ   (tried in the SMOE paper, Sec. 3.1)

    Order 0 counts the channels that are on (Hartley), order 1 is the Shannon entropy, order ∞ the min-entropy
    −log₂ max p.

    Args:
        activations: `[B, C, *S]`.
        dim: The dimension of the C channels.
        order: a ≥ 0; `math.inf` is allowed.
        rectify: Treatment of negative values, see `smoe_scale`.

    Returns:
        The map `[B, *S]`, in [0, log₂ C] bits; 0 for a dead column (all values 0).

    Raises:
        TypeError, ValueError: As in `smoe_scale`; ValueError also for a negative order.

    >>> renyi_entropy(torch.tensor([[3.0, 1.0]])).item()  # −log₂(9/16 + 1/16)
    0.678071...
    """
    check_minimum("order", order, 0, "use 2, the usual choice, or 1 for Shannon's entropy", kind="numbers")
    if order == 1:
        return shannon_entropy(activations, dim=dim, rectify=rectify)

    def kernel(columns: Tensor, dim: int) -> Tensor:
        shares = _shares(columns, dim)
        largest = shares.amax(dim, keepdim=True)
        largest = torch.where(largest == 0, 1, largest)
        if order == math.inf:
            return largest.squeeze(dim).log2().neg().clamp_min(0)
        on = shares > 0
        # Relative to the largest share, the sum lies in [1, C] for every order and cannot underflow.
        powers = torch.where(on, torch.where(on, shares / largest, 1).pow(order), shares)
        total = powers.sum(dim)
        total = torch.where(total == 0, 1, total)
        return ((total.log2() + order * largest.squeeze(dim).log2()) / (1 - order)).clamp_min(0)

    return reduce_columns(kernel, activations, dim, rectify)


def _shares(columns: Tensor, dim: int) -> Tensor:
    """Shares x / Σx over `dim`; zeros where all x are 0."""
    largest = columns.amax(dim, keepdim=True)
    columns = columns / torch.where(largest == 0, 1, largest)
    total = columns.sum(dim, keepdim=True)
    return columns / torch.where(total == 0, 1, total)


STATISTICS: dict[str, Statistic] = {
    statistic.name: statistic
    for statistic in (
        Statistic("smoe_scale", smoe_scale),
        Statistic("std", std),
        Statistic("mean", mean),
        Statistic("max", max),
        Statistic("shannon_entropy", shannon_entropy),
        Statistic("renyi_entropy", renyi_entropy),
        Statistic("lognormal_mean", lognormal_mean),
        Statistic("lognormal_entropy", lognormal_entropy),
        Statistic("truncnormal_mean", truncnormal_mean, pre_activation=True),
        Statistic("truncnormal_std", truncnormal_std, pre_activation=True),
        Statistic("truncnormal_entropy", truncnormal_entropy, pre_activation=True),
        Statistic("gamma_scale", gamma_scale),
    )
}


def get_statistic(statistic: str | Statistic) -> Statistic:
    """The statistic of that name; a `Statistic` is returned as it is.

    Args:
        statistic: A key of `STATISTICS`; or one with what becomes of negative activations behind a colon, such as
            ``"smoe_scale:abs"``: ``relu``, ``abs`` or ``softplus``, see `smoe_scale`. The truncated-normal statistics
            take none.

    Raises:
        ValueError: If the name is unknown.

    >>> get_statistic("truncnormal_std").pre_activation
    True
    >>> get_statistic("std:abs")(torch.tensor([[-1.0, 1.0]])).item()
    0.0
    """
    if isinstance(statistic, Statistic):
        return statistic
    name, _, rectify = str(statistic).partition(":")
    known = STATISTICS.get(name)
    if known is None or (rectify and known.pre_activation):
        raise ValueError(
            f"Got statistic={statistic!r}. Allowed are {', '.join(map(repr, STATISTICS))}, and a Statistic of your "
            "own; use one of them. All but the truncated-normal ones take a rectifier, such as 'smoe_scale:abs'."
            f"{did_you_mean(name, STATISTICS)}"
        )
    if not rectify:
        return known
    check_choice("rectify", rectify, RECTIFIERS)
    return Statistic(statistic, partial(known.function, rectify=rectify))
