"""Rendering the scenes of `DigitScenes`: photographs, handwritten digits, colours, boxes and the planted mark."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lightning_saliency.data.shortcuts import class_colors

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# Photographs inside the wheels of scikit-image and scikit-learn, so that nothing is ever downloaded.
PHOTOGRAPHS: tuple[tuple[str, str], ...] = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/brick.png"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/grass.png"),
    ("skimage", "data/gravel.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/ihc.png"),
    ("skimage", "data/moon.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/retina.jpg"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)
# With `background_shift` these are the whole test split, and training and validation never see them.
HELD_OUT = ("data/brick.png", "data/coffee.png", "data/ihc.png", "datasets/images/china.jpg")

MARK_SHARE = 8  # the mark's side is the image's side divided by this
_CHUNK = 500  # scenes rendered at a time: bounds the float32 intermediates to some 100 MB at 128 pixels
_MAX_ROTATION = 12.0  # degrees; more would turn a 6 towards a 9
_EDGE = (0.40, 0.65)  # glyph intensity at which a digit's edge begins and at which it is opaque
_FAINTEST = 0.1  # opacity below which a pixel does not count as part of the digit, and is left untouched
_CONTRAST = 0.35  # minimum difference of luminance between a digit and what lies under it
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def load_glyphs() -> tuple[Tensor, Tensor]:
    """Scikit-learn's handwritten digits: intensities `[1797, 8, 8]` float32 in [0, 1] and labels `[1797]` int64.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(_missing("scikit-learn")) from error
    digits = load_digits()
    return torch.from_numpy(digits.images).float() / 16, torch.from_numpy(digits.target).long()


def split_glyphs(count: int, split: Split) -> Tensor:
    """Indices of the handwritten digits that belong to a split: the first 70 %, the next 15 %, the last 15 %.

    The data set's own order is kept because it keeps each writer's digits together: validation and test ask for
    writers that training has hardly seen. It is the same for every seed, so that no two modules share a test digit.
    """
    first, second = round(0.70 * count), round(0.85 * count)
    start, stop = {"train": (0, first), "val": (first, second), "test": (second, count)}[split]
    return torch.arange(start, stop)


def load_photographs(split: Split, background_shift: bool = False) -> dict[int, Tensor]:
    """The part of each photograph that belongs to a split, by its index in `PHOTOGRAPHS`: `[3, h, w]` uint8 each.

    Training has the left 60 %, validation the upper and test the lower half of the rest. With `background_shift` the
    photographs of `HELD_OUT` are kept, whole, for the test split, which then has no other.

    Raises:
        ImportError: If scikit-image or scikit-learn is not installed.
        FileNotFoundError: If an installed version of them does not bring a photograph.
    """
    regions = {}
    for index, (package, path) in enumerate(PHOTOGRAPHS):
        held_out = background_shift and path in HELD_OUT
        if background_shift and held_out != (split == "test"):
            continue
        photograph = read_photograph(package, path)
        regions[index] = photograph if held_out else photograph[region_of(photograph, split)]
    return regions


def region_of(photograph: Tensor, split: Split) -> tuple[slice, slice, slice]:
    """The slices of a photograph `[3, h, w]` that belong to a split; no two splits overlap."""
    middle, right = photograph.shape[1] // 2, round(0.6 * photograph.shape[2])
    rows, columns = {
        "train": (slice(None), slice(None, right)),
        "val": (slice(None, middle), slice(right, None)),
        "test": (slice(middle, None), slice(right, None)),
    }[split]
    return slice(None), rows, columns


