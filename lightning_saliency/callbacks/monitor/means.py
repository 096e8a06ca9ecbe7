"""The views of all images together: their mean, and the mean of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.position_bias import PositionSums
from lightning_saliency.functional.visualization import heatmap
from lightning_saliency.pictures.page import MeanMap
from lightning_saliency.pictures.tensors import Normalization, Picture, displayable, fits_channels, sheet

#: The classes that are shown: those with the most images.
_MAX_CLASSES = 16
_COLOURS = 3


def _mean(sums: PositionSums, normalization: Normalization, tile: int, classes: Sequence[str] | None) -> Picture:
    every = PositionSums()
    for name in ("count", "maps", "top", "cells"):
        setattr(every, name, getattr(sums, name).sum(0, keepdim=True))
    return _draw(every, [0], [f"{int(every.count)} images"], normalization, tile)


def _class_means(sums: PositionSums, normalization: Normalization, tile: int, classes: Sequence[str] | None) -> Picture:
    count = sums.count[:-1]
    shown = sorted(count.topk(min(_MAX_CLASSES, len(count))).indices.tolist())
    rows = [row for row in shown if count[row] > 0]
    if not rows:
        raise ValueError("No image has a class. Say where the labels are with label_key=.")
    names = [classes[row] if classes is not None and row < len(classes) else str(row) for row in rows]
    return _draw(
        sums, rows, [f"{name} ({int(count[row])})" for name, row in zip(names, rows, strict=True)], normalization, tile
    )


#: Views of the whole set: functions of the sums, the images' normalisation, the side of a tile and the classes' names.
#: Rows of tiles: the mean image, the mean map from its lowest to its highest value, and the share of the images that
#: have a place among the tenth with the highest values, from 0 to 1.
MEAN_VIEWS: dict[str, Callable[[PositionSums, Normalization, int, Sequence[str] | None], Picture]] = {
    "mean": _mean,
    "class_means": _class_means,
}


def mean_maps(sums: PositionSums, classes: Sequence[str] | None) -> list[MeanMap]:
    """For all images and for each class: the share that has a place among the tenth with the highest values."""
    total = float(sums.count.sum())
    if not total:
        return []
    found = [MeanMap("all images", sums.top.sum(0) / total, int(total))]
    count = sums.count[:-1]
    for row in sorted(count.topk(min(_MAX_CLASSES, len(count))).indices.tolist()):
        if count[row] > 0:
            name = classes[row] if classes is not None and row < len(classes) else str(row)
            found.append(MeanMap(name, sums.top[row] / count[row], int(count[row])))
    return found


def _draw(sums: PositionSums, rows: list[int], captions: list[str], normalization: Normalization, tile: int) -> Picture:
    count = sums.count[rows][:, None, None]
    images = sums.cells[rows, :_COLOURS] / count[:, None]
    # Channels that no image has are zeros.
    present = max(1, int((sums.cells[:, :_COLOURS].abs().amax((0, 2, 3)) > 0).sum()))
    shown, _ = displayable(images[:, :present], normalization if fits_channels(normalization, present) else None)
    maps = sums.maps[rows] / count
    spread = (maps.amax() - maps.amin()).clamp_min(torch.finfo(torch.float32).tiny)
    stretched = heatmap(resize_maps((maps - maps.amin()) / spread, (tile, tile)).clamp(0, 1), "inferno")
    shares = heatmap(resize_maps(sums.top[rows] / count, (tile, tile)).clamp(0, 1), "inferno")
    colours = F.interpolate(shown, (tile, tile), mode="nearest")
    return sheet([list(colours), list(stretched), list(shares)], captions, tile)
