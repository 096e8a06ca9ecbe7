"""Marks that give an image's class away, planted into images: what a network learns in place of what it should."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.checks import check_choice, is_within

Corner = Literal["upper_left", "upper_right", "lower_left", "lower_right"]
CORNERS: tuple[Corner, ...] = ("upper_left", "upper_right", "lower_left", "lower_right")


def class_colors(count: int) -> Tensor:
    """A colour for each class, evenly spread hues of full saturation.

    Args:
        count: Number of classes.

    Returns:
        ``[count, 3]`` float32, RGB in [0, 1].

    Example:
        >>> class_colors(3).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    hue = torch.arange(count)[:, None] / count + torch.tensor([0.0, 2 / 3, 1 / 3])
    return ((hue % 1 * 6 - 3).abs() - 1).clamp(0, 1)


class Shortcut(ABC):
    """A mark that tells the class. The same arguments give the same pixels: there is no randomness in it."""

    @abstractmethod
    def plant(
        self, images: Tensor, cues: Tensor, num_classes: int, draws: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Plant the marks of some classes.

        Args:
            images: ``[B, 3, H, W]`` in [0, 1]; not changed.
            cues: ``[B]`` int64, the class whose mark each image gets.
            num_classes: Number of classes.
            draws: ``[B, 2]`` in [0, 1), an image's own random numbers, for marks that differ from image to image.
            boxes: ``[B, K, 4]``, x1, y1, x2, y2 in pixels, around the objects, where they are known. Of an image with
                fewer than K the last are zeros.

        Returns:
            The marked images in [0, 1], and ``[B, H, W]`` bool, true where the mark may have changed pixels.
        """


class CornerMark(Shortcut):
    """A square in a corner, in the class's colour.

    Args:
        size: Side of the square as a share of the image's shorter side, in (0, 1].
        corner: ``"upper_left"``, ``"upper_right"``, ``"lower_left"`` or ``"lower_right"``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> images, mask = CornerMark(0.25).plant(torch.zeros(1, 3, 8, 8), torch.tensor([0]), 3, torch.zeros(1, 2))
        >>> images[0, :, 1, 1].tolist(), int(mask.sum())
        ([1.0, 0.0, 0.0], 4)
    """

    def __init__(self, size: float = 0.125, corner: Corner = "upper_left") -> None:
        _check_share("size", size)
        check_choice("corner", corner, CORNERS)
        self.size = size
        self.corner: Corner = corner

    def plant(
        self, images: Tensor, cues: Tensor, num_classes: int, draws: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Shortcut.plant`."""
        end = torch.tensor([self.corner.startswith("lower"), self.corner.endswith("right")], dtype=draws.dtype)
        mask = _squares(images, self.size, end.expand(len(images), 2).to(draws.device))
        return _painted(images, mask, _colors(cues, num_classes)), mask


class RandomMark(Shortcut):
    """A square in the class's colour, in each image at its own place.

    Args:
        size: Side of the square as a share of the image's shorter side, in (0, 1].

    Raises:
        ValueError: If the size is out of range.
    """

    def __init__(self, size: float = 0.125) -> None:
        _check_share("size", size)
        self.size = size

    def plant(
        self, images: Tensor, cues: Tensor, num_classes: int, draws: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Shortcut.plant`."""
        mask = _squares(images, self.size, draws)
        return _painted(images, mask, _colors(cues, num_classes)), mask


class Watermark(Shortcut):
    """A half-transparent pattern of light and dark cells, the class's own, in the lower left of each image.

    The patterns are 4×4 cells, half of them light and half of them dark; those of two classes always differ.

    Args:
        size: Side of the pattern as a share of the image's shorter side, in (0, 1].
        opacity: How much of the pattern shows, in (0, 1].

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, size: float = 0.375, opacity: float = 0.5) -> None:
        _check_share("size", size)
        _check_share("opacity", opacity)
        self.size = size
        self.opacity = opacity

    def plant(
        self, images: Tensor, cues: Tensor, num_classes: int, draws: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Shortcut.plant`."""
        height, width = images.shape[2:]
        side = max(1, round(self.size * min(height, width)))
        patterns = watermark_patterns(num_classes).to(images)[cues][:, None]
        pattern = F.interpolate(patterns, size=(side, side), mode="nearest")
        marked = images.clone()
        part = marked[:, :, height - side :, :side]
        part.copy_(part + self.opacity * (pattern - part))
        mask = torch.zeros(len(images), height, width, dtype=torch.bool, device=images.device)
        mask[:, height - side :, :side] = True
        return marked, mask


class BackgroundTint(Shortcut):
    """The background takes on something of the class's colour: all that lies outside the boxes around the objects.

    Without boxes the whole image does.

    Args:
        strength: Share of the class's colour in the background, in (0, 1].

    Raises:
        ValueError: If the strength is out of range.
    """

    def __init__(self, strength: float = 0.3) -> None:
        _check_share("strength", strength)
        self.strength = strength

    def plant(
        self, images: Tensor, cues: Tensor, num_classes: int, draws: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Shortcut.plant`."""
        mask = (
            torch.ones_like(images[:, 0], dtype=torch.bool)
            if boxes is None
            else ~pixels_in_boxes(boxes, *images.shape[2:])
        )
        colors = _colors(cues, num_classes).to(images)[:, :, None, None]
        return torch.where(mask[:, None], images + self.strength * (colors - images), images), mask


class ClassBorder(Shortcut):
    """A frame in the class's colour around the image.

    Args:
        width: Width of the frame as a share of the image's shorter side, in (0, 0.5].

    Raises:
        ValueError: If the width is out of range.
    """

    def __init__(self, width: float = 0.0625) -> None:
        _check_share("width", width, 0.5)
        self.width = width

    def plant(
        self, images: Tensor, cues: Tensor, num_classes: int, draws: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Shortcut.plant`."""
        height, width = images.shape[2:]
        edge = max(1, round(self.width * min(height, width)))
        mask = torch.ones(len(images), height, width, dtype=torch.bool, device=images.device)
        mask[:, edge : height - edge, edge : width - edge] = False
        return _painted(images, mask, _colors(cues, num_classes)), mask


class ClassBlur(Shortcut):
    """Motion blur in the class's own direction, over the whole image.

    The directions of K classes are π/K apart. Each pixel becomes the mean of the image along a line through it.

    Args:
        length: Length of the line as a share of the image's shorter side, in (0, 1].

    Raises:
        ValueError: If the length is out of range.
    """

    def __init__(self, length: float = 0.15) -> None:
        _check_share("length", length)
        self.length = length

    def plant(
        self, images: Tensor, cues: Tensor, num_classes: int, draws: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Shortcut.plant`."""
        reach = max(1, round(self.length * min(images.shape[2:]) / 2))
        lines = _lines(num_classes, reach).to(images)[cues].repeat_interleave(images.shape[1], 0)[:, None]
        padded = F.pad(images, [reach] * 4, mode="replicate").flatten(0, 1)[None]
        blurred = F.conv2d(padded, lines, groups=padded.shape[1])[0].view_as(images)
        return blurred.clamp(0, 1), torch.ones_like(images[:, 0], dtype=torch.bool)


def watermark_patterns(count: int) -> Tensor:
    """The patterns of `Watermark`: ``[count, 4, 4]`` of 0 and 1, eight of each, no two alike.

    Raises:
        ValueError: If there are more classes than patterns.
    """
    generator, cells, most = torch.Generator().manual_seed(0), 16, math.comb(16, 8)
    if count > most:
        raise ValueError(f"Got {count} classes. Allowed with a watermark are up to {most}; take another shortcut.")
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        found[tuple((torch.randperm(cells, generator=generator) < cells // 2).int().tolist())] = None
    return torch.tensor(list(found), dtype=torch.float32).view(count, 4, 4)


def pixels_in_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """The pixels whose centre lies in one of an image's boxes.

    Args:
        boxes: ``[B, K, 4]``, x1, y1, x2, y2 in pixels.
        height: H.
        width: W.

    Returns:
        ``[B, H, W]`` bool.
    """
    rows = torch.arange(height, device=boxes.device) + 0.5
    columns = torch.arange(width, device=boxes.device) + 0.5
    x1, y1, x2, y2 = (boxes[..., side, None] for side in range(4))
    down, across = (rows > y1) & (rows < y2), (columns > x1) & (columns < x2)
    return (down[..., :, None] & across[..., None, :]).any(dim=1)


def _lines(count: int, reach: int) -> Tensor:
    """Kernels ``[count, 2·reach + 1, 2·reach + 1]``, each a line through the centre, that sum to 1."""
    steps = torch.linspace(-reach, reach, 8 * reach + 1)
    angles = math.pi * torch.arange(count) / count
    rows = (reach - steps * angles.sin()[:, None]).round().long()
    columns = (reach + steps * angles.cos()[:, None]).round().long()
    kernels = torch.zeros(count, 2 * reach + 1, 2 * reach + 1)
    kernels[torch.arange(count)[:, None], rows, columns] = 1.0
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def _colors(cues: Tensor, num_classes: int) -> Tensor:
    return class_colors(num_classes).to(cues.device)[cues]


def _painted(images: Tensor, mask: Tensor, colors: Tensor) -> Tensor:
    return torch.where(mask[:, None], colors.to(images)[:, :, None, None], images)


def _squares(images: Tensor, size: float, places: Tensor) -> Tensor:
    """Squares ``[B, H, W]`` wholly inside the images; places ``[B, 2]``, row and column, run from 0 to 1."""
    height, width = images.shape[2:]
    side = max(1, round(size * min(height, width)))
    free = torch.tensor([height - side + 1, width - side + 1], device=places.device)
    start = (places * free).long().minimum(free - 1).to(images.device)[:, :, None]
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    down = (rows >= start[:, 0]) & (rows < start[:, 0] + side)
    across = (columns >= start[:, 1]) & (columns < start[:, 1] + side)
    return down[:, :, None] & across[:, None, :]


def _check_share(name: str, value: float, highest: float = 1.0) -> None:
    if not is_within(value, 0, highest) or value == 0:
        raise ValueError(f"Got {name}={value!r}. Allowed are shares in (0, {highest:g}]; give one of them.")
