"""Log-normal, truncated-normal and gamma statistics of each column of activations (SMOE paper, Table 1 and Eq. 10-13).

Each distribution is fitted to the C values of a column: the normal ones by the mean and the population standard
deviation, the gamma by maximum likelihood. Entropies are differential, in nats.

A column whose values are all equal has σ = 0, and its entropy would be −∞. The entropies take 1e-6 for any smaller σ,
so that the map is finite and such a column lies below the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_saliency.checks import check_eps
from lightning_saliency.functional._columns import moments, reduce_columns, widest

_SMALLEST_STD = 1e-6
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# Truncation points further out than this change no digit of any result; the bound keeps ∞/∞ and 0·∞ out.
_FARTHEST = 1e15


def lognormal_mean(activations: Tensor, *, dim: int = 1, eps: float = 1e-6, rectify: str = "relu") -> Tensor:
    """Mean of the log-normal distribution fitted to each rectified column: exp(μ + σ²/2) (SMOE paper, Table 1).

    μ and σ are the mean and the population standard deviation of ln(x + `eps`).

    Args:
        activations: `[B, C, *S]`.
        dim: The dimension of the C channels.
        eps: Added to each value, so that ln 0 does not occur.
        rectify: What becomes of negative values: `"relu"` 0, `"abs"` |x|, `"softplus"` ln(1 + eˣ) for all x.

    Returns:
        The map `[B, *S]`, > 0. A mean beyond the type's range becomes 0.999 of its largest number.

    Raises:
        TypeError: If `activations` is not a real floating-point tensor.
        ValueError: If `dim` is out of range or empty, `eps` not positive, or `rectify` unknown.

    >>> round(lognormal_mean(torch.tensor([[1.0, math.e**2]])).item(), 4)  # exp(1 + 1/2)
    4.4817
    """
    check_eps(eps)

    def kernel(columns: Tensor, dim: int) -> Tensor:
        mu, sigma = moments((columns + eps).log(), dim)
        return (mu + sigma.square() / 2).clamp_max(math.log(torch.finfo(mu.dtype).max) - 1e-3).exp()

    return reduce_columns(kernel, activations, dim, rectify)


def lognormal_entropy(activations: Tensor, *, dim: int = 1, eps: float = 1e-6, rectify: str = "relu") -> Tensor:
    """Entropy, in nats, of the log-normal distribution fitted to each rectified column: μ + ½ ln(2πe σ²).

    (SMOE paper, Table 1.) μ and σ as in `lognormal_mean`; a σ below 1e-6 counts as 1e-6.

    Arguments and errors as in `lognormal_mean`.

    Returns:
        The map `[B, *S]`, of either sign.

    >>> round(lognormal_entropy(torch.tensor([[1.0, math.e**2]])).item(), 4)
    2.4189
    """
    check_eps(eps)

    def kernel(columns: Tensor, dim: int) -> Tensor:
        mu, sigma = moments((columns + eps).log(), dim)
        return mu + sigma.clamp_min(_SMALLEST_STD).log() + (_HALF_LOG_2PI + 0.5)

    return reduce_columns(kernel, activations, dim, rectify)


def truncnormal_mean(activations: Tensor, *, dim: int = 1) -> Tensor:
    """Mean of the normal distribution fitted to each column, truncated below at 0: μ + σ λ(α).

    α = −μ/σ,  λ(α) = φ(α) / (1 − Φ(α)),  φ and Φ the standard normal density and distribution (SMOE paper, Table 1)

    Args:
        activations: `[B, C, *S]`, **before** the activation function: rectified values have lost what is measured.
        dim: The dimension of the C channels.

    Returns:
        The map `[B, *S]`, ≥ 0. Where σ = 0 it is max(μ, 0), the limit.

    Raises:
        TypeError: If `activations` is not a real floating-point tensor.
        ValueError: If `dim` is out of range or empty.

    >>> round(truncnormal_mean(torch.tensor([[-1.0, 1.0]])).item(), 4)  # the half-normal's √(2/π)
    0.7979
    """

    def kernel(columns: Tensor, dim: int) -> Tensor:
        mu, sigma, alpha = _truncation(columns, dim)
        hazard, excess, _ = _hazard(alpha)
        # μ = −ασ: from far below 0, μ + σλ would be the difference of two nearly equal numbers.
        values = torch.where(alpha > 0, sigma * excess, mu + sigma * hazard)
        return torch.where(sigma == 0, mu.clamp_min(0), values).to(columns.dtype)

    return reduce_columns(kernel, activations, dim)


def truncnormal_std(activations: Tensor, *, dim: int = 1) -> Tensor:
    """Standard deviation of the normal distribution fitted to each column, truncated below at 0.

    σ · √(1 + α λ(α) − λ(α)²), with α and λ as in `truncnormal_mean` (SMOE paper, Table 1).

    Arguments and errors as in `truncnormal_mean`.

    Returns:
        The map `[B, *S]`, in [0, σ]; 0 where σ = 0.

    >>> round(truncnormal_std(torch.tensor([[-1.0, 1.0]])).item(), 4)  # √(1 − 2/π)
    0.6028
    """

    def kernel(columns: Tensor, dim: int) -> Tensor:
        _, sigma, alpha = _truncation(columns, dim)
        return (sigma * _hazard(alpha)[2]).to(columns.dtype)

    return reduce_columns(kernel, activations, dim)


def truncnormal_entropy(activations: Tensor, *, dim: int = 1) -> Tensor:
    """Entropy, in nats, of the normal distribution fitted to each column, truncated below at 0.

    ½ ln(2πe) + ln σ + ln(1 − Φ(α)) + α λ(α) / 2, with α and λ as in `truncnormal_mean` (SMOE paper, Table 1). A σ
    below 1e-6 counts as 1e-6.

    Arguments and errors as in `truncnormal_mean`.

    Returns:
        The map `[B, *S]`, of either sign.

    >>> round(truncnormal_entropy(torch.tensor([[-1.0, 1.0]])).item(), 4)  # ½ ln(2πe) − ln 2
    0.7258
    """

    def kernel(columns: Tensor, dim: int) -> Tensor:
        _, sigma, alpha = _truncation(columns, dim, _SMALLEST_STD)
        hazard, excess, _ = _hazard(alpha)
        # ln(1 − Φ(α)) = ln φ(α) − ln λ(α), whose α²/2 cancels against the one in αλ/2 = α²/2 + α(λ − α)/2.
        near = alpha.clamp(max=0)
        below = torch.special.log_ndtr(-near) + near * hazard / 2 + _HALF_LOG_2PI
        far = alpha.clamp(min=0)
        above = far * excess / 2 - torch.where(alpha > 0, hazard, 1).log()
        return (torch.where(alpha > 0, above, below) + sigma.log() + 0.5).to(columns.dtype)

    return reduce_columns(kernel, activations, dim)


def gamma_scale(activations: Tensor, *, dim: int = 1, eps: float = 1e-6, rectify: str = "relu") -> Tensor:
    """Maximum-likelihood scale of the gamma distribution of each rectified column: θ = μ / k (SMOE paper, Eq. 10-13).

    The expensive original, of which SMOE Scale keeps (nearly) the order. μ is the mean of the x + `eps`; the shape k
    solves ln k − ψ(k) = ln μ − (1/C) Σₖ ln(xₖ + `eps`). It is computed in float64: the two sides are small differences
    of large numbers.

    Arguments and errors as in `lognormal_mean`.

    Returns:
        The map `[B, *S]`, ≥ 0, in units of the activations; 0 for a constant column.

    >>> values = torch.distributions.Gamma(3.0, 0.5).sample((1, 100_000))  # the scale is 1 / 0.5
    >>> 1.9 < gamma_scale(values).item() < 2.1
    True
    """
    check_eps(eps)

    def kernel(columns: Tensor, dim: int) -> Tensor:
        mean, shape = fit_gamma(widest(columns) + eps, dim)
        scale = torch.where(shape.isinf(), 0, mean / torch.where(shape.isinf(), 1, shape))
        return scale.to(columns.dtype)

    return reduce_columns(kernel, activations, dim, rectify)


def fit_gamma(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and shape k of the gamma distribution fitted to the positive `values` along `dim` by maximum likelihood.

    s = ln(mean) − mean of ln (Eq. 11); k is `gamma_shape(s)`, and the scale mean / k (Eq. 10).

    Args:
        values: Any layout, > 0, float64 where the device has it.
        dim: The dimension to reduce.

    Returns:
        The mean and the shape, each without `dim`. The shape is ∞ where all values are equal.
    """
    mean = values.mean(dim)
    # Relative to the mean, so that the difference of the logarithms starts from numbers around 0.
    relative = values / mean.unsqueeze(dim)
    s = relative.mean(dim).log() - relative.log().mean(dim)
    constant = s <= 8 * torch.finfo(s.dtype).eps
    return mean, torch.where(constant, math.inf, gamma_shape(torch.where(constant, 1, s)))


