"""What each action of the augmentation does to one image, a pixel at a time, as its paper or the documentation says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .group_cam import gaussian_blur
from .resampling import Array


def mean_and_deviation(saliency: Array) -> tuple[float, float]:
    total = squares = 0.0
    for value in saliency.flat:
        total += float(value)
    mean = total / saliency.size
    for value in saliency.flat:
        squares += (float(value) - mean) ** 2
    return mean, math.sqrt(squares / saliency.size)


def region_of_share(saliency: Array, share: float) -> Array:
    """One on the most salient pixels, taken one by one; of equal ones the upper left first."""
    order = sorted(
        ((i, j) for i in range(saliency.shape[0]) for j in range(saliency.shape[1])),
        key=lambda place: (-saliency[place], place),
    )
    region = np.zeros(saliency.shape)
    for place in order[: round(share * saliency.size)]:
        region[place] = 1.0
    return region


def region_above(saliency: Array, sigmas: float) -> Array:
    mean, deviation = mean_and_deviation(saliency)
    region = np.zeros(saliency.shape)
    for i in range(saliency.shape[0]):
        for j in range(saliency.shape[1]):
            region[i, j] = 1.0 if saliency[i, j] > mean + sigmas * deviation else 0.0
    return region


def softened(region: Array, softness: float) -> Array:
    """Blurred by a Gaussian of that share of the shorter side, at least a pixel, cut at three deviations."""
    sigma = softness * min(region.shape)
    return gaussian_blur(region[None], 2 * math.ceil(3 * sigma) + 1, max(sigma, 1.0))[0]


def laid_over(front: Array, behind: Array, mask: Array) -> Array:
    """The front where the mask is one, what is behind where it is zero."""
    result = np.zeros(front.shape)
    for c in range(front.shape[0]):
        for i in range(front.shape[1]):
            for j in range(front.shape[2]):
                result[c, i, j] = mask[i, j] * front[c, i, j] + (1 - mask[i, j]) * behind[c, i, j]
    return result


def protected(image: Array, region: Array, transform: Callable[[Array], Array]) -> Array:
    """KeepAugment, selective paste: the transform of the whole image, and the region's own pixels pasted over it."""
    return laid_over(image, transform(image), region)


def swapped(image: Array, region: Array, other: Array, others_region: Array, fill: Array) -> Array:
    """The region on the background of another image, whose own region is filled first."""
    background = laid_over(fill, other, others_region)
    return laid_over(image, background, region)


def patch(saliency: Array, share: float) -> Array:
    """SaliencyMix: a rectangle of the image's proportions round the peak, cut off at the image's edge."""
    height, width = saliency.shape
    best, row, column = -math.inf, 0, 0
    for i in range(height):
        for j in range(width):
            if saliency[i, j] > best:
                best, row, column = saliency[i, j], i, j
    cut_height, cut_width = int(height * math.sqrt(share)), int(width * math.sqrt(share))
    top, bottom = max(row - cut_height // 2, 0), min(row + cut_height // 2, height)
    left, right = max(column - cut_width // 2, 0), min(column + cut_width // 2, width)
    result = np.zeros(saliency.shape)
    for i in range(top, bottom):
        for j in range(left, right):
            result[i, j] = 1.0
    return result


def mixed(
    image: Array, saliency: Array, other: Array, others_saliency: Array, share: float
) -> tuple[Array, Array, float]:
    """The image with the other's patch on it, the patch, and the weight of the image's own label by mass."""
    pasted = patch(others_saliency, share)
    left = brought = 0.0
    for i in range(saliency.shape[0]):
        for j in range(saliency.shape[1]):
            left += float((1 - pasted[i, j]) * saliency[i, j])
            brought += float(pasted[i, j] * others_saliency[i, j])
    left, brought = left / float(saliency.sum()), brought / float(others_saliency.sum())
    return laid_over(other, image, pasted), pasted, left / (left + brought)
