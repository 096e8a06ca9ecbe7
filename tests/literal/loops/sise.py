"""SISE, Eq. 2-6 and 12 and the cascade of fusion blocks, a feature map and a pixel at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .grad_cam import Head
from .group_cam import probability
from .resampling import Array, bilinear, min_max
from .rise import weighted_expectation


def gradient_scores(head: Head, activations: Tensor, target: int) -> list[float]:
    """Eq. 4: α_k = Σ_λ ∂Ψ(I) / ∂A_k(λ), Ψ the softmax probability of the class."""
    leaf = activations.detach().clone().requires_grad_()
    torch.softmax(head(leaf), dim=1)[0, target].backward(inputs=[leaf])
    slopes = leaf.grad[0].numpy()
    channels, height, width = slopes.shape
    scores = []
    for k in range(channels):
        total = 0.0
        for i in range(height):
            for j in range(width):
                total += float(slopes[k, i, j])
        scores.append(total)
    return scores


def selected_channels(scores: Sequence[float], mu: float) -> list[int]:
    """Eq. 5 and 6: the channels with α_k > μ · β, β = max α (printed as <; the text keeps the positive ones)."""
    beta = max(scores)
    return [k for k, alpha in enumerate(scores) if alpha > mu * beta]


def attribution_mask(feature_map: Array, height: int, width: int) -> Array:
    """Ω: bilinear interpolation to the image, "followed by" scaling to [0, 1]."""
    return min_max(bilinear(feature_map, height, width))


def visualization_map(
    model: nn.Module, image: Array, head: Head, activations: Tensor, target: int, mu: float
) -> Array | None:
    """Eq. 12 for one layer: `[H, W]`, None if no feature map is selected."""
    _, height, width = image.shape
    channels = selected_channels(gradient_scores(head, activations, target), mu)
    masks = [attribution_mask(activations[0, k].numpy(), height, width) for k in channels]
    if not masks:
        return None
    return weighted_expectation(lambda masked: probability(model, masked, target), image, masks)


def between_class_variance(values: Sequence[float], threshold: float) -> float:
    """Otsu's σ_B² = ω₀ ω₁ (μ₀ − μ₁)² of the classes ≤ threshold and > threshold."""
    lower = [value for value in values if value <= threshold]
    upper = [value for value in values if value > threshold]
    if not lower or not upper:
        return 0.0
    share = len(lower) / len(values)
    return share * (1 - share) * (sum(lower) / len(lower) - sum(upper) / len(upper)) ** 2


def otsu_threshold(grid: Array, candidates: Sequence[float] | None = None) -> float:
    """The candidate (each distinct value, if none are given) with the largest between-class variance."""
    values = [float(value) for value in grid.flat]
    candidates = sorted(set(values)) if candidates is None else candidates
    best, best_variance = candidates[0], -1.0
    for candidate in candidates:
        variance = between_class_variance(values, candidate)
        if variance > best_variance:
            best, best_variance = candidate, variance
    return best


def cascade(maps: Sequence[Array], threshold: Callable[[Array], float] = otsu_threshold) -> Array:
    """F₁ = V₁; Fᵢ₊₁ = (Fᵢ + Vᵢ₊₁) · [Vᵢ₊₁ > Otsu(Vᵢ₊₁)], every V scaled to [0, 1] before it is added."""
    scaled = [min_max(visualization) for visualization in maps]
    fused = scaled[0].copy()
    for latter in scaled[1:]:
        limit = threshold(latter)
        following = np.zeros(fused.shape)
        for i in range(fused.shape[0]):
            for j in range(fused.shape[1]):
                if latter[i, j] > limit:
                    following[i, j] = fused[i, j] + latter[i, j]
        fused = following
    return fused
