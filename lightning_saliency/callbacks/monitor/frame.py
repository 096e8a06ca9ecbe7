"""One frame of the film: the sample's images above each view of their maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lightning_saliency.callbacks.monitor.sample import SampleRecord
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.visualization import heatmap, overlay
from lightning_saliency.pictures.tensors import Picture, displayable, fitted_size, resize_images, sheet, tile_width
from lightning_saliency.scales.maps import ScaleMaps, combined_statistics

#: Views without a pass of their own, which make rows of tiles ``[n, 3, h, w]`` of the maps and the images: all scales
#: in one image, their mean over the grey image, each scale by itself.
VIEWS: dict[str, Callable[[ScaleMaps, Tensor], list[Tensor]]] = {
    "lovi": lambda maps, images: [maps.lovi()],
    "combined": lambda maps, images: [maps.overlay(images)],
    "scales": lambda maps, images: [heatmap(maps.maps[:, scale]) for scale in range(maps.maps.shape[1])],
}


def draw_views(
    records: Sequence[SampleRecord],
    names: Sequence[str],
    weights: str | Sequence[float],
    views: Sequence[str],
    normalization: tuple[Sequence[float], Sequence[float]] | None,
    picture_width: int,
    classes: Sequence[str] | None,
    explain: Mapping[str, Callable[[Tensor, Tensor | None], Tensor]] | None = None,
) -> tuple[dict[str, tuple[Picture, list[str]]], list[Tensor], bool]:
    """Draw the sample.

    Args:
        records: The sample's images with their raw maps; sizes may differ.
        names: The scales' names.
        weights: Weights of the scales in the combined map, see ``SaliencyMonitor``.
        views: Names in ``VIEWS`` and keys of ``explain``.
        normalization: ``(mean, std)`` of the images, or ``None``.
        picture_width: Largest width in pixels.
        classes: Names of the classes, for captions.
        explain: Class-specific views, each from images as the network gets them and targets to maps ``[n, H, W]``. The
            targets are the labels; the predicted classes where an image has none.

    Returns:
        For each view its picture and the captions; the combined maps on the finest scale's grid; whether the images'
        range was guessed.
    """
    tile = tile_width(len(records), picture_width)
    rows: dict[str, list[list[Tensor]]] = {view: [[] for _ in records] for view in views}
    combined: list[Tensor] = [torch.empty(0)] * len(records)
    guessed = False
    for indices in _same_shapes(records).values():
        inputs = torch.stack([records[index].image for index in indices])
        images, guess = displayable(inputs, normalization)
        guessed |= guess
        size = fitted_size(images.shape[-2], images.shape[-1], tile)
        images = resize_images(images, size)
        statistics = [
            torch.stack(scale) for scale in zip(*(records[index].statistics for index in indices), strict=True)
        ]
        fine = combined_statistics(statistics, weights)
        maps = ScaleMaps.from_statistics(statistics, names, weights, size=size)
        for view in views:
            if explain and view in explain:
                of_class = explain[view](inputs, _targets([records[index] for index in indices]))
                below = [overlay(images, heatmap(resize_maps(of_class.float().cpu(), size)))]
            else:
                below = VIEWS[view](maps, images)
            for position, index in enumerate(indices):
                rows[view][index] = [images[position], *(tiles[position] for tiles in below)]
        for position, index in enumerate(indices):
            combined[index] = fine[position]
    captions = [_caption(record, classes) for record in records]
    pictures = {
        view: (sheet(list(zip(*columns, strict=True)), captions, tile), captions) for view, columns in rows.items()
    }
    return pictures, combined, guessed


def _targets(records: Sequence[SampleRecord]) -> Tensor | None:
    labels = [record.label for record in records if record.label is not None]
    return torch.tensor(labels) if len(labels) == len(records) else None


def _same_shapes(records: Sequence[SampleRecord]) -> dict[tuple[object, ...], list[int]]:
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        groups[(record.image.shape, *(map_.shape for map_ in record.statistics))].append(index)
    return groups


def _caption(record: SampleRecord, classes: Sequence[str] | None) -> str:
    def named(index: int) -> str:
        return classes[index] if classes is not None and 0 <= index < len(classes) else str(index)

    if record.label is None and record.prediction is None:
        return ""
    if record.prediction is None:
        return named(record.label or 0)
    if record.label is None:
        return f"→ {named(record.prediction)}"
    if record.label == record.prediction:
        return named(record.label)
    return f"{named(record.label)} → {named(record.prediction)}"
