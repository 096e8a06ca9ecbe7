"""The SMOE Scale paper's equations, each a loop over positions and channels in float64.

Where the text and the tables of the paper disagree, the function says so.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence

import numpy as np

from .resampling import Array, bilinear

Column = Sequence[float]
EPSILON = 1e-6  # "To avoid log zero, we add 1e-06 to each x_k" (below Eq. 1)
SMALLEST_SPREAD = 1e-6  # the paper has no entropy for a column of equal values, whose σ is 0: σ then counts as this


def per_position(statistic: Callable[[Column], float], activations: Array) -> Array:
    """S = φ(T): the statistic of the column of channels at each position, `[B, C, H, W] -> [B, H, W]`."""
    batch, channels, height, width = activations.shape
    result = np.zeros((batch, height, width))
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                result[b, i, j] = statistic([float(activations[b, k, i, j]) for k in range(channels)])
    return result


def mean(column: Column) -> float:
    total = 0.0
    for x in column:
        total += x
    return total / len(column)


def std(column: Column) -> float:
    """The population's standard deviation (divided by r, not r − 1)."""
    centre = mean(column)
    total = 0.0
    for x in column:
        total += (x - centre) ** 2
    return math.sqrt(total / len(column))


def smoe_equation_1(column: Column) -> float:
    x = [value + EPSILON for value in column]
    r = len(x)
    bracket = math.log2(1 / r * sum(x)) - 1 / r * sum(math.log2(x_k) for x_k in x)
    return 1 / r * sum(x) * bracket


def smoe_equation_2(column: Column) -> float:
    x = [value + EPSILON for value in column]
    r = len(x)
    mu = mean(x)
    total = 0.0
    for x_k in x:
        total += mu * math.log2(mu / x_k)
    return 1 / r * total


def digamma(x: float) -> float:
    """ψ(x) by ψ(x) = ψ(x + 1) − 1/x up to x ≥ 20, then its asymptotic series."""
    result = 0.0
    while x < 20:
        result -= 1 / x
        x += 1
    result += math.log(x) - 1 / (2 * x)
    return result - 1 / (12 * x**2) + 1 / (120 * x**4) - 1 / (252 * x**6) + 1 / (240 * x**8) - 1 / (132 * x**10)


def trigamma(x: float) -> float:
    """ψ′(x), likewise by ψ′(x) = ψ′(x + 1) + 1/x²."""
    result = 0.0
    while x < 20:
        result += 1 / x**2
        x += 1
    result += 1 / x + 1 / (2 * x**2)
    return result + 1 / (6 * x**3) - 1 / (30 * x**5) + 1 / (42 * x**7) - 1 / (30 * x**9) + 5 / (66 * x**11)


def gamma_shape_estimate(s: float) -> float:
    """Eq. 12: k "to within 1.5% of the correct answer"."""
    return (3 - s + math.sqrt((s - 3) ** 2 + 24 * s)) / (12 * s)


def gamma_scale(column: Column) -> float:
    """Eq. 10-13: the maximum likelihood scale θ of a gamma distribution, Newton-Raphson run until it stands still."""
    x = [value + EPSILON for value in column]
    n = len(x)
    s = math.log(1 / n * sum(x)) - 1 / n * sum(math.log(x_i) for x_i in x)  # Eq. 11
    if s <= 1e-15:  # all values equal: k is infinite
        return 0.0
    k = gamma_shape_estimate(s)
    for _ in range(200):
        step = (math.log(k) - digamma(k) - s) / (1 / k - trigamma(k))  # Eq. 13
        k = k - step
        if abs(step) <= 1e-14 * k:
            break
    return 1 / (k * n) * sum(x)  # Eq. 10


def smoe_equation_14(column: Column) -> float:
    x = [value + EPSILON for value in column]
    n = len(x)
    mean_x = 0.0
    mean_log = 0.0
    for x_i in x:
        mean_x += 1 / n * x_i
        mean_log += 1 / n * math.log2(x_i)
    return mean_x * (math.log2(mean_x) - mean_log)


def smoe_equation_15(column: Column) -> float:
    x = [value + EPSILON for value in column]
    mu = mean(x)
    return 1 / len(x) * sum(mu * math.log2(mu / x_n) for x_n in x)


