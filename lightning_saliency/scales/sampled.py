"""A statistic over more positions than are kept: those that a smaller map needs, and the moments of all."""

from __future__ import annotations

import torch
from torch import Tensor


class SampledStatistic:
    """One scale's statistic over a large image, put together part by part, for a smaller map of it.

    Bilinear interpolation to a smaller size (without antialiasing, as everywhere here) takes two rows and two columns
    of the grid for each of the map's. These values are kept, and of all values the mean and the standard deviation, by
    which the map is normalised (SMOE paper, Eq. 3). So the memory depends on the map's size and not on the image's.

    Args:
        grid: (h, w), the positions of the scale in the whole image.
        size: (H, W) of the map.
        like: A tensor of the statistic's dtype, on the device where the values are kept.

    Attributes:
        shape: ``(1, h, w)``.

    Example:
        >>> statistic = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> sampled = SampledStatistic((64, 64), (4, 4), statistic)
        >>> for half in (slice(0, 32), slice(32, 64)):
        ...     sampled.put(statistic[:, half], half, slice(0, 64))
        >>> sampled.values.shape, sampled.normalised().shape
        (torch.Size([1, 8, 8]), torch.Size([1, 4, 4]))
    """

    def __init__(self, grid: tuple[int, int], size: tuple[int, int], like: Tensor) -> None:
        self.shape = torch.Size((1, *grid))
        self._axes = [_Axis(own, wanted, like.device) for own, wanted in zip(grid, size, strict=True)]
        # Half precision has too few digits to interpolate in.
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.values = like.new_empty(1, *(len(axis.kept) for axis in self._axes), dtype=dtype)
        self._count = 0
        # Apple's GPUs have no float64.
        precise = torch.float32 if like.device.type == "mps" else torch.float64
        self._mean, self._squares = (torch.zeros((), dtype=precise, device=like.device) for _ in range(2))
        self._largest = torch.zeros((), dtype=precise, device=like.device)

    def put(self, part: Tensor, rows: slice, columns: slice) -> None:
        """Take in the values ``[1, r, c]`` of some rows and columns of the grid, each of which comes once."""
        if part.numel() == 0:
            return
        own = part.to(self.values.device)
        (at_rows, of_rows), (at_columns, of_columns) = (
            axis.within(span) for axis, span in zip(self._axes, (rows, columns), strict=True)
        )
        self.values[:, at_rows, at_columns] = own[:, of_rows][:, :, of_columns]
        wide = own.to(self._mean.dtype)
        mean, count = wide.mean(), wide.numel()
        apart, total = mean - self._mean, self._count + count
        self._squares += (wide - mean).square().sum() + apart.square() * (self._count * count / total)
        self._mean += apart * (count / total)
        self._largest = torch.maximum(self._largest, wide.abs().amax())
        self._count = total

    def normalised(self) -> Tensor:
        """The map ``[1, H, W]`` in [0, 1]: ``normal_cdf`` of the whole statistic, interpolated."""
        std = (self._squares / max(1, self._count)).sqrt()
        constant = std <= 4 * torch.finfo(self.values.dtype).eps * self._largest
        scores = (self.values - self._mean) / torch.where(constant, 1, std)
        # A NaN anywhere is in the mean.
        squashed: Tensor = torch.special.ndtr(torch.where(constant, 0, scores)).to(self.values.dtype)
        rows, columns = self._axes
        squashed = torch.lerp(squashed[:, rows.low], squashed[:, rows.high], rows.share.to(squashed.dtype)[:, None])
        return torch.lerp(squashed[:, :, columns.low], squashed[:, :, columns.high], columns.share.to(squashed.dtype))


class _Axis:
    """Which positions of an axis are kept, and how a map's positions lie between two of them.

    Args:
        own: How many positions the axis has.
        wanted: How many the map has.
        device: Where the numbers are wanted.
    """

    def __init__(self, own: int, wanted: int, device: torch.device) -> None:
        place = ((torch.arange(wanted, dtype=torch.float64) + 0.5) * (own / wanted) - 0.5).clamp(0, own - 1)
        low = place.floor().long()
        high = (low + 1).clamp_max(own - 1)
        self.kept = torch.unique(torch.cat([low, high]))
        self.low, self.high = (torch.searchsorted(self.kept, each).to(device) for each in (low, high))
        self.share = (place - low).to(torch.float32).to(device)
        self._device = device

    def within(self, span: slice) -> tuple[slice, Tensor]:
        """Where the kept positions of a span lie among all kept ones, and in the span."""
        first, last = torch.searchsorted(self.kept, torch.tensor([span.start, span.stop])).tolist()
        return slice(first, last), (self.kept[first:last] - span.start).to(self._device)
