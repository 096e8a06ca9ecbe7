"""SMOE maps of images that are too large for one pass: statistics tile by tile, one normalisation for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from lightning_saliency.checks import check_minimum
from lightning_saliency.explainers import SMOE
from lightning_saliency.explainers.base import undisturbed
from lightning_saliency.scales.maps import ScaleMaps, combined_statistics
from lightning_saliency.scales.sampled import SampledStatistic
from lightning_saliency.scales.taps import ScaleTaps
from lightning_saliency.scales.tracing.trace import taken_type

#: What makes of a tile ``[C, h, w]`` of the image what the network is given.
Prepare = Callable[[Tensor], Tensor]


def explain_tiled(
    explainer: SMOE | nn.Module,
    image: Tensor,
    *,
    tile: int = 512,
    overlap: int = 64,
    prepare: Prepare | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The SMOE map of one large image, its statistics collected tile by tile.

    Each tile runs through the network by itself, and of each scale's statistic the part that the tile owns is kept.
    The parts make one map for each scale, which is normalised once, with the mean and the standard deviation of the
    whole image (SMOE paper, Eq. 3); so no tile is brighter than its neighbour because little lies on it.

    The memory needed beside the image is that of a pass over one tile and of about two maps of the size that is asked
    for, in float32. So it grows with the image where ``size`` is ``None``, and does not with a ``size`` of its own
    (of ``normalization="gamma"`` it does, since all values of a scale are needed at once).

    Where everything that a position depends on lies within the overlap, the map equals `SMOE`'s of the whole image.
    What reaches further (deep layers of a ResNet, whose receptive fields span several hundred pixels but whose weight
    lies near their centre) sees the tile's border, so that a larger overlap comes nearer to the whole image's map. Of a
    network that pools the whole image (squeeze-and-excitation, attention) each tile is an image of its own.

    Args:
        explainer: A `SMOE` with the statistic, weights and layers wanted, or the network.
        image: ``[C, H, W]`` of any size and dtype, on any device; it may be mapped from a file
            (``torch.from_numpy(numpy.memmap(...))``), since only one tile of it is read at a time.
        tile: Side of a tile in pixels, overlap included; a multiple of the network's largest reduction (32 mostly).
            A network for images of one size takes that size.
        overlap: How many pixels a tile sees beyond the part that it owns, on each side within the image; such a
            multiple, too, and less than half a tile.
        prepare: Makes of a tile ``[C, h, w]`` what the network is given, such as
            ``lambda tile: (tile / 255 - mean) / std``; ``None``: the tile as it is.
        size: ``(H, W)`` of the map, smaller for an overview; ``None``: the image's.

    Returns:
        ``[H, W]`` float32 in [0, 1] on the image's device; stretched to [0, 1] as every explainer's.

    Raises:
        TapError: If a layer cannot be read.
        ValueError: If the image has another shape, or tile and overlap do not fit the network.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 2, 1))
        >>> image = torch.rand(3, 96, 80)
        >>> map_ = explain_tiled(network, image, tile=32, overlap=8)
        >>> torch.allclose(map_, SMOE(network)(image[None])[0], atol=1e-2)
        True
    """
    smoe = explainer if isinstance(explainer, SMOE) else SMOE(explainer)
    statistics, _ = _tiled_statistics(smoe, image, tile, overlap, prepare, size)
    combined = combined_statistics(
        statistics, smoe.weights, size or (image.shape[1], image.shape[2]), smoe.normalization
    )
    # As `min_max`, without a copy.
    low, high = combined.amin(), combined.amax()
    return combined.sub_(low).div_(torch.where(low == high, 1, high - low))[0].float()


