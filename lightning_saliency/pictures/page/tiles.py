"""One image of a frame as a tile: the photo, or one of its maps, in the colours of the page."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_saliency.checks import did_you_mean
from lightning_saliency.functional.fusion import combine, overlay_weights
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.visualization import heatmap, highlight, lovi
from lightning_saliency.pictures.page.records import FrameRecord
from lightning_saliency.pictures.tensors import Picture, fitted_size, to_uint8

#: The views of every film; those of a class have names of their own, and ``scale 1`` and so on are each scale alone.
VIEWS = ("photo", "overlay", "lovi", "combined")


def view_names(record: FrameRecord) -> list[str]:
    """The names of a frame's views."""
    return [*VIEWS, *record.views, *(f"scale {number}" for number in range(1, len(record.scales) + 1))]


def check_view(view: str, record: FrameRecord) -> None:
    """Raise if a frame has no such view.

    Raises:
        ValueError: With the names of those that it has.
    """
    if view not in view_names(record):
        raise ValueError(
            f"Got the view {view!r}. Allowed are "
            f"{', '.join(map(repr, view_names(record)))}; use one of them.{did_you_mean(view, view_names(record))}"
        )


def tile(record: FrameRecord, index: int, view: str, photo: bytes, side: int, alpha: float = 0.8) -> Picture:
    """One image of a frame.

    Args:
        record: The frame.
        index: Which of its images.
        view: A name in `view_names`.
        photo: The photo's file.
        side: The longer side of the tile in pixels.
        alpha: The weight of an overlay's colours, see `highlight`.

    Returns:
        ``[h, w, 3]`` uint8.

    Raises:
        ValueError: If the frame has no such view.
    """
    check_view(view, record)
    with Image.open(io.BytesIO(photo)) as opened:
        rgb = opened.convert("RGB")
    height, width = fitted_size(rgb.height, rgb.width, side)
    # The pixels of a small image stay to be seen, as in the page.
    method = Image.Resampling.NEAREST if max(rgb.size) < 96 else Image.Resampling.LANCZOS
    shown = np.array(rgb.resize((width, height), method))
    if view == "photo":
        return shown
    image = torch.from_numpy(shown.astype(np.float32) / 255).permute(2, 0, 1)[None]
    count = len(record.scales)
    maps = torch.stack([resize_maps(map_[None], (height, width)) for map_ in record.images[index].maps], 1)
    scales = maps[:, :count]
    if view == "overlay":
        return to_uint8(highlight(image, combine(scales, overlay_weights(record.grids)), alpha)[0])
    if view == "lovi":
        return to_uint8(lovi(scales)[0])
    if view == "combined":
        return _heat(combine(scales, tuple(record.weights)))
    if view in record.views:
        return to_uint8(highlight(image, maps[:, count + list(record.views).index(view)], alpha)[0])
    return _heat(scales[:, int(view.split()[1]) - 1])


def _heat(map_: Tensor) -> Picture:
    return to_uint8(heatmap(map_, "inferno")[0])
