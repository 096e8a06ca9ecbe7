"""The base class of explainers that score masked images."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from lightning_saliency.checks import check_choice
from lightning_saliency.explainers.base import Explainer, Output
from lightning_saliency.explainers.mask_scoring.fast_forward import FastCopy
from lightning_saliency.explainers.mask_scoring.precisions import Precision, native_precision
from lightning_saliency.explainers.mask_scoring.scorer import MaskScorer, check_scoring
from lightning_saliency.functional.class_scores import Score
from lightning_saliency.functional.fills import Fill


class MaskScoringExplainer(Explainer):
    """An explainer that scores masked images.

    Args:
        model: The network, see ``Explainer``.
        layer: Layer to read, see ``Explainer``.
        output: Function that takes the logits out of the network's output, see ``Explainer``.
        score: Ψ of the class: ``"softmax"``, ``"sigmoid"`` (multi-label heads) or ``"logit"``.
        batch_size: Masked images in one pass, see `score_masks`.
        precision: ``"bf16"`` or ``"fp16"``: autocast the masked images' passes. ``None``: the caller's precision.
        fast: Score the masked images with a faster copy of the network, see `fast_inference`, in ``precision``, or by
            default the one in which the device is fastest, see `native_precision`. The explainer keeps the copy and
            brings it up to date at each call, see `FastCopy`. ``"compiled"``: compile it, too.
        progress: Show a progress bar.

    Raises:
        ValueError: If an option is unknown.
    """

    #: A map costs many passes.
    expensive = True

    def __init__(
        self,
        model: nn.Module,
        layer: Any = None,
        *,
        output: Output = None,
        score: Score = "softmax",
        batch_size: int | Literal["auto"] = "auto",
        precision: Precision | None = None,
        fast: bool | Literal["compiled"] = False,
        progress: bool = False,
    ) -> None:
        super().__init__(model, layer, output=output)
        check_scoring(score, batch_size, precision)
        check_choice("fast", fast, (False, True, "compiled"))
        self.score: Score = score
        self.batch_size: int | Literal["auto"] = batch_size
        self.precision: Precision | None = precision
        self.fast = fast
        self.progress = progress
        self._copy: FastCopy | None = None

    @property
    def _halved(self) -> bool:
        """Whether masked images were scored in half precision."""
        return self.precision is not None or (self._copy is not None and self._copy.precision is not None)

    def _scorer(self, images: Tensor, targets: Tensor, fill: Fill, total: int, exact: bool = False) -> MaskScorer:
        if self.fast and self._copy is None:
            precision = self.precision or native_precision(images.device)
            self._copy = FastCopy(self.model, precision, self.fast == "compiled")
        return MaskScorer(
            self.model,
            images,
            targets,
            fill=fill,
            batch_size=self.batch_size,
            score=self.score,
            output=self.output,
            precision=None if exact else self.precision,
            fast=self._copy if self._copy is not None and not exact else False,
            progress=self.progress,
            total=total,
        )