def gamma_shape(s: Tensor) -> Tensor:
    """The solution k of ln k − ψ(k) = s > 0: first Eq. 12, then Newton's iterations (Eq. 13).

    Eq. 12 lies within 1.5 % and each iteration squares the error: four converge to float64's precision for every s, so
    that none has to be tested for convergence.
    """
    with torch.no_grad():
        shape = (3 - s + ((s - 3).square() + 24 * s).sqrt()) / (12 * s)
        for _ in range(3):
            shape = _newton(shape, s)
    # The last step carries the gradient: at the solution it is that of the implicit function k(s).
    return _newton(shape, s)


def _newton(shape: Tensor, s: Tensor) -> Tensor:
    """One step of Eq. 13. For a large k, ln k − ψ(k) and 1/k − ψ'(k) are taken from their series in 1/k."""
    inverse = 1 / shape
    large = shape > 1e3
    moderate = torch.where(large, 1, shape)
    value = torch.where(
        large,
        inverse * (1 / 2 + inverse * (1 / 12 - inverse.square() / 120)),
        moderate.log() - torch.digamma(moderate),
    )
    slope = torch.where(
        large,
        -inverse.square() * (1 / 2 + inverse * (1 / 6 - inverse.square() / 30)),
        1 / moderate - torch.polygamma(1, moderate),
    )
    return shape - (value - s) / slope


