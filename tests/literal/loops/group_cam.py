"""Group-CAM, Eq. 1-7 and Algorithm 1, a group, a pixel and a kernel tap at a time."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from .grad_cam import Head, channel_weights
from .resampling import Array, bilinear, min_max


def probability(model: nn.Module, image: Array, target: int) -> float:
    """F_c of Eq. 6: the softmax probability of the class, for one image `[3, H, W]`."""
    with torch.no_grad():
        logits = model(torch.from_numpy(image[None]))[0].tolist()
    largest = max(logits)
    total = 0.0
    for logit in logits:
        total += math.exp(logit - largest)
    return math.exp(logits[target] - largest) / total


def group_bounds(channels: int, groups: int) -> list[tuple[int, int]]:
    """First and last-plus-one channel of each group: as even as can be, no channel lost, the larger groups first."""
    bounds = []
    start = 0
    for group in range(groups):
        size = channels // groups + (1 if group < channels % groups else 0)
        bounds.append((start, start + size))
        start += size
    return bounds


def group_map(weights: list[float], maps: Array, first: int, stop: int) -> Array:
    """Eq. 2: ReLU of the weighted sum of one group's feature maps."""
    _, height, width = maps.shape
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            total = 0.0
            for k in range(first, stop):
                total += weights[k] * maps[k, i, j]
            result[i, j] = max(total, 0.0)
    return result


def percentile(grid: Array, theta: float) -> float:
    """p(M, θ): the θth percentile, linear between the two nearest ranks."""
    ranked = sorted(float(value) for value in grid.flat)
    position = theta / 100 * (len(ranked) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (position - below)


def denoise(grid: Array, theta: float) -> Array:
    """Eq. 3: only values above the percentile stay."""
    threshold = percentile(grid, theta)
    result = np.zeros(grid.shape)
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            result[i, j] = grid[i, j] if grid[i, j] > threshold else 0.0
    return result


def reflected(index: int, size: int) -> int:
    """The pixel that stands for `index` outside 0 … size − 1: mirrored at the border pixel."""
    if index < 0:
        return -index
    if index >= size:
        return 2 * (size - 1) - index
    return index


def blur_of(image: Array) -> tuple[int, float]:
    """Size and σ in pixels of the blur that hides of an image `[3, H, W]` what 51 and 50 pixels hide at 224."""
    shorter = min(image.shape[1], image.shape[2])
    odd = range(3, 2 * shorter + 54, 2)
    return min(odd, key=lambda size: (abs(size - 51 * shorter / 224), -size)), 50 * shorter / 224


def gaussian_blur(image: Array, kernel_size: int, sigma: float) -> Array:
    """gaussian_blur2d of `[C, H, W]`: the two-dimensional convolution, tap by tap, mirrored at the border.

    An image cannot be mirrored farther than it reaches: along a short axis the kernel is cut to 2 · size − 1 taps.
    """
    channels, height, width = image.shape
    half_height, half_width = min(kernel_size // 2, height - 1), min(kernel_size // 2, width - 1)
    taps = []
    for u in range(-half_height, half_height + 1):
        for v in range(-half_width, half_width + 1):
            taps.append((u, v, math.exp(-(u**2 + v**2) / (2 * sigma**2))))
    norm = sum(weight for _, _, weight in taps)
    result = np.zeros(image.shape)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                total = 0.0
                for u, v, weight in taps:
                    total += weight / norm * image[c, reflected(i + u, height), reflected(j + v, width)]
                result[c, i, j] = total
    return result


def perturb(image: Array, baseline: Array, mask: Array) -> Array:
    """Eq. 5: I ⊙ M + Ĩ ⊙ (1 − M)."""
    result = np.zeros(image.shape)
    for c in range(image.shape[0]):
        for i in range(image.shape[1]):
            for j in range(image.shape[2]):
                result[c, i, j] = image[c, i, j] * mask[i, j] + baseline[c, i, j] * (1 - mask[i, j])
    return result


def group_masks(
    head: Head,
    activations: Tensor,
    target: int,
    groups: int,
    theta: float | None,
    gradients: bool,
    size: tuple[int, int],
) -> list[Array | None]:
    """Lines 2-7 of Algorithm 1: one mask `[H, W]` per group, None where the group's map is constant.

    Without gradients every importance weight is 1 (Sec. 5); `theta=None` leaves the de-noising out.
    """
    maps = activations[0].numpy()
    channels = maps.shape[0]
    weights = channel_weights(head, activations, target) if gradients else [1.0] * channels
    masks: list[Array | None] = []
    for first, stop in group_bounds(channels, groups):
        m = group_map(weights, maps, first, stop)
        if theta is not None:
            m = denoise(m, theta)
        constant = m.max() == m.min()
        masks.append(None if constant else bilinear(min_max(m), *size))  # Eq. 4, then upsample
    return masks


def group_cam(
    model: nn.Module,
    image: Array,
    head: Head,
    activations: Tensor,
    target: int,
    groups: int,
    theta: float | None,
    kernel_size: int,
    sigma: float,
    gradients: bool = True,
) -> Array:
    """Algorithm 1 for one image `[3, H, W]`: the map `[H, W]` of Eq. 7, not yet scaled to [0, 1]."""
    _, height, width = image.shape
    blurred = gaussian_blur(image, kernel_size, sigma)
    baseline_score = probability(model, blurred, target)
    total = np.zeros((height, width))
    for mask in group_masks(head, activations, target, groups, theta, gradients, (height, width)):
        if mask is None:
            continue
        gain = probability(model, perturb(image, blurred, mask), target) - baseline_score  # Eq. 6
        for i in range(height):
            for j in range(width):
                total[i, j] += gain * mask[i, j]
    for i in range(height):
        for j in range(width):
            total[i, j] = max(total[i, j], 0.0)  # Eq. 7
    return total
