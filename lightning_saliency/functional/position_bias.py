"""Do the maps of many images point to one place, and does what lies there tell the class?

A network that learned a mark in a corner looks at the corner of every image. Where validation images carry the mark,
too, nothing but the maps shows it. Everything here comes from sums over images: batches and processes are added up, and
no image and no map is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.functional.masking import top_fraction

__all__ = ["MAX_CLASSES", "POSITION_GRID", "PositionBias", "PositionSums", "position_bias"]

#: Maps are compared on a grid of so many cells a side.
POSITION_GRID = 16
#: Images of classes from this one on count as images without a class.
MAX_CLASSES = 1000
#: The cells to which a map points: 26 of 256.
TOP_SHARE = 0.1
#: The cells whose colours are taken together: 5 of 256.
CORE_SHARE = 0.02

# Of each cell: the means of up to four channels, and the contrast.
_COLOURS, _FEATURES = 4, 5


@dataclass(frozen=True)
class PositionBias:
    """What the maps of many images have in common.

    How much depends on the class is the share of a variance that the classes explain, less what they would explain of
    it after shuffling: ε² of an analysis of variance (Kelley 1935), 0 and slightly less where nothing depends on the
    class, 1 where everything does. Of colours or of contrast, whichever is larger.

    Attributes:
        bias: The largest product, over the cells, of the share of images whose map points there and of how much of
            what lies there depends on the class; in [0, 1]. An object in the middle of all images attracts all maps,
            and a sky as background depends on the class, but both together make a shortcut.
        cell: Row and column, from the upper left of the grid of 16×16, of the cell where it is.
        share: Share of the images, in [0, 1], that have that cell among the tenth of the cells with the highest values.
        explained: How much of what lies there depends on the class.
        content: How much of what lies under each map's highest 2 % depends on the class, wherever they are: marks at
            random places make it large.
        count: Number of images with a class.
        classes: Number of classes that occurred.

    Where fewer than two classes occurred, or no class twice, ``bias``, ``explained`` and ``content`` are NaN, and
    ``cell`` is the one to which most maps point.
    """

    bias: float
    cell: tuple[int, int]
    share: float
    explained: float
    content: float
    count: int
    classes: int


class PositionSums:
    """The sums over images from which `PositionBias` and the mean maps are computed.

    Args:
        classes: For how many classes to begin with; more are added as they come.
        grid: G and K, the numbers of rows and columns of cells, or one number for both.

    Attributes:
        count: ``[C + 1]``, the number of images of each class; the last: of those without a class.
        maps: ``[C + 1, G, K]``, the sums of their maps.
        top: ``[C + 1, G, K]``, how many of them have a cell among the tenth of the cells with the highest values, and
            above the lowest: a constant map points nowhere.
        cells: ``[C + 1, 5, G, K]``, the sums of the means of up to four channels, and of the contrast, of each cell.
        core: ``[C + 1, 5]``, the sums of the same under each map's highest 2 %; of a constant map, of the whole image.
        cell_squares: ``[5, G, K]``, the sums of the squares of ``cells`` over images with a class.
        core_squares: ``[5]``, of ``core``.

    Example:
        >>> sums = PositionSums()
        >>> maps = torch.zeros(4, 16, 16)
        >>> maps[:, :4, :4] = 1.0
        >>> images = torch.zeros(4, 3, 32, 32)
        >>> images[:2, 0, :4, :4] = 1.0  # a red corner in the images of class 0
        >>> sums.add(maps, torch.tensor([0, 0, 1, 1]), images)
        >>> found = sums.result()
        >>> found.bias, found.cell, found.share, found.explained
        (1.0, (0, 0), 1.0, 1.0)
    """

    def __init__(self, classes: int = 0, grid: int | tuple[int, int] = POSITION_GRID) -> None:
        cells = (grid, grid) if isinstance(grid, int) else grid
        self.count = torch.zeros(classes + 1, dtype=torch.float32)
        self.maps = torch.zeros(classes + 1, *cells, dtype=torch.float32)
        self.top = torch.zeros(classes + 1, *cells, dtype=torch.float32)
        self.cells = torch.zeros(classes + 1, _FEATURES, *cells, dtype=torch.float32)
        self.core = torch.zeros(classes + 1, _FEATURES, dtype=torch.float32)
        self.cell_squares = torch.zeros(_FEATURES, *cells, dtype=torch.float32)
        self.core_squares = torch.zeros(_FEATURES, dtype=torch.float32)

    @property
    def classes(self) -> int:
        """C, the number of classes for which there are sums."""
        return len(self.count) - 1

    def add(self, maps: Tensor, labels: Tensor | None, images: Tensor) -> None:
        """Take in a batch. Images with NaN or infinite numbers, or with such maps, are left out.

        Args:
            maps: ``[B, h, w]``; each cell of the grid is the mean of its pixels.
            labels: ``[B]`` int64, the classes; negative ones for images without. ``None``: none has one.
            images: ``[B, C, H, W]`` in any range, or what `cell_features` made of them.

        Raises:
            ValueError: If the shapes do not fit.
        """
        if (
            maps.ndim != 3
            or images.ndim != 4
            or not len(maps) == len(images) == len(maps if labels is None else labels)
        ):
            raise ValueError(
                f"Got maps {list(maps.shape)}, images {list(images.shape)} and labels "
                f"{None if labels is None else list(labels.shape)}. Allowed are [B, h, w], [B, C, H, W] and "
                "[B], or no labels, of the same B; give one of each an image."
            )
        grid = (self.maps.shape[1], self.maps.shape[2])
        made = images.shape[1:] == (_FEATURES, *grid)
        features = (images if made else cell_features(images, grid)).cpu()
        cells = maps.detach().float()[:, None]
        cells = F.adaptive_avg_pool2d(cells.cpu() if cells.device.type == "mps" else cells, grid)[:, 0].cpu()
        rows = torch.full((len(maps),), -1) if labels is None else labels.detach().cpu().long()
        good = cells.flatten(1).isfinite().all(1) & features.flatten(1).isfinite().all(1)
        cells, features, rows = cells[good], features[good], rows[good]
        known = (rows >= 0) & (rows < MAX_CLASSES)
        self.grow(int(rows[known].max()) + 1 if bool(known.any()) else 0)
        rows = torch.where(known, rows, self.classes)
        # Where all is the same, or much of it 0, a map does not point to the lowest, whichever comes first.
        above = cells > cells.amin((1, 2), keepdim=True)
        highest = (top_fraction(cells, CORE_SHARE) & above | ~above.any(-1, True).any(-2, True)).float()[:, None]
        core = (features * highest).sum((2, 3)) / highest.sum((2, 3))
        self.count.index_add_(0, rows, torch.ones(len(rows), dtype=torch.float32))
        self.maps.index_add_(0, rows, cells)
        self.top.index_add_(0, rows, (top_fraction(cells, TOP_SHARE) & above).float())
        self.cells.index_add_(0, rows, features)
        self.core.index_add_(0, rows, core)
        self.cell_squares += features[known].square().sum(0)
        self.core_squares += core[known].square().sum(0)

    def grow(self, classes: int) -> None:
        """Make room for so many classes; never less than there is."""
        more = classes - self.classes
        if more > 0:
            for name in ("count", "maps", "top", "cells", "core"):
                old = getattr(self, name)
                room = old.new_zeros(more, *old.shape[1:])
                setattr(self, name, torch.cat([old[:-1], room, old[-1:]]))

    def vector(self) -> Tensor:
        """All sums in one vector, for adding up over processes that have room for as many classes."""
        return torch.cat([getattr(self, name).flatten() for name in vars(self)])

    def load(self, vector: Tensor) -> None:
        """Take the sums from a `vector` of as many classes."""
        sizes = [getattr(self, name).numel() for name in vars(self)]
        for name, part in zip(vars(self), torch.split(vector.detach().cpu().float(), sizes), strict=True):
            setattr(self, name, part.view_as(getattr(self, name)).clone())

    def mean_map(self) -> Tensor:
        """The mean map of all images ``[G, K]``; NaN without images."""
        return self.maps.sum(0) / self.count.sum()

    def shares(self) -> Tensor:
        """The share of the images whose map points to each cell ``[G, K]``; NaN without images."""
        return self.top.sum(0) / self.count.sum()

    def explained(self) -> Tensor:
        """How much of what lies in each cell depends on the class ``[G, K]``, see `PositionBias`."""
        return _explained(self.count[:-1], self.cells[:-1], self.cell_squares)

    def class_means(self) -> dict[int, Tensor]:
        """The mean map ``[G, K]`` of each class that occurred."""
        return {row: self.maps[row] / self.count[row] for row in self.count[:-1].nonzero()[:, 0].tolist()}

    def result(self) -> PositionBias | None:
        """The numbers; ``None`` where there is no image."""
        count = self.count[:-1]
        if not bool(self.count.sum() > 0):
            return None
        shares, explained = self.shares(), self.explained()
        if bool(explained.isnan().any()):
            best = int(shares.argmax())
            bias = float("nan")
        else:
            products = shares * explained.clamp_min(0)
            best = int(products.argmax())
            bias = float(products.flatten()[best])
        row, column = divmod(best, shares.shape[-1])
        return PositionBias(
            bias=bias,
            cell=(row, column),
            share=float(shares[row, column]),
            explained=float(explained[row, column]),
            content=float(_explained(count, self.core[:-1], self.core_squares)),
            count=int(count.sum()),
            classes=int((count > 0).sum()),
        )


def position_bias(maps: Tensor, labels: Tensor, images: Tensor) -> PositionBias:
    """How far the maps point to one place that gives the class away, see `PositionBias`.

    Args:
        maps: ``[N, h, w]``, such as ``ScaleMaps.combined()``.
        labels: ``[N]`` int64, the images' classes.
        images: ``[N, C, H, W]``.

    Returns:
        The numbers.

    Raises:
        ValueError: If the shapes do not fit, or there is no image whose values are all finite.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> maps, images = (torch.rand(200, *shape, generator=generator) for shape in ((16, 16), (3, 32, 32)))
        >>> position_bias(maps, torch.arange(200) % 4, images).bias < 0.05
        True
    """
    sums = PositionSums()
    sums.add(maps, labels, images)
    found = sums.result()
    if found is None:
        raise ValueError(
            f"Got maps {list(maps.shape)} and images {list(images.shape)} without one image whose values are all "
            "finite. Allowed is at least one; find out where the NaN comes from."
        )
    return found


def cell_features(images: Tensor, grid: int | tuple[int, int] = POSITION_GRID) -> Tensor:
    """What lies in each cell of the images: the means of the first four channels, and the contrast.

    Args:
        images: ``[B, C, H, W]``, any range and dtype. Of more than four channels the mean stands for all.
        grid: G and K, the numbers of rows and columns of cells, or one number for both.

    Returns:
        ``[B, 5, G, K]`` float32: up to four means, zeros where there are fewer channels, and the standard deviation
        of the channels' mean within the cell.
    """
    pixels = images.detach().float()
    if pixels.device.type == "mps":  # where regions of unequal sizes are not implemented
        pixels = pixels.cpu()
    grey = pixels.mean(1, keepdim=True)
    means = F.adaptive_avg_pool2d(pixels if pixels.shape[1] <= _COLOURS else grey, grid)
    level = F.adaptive_avg_pool2d(grey, grid)
    contrast = (F.adaptive_avg_pool2d(grey.square(), grid) - level.square()).clamp_min(0).sqrt()
    return torch.cat([F.pad(means, (0, 0, 0, 0, 0, _COLOURS - means.shape[1])), contrast], 1)


def _explained(count: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
    """ε² of colours and of contrast, the larger: ``[...]`` of sums ``[C, 5, ...]`` and of squares ``[5, ...]``.

    ε² = 1 − (SS_within / (N − C)) / (SS_total / (N − 1)), the sums of squares being those of all colours together. NaN
    where N = C or C < 2; 0 where nothing varies.
    """
    images, classes = count.double().sum(), (count > 0).sum()
    if int(classes) < 2 or int(images) <= int(classes):
        return torch.full(squares.shape[1:], float("nan"))
    shape = (-1, *[1] * (sums.ndim - 1))
    sums, squares = sums.double(), squares.double()
    total = squares - sums.sum(0).square() / images
    within = squares - (sums.square() / count.double().clamp_min(1).view(shape)).sum(0)
    parts = []
    for part in (slice(0, _COLOURS), slice(_COLOURS, None)):
        of_all, of_classes = total[part].sum(0), within[part].sum(0)
        # Rounding leaves traces of the squares where nothing varies.
        varies = of_all > 1e-6 * squares[part].sum(0)
        ratio = (of_classes / (images - classes)) / (of_all / (images - 1)).clamp_min(torch.finfo(torch.float64).tiny)
        parts.append(torch.where(varies, 1 - ratio, 0.0))
    return torch.maximum(*parts).float()
