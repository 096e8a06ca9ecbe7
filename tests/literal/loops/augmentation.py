"""Group-CAM, Sec. 5: the four steps of fine-tuning, an image and a pixel at a time."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from .grad_cam import Head
from .group_cam import blur_of, gaussian_blur, group_cam, perturb
from .resampling import Array, min_max


def binarise(saliency: Array) -> Array:
    """Step 2: one where the map is greater than its own mean, zero elsewhere."""
    total = 0.0
    for value in saliency.flat:
        total += float(value)
    mean = total / saliency.size
    result = np.zeros(saliency.shape)
    for i in range(saliency.shape[0]):
        for j in range(saliency.shape[1]):
            result[i, j] = 1.0 if saliency[i, j] > mean else 0.0
    return result


def augmented(
    model: nn.Module,
    image: Array,
    head: Head,
    activations: Tensor,
    target: int,
    groups: int = 16,
) -> tuple[Array, Array]:
    """Steps 1 to 3 for one image `[3, H, W]`: the image that the network is fine-tuned on, and its mask."""
    kernel_size, sigma = blur_of(image)
    saliency = group_cam(
        model, image, head, activations, target, groups, None, kernel_size, sigma, gradients=False
    )  # step 1: without importance weights, without de-noising
    mask = binarise(min_max(saliency))
    return perturb(image, gaussian_blur(image, kernel_size, sigma), mask), mask