def shannon_entropy(column: Column) -> float:
    """−Σ p log₂ p of p = x / Σx, in bits; 0 for a dead column."""
    total = sum(column)
    if total == 0:
        return 0.0
    entropy = 0.0
    for x in column:
        p = x / total
        if p > 0:
            entropy -= p * math.log2(p)
    return entropy


def renyi_entropy(column: Column, order: float = 2.0) -> float:
    """1/(1 − a) · log₂ Σ pᵃ of p = x / Σx, in bits; 0 for a dead column."""
    total = sum(column)
    if total == 0:
        return 0.0
    power_sum = 0.0
    for x in column:
        power_sum += (x / total) ** order
    return math.log2(power_sum) / (1 - order)


def lognormal_mean(column: Column) -> float:
    """exp(μ + σ²/2), with μ and σ of ln x over the column."""
    logs = [math.log(x + EPSILON) for x in column]
    return math.exp(mean(logs) + std(logs) ** 2 / 2)


def lognormal_entropy(column: Column) -> float:
    """μ + ½ ln(2πe σ²) in nats."""
    logs = [math.log(x + EPSILON) for x in column]
    sigma = max(std(logs), SMALLEST_SPREAD)
    return mean(logs) + 0.5 * math.log(2 * math.pi * math.e * sigma**2)


def truncated_closed_form(mu: float, sigma: float) -> tuple[float, float, float]:
    """Mean, deviation and entropy (nats) of a normal distribution cut off below 0, from the textbook.

    α = (0 − μ)/σ, Z = 1 − Φ(α), λ = φ(α)/Z: μ + σλ, σ √(1 + αλ − λ²), ln(√(2πe) σ Z) + αλ/2.
    """
    alpha = -mu / sigma
    z = 0.5 * math.erfc(alpha / math.sqrt(2))
    hazard = math.exp(-(alpha**2) / 2) / math.sqrt(2 * math.pi) / z
    entropy = math.log(math.sqrt(2 * math.pi * math.e) * sigma * z) + alpha * hazard / 2
    return mu + sigma * hazard, sigma * math.sqrt(1 + alpha * hazard - hazard**2), entropy


def truncated_moments(mu: float, sigma: float, intervals: int = 4000) -> tuple[float, float, float]:
    """Mean, deviation and entropy (nats) of a normal distribution cut off below 0, by Simpson's rule on its density.

    No closed form and no tail probability: it holds however far 0 lies in the tail. The density is taken relative to
    its highest value on x ≥ 0 and followed until it is below e⁻⁶⁰ of it.
    """
    peak = max(mu, 0.0)

    def log_density(x: float) -> float:  # ((peak − μ)² − (x − μ)²) / (2σ²), which loses no digits
        return (peak - x) * (peak + x - 2 * mu) / (2 * sigma**2)

    low = max(0.0, mu - 11 * sigma)
    high = mu + math.sqrt((peak - mu) ** 2 + 120 * sigma**2)
    step = (high - low) / intervals
    mass, first, second, expected_log = 0.0, 0.0, 0.0, 0.0
    for n in range(intervals + 1):
        x = low + n * step
        weight = (1 if n in (0, intervals) else 4 if n % 2 else 2) * step / 3 * math.exp(log_density(x))
        mass += weight
        first += weight * x
        second += weight * (x - peak) ** 2
        expected_log += weight * log_density(x)
    centre = first / mass
    return centre, math.sqrt(second / mass - (centre - peak) ** 2), math.log(mass) - expected_log / mass


def _truncated(mu: float, sigma: float) -> tuple[float, float, float]:
    """The closed form while Z is far from underflow, the integrals in the tail."""
    return truncated_closed_form(mu, sigma) if -mu / sigma < 6 else truncated_moments(mu, sigma)


def truncnormal_mean(column: Column) -> float:
    mu, sigma = mean(column), std(column)
    return _truncated(mu, sigma)[0] if sigma > 0 else max(mu, 0.0)


def truncnormal_std(column: Column) -> float:
    mu, sigma = mean(column), std(column)
    return _truncated(mu, sigma)[1] if sigma > 0 else 0.0