def tiled_scales(
    explainer: SMOE | nn.Module,
    image: Tensor,
    *,
    tile: int = 512,
    overlap: int = 64,
    prepare: Prepare | None = None,
    size: tuple[int, int] | None = None,
) -> ScaleMaps:
    """The maps of all scales of one large image, see `explain_tiled`: for `ScaleMaps.lovi` and the like.

    Args:
        explainer: See `explain_tiled`.
        image: See `explain_tiled`.
        tile: See `explain_tiled`.
        overlap: See `explain_tiled`.
        prepare: See `explain_tiled`.
        size: ``(H, W)`` of the maps; ``None``: the finest scale's grid.

    Returns:
        The normalised maps ``[1, K, H, W]``, names and weights.

    Raises:
        TapError, ValueError: See `explain_tiled`.
    """
    smoe = explainer if isinstance(explainer, SMOE) else SMOE(explainer)
    statistics, names = _tiled_statistics(smoe, image, tile, overlap, prepare, size)
    return ScaleMaps.from_statistics(statistics, names, smoe.weights, size, smoe.normalization)


@dataclass(frozen=True)
class _Span:
    """One tile's place along an axis, in pixels: what it sees, and what of it is its own (``None``: all to the end)."""

    start: int
    end: int
    own_start: int
    own_end: int | None


def _tiled_statistics(
    smoe: SMOE,
    image: Tensor,
    tile: int,
    overlap: int,
    prepare: Prepare | None,
    wanted: tuple[int, int] | None,
) -> tuple[list[Tensor | SampledStatistic], list[str]]:
    """The statistic ``[1, h, w]`` of each scale over the whole image, and the scales' names.

    Of a scale that is much finer than the map that is wanted, what this needs is kept.
    """
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(
            f"Got an image {list(image.shape)}. Allowed is one image [C, H, W] of at least one pixel; give them one by "
            "one."
        )
    check_minimum("tile", tile, 1, "give the side of a tile in pixels")
    check_minimum("overlap", overlap, 0, "give 0 for tiles side by side")
    size = (image.shape[1], image.shape[2])

    def read(rows: slice, columns: slice) -> Tensor:
        part = image[:, rows, columns]
        part = part.clone() if prepare is None else prepare(part)
        like = next(smoe.model.parameters(), part)
        return part[None].to(like.device, taken_type(smoe.model, part if part.is_floating_point() else None))

    with undisturbed(smoe.model), torch.no_grad():
        example = read(slice(tile), slice(tile))
        with smoe.taps(example) as taps:
            strides = [
                _strides(smoe.model, taps, example, axis) if length > tile else [1] * len(taps.scales)
                for axis, length in enumerate(size)
            ]
            spans = [_spans(length, tile, overlap, math.lcm(*strides[axis])) for axis, length in enumerate(size)]
            sampled = wanted if smoe.normalization == "normal" else None
            statistics = _stitched(smoe.model, taps, read, spans, strides, image.device, sampled)
            return statistics, [scale.name for scale in taps.scales]


def _spans(length: int, tile: int, overlap: int, multiple: int) -> list[_Span]:
    """The tiles along an axis, each beginning at a multiple of the network's reduction."""
    if length <= tile:
        return [_Span(0, length, 0, None)]
    for name, value in (("tile", tile), ("overlap", overlap)):
        if value % multiple:
            raise ValueError(
                f"Got {name}={value}. Allowed are multiples of {multiple}, by which this network reduces the image; "
                f"give {math.ceil(value / multiple) * multiple}."
            )
    step = tile - 2 * overlap
    if step <= 0:
        raise ValueError(f"Got overlap={overlap}. Allowed is less than half of tile={tile}; give a larger tile.")
    last = math.ceil((length - tile) / multiple) * multiple
    starts = [*range(0, last, step), last]
    own = [0, *(start + tile - overlap for start in starts[:-1])]
    ends: list[int | None] = [*own[1:], None]
    return [
        _Span(start, min(start + tile, length), begin, end) for start, begin, end in zip(starts, own, ends, strict=True)
    ]


