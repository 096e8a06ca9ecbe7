"""Metrics of maps against the network itself: does the score change with the pixels that the map marks?

The network is an argument of ``update`` and is never kept: it is not part of a metric's state, checkpoint or pickle.
It is run in eval mode without gradients and left as it was.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_saliency.checks import check_minimum
from lightning_saliency.explainers.base import Output, parse_output
from lightning_saliency.functional.class_scores import Score
from lightning_saliency.functional.curves import auc, deletion_curve, insertion_curve, target_scores
from lightning_saliency.functional.fills import Fill, fill_images
from lightning_saliency.functional.masking import blend, keep_most_salient
from lightning_saliency.functional.scores import drop, increase
from lightning_saliency.metrics.base import Average, ImageMean, scoring


class _CurveAUC(ImageMean):
    """The area under a mean curve, which is the mean of the areas."""

    curves: list[Tensor]

    def __init__(
        self,
        steps: int = 100,
        fill: Fill = "blur",
        batch_size: int | Literal["auto"] = "auto",
        score: Score = "softmax",
        average: Average = "micro",
        num_classes: int | None = None,
        *,
        output: Output = None,
        keep_curves: bool = False,
        **kwargs: Any,
    ) -> None:
        check_minimum("steps", steps, 1)
        super().__init__(average, num_classes, shape=(steps + 1,), **kwargs)
        self.steps = steps
        self.fill = fill
        self.batch_size = batch_size
        self.score = score
        self.output = parse_output(output)
        self.keep_curves = keep_curves
        if keep_curves:
            self.add_state("curves", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def _curve(self, score_fn: Callable[[Tensor], Tensor], images: Tensor, saliency: Tensor, targets: Any) -> Tensor:
        pass

    def update(self, model: Callable[[Tensor], Any], images: Tensor, saliency: Tensor, targets: Tensor | int) -> None:
        """Add a batch.

        Args:
            model: The network, or any function from images ``[N, C, H, W]`` to logits, see ``class_scores``.
            images: ``[B, C, H, W]``, as the network takes them.
            saliency: Maps ``[B, H, W]``.
            targets: The class that each map is for, ``[B]`` int64, or one class for all.
        """
        with scoring(model, output=self.output) as score_fn:
            curves = self._curve(score_fn, images, saliency, targets)
        self._add(curves, targets)
        if self.keep_curves:
            self.curves.append(curves)

    def compute(self) -> Tensor:
        """The mean area in [0, 1]: a scalar, or ``[num_classes]`` for ``average="none"``; NaN without images."""
        return auc(self._averaged())

    def mean_curve(self) -> Tensor:
        """The mean curve ``[S + 1]``, or ``[num_classes, S + 1]`` for ``average="none"``, for plotting.

        Taken over all processes: where there are several, each of them has to call this.
        """
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return self._averaged()


class InsertionAUC(_CurveAUC):
    """The mean area under the insertion curve: the class's score while the image appears, salient pixels first.

    Higher is better (Group-CAM, Sec. 4.3; its over-all score is ``InsertionAUC() - DeletionAUC()``). Each image passes
    the network ``steps + 1`` times. See `lightning_saliency.functional.curves.insertion_curve`.

    Args:
        steps: Number S of steps; 100 is 1 % of the pixels each.
        fill: What the image appears from: ``"blur"`` (the paper's), ``"zero"``, or any other fill.
        batch_size: Images in one pass, or ``"auto"``.
        score: ``"softmax"``, ``"sigmoid"`` for multi-label heads, or ``"logit"`` for the output as it is.
        average: ``"micro"``, ``"macro"`` or ``"none"``; see `ImageMean`.
        num_classes: Number of classes; not needed for ``"micro"``.
        output: What takes the logits out of what the model returns, see ``Explainer``.
        keep_curves: Whether each image's curve is kept as well, in the list ``curves`` of ``[B, S + 1]`` tensors.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> metric = InsertionAUC(steps=4, fill="zero", score="logit")
        >>> metric.update(lambda images: images.sum((2, 3)) / 10, images, saliency=images[:, 0], targets=1)
        >>> metric.compute()
        tensor(0.6250)
        >>> metric.mean_curve()
        tensor([0.0000, 0.4000, 0.7000, 0.9000, 1.0000])
    """

    higher_is_better = True

    def _curve(self, score_fn: Callable[[Tensor], Tensor], images: Tensor, saliency: Tensor, targets: Any) -> Tensor:
        return insertion_curve(
            score_fn,
            images,
            saliency,
            targets,
            steps=self.steps,
            fill=self.fill,
            batch_size=self.batch_size,
            score=self.score,
        )


class DeletionAUC(_CurveAUC):
    """The mean area under the deletion curve: the class's score while the image goes, salient pixels first.

    Lower is better (Group-CAM, Sec. 4.3). Each image passes the network ``steps + 1`` times. See
    `lightning_saliency.functional.curves.deletion_curve`.

    Args:
        steps: Number S of steps; 100 is 1 % of the pixels each.
        fill: What takes the place of the image: ``"blur"`` (the paper's), ``"zero"``, or any other fill.
        batch_size: Images in one pass, or ``"auto"``.
        score: ``"softmax"``, ``"sigmoid"`` for multi-label heads, or ``"logit"`` for the output as it is.
        average: ``"micro"``, ``"macro"`` or ``"none"``; see `ImageMean`.
        num_classes: Number of classes; not needed for ``"micro"``.
        output: What takes the logits out of what the model returns, see ``Explainer``.
        keep_curves: Whether each image's curve is kept as well, in the list ``curves`` of ``[B, S + 1]`` tensors.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> metric = DeletionAUC(steps=4, fill="zero", score="logit")
        >>> metric.update(lambda images: images.sum((2, 3)) / 10, images, saliency=images[:, 0], targets=1)
        >>> metric.compute()
        tensor(0.3750)
    """

    higher_is_better = False

    def _curve(self, score_fn: Callable[[Tensor], Tensor], images: Tensor, saliency: Tensor, targets: Any) -> Tensor:
        return deletion_curve(
            score_fn,
            images,
            saliency,
            targets,
            steps=self.steps,
            fill=self.fill,
            batch_size=self.batch_size,
            score=self.score,
        )


class _MaskedScore(ImageMean):
    """Drop and increase in one state: equal in both, a ``MetricCollection`` then runs the network once for both."""

    plot_upper_bound = 100.0

    def __init__(
        self,
        fraction: float | None = 0.15,
        fill: Fill = "zero",
        batch_size: int | Literal["auto"] = "auto",
        score: Score = "softmax",
        average: Average = "micro",
        num_classes: int | None = None,
        *,
        output: Output = None,
        **kwargs: Any,
    ) -> None:
        self.output = parse_output(output)
        options = (fraction, fill, score, average, num_classes, output)
        shared = None if isinstance(fill, Tensor) or callable(self.output) else f"masked score {options}"
        super().__init__(average, num_classes, shape=(2,), shared=shared, **kwargs)
        self.fraction = fraction
        self.fill = fill
        self.batch_size = batch_size
        self.score = score

    def update(self, model: Callable[[Tensor], Any], images: Tensor, saliency: Tensor, targets: Tensor | int) -> None:
        """Add a batch; each image passes the network twice, whole and masked.

        Args:
            model: The network, or any function from images ``[N, C, H, W]`` to logits, see ``class_scores``.
            images: ``[B, C, H, W]``, as the network takes them.
            saliency: Maps ``[B, H, W]``; in [0, 1] if ``fraction`` is ``None``.
            targets: The class that each map is for, ``[B]`` int64, or one class for all.
        """
        if self.fraction is None:
            masked = blend(images, fill_images(images, self.fill), saliency)
        else:
            masked = keep_most_salient(images, saliency, self.fraction, self.fill)
        with scoring(model, output=self.output) as score_fn:
            before, after = (
                target_scores(score_fn, shown, targets, score=self.score, batch_size=self.batch_size, whole=images)
                for shown in (images, masked)
            )
        self._add(torch.stack([drop(before, after), increase(before, after)], dim=1), targets)


class AverageDrop(_MaskedScore):
    """By how much the score falls, in % on average, when only the salient pixels are left (SISE, Drop%).

    Lower is better. See `lightning_saliency.functional.scores.drop`.

    Args:
        fraction: Share of the pixels that are left, 0.15 in the paper. ``None``: the image times the map, as in
            Grad-CAM++ (2018).
        fill: What stands elsewhere; ``"zero"`` is the product with the mask.
        batch_size: Images in one pass, or ``"auto"``.
        score: ``"softmax"``, ``"sigmoid"`` for multi-label heads, or ``"logit"`` for the output as it is.
        average: ``"micro"``, ``"macro"`` or ``"none"``; see `ImageMean`.
        num_classes: Number of classes; not needed for ``"micro"``.
        output: What takes the logits out of what the model returns, see ``Explainer``.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> metric = AverageDrop(fraction=0.5, score="logit")
        >>> metric.update(lambda images: images.sum((2, 3)) / 10, images, saliency=images[:, 0], targets=1)
        >>> metric.compute()
        tensor(30.0000)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """The mean drop in %: a scalar, or ``[num_classes]`` for ``average="none"``; NaN without images."""
        return self._averaged()[..., 0]


class IncreaseRate(_MaskedScore):
    """The share of images, in %, whose score rises when only the salient pixels are left (SISE, Increase%).

    Higher is better. A ``MetricCollection`` of this and `AverageDrop` runs the network once for both, from its second
    update on. See `lightning_saliency.functional.scores.increase`.

    Args:
        fraction: Share of the pixels that are left, 0.15 in the paper. ``None``: the image times the map, as in
            Grad-CAM++ (2018).
        fill: What stands elsewhere; ``"zero"`` is the product with the mask.
        batch_size: Images in one pass, or ``"auto"``.
        score: ``"softmax"``, ``"sigmoid"`` for multi-label heads, or ``"logit"`` for the output as it is.
        average: ``"micro"``, ``"macro"`` or ``"none"``; see `ImageMean`.
        num_classes: Number of classes; not needed for ``"micro"``.
        output: What takes the logits out of what the model returns, see ``Explainer``.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> images = torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]], [[[1.0, 2.0], [3.0, 4.0]]]])
        >>> metric = IncreaseRate(fraction=0.75, score="logit")
        >>> metric.update(lambda images: images.sum((2, 3)) / 10, images, saliency=images[:, 0], targets=1)
        >>> metric.compute()
        tensor(50.)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """The share in %: a scalar, or ``[num_classes]`` for ``average="none"``; NaN without images."""
        return self._averaged()[..., 1]
