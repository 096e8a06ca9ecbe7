"""The scores of the Group-CAM and SISE papers, for one image, one map and one mask of truth at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from .masking import Mask, ranking, top_count, top_fraction
from .resampling import Array

Score = Callable[[Array], float]


def _replaced(start: Array, replacement: Array, pixels: Sequence[tuple[int, int]]) -> Array:
    result = start.copy()
    for i, j in pixels:
        for c in range(start.shape[0]):
            result[c, i, j] = replacement[c, i, j]
    return result


def _curve(score: Score, start: Array, goal: Array, saliency: Array, steps: int) -> list[float]:
    order = ranking(saliency)
    scores = []
    for step in range(steps + 1):
        count = round(step * len(order) / steps)
        scores.append(score(_replaced(start, goal, order[:count])))
    return scores


def insertion_curve(score: Score, image: Array, baseline: Array, saliency: Array, steps: int = 100) -> list[float]:
    """From the baseline, 1 % of the pixels after another becomes the image's, the most salient first."""
    return _curve(score, baseline, image, saliency, steps)


def deletion_curve(score: Score, image: Array, baseline: Array, saliency: Array, steps: int = 100) -> list[float]:
    """From the image, 1 % of the pixels after another becomes the baseline's, the most salient first."""
    return _curve(score, image, baseline, saliency, steps)


def auc(curve: Sequence[float]) -> float:
    """The area under the curve over [0, 1], by trapezoids."""
    total = 0.0
    for left, right in pairwise(curve):
        total += (left + right) / 2
    return total / (len(curve) - 1)


def pointing_game(saliency: Array, truth: Mask, tolerance: float = 0.0) -> bool:
    """A hit if the most salient pixel lies in the truth, or no farther from it than the tolerance (in pixels)."""
    i, j = ranking(saliency)[0]
    for a in range(truth.shape[0]):
        for b in range(truth.shape[1]):
            if truth[a, b] and math.hypot(a - i, b - j) <= tolerance:
                return True
    return False


def energy_pointing_game(saliency: Array, truth: Mask) -> float:
    """EBPG = ‖S ⊙ G‖₁ / ‖S‖₁."""
    inside, total = 0.0, 0.0
    for i in range(saliency.shape[0]):
        for j in range(saliency.shape[1]):
            total += abs(saliency[i, j])
            if truth[i, j]:
                inside += abs(saliency[i, j])
    return inside / total


def top_fraction_iou(saliency: Array, truth: Mask, fraction: float = 0.2) -> float:
    """Intersection over union of the most salient 20 % and the truth."""
    chosen = top_fraction(saliency, fraction)
    intersection, union = 0, 0
    for i in range(saliency.shape[0]):
        for j in range(saliency.shape[1]):
            intersection += bool(chosen[i, j] and truth[i, j])
            union += bool(chosen[i, j] or truth[i, j])
    return intersection / union


def bbox_score(saliency: Array, truth: Mask) -> float:
    """The truth has N pixels: the share of the N most salient pixels that lies in it."""
    count = 0
    for value in truth.flat:
        count += bool(value)
    chosen = top_count(saliency, count)
    inside = 0
    for i in range(saliency.shape[0]):
        for j in range(saliency.shape[1]):
            inside += bool(chosen[i, j] and truth[i, j])
    return inside / count


def most_important_only(image: Array, saliency: Array, fraction: float = 0.15) -> Array:
    """I ⊙ T(I): the most salient 15 % of the image, all else 0."""
    chosen = top_fraction(saliency, fraction)
    result = np.zeros(image.shape)
    for c in range(image.shape[0]):
        for i in range(image.shape[1]):
            for j in range(image.shape[2]):
                if chosen[i, j]:
                    result[c, i, j] = image[c, i, j]
    return result


def drop(full: float, masked: float) -> float:
    """max(0, Ψ(I) − Ψ(I ⊙ T)) / Ψ(I) of one image in %; Drop% is the mean (the paper's bracket is misplaced)."""
    return max(0.0, full - masked) / full * 100


def increase(full: float, masked: float) -> float:
    """100 if the score rises, else 0; Increase% is the mean (the paper prints a sum of signs)."""
    return 100.0 if masked > full else 0.0


def average_ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of their ranks."""
    ranks = []
    for value in values:
        smaller = sum(1 for other in values if other < value)
        equal = sum(1 for other in values if other == value)
        ranks.append(smaller + (equal + 1) / 2)
    return ranks


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation of the average ranks."""
    a, b = average_ranks(first), average_ranks(second)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    variance_a = sum((x - mean_a) ** 2 for x in a)
    variance_b = sum((y - mean_b) ** 2 for y in b)
    return covariance / math.sqrt(variance_a * variance_b)
