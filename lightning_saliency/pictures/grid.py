"""Pictures in named rows under captioned columns, as the papers print their maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_saliency.pictures.keys import KEY_HEIGHT, Key, draw_key
from lightning_saliency.pictures.tensors import Picture, fitted_size, resize_images, shortened, text_font, to_uint8

_INK, _MUTED, _BACKGROUND, _WHITE = (25, 25, 25), (110, 110, 110), (255, 255, 255), (255, 255, 255)
_GAP, _BAND, _MARGIN = 4, 18, 8
# Of sheets of images: as many tiles in a line, the room between two images, and for the title and each caption.
_LINE, _APART, _TITLE, _CAPTION = 4, 16, 24, 22


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


def tile_rows(rows: Sequence[tuple[str, Sequence[tuple[str, Tensor]]]], tile: int) -> Picture:
    """Pictures in rows of any length, each row with a heading, and each picture with a caption of its own.

    Args:
        rows: Heading and (caption, picture ``[3, H, W]`` in [0, 1]) of each row. Where a row has no heading, or no
            caption, no room is left for it; captions too wide for their picture are cut.
        tile: The longer side of a picture, in pixels.

    Returns:
        ``[h, w, 3]`` uint8.

    Raises:
        ValueError: If there is no row.

    Example:
        >>> masks = [("channel 3", torch.rand(3, 32, 32)), ("channel 5", torch.rand(3, 32, 32))]
        >>> tile_rows([("layer1", masks), ("", [("", torch.rand(3, 32, 32))])], tile=64).shape
        (186, 148, 3)
    """
    if not rows:
        raise ValueError("Got no row. Allowed is at least one; add a row.")
    longest = max(len(tiles) for _, tiles in rows)
    bands = [
        (_TITLE if heading else 0, _BAND if any(caption for caption, _ in tiles) else 0) for heading, tiles in rows
    ]
    heights = [
        max((fitted_size(*_size(picture), tile)[0] for _, picture in tiles), default=0) + _GAP for _, tiles in rows
    ]
    above = [sum(band) for band in bands]
    size = (2 * _MARGIN + longest * (tile + _GAP) - _GAP, sum(above) + sum(heights) + _MARGIN)
    canvas = Image.new("RGB", size, _BACKGROUND)
    draw, font, small = ImageDraw.Draw(canvas), text_font(13), text_font(11)
    top = 0
    for (heading, tiles), (of_heading, of_captions), height in zip(rows, bands, heights, strict=True):
        if heading:
            text = shortened(heading, size[0] - 2 * _MARGIN, draw, font)
            draw.text((_MARGIN, top + 6), text, fill=_INK, font=font)
        top += of_heading + of_captions
        for place, (caption, picture) in enumerate(tiles):
            left = _MARGIN + place * (tile + _GAP)
            draw.text((left, top - _BAND + 2), shortened(caption, tile, draw, small), fill=_MUTED, font=small)
            fitted = resize_images(picture[None].float(), fitted_size(*_size(picture), tile))[0]
            canvas.paste(Image.fromarray(to_uint8(fitted)), (left, top))
        top += height
    return np.array(canvas)


def image_sheet(
    columns: Sequence[str],
    rows: Sequence[Sequence[Tensor]],
    captions: Sequence[str],
    tile: int,
    title: str = "",
    keys: Sequence[Key] = (),
) -> Picture:
    """Images below one another, each with its views beside it; few views leave room for several images in a line.

    Args:
        columns: The name of each view, written above it.
        rows: For each image its views ``[3, h, w]`` in [0, 1], h and w at most ``tile``.
        captions: A text for each image, written above it; too long ones are cut.
        tile: The side of a tile in pixels.
        title: Written at the top.
        keys: Colours that are explained at the bottom.

    Returns:
        ``[H, W, 3]`` uint8.

    Raises:
        ValueError: If an image has not one tile for each view.

    Example:
        >>> image_sheet(["photo", "overlay"], [[torch.zeros(3, 32, 32)] * 2] * 3, ["cat", "dog", "ship"], tile=32).shape
        (166, 168, 3)
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"Got {len(row)} tiles of an image. Allowed are {len(columns)}; give one for each of {list(columns)}."
            )
    beside = max(1, min(len(rows), _LINE // len(columns)))
    block = len(columns) * (tile + _GAP) - _GAP
    step = _CAPTION + tile + _GAP
    width = 2 * _MARGIN + beside * (block + _APART) - _APART
    lines = -(-len(rows) // beside)
    top = _TITLE + _BAND
    canvas = Image.new("RGB", (width, top + lines * step + len(keys) * KEY_HEIGHT + _MARGIN), _BACKGROUND)
    draw, font, small = ImageDraw.Draw(canvas), text_font(15), text_font(12)
    draw.text((_MARGIN, 5), shortened(title, width - 2 * _MARGIN, draw, font), fill=_INK, font=font)
    for place in range(beside):
        for column, name in enumerate(columns):
            left = _MARGIN + place * (block + _APART) + column * (tile + _GAP)
            draw.text((left, _TITLE + 2), shortened(name, tile, draw, small), fill=_MUTED, font=small)
    for index, (tiles, caption) in enumerate(zip(rows, captions, strict=True)):
        above = top + index // beside * step
        begin = _MARGIN + index % beside * (block + _APART)
        draw.text((begin, above + 1), shortened(caption, block, draw, font), fill=_INK, font=font)
        for column, picture in enumerate(tiles):
            pixels = to_uint8(picture)
            down, right = (tile - pixels.shape[0]) // 2, (tile - pixels.shape[1]) // 2
            place_of_it = (begin + column * (tile + _GAP) + right, above + _CAPTION + down)
            canvas.paste(Image.fromarray(pixels), place_of_it)
    for line, key in enumerate(keys):
        draw_key(canvas, key, _MARGIN, top + lines * step + line * KEY_HEIGHT)
    return np.array(canvas)


def _size(picture: Tensor) -> tuple[int, int]:
    return picture.shape[-2], picture.shape[-1]
