"""One frame of the film as data: the small maps of each image, what it is called, what the network says."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.pictures.tensors import fitted_size, resize_images, to_uint8

#: Maps are kept at most this large: finer than a tile shows, and coarser than most first scales.
MAP_SIDE = 64
#: The longer side of a photo.
PHOTO_SIDE = 256
#: Maps are kept in steps of 1/63: the eye sees no step in their colours, and they take a third less than bytes.
LEVELS = 63
_SMALL_PNG = 12_000
_FORMAT = 1


@dataclass(frozen=True)
class ImageRecord:
    """One image of a frame.

    Args:
        photo: Name of its file, see `photo_file`.
        maps: The map ``[h, w]`` in [0, 1] of each scale and then of each view of a class, on the CPU.
        label: Its class, or ``None``.
        prediction: The predicted class, or ``None``.
        slot: Which image of the film it is, from 0; ``None``: its position in the frame.
    """

    photo: str
    maps: Sequence[Tensor]
    label: int | None = None
    prediction: int | None = None
    slot: int | None = None


@dataclass(frozen=True)
class MeanMap:
    """A mean map of many images.

    Args:
        title: What it is the mean of, such as the name of a class.
        map: ``[h, w]`` in [0, 1], on the CPU.
        count: Number of images.
    """

    title: str
    map: Tensor
    count: int


@dataclass(frozen=True)
class AlertRecord:
    """A warning of a shortcut that was raised in the run.

    Args:
        epoch: In which epoch, from 0.
        step: Number of optimiser steps at that time.
        text: What it said.
        cell: Row and column of the place in a grid of 16×16; ``None``: it has no place.
        lowered: The epoch in which it was taken back; ``None``: it stands.
    """

    epoch: int
    step: int
    text: str
    cell: tuple[int, int] | None = None
    lowered: int | None = None

    def summary(self) -> str:
        """When it was raised and taken back, a few words.

        Example:
            >>> AlertRecord(3, 200, "").summary(), AlertRecord(3, 200, "", lowered=8).summary()
            ('warned of a shortcut in epoch 3', 'warned of a shortcut in epoch 3, lowered in epoch 8')
        """
        lowered = "" if self.lowered is None else f", lowered in epoch {self.lowered}"
        return f"warned of a shortcut in epoch {self.epoch}{lowered}"


@dataclass(frozen=True)
class FrameRecord:
    """One frame of the film.

    Args:
        epoch: The epoch after which it was taken, from 0; -1 for the network at the start of the run.
        step: Number of optimiser steps at that time.
        scales: Names of the K scales, shallow to deep.
        weights: Their K weights in the combined map.
        levels: Mean of each scale's raw statistic over the images.
        grids: Grid of each scale as ``(h, w)`` in the network, for the first image.
        views: Names of the views of a class.
        images: The images.
        classes: Names of the classes that occur.
        means: Mean maps.
    """

    epoch: int
    step: int
    scales: Sequence[str]
    weights: Sequence[float]
    levels: Sequence[float]
    grids: Sequence[tuple[int, int]]
    views: Sequence[str]
    images: Sequence[ImageRecord]
    classes: Mapping[int, str] = field(default_factory=dict)
    means: Sequence[MeanMap] = ()

    @property
    def slots(self) -> list[int]:
        """Which images of the film the frame's images are: a frame may lack some that others have."""
        return [number if image.slot is None else image.slot for number, image in enumerate(self.images)]

    def to_json(self, side: int = MAP_SIDE) -> str:
        """The record as JSON; the maps are in it as base64 of deflated bytes from 0 to 63, row by row.

        Args:
            side: The longest side of a map.
        """
        maps = [_fitted(map_, side) for image in self.images for map_ in image.maps]
        maps += [_fitted(mean.map, side) for mean in self.means]
        pixels = b"".join(_quantised(map_) for map_ in maps)
        grids = iter([list(map_.shape) for map_ in maps])
        content: dict[str, Any] = {
            "format": _FORMAT,
            "epoch": self.epoch,
            "step": self.step,
            "scales": list(self.scales),
            "weights": list(self.weights),
            "levels": [_rounded(level) for level in self.levels],
            "grids": [list(grid) for grid in self.grids],
            "views": list(self.views),
            "classes": {str(index): name for index, name in self.classes.items()},
            "images": [
                {
                    "photo": image.photo,
                    "label": image.label,
                    "prediction": image.prediction,
                    "slot": slot,
                    "grids": [next(grids) for _ in image.maps],
                }
                for image, slot in zip(self.images, self.slots, strict=True)
            ],
            "means": [{"title": mean.title, "count": mean.count, "grid": next(grids)} for mean in self.means],
            "data": base64.b64encode(zlib.compress(pixels, 6)).decode(),
        }
        return json.dumps(content, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> FrameRecord:
        """The record that `to_json` wrote.

        Raises:
            ValueError: If it is no such text, or of another version of this package.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(
                f"Got a frame of format {content.get('format') if isinstance(content, dict) else None!r}. Allowed is "
                f"{_FORMAT}; use the version of lightning-saliency that wrote the run."
            )
        levels = torch.frombuffer(bytearray(zlib.decompress(base64.b64decode(content["data"]))), dtype=torch.uint8)
        grids = [grid for image in content["images"] for grid in image["grids"]]
        grids += [mean["grid"] for mean in content["means"]]
        parts = iter(torch.split(levels.float() / LEVELS, [height * width for height, width in grids]))

        def map_of(grid: list[int]) -> Tensor:
            map_: Tensor = next(parts)
            return map_.reshape(grid[0], grid[1])

        return cls(
            epoch=content["epoch"],
            step=content["step"],
            scales=content["scales"],
            weights=content["weights"],
            levels=[math.nan if level is None else level for level in content["levels"]],
            grids=[(height, width) for height, width in content["grids"]],
            views=content["views"],
            images=[
                ImageRecord(
                    image["photo"],
                    [map_of(grid) for grid in image["grids"]],
                    image["label"],
                    image["prediction"],
                    image.get("slot"),  # earlier versions kept none
                )
                for image in content["images"]
            ],
            classes={int(index): name for index, name in content["classes"].items()},
            means=[MeanMap(mean["title"], map_of(mean["grid"]), mean["count"]) for mean in content["means"]],
        )


def photo_file(image: Tensor) -> tuple[str, bytes]:
    """An image as a file, small ones bit for bit, whose name is made of what it holds.

    Args:
        image: ``[3, H, W]`` in [0, 1].

    Returns:
        Its name and its content.

    Example:
        >>> name, content = photo_file(torch.zeros(3, 8, 8))
        >>> name.partition("-")[0], name[-4:], content[1:4]
        ('photo', '.png', b'PNG')
    """
    height, width = image.shape[-2], image.shape[-1]
    if max(height, width) > PHOTO_SIDE:
        image = resize_images(image[None], fitted_size(height, width, PHOTO_SIDE))[0]
    picture = Image.fromarray(to_uint8(image))
    file, suffix = io.BytesIO(), ".png"
    picture.save(file, format="PNG", optimize=True)
    if len(file.getvalue()) > _SMALL_PNG:
        file, suffix = io.BytesIO(), ".jpg"
        picture.save(file, format="JPEG", quality=88)
    content = file.getvalue()
    return f"photo-{hashlib.sha256(content).hexdigest()[:16]}{suffix}", content


def _fitted(map_: Tensor, side: int) -> Tensor:
    if max(map_.shape) <= side:
        return map_.float()
    return F.interpolate(map_[None, None].float(), fitted_size(map_.shape[0], map_.shape[1], side), mode="area")[0, 0]


def _quantised(map_: Tensor) -> bytes:
    values: np.ndarray[Any, Any] = (map_.nan_to_num(nan=0.0).clamp(0, 1) * LEVELS).round().to(torch.uint8).cpu().numpy()
    return values.tobytes()


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
