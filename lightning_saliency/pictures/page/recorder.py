"""Frames of the film made of images and of the maps that were read, for a callback and for a loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.files import Location, RemotePath, location
from lightning_saliency.functional.fusion import scale_weights
from lightning_saliency.pictures.class_names import as_names
from lightning_saliency.pictures.page.find import RECORDS
from lightning_saliency.pictures.page.html import film
from lightning_saliency.pictures.page.records import FrameRecord, ImageRecord, MeanMap, photo_file
from lightning_saliency.pictures.page.store import FilmRecords
from lightning_saliency.pictures.tensors import all_displayable, parse_denormalize
from lightning_saliency.pictures.volumes import middle_image, middle_map, squashed_map
from lightning_saliency.scales.scale import Scale

Normalization = tuple[Sequence[float], Sequence[float]]


def make_frame(
    images: Sequence[Tensor],
    statistics: Sequence[Sequence[Tensor]],
    *,
    epoch: int,
    step: int,
    scales: Sequence[str],
    weights: str | Sequence[float] = "equal",
    normalization: Normalization | None = None,
    labels: Sequence[int | None] | None = None,
    predictions: Sequence[int | None] | None = None,
    views: Mapping[str, Sequence[Tensor]] | None = None,
    classes: Sequence[str] | None = None,
    means: Sequence[MeanMap] = (),
    slots: Sequence[int] | None = None,
) -> tuple[FrameRecord, dict[str, bytes]]:
    """One frame of the film, and the files of its photos.

    Args:
        images: N images ``[C, H, W]`` as the network gets them; sizes may differ. Of volumes ``[C, T, H, W]`` the
            middle frame is shown, and the maps there.
        statistics: Of each image, the raw map ``[h, w]``, or ``[t, h, w]``, of each of the K scales, on the CPU.
        epoch: The epoch after which the maps were read, from 0; -1 for the network at the start of the run.
        step: Number of optimiser steps made so far.
        scales: Names of the K scales, shallow to deep.
        weights: Their weights in the combined map, see ``scale_weights``.
        normalization: ``(mean, std)`` by which the images were normalised; ``None``: see ``all_displayable``.
        labels: Class of each image, ``None`` where it has none.
        predictions: Predicted class of each image.
        views: Name of a view -> a map ``[h, w]``, or ``[t, h, w]``, in [0, 1] for each image.
        classes: Names of the classes.
        means: Mean maps of many images.
        slots: Which images of the film these are, from 0; ``None``: the first ones.

    Returns:
        The frame, and the name of each photo's file -> its content: what ``FilmRecords.add`` takes.
    """
    views = views or {}
    labels = [None] * len(images) if labels is None else labels
    predictions = [None] * len(images) if predictions is None else predictions
    slots = range(len(images)) if slots is None else slots
    photos: dict[str, bytes] = {}
    records = []
    shown, _ = all_displayable([middle_image(image) for image in images], normalization)
    for number, (image, picture, maps, label, prediction, slot) in enumerate(
        zip(images, shown, statistics, labels, predictions, slots, strict=True)
    ):
        name, content = photo_file(picture)
        photos[name] = content
        squashed = [squashed_map(map_, image) for map_ in maps]
        viewed = [middle_map(maps_[number], image) for maps_ in views.values()]
        records.append(ImageRecord(name, [*squashed, *viewed], label, prediction, slot))
    numbers = {number for number in (*labels, *predictions) if number is not None}
    frame = FrameRecord(
        epoch=epoch,
        step=step,
        scales=scales,
        weights=scale_weights(weights, len(scales)),
        levels=[_mean([maps[scale] for maps in statistics]) for scale in range(len(scales))],
        grids=[(map_.shape[-2], map_.shape[-1]) for map_ in statistics[0]],
        views=list(views),
        images=records,
        classes={n: classes[n] for n in sorted(numbers) if classes is not None and 0 <= n < len(classes)},
        means=means,
    )
    return frame, photos


class FilmRecorder:
    """Keeps the film of a training loop without a Trainer: a frame at each call of ``add``, the page by ``page``.

    `SaliencyMonitor` does the same, and more, in a `Trainer`. Here the maps come from `ScaleTaps`, from whichever pass
    it was switched on for. Each frame is written at once, so that the page can be made at any time, also by
    ``lightning-saliency film FOLDER``. Frames that an earlier run left in the folder, later than the first one added,
    go aside into ``rewound/``. In several processes, add frames in one of them alone.

    Args:
        folder: The run's folder; the frames lie in its ``saliency/film/``. A path, or the URL of a remote store.
        scales: The scales that are read, as `find_scales` finds them.
        weights: Weights of the scales in the combined map, see ``scale_weights``.
        denormalize: How images are shown: ``"imagenet"``, ``(mean, std)``, ``"none"`` (they are in [0, 1]), or
            ``"auto"``: as ``displayable`` guesses.
        class_names: Names of the classes.
        max_megabytes: Largest size of the frames on disk, in 10⁶ bytes; beyond it every second one goes.

    Raises:
        ValueError: If an option is none of these.

    Example:
        >>> import tempfile
        >>> from lightning_saliency import ScaleTaps, find_scales
        >>> from lightning_saliency.networks import small_cnn
        >>> network, images = small_cnn().eval(), torch.rand(2, 3, 32, 32)
        >>> with tempfile.TemporaryDirectory() as folder, ScaleTaps(network, find_scales(network, images)) as taps:
        ...     film = FilmRecorder(folder, taps.scales)
        ...     taps.start()
        ...     logits = network(images)
        ...     frame = film.add(images, taps.take(), epoch=-1, step=0, predictions=logits.argmax(1))
        ...     frame.name, film.page().name
        ('start-step=0000000.json', 'film.html')
    """

    def __init__(
        self,
        folder: str | Path | RemotePath,
        scales: Sequence[Scale],
        *,
        weights: str | Sequence[float] = "equal",
        denormalize: str | Sequence[Sequence[float]] = "auto",
        class_names: Sequence[str] | None = None,
        max_megabytes: float = 64.0,
    ) -> None:
        self.folder = location(folder)
        self.scales = tuple(scale.name for scale in scales)
        self.weights = scale_weights(weights, len(self.scales))
        self.class_names = None if class_names is None else as_names(class_names)
        self._normalization = parse_denormalize(denormalize)
        self._store = FilmRecords(self.folder / "saliency" / RECORDS, max_megabytes)
        self._begun = False

    def add(
        self,
        images: Tensor,
        maps: Sequence[Tensor],
        *,
        epoch: int,
        step: int,
        labels: Tensor | Sequence[int] | None = None,
        predictions: Tensor | Sequence[int] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> Location:
        """Keep a frame; one of the same epoch and step is replaced.

        Args:
            images: ``[N, C, H, W]`` as the network got them, the same ones in each frame; or volumes
                ``[N, C, T, H, W]``, of which the middle frame is shown.
            maps: The raw maps ``[B, h, w]``, or ``[B, t, h, w]``, of the K scales, B ≥ N, as ``ScaleTaps.take``
                returns them: the first N of each are the images'.
            epoch: From 0; -1 for the network at the start of the run.
            step: Number of optimiser steps made so far.
            labels: The images' classes ``[N]``; negative: none.
            predictions: The predicted classes ``[N]``.
            values: Numbers for the page's curves, such as ``{"val/accuracy": 0.9}``.

        Returns:
            The frame's file.

        Raises:
            ValueError: If numbers of images, maps or scales do not go together.
            OSError: If the frame cannot be written. A remote store's package raises anything.
        """
        count, dimensions = len(images), images.ndim - 1
        unfit = any(map_.ndim != dimensions or len(map_) < count for map_ in maps)
        if not count or dimensions not in (3, 4) or len(maps) != len(self.scales) or unfit:
            raise ValueError(
                f"Got images {list(images.shape)} and maps of the shapes {[list(map_.shape) for map_ in maps]}. "
                f"Allowed are one or more images, and for each of the {len(self.scales)} scales a map [B, h, w], of "
                f"volumes [B, t, h, w], with B from {count}; give the images that the network got in the pass that was "
                "read, and what take() returns."
            )
        by_image = [[map_[number].float().cpu() for map_ in maps] for number in range(count)]
        frame, photos = make_frame(
            list(images.detach().cpu()),
            by_image,
            epoch=epoch,
            step=step,
            scales=self.scales,
            weights=self.weights,
            normalization=self._normalization,
            labels=_numbers("labels", labels, count),
            predictions=_numbers("predictions", predictions, count),
            classes=self.class_names,
        )
        if not self._begun:
            self._store.rewind(step)
            self._begun = True
        if values:
            self._store.log(epoch, step, {name: float(value) for name, value in values.items()})
        return self._store.add(frame, photos)

    def page(self) -> Location:
        """Make the page of all frames so far, ``<folder>/saliency/film.html``, see `lightning_saliency.film`.

        Raises:
            ValueError: If there is no frame.
            OSError: If it cannot be written.
        """
        return film(self.folder)


def _numbers(name: str, given: Tensor | Sequence[int] | None, count: int) -> list[int | None] | None:
    if given is None:
        return None
    numbers = [int(number) for number in given]
    if len(numbers) < count:
        raise ValueError(f"Got {len(numbers)} {name} for {count} images. Allowed is one for each image; give them all.")
    return [number if number >= 0 else None for number in numbers[:count]]


def _mean(maps: Sequence[Tensor]) -> float:
    return float(torch.cat([map_.flatten() for map_ in maps]).mean())
