"""Turning tensors into pictures: de-normalised images, and sheets of tiles as uint8."""

from __future__ import annotations

import functools
import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

Picture = npt.NDArray[np.uint8]
#: Mean and standard deviation, one value for each channel or one for all; ``None``: not known.
Normalization = tuple[Sequence[float], Sequence[float]] | None

#: Mean and standard deviation with which ImageNet networks' inputs are normalised.
IMAGENET_NORMALIZATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# Dashboards show pictures in narrow cards, where a row of eight would be thumbnails.
_COLUMNS = 4
_BAND = 16
_GAP = 2
_BACKGROUND = (24, 24, 24)
#: Enough objects for any stack of transforms; a data set's samples are not searched one by one.
_LOOKED_AT = 10_000


def find_normalization(
    *roots: object, channels: Collection[int] = ()
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The mean and standard deviation of the first ``Normalize`` transform reachable from the given objects.

    Looks through attributes, sequences and dictionaries, the nearest first, so that a data module's or a data set's
    transforms are found whatever they are called; not into a trainer. Torchvision's and albumentations' transforms
    qualify; one whose mean and standard deviation are no numbers does not.

    Args:
        roots: Data modules, data sets, transforms.
        channels: Numbers of channels of the images that it is to fit, see `fits_channels`: one that stands before a
            ``Grayscale`` does not say how the images are normalised that come out of it.

    Returns:
        ``(mean, std)``, one value per channel or one for all, or ``None``.

    Example:
        >>> from torchvision.transforms import v2
        >>> coloured = v2.Compose([v2.Normalize(mean=[0.5, 0.4, 0.3], std=[0.25] * 3)])
        >>> find_normalization(coloured, channels=(3,))
        ((0.5, 0.4, 0.3), (0.25, 0.25, 0.25))
        >>> find_normalization(coloured, channels=(1,)) is None
        True
    """
    level: list[Any] = [root for root in roots if root is not None]
    seen: set[int] = set()
    while level and len(seen) < _LOOKED_AT:
        below: list[Any] = []
        for item in level:
            if id(item) in seen:
                continue
            seen.add(id(item))
            if type(item).__name__ == "Normalize" and hasattr(item, "mean") and hasattr(item, "std"):
                mean, std = _numbers(item.mean), _numbers(item.std)
                if mean and std and all(fits_channels((mean, std), each) for each in channels):
                    return mean, std
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, (list, tuple)):
                below.extend(item[:64])
            elif hasattr(item, "__dict__"):
                below.extend(value for key, value in vars(item).items() if not key.endswith("trainer"))
        level = [
            item
            for item in below
            if not isinstance(item, (str, bytes, int, float, bool, Tensor, np.ndarray, type(None)))
        ]
    return None


def _numbers(values: Any) -> tuple[float, ...]:
    """One number, or several in a sequence, an array or a tensor, as a tuple; empty where they are no numbers."""
    try:
        return tuple(torch.as_tensor(values, dtype=torch.float64).flatten().tolist())
    except (TypeError, ValueError, RuntimeError):
        return ()


def fits_channels(normalization: Normalization, channels: int) -> bool:
    """Whether a normalisation has one value for each of so many channels, or one for all; ``None`` fits any.

    Example:
        >>> fits_channels(IMAGENET_NORMALIZATION, 3), fits_channels(IMAGENET_NORMALIZATION, 1)
        (True, False)
    """
    return normalization is None or all(len(values) in (1, channels) for values in normalization)


def all_displayable(images: Sequence[Tensor], normalization: Normalization = None) -> tuple[list[Tensor], bool]:
    """Undo the normalisation of images of any sizes that are shown together, see `displayable`.

    Whether their range has to be guessed is decided for all of them, so that each looks the same in whatever is drawn.

    Args:
        images: Each ``[C, H, W]``.
        normalization: As of `displayable`.

    Returns:
        Each as ``[3, H, W]`` float32 in [0, 1], and whether the range had to be guessed.

    Example:
        >>> dark, wide = torch.full((3, 1, 2), 0.2), torch.tensor([-1.0, 2.0]).expand(3, 1, 2)
        >>> [image[0].tolist() for image in all_displayable([wide, wide / 2])[0]]
        [[[0.0, 1.0]], [[0.0, 1.0]]]
        >>> all_displayable([dark])[1], all_displayable([dark, wide])[1]
        (False, True)
    """
    guessed = normalization is None and any(_beyond(image) for image in images)
    return [displayable(image[None], normalization, stretched=guessed)[0][0] for image in images], guessed


def _beyond(images: Tensor) -> bool:
    """Whether the range of images has to be guessed: they are no bytes, and not within [0, 1]; NaN counts as black."""
    finite = torch.nan_to_num(images.float())
    return images.dtype != torch.uint8 and bool(finite.numel()) and bool((finite.amin() < 0) | (finite.amax() > 1))


def displayable(
    images: Tensor, normalization: Normalization = None, *, stretched: bool | None = None
) -> tuple[Tensor, bool]:
    """Undo the normalisation of images, for display.

    Args:
        images: ``[B, C, H, W]``: uint8, or floating point as the network gets them.
        normalization: ``(mean, std)`` by which they were normalised, one value per channel (or one for all).
        stretched: Whether images whose normalisation is not known are stretched; ``None``: as these need it.

    Returns:
        ``[B, 3, H, W]`` float32 in [0, 1], and whether the range had to be guessed. One channel is shown as grey;
        2, 4 or more channels as the grey of their mean. Without ``normalization``, uint8 images are divided by 255,
        float images within [0, 1] are taken as they are, and others are stretched from their own minimum to their own
        maximum: only that last case is a guess. NaN is shown as black.

    Raises:
        ValueError: If the normalization's length fits neither one nor C channels.
    """
    channels = images.shape[1]
    if images.dtype == torch.uint8:
        shown, guessed = images.float() / 255, False
    elif normalization is not None:
        mean, std = (torch.as_tensor(values, dtype=torch.float32, device=images.device) for values in normalization)
        if mean.numel() not in (1, channels) or std.numel() not in (1, channels):
            raise ValueError(
                f"Got {mean.numel()} means and {std.numel()} standard deviations for {channels} channels. Allowed is "
                f"one of each for every channel; give denormalize=(mean, std) with {channels} values each."
            )
        shown, guessed = images.float() * std.reshape(1, -1, 1, 1) + mean.reshape(1, -1, 1, 1), False
    else:
        shown, guessed = images.float(), _beyond(images) if stretched is None else stretched
        if guessed:
            finite = torch.nan_to_num(shown)
            low = finite.flatten(1).amin(1).reshape(-1, 1, 1, 1)
            span = finite.flatten(1).amax(1).reshape(-1, 1, 1, 1) - low
            shown = (finite - low) / span.clamp_min(torch.finfo(torch.float32).tiny)
    shown = torch.nan_to_num(shown).clamp(0, 1)
    if channels != 3:
        shown = shown.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return shown, guessed


def fitted_size(height: int, width: int, tile: int) -> tuple[int, int]:
    """The ``(H, W)`` of an image whose longer side is brought to ``tile`` pixels."""
    scale = tile / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def tile_width(count: int, picture_width: int) -> int:
    """The side of a tile, in pixels, for ``count`` images in a picture of at most ``picture_width`` pixels."""
    return max(16, picture_width // max(1, min(count, _COLUMNS)) - _GAP)


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Anti-aliased bilinear resizing of ``[B, C, H, W]`` to ``[B, C, *size]``."""
    if images.shape[-2:] == torch.Size(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def sheet(rows: Sequence[Sequence[Tensor]], captions: Sequence[str], tile: int, columns: int = _COLUMNS) -> Picture:
    """Tiles in rows, one column per image, captions above; images beyond the last column continue below.

    Args:
        rows: R rows of N tiles, each ``[3, h, w]`` in [0, 1] with h and w at most ``tile``.
        captions: N captions; too long ones are cut.
        tile: The side of a tile in pixels.
        columns: Maximum number of images in a row.

    Returns:
        ``[H, W, 3]`` uint8.

    Example:
        >>> sheet([[torch.zeros(3, 32, 32)] * 2, [torch.ones(3, 32, 32)] * 2], ["cat", "dog"], tile=32).shape
        (82, 66, 3)
    """
    count = len(captions)
    columns = max(1, min(count, columns))
    bands = max(1, -(-count // columns))
    band_height = _BAND + len(rows) * (tile + _GAP) - _GAP
    canvas = Image.new("RGB", (columns * (tile + _GAP) - _GAP, bands * (band_height + _GAP) - _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = text_font()
    for index in range(count):
        left = (index % columns) * (tile + _GAP)
        top = (index // columns) * (band_height + _GAP)
        draw.text(
            (left + 2, top + 1), shortened(captions[index], tile - 4, draw, font), fill=(235, 235, 235), font=font
        )
        for row, tiles in enumerate(rows):
            pixels = to_uint8(tiles[index])
            offset_y, offset_x = (tile - pixels.shape[0]) // 2, (tile - pixels.shape[1]) // 2
            canvas.paste(Image.fromarray(pixels), (left + offset_x, top + _BAND + row * (tile + _GAP) + offset_y))
    return np.array(canvas)


def to_uint8(image: Tensor) -> Picture:
    """One image ``[3, H, W]`` in [0, 1] as ``[H, W, 3]`` uint8, rounded to the nearest level."""
    pixels: Picture = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels


@functools.cache
def text_font(size: int = 10) -> ImageFont.FreeTypeFont:
    """The font of captions, in a size in pixels."""
    # matplotlib brings DejaVu Sans along, which has arrows and most alphabets; Pillow's own default has neither.
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size=size)


def shortened(text: str, width: int, draw: ImageDraw.ImageDraw, font: Any) -> str:
    """A text in one line, cut so that it is at most so many pixels wide."""
    text = " ".join(text.split())
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"


_latest: tuple[npt.NDArray[np.uint8], bytes] | None = None


def png_bytes(picture: npt.NDArray[np.uint8]) -> bytes:
    """The picture ``[H, W, 3]`` uint8 as a PNG file.

    The latest result is kept: a training waits while a picture is encoded, and the same one goes to a logger and into
    the film.

    Example:
        >>> png_bytes(np.zeros((2, 3, 3), np.uint8))[1:4]
        b'PNG'
    """
    global _latest
    latest = _latest
    if latest is None or not np.array_equal(latest[0], picture):
        buffer = io.BytesIO()
        # A quarter of the default level's time for a fifth more bytes.
        Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)
        latest = _latest = picture.copy(), buffer.getvalue()
    return latest[1]


def parse_denormalize(value: str | Sequence[Sequence[float]]) -> tuple[Sequence[float], Sequence[float]] | None:
    """The ``(mean, std)`` that ``denormalize`` stands for; ``None`` for ``"auto"``.

    Raises:
        ValueError: If the name is unknown.
    """
    if value == "imagenet":
        return IMAGENET_NORMALIZATION
    if value == "none":
        return (0.0,), (1.0,)
    if value == "auto":
        return None
    if isinstance(value, str) or len(value) != 2 or any(isinstance(part, (int, float)) for part in value):
        raise ValueError(
            f"Got denormalize={value!r}. Allowed are 'auto', 'imagenet', 'none' and (mean, std), each with a number "
            "for every channel; use one of them."
        )
    return value[0], value[1]
