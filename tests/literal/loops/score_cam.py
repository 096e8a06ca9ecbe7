"""Score-CAM, which both Group-CAM and SISE compare themselves with, a channel and a pixel at a time."""

from __future__ import annotations

import math

import numpy as np

from .resampling import Array, bilinear, min_max
from .rise import Score, masked


def score_cam(score: Score, image: Array, maps: Array) -> Array:
    """ReLU(Σ_k α_k A^k), `[h, w]`; α is the softmax over the channels of Ψ(I ⊙ H_k), H_k the upsampled, scaled A^k."""
    _, image_height, image_width = image.shape
    channels, height, width = maps.shape
    scores = [score(masked(image, min_max(bilinear(maps[k], image_height, image_width)))) for k in range(channels)]
    total = sum(math.exp(value) for value in scores)
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            combined = 0.0
            for k in range(channels):
                combined += math.exp(scores[k]) / total * maps[k, i, j]
            result[i, j] = max(combined, 0.0)
    return result
