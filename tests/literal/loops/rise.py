"""RISE as the SISE paper restates it (Eq. 1-3), and the Monte-Carlo estimator that is used in practice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from .resampling import Array, bilinear

Score = Callable[[Array], float]
"""Ψ: an image `[3, H, W]` to the confidence in the class that is explained."""


def masked(image: Array, mask: Array) -> Array:
    """I ⊙ m: every channel times the mask; 0 is the mean colour of a normalised image."""
    result = np.zeros(image.shape)
    for c in range(image.shape[0]):
        for i in range(image.shape[1]):
            for j in range(image.shape[2]):
                result[c, i, j] = image[c, i, j] * mask[i, j]
    return result


def conditional_expectation(score: Score, image: Array, masks: Sequence[Array]) -> Array:
    """SISE Eq. 1 for binary masks: the mean score of the masks that let the pixel through."""
    scores = [score(masked(image, mask)) for mask in masks]
    height, width = masks[0].shape
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            total, count = 0.0, 0
            for mask, value in zip(masks, scores, strict=True):
                if mask[i, j] == 1:
                    total += value
                    count += 1
            result[i, j] = total / count if count else 0.0
    return result


def contribution(mask: Array) -> Array:
    """SISE Eq. 3: C_m(λ) = m(λ) / Σ m; a mask of zeros contributes nothing."""
    total = 0.0
    for value in mask.flat:
        total += float(value)
    result = np.zeros(mask.shape)
    if total > 0:
        for i in range(mask.shape[0]):
            for j in range(mask.shape[1]):
                result[i, j] = mask[i, j] / total
    return result


def weighted_expectation(
    score: Score, image: Array, masks: Sequence[Array], indicator: Callable[[Array], Array] = contribution
) -> Array:
    """SISE Eq. 2 (and Eq. 12): E[Ψ(I ⊙ m) · C_m(λ)] over the given masks."""
    height, width = masks[0].shape
    result = np.zeros((height, width))
    for mask in masks:
        value = score(masked(image, mask))
        share = indicator(mask)
        for i in range(height):
            for j in range(width):
                result[i, j] += value * share[i, j] / len(masks)
    return result


def rise(score: Score, image: Array, masks: Sequence[Array], expected_mask: float) -> Array:
    """S(λ) = 1 / (E[M] · N) Σ_i f(I ⊙ M_i) · M_i(λ)."""
    height, width = masks[0].shape
    result = np.zeros((height, width))
    for mask in masks:
        value = score(masked(image, mask))
        for i in range(height):
            for j in range(width):
                result[i, j] += value * mask[i, j] / (expected_mask * len(masks))
    return result


def smooth_mask(cells: Array, shift: tuple[int, int], height: int, width: int) -> Array:
    """A grid of s × s open (1) or closed (0) cells of ⌈side / s⌉ pixels, upsampled to s + 1 cells and cut out."""
    s = cells.shape[0]
    cell_height, cell_width = math.ceil(height / s), math.ceil(width / s)
    large = bilinear(cells, (s + 1) * cell_height, (s + 1) * cell_width)
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            result[i, j] = large[i + shift[0], j + shift[1]]
    return result
