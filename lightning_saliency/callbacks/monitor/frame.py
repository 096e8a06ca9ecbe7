"""One frame of the film: the sample's images, each beside the views of its maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_saliency.callbacks.monitor.reading.sample import SampleRecord
from lightning_saliency.functional.fusion import scale_weights
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.visualization import heatmap, highlight
from lightning_saliency.pictures.grid import image_sheet
from lightning_saliency.pictures.keys import Key
from lightning_saliency.pictures.tensors import Picture, all_displayable, fitted_size, resize_images
from lightning_saliency.pictures.volumes import middle_image, middle_map, squashed_map
from lightning_saliency.scales.maps import ScaleMaps, combined_statistics

#: Views without a pass of their own: functions of the maps, the images and an overlay's opacity that make, by the
#: name of the column, tiles ``[n, 3, h, w]``. The overview shows where the deeper scales find information, which
#: tells a trained network from an untrained one, and all scales in one image; the combined map has the weights
#: of the run and its own values.
VIEWS: dict[str, Callable[[ScaleMaps, Tensor, float], dict[str, Tensor]]] = {
    "overview": lambda maps, images, alpha: {"overlay": _deep(maps, images, alpha), "LOVI": maps.lovi()},
    "overlay": lambda maps, images, alpha: {"overlay": _deep(maps, images, alpha)},
    "lovi": lambda maps, images, alpha: {"LOVI": maps.lovi()},
    "combined": lambda maps, images, alpha: {"combined": heatmap(maps.combined(), "inferno")},
    "scales": lambda maps, images, alpha: {
        name: heatmap(maps.maps[:, scale], "inferno") for scale, name in enumerate(maps.names)
    },
}
#: The colours that a picture explains, by the name of its column; of all others those of a map.
_KEYS: dict[str, Key] = {"LOVI": "hue"}


@dataclass(frozen=True)
class _Group:
    """Images of one size: their places in the sample, themselves ``[n, 3, h, w]`` in [0, 1], and their maps."""

    places: list[int]
    images: Tensor
    maps: ScaleMaps


class Frame:
    """Draws the sample, view by view.

    Args:
        records: The sample's images with their raw maps; sizes may differ. Of volumes, the middle frame is drawn.
        names: The scales' names.
        weights: Weights of the scales in the combined map, see ``SaliencyMonitor``.
        normalization: ``(mean, std)`` of the images, or ``None``.
        tile: The longer side of an image in pixels.
        classes: Names of the classes, for captions.
        alpha: Opacity of overlays.
        title: Written above each picture, such as ``"epoch 3"``.

    Attributes:
        captions: One text an image.
        guessed: Whether the images' range was guessed.
    """

    def __init__(
        self,
        records: Sequence[SampleRecord],
        names: Sequence[str],
        weights: str | Sequence[float],
        normalization: tuple[Sequence[float], Sequence[float]] | None,
        tile: int,
        classes: Sequence[str] | None,
        alpha: float = 0.8,
        title: str = "",
    ) -> None:
        self.captions = [_caption(record, classes) for record in records]
        self._records = records
        self._tile, self._alpha, self._title = tile, alpha, title
        self._groups: list[_Group] = []
        shown, self.guessed = all_displayable([middle_image(record.image) for record in records], normalization)
        for places in _same_shapes(records):
            images = torch.stack([shown[place] for place in places])
            size = fitted_size(images.shape[-2], images.shape[-1], self._tile)
            maps = torch.stack([_squashed(records[place], size) for place in places])
            grids = tuple((map_.shape[-2], map_.shape[-1]) for map_ in records[places[0]].statistics)
            scale_maps = ScaleMaps(maps, tuple(names), scale_weights(weights, maps.shape[1]), grids)
            self._groups.append(_Group(places, resize_images(images, size), scale_maps))

    def picture(self, view: str) -> Picture:
        """One view of all images.

        Args:
            view: A name in ``VIEWS``, or of a class-specific view whose maps the records have.

        Raises:
            KeyError: If a record has no map of this view.
        """
        names: list[str] = []
        rows: list[list[Tensor]] = [[] for _ in self._records]
        for group in self._groups:
            if view in VIEWS:
                columns = VIEWS[view](group.maps, group.images, self._alpha)
            else:
                size = (group.images.shape[-2], group.images.shape[-1])
                records = [self._records[place] for place in group.places]
                maps = torch.stack([middle_map(record.views[view].float(), record.image) for record in records])
                columns = {view: highlight(group.images, resize_maps(maps, size), self._alpha)}
            names = list(columns)
            for position, place in enumerate(group.places):
                rows[place] = [group.images[position], *(tiles[position] for tiles in columns.values())]
        keys = list(dict.fromkeys(_KEYS.get(name, "heat") for name in names))
        return image_sheet(["photo", *names], rows, self.captions, self._tile, self._title, keys)


def _deep(maps: ScaleMaps, images: Tensor, alpha: float) -> Tensor:
    return highlight(images, maps.deep(), alpha)


def _squashed(record: SampleRecord, size: tuple[int, int]) -> Tensor:
    """The K scales' maps ``[K, H, W]`` of the frame that is shown, each squashed at its own resolution."""
    return torch.stack([resize_maps(squashed_map(map_, record.image), size) for map_ in record.statistics])


def combined_maps(records: Sequence[SampleRecord], weights: str | Sequence[float]) -> list[Tensor]:
    """The combined map ``[h, w]``, of a volume ``[t, h, w]``, of each of the sample, on its finest scale's grid."""
    combined: list[Tensor] = [torch.empty(0)] * len(records)
    for places in _same_shapes(records):
        for place, map_ in zip(places, combined_statistics(_statistics(records, places), weights), strict=True):
            combined[place] = map_
    return combined


def _statistics(records: Sequence[SampleRecord], places: Sequence[int]) -> list[Tensor]:
    return [torch.stack(scale) for scale in zip(*(records[place].statistics for place in places), strict=True)]


def _same_shapes(records: Sequence[SampleRecord]) -> list[list[int]]:
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        groups[(record.image.shape, *(map_.shape for map_ in record.statistics))].append(place)
    return list(groups.values())


def _caption(record: SampleRecord, classes: Sequence[str] | None) -> str:
    def named(index: int) -> str:
        return classes[index] if classes is not None and 0 <= index < len(classes) else str(index)

    label = None if record.label is None or record.label < 0 else record.label
    if label is None and record.prediction is None:
        return ""
    if record.prediction is None:
        return named(label or 0)
    if label is None:
        return f"→ {named(record.prediction)}"
    if label == record.prediction:
        return f"{named(label)} ✓"
    return f"{named(label)} → {named(record.prediction)}"
