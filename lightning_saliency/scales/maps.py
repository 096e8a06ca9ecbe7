"""The one value that travels from a tap to a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.checks import check_choice
from lightning_saliency.functional.fusion import combine, overlay_weights, scale_weights
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.normalization import gamma_cdf, normal_cdf
from lightning_saliency.functional.visualization import heatmap, lovi, overlay
from lightning_saliency.scales.sampled import SampledStatistic

#: The distribution whose cumulative function brings a scale's map to [0, 1].
Normalization = Literal["normal", "gamma"]
NORMALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {"normal": normal_cdf, "gamma": gamma_cdf}


@dataclass(frozen=True)
class ScaleMaps:
    """The saliency maps of all scales of a batch, normalised and of one size.

    Args:
        maps: ``[B, K, H, W]`` in [0, 1], shallow to deep; of volumes ``[B, K, T, H, W]``, and what follows likewise.
        names: The K names of the scales.
        weights: The K weights of Eq. 3 (SMOE paper).
        grids: Height and width of the K scales' own maps, as far as they are known.

    Raises:
        ValueError: If the number of names or weights is not K.

    Example:
        >>> statistics = [torch.rand(2, 8, 8), torch.rand(2, 4, 4)]
        >>> maps = ScaleMaps.from_statistics(statistics, ["conv1", "conv2"], size=(16, 16))
        >>> maps.maps.shape, maps.combined().shape, maps.lovi().shape
        (torch.Size([2, 2, 16, 16]), torch.Size([2, 16, 16]), torch.Size([2, 3, 16, 16]))
    """

    maps: Tensor
    names: tuple[str, ...]
    weights: tuple[float, ...]
    grids: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.maps.ndim not in (4, 5):
            raise ValueError(
                f"Got maps {list(self.maps.shape)}. Allowed are [B, K, H, W] and [B, K, T, H, W]; add the missing "
                "dimensions."
            )
        count = self.maps.shape[1]
        if len(self.names) != count or len(self.weights) != count:
            raise ValueError(
                f"Got {len(self.names)} names and {len(self.weights)} weights for {count} scales. Allowed is one of "
                "each for every scale; give as many."
            )

    @classmethod
    def from_statistics(
        cls,
        statistics: Sequence[Tensor | SampledStatistic],
        names: Sequence[str],
        weights: str | Sequence[float] = "equal",
        size: Sequence[int] | None = None,
        normalization: Normalization = "normal",
    ) -> ScaleMaps:
        """Normalise each scale's statistic at its own resolution, then bring all to one size (SMOE paper, Sec. 2.2).

        Args:
            statistics: K raw maps ``[B, h, w]``, or ``[B, t, h, w]`` of volumes, one for each scale, as
                ``ScaleTaps.take`` returns them; or such as were sampled for this size, of the normal distribution.
            names: The K names of the scales.
            weights: ``"equal"``, ``"prior"``, ``"ramp"`` or K numbers, see ``scale_weights``.
            size: The common ``(H, W)`` or ``(T, H, W)``; ``None`` takes the finest scale's own grid.
            normalization: The distribution whose CDF squashes each map: ``"normal"``, or ``"gamma"``, which takes
                negative values for 0 (SMOE paper, Eq. 3 and 10-13).

        Returns:
            The maps, each squashed by the CDF and bilinearly interpolated.

        Raises:
            ValueError: If there is no statistic, the weights do not fit, or the normalization is unknown.
        """
        if not statistics:
            raise ValueError("Got no statistics. Allowed are those of at least one scale; give them.")
        size = _finest(statistics) if size is None else size
        maps = torch.stack([_at_size(map_, size, normalization) for map_ in statistics], dim=1)
        grids = tuple((map_.shape[-2], map_.shape[-1]) for map_ in statistics)
        return cls(maps, tuple(names), scale_weights(weights, len(statistics)), grids)

    def combined(self) -> Tensor:
        """The weighted mean over the scales, ``[B, H, W]`` in [0, 1] (SMOE paper, Eq. 3)."""
        return combine(_tall(self.maps), self.weights).reshape(self.maps[:, 0].shape)

    def deep(self) -> Tensor:
        """The mean of the scales that overlays show, see ``overlay_weights``, ``[B, H, W]`` in [0, 1]."""
        weights = "deep" if self.grids is None else overlay_weights(self.grids)
        return combine(_tall(self.maps), weights).reshape(self.maps[:, 0].shape)

    def lovi(self) -> Tensor:
        """All scales in one RGB image, ``[B, 3, H, W]`` in [0, 1] (SMOE paper, Eq. 4-7)."""
        return lovi(_tall(self.maps)).reshape(-1, 3, *self.maps.shape[2:])

    def overlay(self, images: Tensor, alpha: float = 0.25) -> Tensor:
        """The combined map's colours over the grey images, ``[B, 3, H, W]`` in [0, 1].

        Args:
            images: ``[B, C, H, W]`` in [0, 1], of the maps' size.
            alpha: The grey image's share.
        """
        maps = self.combined()
        colours = overlay(_tall(images), heatmap(maps.flatten(1, -2)), alpha=alpha)
        return colours.reshape(-1, 3, *maps.shape[1:])


def combined_statistics(
    statistics: Sequence[Tensor | SampledStatistic],
    weights: str | Sequence[float] = "equal",
    size: Sequence[int] | None = None,
    normalization: Normalization = "normal",
) -> Tensor:
    """``ScaleMaps.from_statistics(statistics, ...).combined()`` without holding the K maps at once.

    Args:
        statistics: See ``ScaleMaps.from_statistics``.
        weights: Weights of the K scales, see ``ScaleMaps.from_statistics``.
        size: ``(H, W)``; ``None`` takes the finest scale's own grid.
        normalization: See ``ScaleMaps.from_statistics``.

    Returns:
        ``[B, H, W]`` in [0, 1] (SMOE paper, Eq. 3).

    Example:
        >>> combined_statistics([torch.rand(2, 8, 8), torch.rand(2, 4, 4)], "ramp").shape
        torch.Size([2, 8, 8])
    """
    size = _finest(statistics) if size is None else size
    shares = scale_weights(weights, len(statistics))
    total = torch.zeros(())
    for map_, share in zip(statistics, shares, strict=True):
        if share:
            part = _at_size(map_, size, normalization).mul_(share / sum(shares))
            total = part if total.ndim == 0 else total.add_(part)
            del part  # else it is held while the next one is made
    return total


def coarse_statistics(statistics: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The mean of the normalised scales on a coarse grid, at half the cost of `combined_statistics`.

    Each scale is squashed by the normal CDF at its own resolution; finer ones are then averaged over the cells, coarser
    ones interpolated.

    Args:
        statistics: K raw maps ``[B, h, w]``, or ``[B, t, h, w]`` of volumes, which are averaged over t.
        size: ``(H, W)`` of the grid.

    Returns:
        ``[B, H, W]`` in [0, 1].

    Example:
        >>> coarse_statistics([torch.rand(2, 64, 64), torch.rand(2, 8, 8)], (16, 16)).shape
        torch.Size([2, 16, 16])
    """
    total = torch.zeros(())
    for map_ in statistics:
        own = _squashed(map_, "normal")
        own = own.mean(1) if own.ndim == 4 else own
        finer = own.shape[-2] >= size[0] and own.shape[-1] >= size[1]
        part = F.adaptive_avg_pool2d(own[:, None], size)[:, 0] if finer else resize_maps(own, size)
        total = total + part / len(statistics)
    return total


def _at_size(map_: Tensor | SampledStatistic, size: Sequence[int], normalization: Normalization) -> Tensor:
    """An image's map, or a volume's as a whole, squashed by the CDF and interpolated."""
    if isinstance(map_, SampledStatistic):
        return map_.normalised()
    return resize_maps(_squashed(map_, normalization), size)


def _finest(statistics: Sequence[Tensor | SampledStatistic]) -> tuple[int, ...]:
    return tuple(max(statistics, key=lambda map_: map_.shape[1:].numel()).shape[1:])


def _squashed(map_: Tensor, normalization: Normalization) -> Tensor:
    """The CDF of an image's map, or of a volume's as a whole."""
    check_choice("normalization", normalization, NORMALIZATIONS)
    return NORMALIZATIONS[normalization](map_.flatten(1, -2)).reshape(map_.shape)


def _tall(tensors: Tensor) -> Tensor:
    """``[B, K, H, W]``; a volume's slices one below the other, ``[B, K, T·H, W]``."""
    return tensors.flatten(2, -2)