def crop_backgrounds(
    photographs: dict[int, Tensor], count: int, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random square crops at random zoom, half of them mirrored, at random brightness.

    Args:
        photographs: `[3, h, w]` uint8 by index.
        count: Number of crops N.
        size: Side in pixels.
        generator: Source of randomness.

    Returns:
        The crops `[N, 3, size, size]` uint8 and the index `[N]` int64 of the photograph of each.
    """
    # A ladder of zooms made once for each photograph, antialiased: every crop is then a plain slice.
    levels: list[tuple[int, Tensor]] = []
    for index, photograph in photographs.items():
        shortest = min(photograph.shape[1:])
        for zoom in (1.0, 1.5, 2.2, 3.2):
            if zoom > 1 and zoom * size > shortest:
                break
            levels.append((index, _resize(photograph, zoom * size / shortest, size)))
    by_photograph = torch.tensor([index for index, _ in levels])
    keys = torch.tensor(list(photographs))
    chosen = keys[torch.randint(len(keys), (count,), generator=generator)]
    # Large photographs have more zooms than small ones: draw the photograph first, then one of its own zooms.
    matches = (by_photograph == chosen[:, None]).float()
    level = torch.multinomial(matches, 1, generator=generator)[:, 0]
    place = torch.rand(count, 2, generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    gain = 0.6 + 0.6 * torch.rand(count, generator=generator)

    crops = torch.empty(count, 3, size, size, dtype=torch.uint8)
    steps = torch.arange(size)
    for number, (_, photograph) in enumerate(levels):
        where = torch.nonzero(level == number)[:, 0]
        free = torch.tensor([photograph.shape[1] - size + 1, photograph.shape[2] - size + 1])
        corner = (place[where] * free).long()
        rows = corner[:, 0, None] + steps
        columns = corner[:, 1, None] + torch.where(mirrored[where, None], steps.flip(0), steps)
        crops[where] = photograph[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)
    for part in chunks(count):
        crops[part] = (crops[part] * gain[part, None, None, None]).clamp_(0, 255).round_().byte()
    return crops, chosen


def render_digits(glyphs: Tensor, size: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Each glyph at a random size, place and slight rotation, wholly inside its image.

    Args:
        glyphs: Intensities `[N, 8, 8]` in [0, 1].
        size: Side of the images in pixels.
        scale: Minimum and maximum side of the glyph's square, as a share of the image's side.
        generator: Source of randomness.

    Returns:
        Opacity `[N, size, size]` float32, exactly 0 where the digit is not.
    """
    count = glyphs.shape[0]
    side = scale[0] + (scale[1] - scale[0]) * torch.rand(count, generator=generator)
    angle = torch.deg2rad(_MAX_ROTATION * (2 * torch.rand(count, generator=generator) - 1))
    # Half the extent of the turned square, in coordinates that run from -1 to 1 over the image.
    reach = side * (angle.cos() + angle.sin().abs())
    center = (1 - reach[:, None]) * (2 * torch.rand(count, 2, generator=generator) - 1)
    turn = (
        torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], dim=1).view(-1, 2, 2) / side[:, None, None]
    )
    theta = torch.cat([turn, -turn @ center[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [count, 1, size, size], align_corners=False)
    ink = F.grid_sample(glyphs[:, None], grid, mode="bicubic", padding_mode="zeros", align_corners=False)[:, 0]
    opacity = ((ink - _EDGE[0]) / (_EDGE[1] - _EDGE[0])).clamp_(0, 1)
    return opacity * (opacity >= _FAINTEST)


def tight_boxes(masks: Tensor) -> Tensor:
    """The smallest box around the true pixels of each mask.

    Args:
        masks: `[N, H, W]` bool, at least one pixel true in each.

    Returns:
        `[N, 4]` float32 (x1, y1, x2, y2) in pixels, x2 and y2 exclusive.
    """
    columns, rows = masks.any(dim=1).int(), masks.any(dim=2).int()
    x1, y1 = columns.argmax(dim=1), rows.argmax(dim=1)
    x2, y2 = masks.shape[2] - columns.flip(1).argmax(dim=1), masks.shape[1] - rows.flip(1).argmax(dim=1)
    return torch.stack([x1, y1, x2, y2], dim=1).float()


def paint(backgrounds: Tensor, opacity: Tensor, generator: torch.Generator) -> Tensor:
    """Lay digits of a random colour, each readable on what lies under it, over photographs.

    Args:
        backgrounds: `[N, 3, H, W]` uint8.
        opacity: `[N, H, W]` in [0, 1].
        generator: Source of randomness.

    Returns:
        `[N, 3, H, W]` uint8, equal to `backgrounds` wherever the opacity is 0.
    """
    weights = torch.tensor(_LUMINANCE)
    images, cover = backgrounds.float() / 255, opacity[:, None]
    under = ((images * cover).sum(dim=(2, 3)) / cover.sum(dim=(2, 3))) @ weights
    candidates = torch.rand(len(images), 8, 3, generator=generator)
    # Black or white, whichever is farther, comes last: some colour always reads.
    candidates[:, -1] = (under < 0.5).float()[:, None]
    readable = (candidates @ weights - under[:, None]).abs() >= _CONTRAST
    preference = readable * torch.arange(candidates.shape[1], 0, -1)
    color = candidates[torch.arange(len(images)), preference.argmax(dim=1)][:, :, None, None]
    return ((images + (color - images) * cover) * 255).round_().byte()


def plant_marks(backgrounds: Tensor, labels: Tensor, marked: Tensor) -> None:
    """Fill the upper left corner of the marked images with the colour of their class, in place."""
    side = backgrounds.shape[-1] // MARK_SHARE
    colors = (255 * class_colors(10)).round().byte()
    backgrounds[marked, :, :side, :side] = colors[labels[marked]][:, :, None, None]


def chunks(count: int) -> Iterator[slice]:
    """Slices that cover `count` scenes, each small enough to render at once."""
    for start in range(0, count, _CHUNK):
        yield slice(start, min(start + _CHUNK, count))


@cache
def read_photograph(package: str, path: str) -> Tensor:
    """One of `PHOTOGRAPHS`, whole: `[3, h, w]` uint8; see `load_photographs`."""
    distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
    try:
        file = files(package).joinpath(path)
    except ImportError as error:
        raise ImportError(_missing(distribution)) from error
    if not file.is_file():
        raise FileNotFoundError(
            f"Got an installed {distribution} without {path}. DigitScenes needs the photographs in its wheels; install "
            "them: pip install --upgrade 'lightning-saliency[demo]'."
        )
    with file.open("rb") as stream, Image.open(stream) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _resize(photograph: Tensor, factor: float, least: int) -> Tensor:
    height, width = (max(least, round(factor * side)) for side in photograph.shape[1:])
    resized = F.interpolate(photograph[None].float(), (height, width), mode="bilinear", antialias=True)
    return resized[0].round_().clamp_(0, 255).byte()


def _missing(distribution: str) -> str:
    return (
        f"DigitScenes draws on the images inside {distribution}, which is not installed: "
        "`pip install lightning-saliency[demo]`"
    )
