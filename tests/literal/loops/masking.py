"""Masks that keep or remove exactly a fraction of an image (ROAR and KAR), pixel by pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .resampling import Array

Mask = npt.NDArray[np.bool_]


def ranking(saliency: Array) -> list[tuple[int, int]]:
    """All pixels (i, j), the most salient first; equal ones in reading order."""
    pixels = [(i, j) for i in range(saliency.shape[0]) for j in range(saliency.shape[1])]
    return sorted(pixels, key=lambda pixel: -saliency[pixel])


def top_count(saliency: Array, count: int) -> Mask:
    chosen = np.zeros(saliency.shape, dtype=bool)
    for pixel in ranking(saliency)[:count]:
        chosen[pixel] = True
    return chosen


def top_fraction(saliency: Array, fraction: float) -> Mask:
    """Exactly round(fraction · H · W) pixels, the most salient ones."""
    return top_count(saliency, round(fraction * saliency.size))


def _fill_where(image: Array, where: Mask, fill: Array) -> Array:
    result = np.zeros(image.shape)
    for c in range(image.shape[0]):
        for i in range(image.shape[1]):
            for j in range(image.shape[2]):
                result[c, i, j] = fill[c] if where[i, j] else image[c, i, j]
    return result


def roar(image: Array, saliency: Array, fraction: float, fill: Array) -> Array:
    """ROAR: "removes the most salient pixels" of `[C, H, W]`; `fill` has one value per channel."""
    return _fill_where(image, top_fraction(saliency, fraction), fill)


def kar(image: Array, saliency: Array, fraction: float, fill: Array) -> Array:
    """KAR: "blanks out the least salient" pixels and keeps the given fraction."""
    return _fill_where(image, ~top_fraction(saliency, fraction), fill)
