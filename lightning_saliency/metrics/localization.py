"""Metrics of maps against ground truth: does the map point at the annotated object?"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from lightning_saliency.functional.localization import bbox_score, energy_pointing_game, pointing_game, top_fraction_iou
from lightning_saliency.metrics.base import Average, ImageMean


class _AgainstMasks(ImageMean):
    """A score of maps and masks."""

    higher_is_better = True

    @abstractmethod
    def _score(self, saliency: Tensor, masks: Tensor) -> Tensor:
        pass

    def update(self, saliency: Tensor, masks: Tensor, targets: Tensor | int | None = None) -> None:
        """Add a batch.

        Args:
            saliency: Maps ``[B, H, W]``.
            masks: Ground truth of the class that each map is for, bool ``[B, H, W]``, or ``[B, n, H, W]`` for n
                objects, whose union counts. Boxes become masks by
                `lightning_saliency.functional.localization.boxes_to_masks`. An image whose masks are empty has no right
                answer and is not counted.
            targets: The class that each map is for, ``[B]`` int64; not needed for ``average="micro"``.
        """
        if masks.ndim == 4:
            masks = masks.any(1)
        self._add(self._score(saliency, masks), targets, masks.flatten(1).any(1))


class PointingGame(_AgainstMasks):
    """The share of maps whose most salient pixel hits the object, by class and then over classes (Group-CAM, Sec. 4.4).

    Accuracy = #Hits / (#Hits + #Misses) of each class, then the mean over the classes that occurred. See
    `lightning_saliency.functional.localization.pointing_game`.

    Args:
        num_classes: Number of classes; not needed for ``average="micro"``.
        tolerance: Pixels by which a hit may be off the object.
        average: ``"macro"`` (the paper's), ``"micro"`` over all maps, or ``"none"`` for each class's accuracy;
            ``None``: ``"macro"`` where ``num_classes`` is given, else ``"micro"``.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> saliency = torch.tensor([[[0.9, 0.1]], [[0.9, 0.1]], [[0.2, 0.3]]])
        >>> masks = torch.tensor([[[True, False]], [[False, True]], [[False, True]]])
        >>> metric = PointingGame(num_classes=2)
        >>> metric.update(saliency, masks, targets=torch.tensor([0, 0, 1]))
        >>> metric.compute()
        tensor(0.7500)
    """

    def __init__(
        self, num_classes: int | None = None, tolerance: float = 0, average: Average | None = None, **kwargs: Any
    ) -> None:
        super().__init__(average or ("micro" if num_classes is None else "macro"), num_classes, **kwargs)
        self.tolerance = tolerance

    def _score(self, saliency: Tensor, masks: Tensor) -> Tensor:
        return pointing_game(saliency, masks, self.tolerance)


class EnergyPointingGame(_AgainstMasks):
    """The mean fraction of a map's energy that lies on the object (SISE, EBPG).

    See `lightning_saliency.functional.localization.energy_pointing_game`.

    Args:
        average: ``"micro"``, ``"macro"`` or ``"none"``; see `ImageMean`.
        num_classes: Number of classes; not needed for ``"micro"``.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> metric = EnergyPointingGame()
        >>> metric.update(torch.tensor([[[0.9, 0.1]], [[0.2, 0.3]]]), torch.tensor([[[True, False]], [[True, False]]]))
        >>> metric.compute()
        tensor(0.6500)
    """

    def __init__(self, average: Average = "micro", num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(average, num_classes, **kwargs)

    def _score(self, saliency: Tensor, masks: Tensor) -> Tensor:
        return energy_pointing_game(saliency, masks)


class TopFractionIoU(_AgainstMasks):
    """The mean intersection over union of a map's most salient pixels and the object (SISE, mIoU).

    See `lightning_saliency.functional.localization.top_fraction_iou`.

    Args:
        fraction: Share of the pixels that are taken; 0.2 in the paper.
        average: ``"micro"``, ``"macro"`` or ``"none"``; see `ImageMean`.
        num_classes: Number of classes; not needed for ``"micro"``.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> metric = TopFractionIoU(fraction=0.5)
        >>> metric.update(torch.tensor([[[4.0, 3.0], [2.0, 1.0]]]), torch.tensor([[[True, False], [True, False]]]))
        >>> metric.compute()
        tensor(0.3333)
    """

    def __init__(
        self, fraction: float = 0.2, average: Average = "micro", num_classes: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(average, num_classes, **kwargs)
        self.fraction = fraction

    def _score(self, saliency: Tensor, masks: Tensor) -> Tensor:
        return top_fraction_iou(saliency, masks, self.fraction)


class BboxScore(_AgainstMasks):
    """The mean fraction of a map's N most salient pixels that lie on the object of N pixels (SISE, Bbox).

    See `lightning_saliency.functional.localization.bbox_score`.

    Args:
        average: ``"micro"``, ``"macro"`` or ``"none"``; see `ImageMean`.
        num_classes: Number of classes; not needed for ``"micro"``.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> metric = BboxScore()
        >>> metric.update(torch.tensor([[[4.0, 3.0], [2.0, 1.0]]]), torch.tensor([[[True, False], [True, False]]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def __init__(self, average: Average = "micro", num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(average, num_classes, **kwargs)

    def _score(self, saliency: Tensor, masks: Tensor) -> Tensor:
        return bbox_score(saliency, masks)
