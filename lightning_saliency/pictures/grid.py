"""Pictures in named rows under captioned columns, as the papers print their maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_saliency.pictures.tensors import Picture, fitted_size, resize_images, shortened, text_font, to_uint8

_INK, _MUTED, _BACKGROUND, _WHITE = (25, 25, 25), (110, 110, 110), (255, 255, 255), (255, 255, 255)
_GAP, _BAND, _MARGIN = 4, 18, 8


def picture_grid(
    columns: Sequence[str],
    rows: Mapping[str, Sequence[Tensor]],
    tile: int,
    marks: Mapping[str, Collection[int]] | None = None,
    mark: str = "",
) -> Picture:
    """Pictures in rows and columns; captions too wide for their column are cut.

    Args:
        columns: A caption for each column.
        rows: Name of the row -> its pictures ``[3, H, W]`` in [0, 1], all of one size, one for each column.
        tile: The longer side of a picture in the grid, in pixels.
        marks: Row -> columns in whose pictures ``mark`` is written.
        mark: A short text.

    Returns:
        ``[h, w, 3]`` uint8.

    Raises:
        ValueError: If there is no row, or the number of pictures in a row is not the number of columns.

    Example:
        >>> picture_grid(["image", "map"], {"smoe": [torch.rand(3, 32, 32), torch.rand(3, 32, 32)]}, tile=32).shape
        (74, 84, 3)
    """
    for name, pictures in rows.items():
        if len(pictures) != len(columns):
            raise ValueError(
                f"Got {len(pictures)} pictures in row {name!r}. Allowed are {len(columns)}; give one for each column."
            )
    if not rows:
        raise ValueError("Got no row. Allowed is at least one; add a row.")
    height, width = fitted_size(*_size(next(iter(rows.values()))[0]), tile)
    step = height + _BAND + _GAP
    size = (2 * _MARGIN + len(columns) * (width + _GAP) - _GAP, _BAND + len(rows) * step + _GAP - 2)
    canvas = Image.new("RGB", size, _BACKGROUND)
    draw, font, small = ImageDraw.Draw(canvas), text_font(12), text_font(10)
    lefts = [_MARGIN + place * (width + _GAP) for place in range(len(columns))]
    for left, caption in zip(lefts, columns, strict=True):
        draw.text((left, 3), shortened(caption, width, draw, small), fill=_MUTED, font=small)
    for row, (name, pictures) in enumerate(rows.items()):
        top = _BAND + row * step
        draw.text((_MARGIN, top + 1), name, fill=_INK, font=font)
        for place, picture in enumerate(resize_images(torch.stack(list(pictures)).float(), (height, width))):
            canvas.paste(Image.fromarray(to_uint8(picture)), (lefts[place], top + _BAND))
            if place in (marks or {}).get(name, ()):
                draw.text((lefts[place] + 3, top + _BAND + 2), mark, fill=_WHITE, font=small)
    return np.array(canvas)


def _size(picture: Tensor) -> tuple[int, int]:
    return picture.shape[-2], picture.shape[-1]