def truncnormal_entropy(column: Column) -> float:
    return _truncated(mean(column), max(std(column), SMALLEST_SPREAD))[2]


def normal_cdf(grid: Array) -> Array:
    """γ(s; μ, σ) of Sec. 2.2, with the map's own mean and population deviation; 0.5 everywhere if σ = 0."""
    values = [float(value) for value in grid.flat]
    mu, sigma = mean(values), std(values)
    result = np.full(grid.shape, 0.5)
    if sigma == 0 or min(values) == max(values):
        return result
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            result[i, j] = 0.5 * (1 + math.erf((grid[i, j] - mu) / (sigma * math.sqrt(2))))
    return result


def combine(maps: Array, weights: Sequence[float]) -> Array:
    """Eq. 3 on maps that are normalised and upsampled already: `[r, p, q] -> [p, q]`."""
    r, height, width = maps.shape
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            numerator = 0.0
            denominator = 0.0
            for k in range(r):
                numerator += maps[k, i, j] * weights[k]
                denominator += weights[k]
            result[i, j] = numerator / denominator
    return result


def combined_saliency(statistics: Sequence[Array], weights: Sequence[float], height: int, width: int) -> Array:
    """Sec. 2.2 as a whole: each scale's map is normalised at its own resolution, then upsampled, then Eq. 3."""
    stack = np.stack([bilinear(normal_cdf(statistic), height, width) for statistic in statistics])
    return combine(stack, weights)


def lovi_hsv(s: Column) -> tuple[float, float, float]:
    """Eq. 4-7 for one pixel: hue in degrees, saturation, value.

    Eq. 4 is 1 − (k − 1)/(r − 1) written out. Eq. 6 as printed has no unit-free form; this is the one that has the end
    points the text names: 1 if one layer alone is active, 0 if all are equal.
    """
    r = len(s)
    nu = 1 / r
    value = max(s)  # Eq. 7
    if value == 0:
        return 0.0, 0.0, 0.0
    numerator = 0.0
    for k in range(1, r + 1):
        phi = 1 - (k - 1) / r * ((r - 1) / r) ** -1  # Eq. 4
        numerator += s[k - 1] * phi
    hue = numerator / sum(s) * 300  # Eq. 5
    saturation = 1 - (sum(s) / (r * value) - nu) / (1 - nu)  # Eq. 6
    return hue, saturation, value


def lovi(maps: Array) -> Array:
    """`[r, p, q] -> [3, p, q]`: Eq. 4-7 at each pixel, "converted to RGB in the usual manner"."""
    r, height, width = maps.shape
    result = np.zeros((3, height, width))
    for i in range(height):
        for j in range(width):
            hue, saturation, value = lovi_hsv([float(maps[k, i, j]) for k in range(r)])
            result[:, i, j] = colorsys.hsv_to_rgb(hue / 360, saturation, value)
    return result


def difference_score(rho: Column, kappa: Column, z_rho: Column, z_kappa: Column) -> float:
    """Eq. 8; ρ ROAR, κ KAR, z the random mask's accuracy in the same experiment."""
    total = 0.0
    for p in range(len(rho)):
        total += z_rho[p] - rho[p]
    for q in range(len(kappa)):
        total += kappa[q] - z_kappa[q]
    return total


def information_score(
    rho: Column, kappa: Column, z_rho: Column, z_kappa: Column, log: Callable[[float], float] = math.log
) -> float:
    """Eq. 9. The paper prints log₂; its Table 1 follows only with the natural logarithm."""
    total = 0.0
    for p in range(len(rho)):
        total -= rho[p] * log(rho[p] / z_rho[p])
    for q in range(len(kappa)):
        total -= z_kappa[q] * log(z_kappa[q] / kappa[q])
    return total


def flops(scales: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Table 6: (SMOE, normalisation, combination) operations of each scale (C, H, W), the finest one first."""
    _, first_height, first_width = scales[0]
    rows = []
    for position, (channels, height, width) in enumerate(scales):
        statistic = (4 * channels + 1) * height * width
        normalisation = 12 * height * width
        combination = (18 if position == 0 else 27) * first_height * first_width
        rows.append((statistic, normalisation, combination))
    return rows
