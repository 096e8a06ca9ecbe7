"""Two small steps that all three papers take: bilinear interpolation and min-max scaling, one pixel at a time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def bilinear(grid: Array, height: int, width: int) -> Array:
    """Upsample `[h, w]` to `[height, width]`; pixels are areas (half-pixel centres) and the border is repeated."""
    h, w = grid.shape
    result = np.zeros((height, width))
    for i in range(height):
        y = max((i + 0.5) * h / height - 0.5, 0.0)
        top = min(math.floor(y), h - 1)
        bottom = min(top + 1, h - 1)
        down = y - top
        for j in range(width):
            x = max((j + 0.5) * w / width - 0.5, 0.0)
            left = min(math.floor(x), w - 1)
            right = min(left + 1, w - 1)
            across = x - left
            above = grid[top, left] * (1 - across) + grid[top, right] * across
            below = grid[bottom, left] * (1 - across) + grid[bottom, right] * across
            result[i, j] = above * (1 - down) + below * down
    return result


def min_max(grid: Array) -> Array:
    """(m − min m) / (max m − min m); a constant map becomes 0 everywhere."""
    low, high = float("inf"), float("-inf")
    for value in grid.flat:
        low = min(low, float(value))
        high = max(high, float(value))
    result = np.zeros(grid.shape)
    if high > low:
        for i in range(grid.shape[0]):
            for j in range(grid.shape[1]):
                result[i, j] = (grid[i, j] - low) / (high - low)
    return result