def _strides(model: nn.Module, taps: ScaleTaps, example: Tensor, axis: int) -> list[int]:
    """By how many pixels of an axis the positions of each scale lie apart: from the grids of a shorter tile."""
    length = example.shape[2 + axis]
    grids = [map_.shape[1 + axis] for map_ in _recorded(model, taps, example)]
    # By how much to shorten it: about half, by a multiple of what the network seems to reduce by; where convolutions
    # without padding shave positions off, by a power of two.
    about = math.lcm(
        *(2 ** max(0, round(math.log2(length / grid))) if length % grid else length // grid for grid in grids)
    )
    pixels = about * max(1, length // 2 // about) if about <= length // 2 else length // 2
    try:
        fewer = [map_.shape[1 + axis] for map_ in _recorded(model, taps, example.narrow(2 + axis, 0, length - pixels))]
    except (AssertionError, IndexError, RuntimeError, ValueError):  # how a network refuses another size
        pixels, fewer = length, [0] * len(grids)
    for scale, grid, less in zip(taps.scales, grids, fewer, strict=True):
        if grid <= less or pixels % (grid - less):
            raise ValueError(
                f"Got tile={length}, on which {scale.module!r} has {grid} positions, and {less} on {length - pixels} "
                "pixels. Allowed are tiles that the network reduces without a rest, and layers that are no finer than "
                "the image; give a multiple of twice its largest reduction, such as 512, or name the layers in "
                "SMOE(network, layers=...)."
            )
    return [pixels // (grid - less) for grid, less in zip(grids, fewer, strict=True)]


def _stitched(
    model: nn.Module,
    taps: ScaleTaps,
    read: Callable[[slice, slice], Tensor],
    spans: Sequence[Sequence[_Span]],
    strides: Sequence[Sequence[int]],
    device: torch.device,
    wanted: tuple[int, int] | None,
) -> list[Tensor | SampledStatistic]:
    """The statistic of each scale, put together from what the tiles own."""
    whole: list[Tensor | SampledStatistic] = []
    # The last tile comes first: it tells how large the whole maps are.
    for rows, columns in product(*(reversed(spans_of_axis) for spans_of_axis in spans)):
        parts = _recorded(model, taps, read(slice(rows.start, rows.end), slice(columns.start, columns.end)))
        places = [
            [_place(span, strides[axis][number], part.shape[1 + axis]) for axis, span in enumerate((rows, columns))]
            for number, part in enumerate(parts)
        ]
        if not whole:
            whole = [
                _room((height.stop, width.stop), wanted, part.new_empty(0, device=device))
                for part, [(height, _), (width, _)] in zip(parts, places, strict=True)
            ]
        for map_, part, [(height, top), (width, left)] in zip(whole, parts, places, strict=True):
            if isinstance(map_, SampledStatistic):
                map_.put(part[:, top, left], height, width)
            else:
                map_[:, height, width] = part[:, top, left]
    return whole


def _room(grid: tuple[int, int], wanted: tuple[int, int] | None, like: Tensor) -> Tensor | SampledStatistic:
    """Where a scale's statistic goes: all of it, or what a map of less than half its sides needs."""
    if wanted is not None and grid[0] > 2 * wanted[0] and grid[1] > 2 * wanted[1]:
        return SampledStatistic(grid, wanted, like)
    return like.new_empty(1, *grid)


def _place(span: _Span, stride: int, positions: int) -> tuple[slice, slice]:
    """Where a tile's own part of a scale lies in the whole map, and where in the tile's.

    Raises:
        ValueError: If the tile has too few positions for its own part.
    """
    offset = span.start // stride
    begin = span.own_start // stride
    end = offset + positions if span.own_end is None else span.own_end // stride
    if end > offset + positions or begin > end:
        raise ValueError(
            f"Got too little overlap: a tile owns {end - begin} positions, of which convolutions without padding leave "
            f"{max(0, offset + positions - begin)}. Allowed is at least what they shave off; give a larger overlap."
        )
    return slice(begin, end), slice(begin - offset, end - offset)


def _recorded(model: nn.Module, taps: ScaleTaps, images: Tensor) -> list[Tensor]:
    taps.start()
    model(images)
    return taps.take()