def _truncation(columns: Tensor, dim: int, smallest: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """μ, σ ≥ `smallest` and α = −μ/σ of each column (α = 0 where σ = 0), in float64 where the device has it.

    They are small by now, and the spread around α = 4 would keep four digits only in float32.
    """
    mu, sigma = (widest(moment) for moment in moments(columns, dim))
    sigma = sigma.clamp_min(smallest)
    alpha = torch.where(sigma == 0, 0, -mu / torch.where(sigma == 0, 1, sigma))
    return mu, sigma, alpha.clamp(-_FARTHEST, _FARTHEST)


def _hazard(alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """λ(α) = φ(α)/(1 − Φ(α)), λ(α) − α, and √(1 + αλ − λ²), the spread of the standard normal truncated below at α.

    Up to α = 4 from log Φ; beyond, where λ − α and the spread are small differences of large numbers, from Laplace's
    continued fraction λ = α + 1/(α + 2/(α + 3/(α + …))), in which nothing cancels.
    """
    far = alpha > 4
    near = alpha.clamp(min=-40, max=4)  # below −40, φ is 0 even in float64
    hazard = (-near.square() / 2 - _HALF_LOG_2PI - torch.special.log_ndtr(-near)).exp()
    spread = (1 - hazard * (hazard - near)).clamp_min(0).sqrt()
    tail = alpha.clamp(min=4)
    third = tail
    for k in range(40, 2, -1):
        third = tail + k / third
    second = tail + 2 / third
    excess = 1 / second
    tail_spread = excess * ((tail + 2 * (2 / third) - (third - tail)) / third).sqrt()
    return (
        torch.where(far, tail + excess, hazard),
        torch.where(far, excess, hazard - torch.where(far, 0, alpha)),
        torch.where(far, tail_spread, spread),
    )
